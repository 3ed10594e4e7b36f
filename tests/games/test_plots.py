# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest


pytest.importorskip("matplotlib", reason="figures need the extra `plots`")

from trl_nash.figures.style import STYLES  # noqa: E402
from trl_nash.games.plots import FLOOR, _apart, gap_figure, save_report, simplex_figure  # noqa: E402


ROUNDS = np.arange(81)
CYCLING = 0.4 + 0.3 * np.sin(ROUNDS / 5)
CONVERGING = 0.3 * 0.6**ROUNDS
EQUILIBRIUM = np.array([4, 3, 4]) / 11


def spiral(turns: float = 3.0) -> np.ndarray:
    radius = np.linspace(0.2, 0.0, 81)[:, None]
    angles = np.linspace(0, 2 * np.pi * turns, 81)[:, None] + np.array([0, 2, 4]) * np.pi / 3
    return EQUILIBRIUM + radius * (np.cos(angles) - np.cos(angles).mean(axis=1, keepdims=True))


def texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def overlaps(figure) -> list[tuple[str, str]]:
    """Pairs of labels whose boxes touch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    shown = [text for axes in figure.axes for text in axes.texts if text.get_text()]
    boxes = [text.get_window_extent(renderer) for text in shown]
    return [
        (shown[i].get_text(), shown[j].get_text())
        for i in range(len(boxes))
        for j in range(i)
        if boxes[i].overlaps(boxes[j])
    ]


def test_seeds_are_a_band_around_their_median():
    seeds = [CYCLING, CYCLING + 0.1, CYCLING - 0.02]
    axes = gap_figure({"comal": seeds}).axes[0]
    (drawn,) = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == len(ROUNDS)]
    np.testing.assert_allclose(drawn, np.median(seeds, axis=0))
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (np.min(seeds), np.max(seeds))
    assert axes.get_yscale() == "log"


def test_a_noisy_run_is_a_line_of_means_over_its_points():
    noisy = CYCLING * np.random.default_rng(0).lognormal(size=len(ROUNDS))
    points, line = gap_figure({"comal": [noisy]}, smooth=5).axes[0].lines[:2]
    np.testing.assert_allclose(points.get_ydata(), noisy)
    np.testing.assert_allclose(line.get_ydata()[2], np.exp(np.log(noisy[:5]).mean()))
    np.testing.assert_allclose(line.get_ydata()[-1], np.exp(np.log(noisy[-3:]).mean()))
    assert points.get_linewidth() < line.get_linewidth()
    short = gap_figure({"comal": [noisy[:3]]}, smooth=5).axes[0].lines[1].get_ydata()
    np.testing.assert_allclose(short[1], np.exp(np.log(noisy[:3]).mean()))


def test_behind_a_name_is_the_mean_of_the_last_fifth():
    """Of each seed, and of these the median: as in tables. A last point is a chance of its round."""
    seeds = [np.append(np.full(80, level), 0.9) for level in (0.1, 0.2, 0.4)]
    shown = texts(gap_figure({"comal": seeds, "onpo": [np.full(81, 3e-10)]}))
    assert f"{np.mean(seeds[1][-16:]):#.2g}" in shown and "3e-10" in shown
    assert "mean of last 20 %" in shown and "duality gap, lower is better" in shown


def test_titles_say_game_and_settings():
    figure = gap_figure({"comal": [CYCLING]}, title="comal-cycle\nexact fits")
    assert [(text.get_text(), text.get_weight()) for text in figure.texts] == [
        ("comal-cycle", "bold"),
        ("exact fits", "normal"),
    ]


def test_gaps_of_rounding_errors_are_drawn_at_the_floor():
    axes = gap_figure({"comal": [CONVERGING * 1e-10], "onpo": [np.append(CONVERGING[:-2], [0, -1e-17])]}).axes[0]
    assert min(line.get_ydata().min() for line in axes.lines[:1]) == FLOOR
    low, high = axes.get_ylim()
    assert FLOOR / 2 < low < FLOOR and 0.3 < high < 1.3


def test_rounds_place_the_points():
    axes = gap_figure({"comal": [CYCLING]}, rounds=3 * ROUNDS).axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), 3 * ROUNDS)
    assert axes.get_xlim() == (0, 240)
    with pytest.raises(ValueError, match="`rounds` has 5 entries, but the gaps of comal have 81"):
        gap_figure({"comal": [CYCLING]}, rounds=range(5))


def test_targets_are_dotted_lines():
    axes = gap_figure({"inpo": [CYCLING]}, targets={"inpo": 0.0588, "egpo": 0.1}).axes[0]
    dotted = [line for line in axes.lines if line.get_linestyle() != "-"]
    assert [line.get_ydata()[0] for line in dotted] == [0.0588]


def test_labels_of_lines_that_end_together_do_not_touch():
    runs = {name: [CYCLING * (1 + 1e-3 * index)] for index, name in enumerate(STYLES)}
    figure = gap_figure(runs, title="All of them")
    assert {STYLES[name].name for name in STYLES} <= set(texts(figure))
    assert overlaps(figure) == []


@pytest.mark.parametrize(
    "heights", [[0.0, 0.0, 0.0], [0.1, 0.5, 0.9], [0.98, 0.99, 1.0], [0.0, 0.01, 0.5, 0.51, 0.52]]
)
def test_apart_keeps_order_distance_and_mean(heights):
    moved = _apart(np.array(heights), 0.1)
    assert (np.diff(moved) >= 0.1 - 1e-12).all()
    assert moved.max() <= 1
    # The nearest such heights, which keep the mean where there is room.
    assert moved.mean() == pytest.approx(np.mean(heights) if max(heights) < 0.9 + 1e-9 else 0.9)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("actions", ["abc", ["short", "medium", "quite long"]])
def test_simplex_shows_a_triangle_each_whose_labels_do_not_touch(count, actions):
    labels = list(STYLES)[:count]
    figure = simplex_figure(
        {label: [spiral()] for label in labels},
        equilibrium=EQUILIBRIUM,
        actions=actions,
        start=spiral()[0],
        targets={"comal": [0.2, 0.3, 0.5]},
    )
    shown = texts(figure)
    assert all(shown.count(action) == count for action in actions)
    assert [text for text in shown if text in {STYLES[label].name for label in labels}] == [
        STYLES[label].name for label in labels
    ]
    assert {"start", "equilibrium", "its own equilibrium", "0", "20", "80"} <= set(shown)
    assert overlaps(figure) == []


def test_a_path_begins_at_the_start_and_its_pieces_join():
    figure = simplex_figure(
        {"comal": [np.repeat(spiral(), 20, axis=0)]}, equilibrium=EQUILIBRIUM, actions="abc", start=spiral()[0]
    )
    collection = next(c for c in figure.axes[0].collections if hasattr(c, "get_segments"))
    pieces = collection.get_segments()
    assert len(pieces) <= 200
    for before, after in zip(pieces, pieces[1:], strict=False):
        np.testing.assert_array_equal(before[-1], after[0])
    assert "its own equilibrium" not in texts(figure)


def test_a_path_of_other_games_is_refused():
    with pytest.raises(ValueError, match="policies of 3 answers, but a path of comal is"):
        simplex_figure({"comal": [np.ones((5, 4)) / 4]}, equilibrium=EQUILIBRIUM, actions="abc", start=EQUILIBRIUM)


def test_runs_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="nothing to draw"):
        gap_figure({})
    with pytest.raises(ValueError, match="nothing to draw"):
        gap_figure({"comal": []})
    with pytest.raises(ValueError, match="runs of comal differ in length"):
        gap_figure({"comal": [CYCLING, CYCLING[:-1]]})


class Page(HTMLParser):
    """Reads tags, and that they close."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report") / "new"
    figures = {
        "gap": gap_figure({"comal": [CONVERGING], "onpo": [CYCLING]}),
        "simplex": simplex_figure({"comal": [spiral()]}, equilibrium=EQUILIBRIUM, actions="abc", start=spiral()[0]),
    }
    table = [
        {"algorithm": "COMAL", "gap": 1.23456e-9, "verdict": "converges"},
        {"algorithm": "ONPO <2>", "gap": 0.4, "verdict": "cycles"},
    ]
    facts = {"equilibrium": "a & b"}
    return save_report(directory, figures, table, "A <game>", facts=facts, captions={"gap": "Gap < 1"})


def test_report_has_figures_table_and_texts(report):
    page = Page(report.read_text(encoding="utf-8"))
    assert page.open == []
    names = [tag for tag, _ in page.tags]
    assert names.count("svg") == names.count("figure") == 2
    assert names.count("tr") == 3
    shown = "\n".join(page.texts)
    for text in ("A <game>", "ONPO <2>", "1.23e-09", "a & b", "Gap < 1"):
        assert text in shown


def test_report_needs_no_other_file(report):
    page = Page(report.read_text(encoding="utf-8"))
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "img")
        for name in ("href", "xlink:href", "src"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "url(http" not in report.read_text(encoding="utf-8")


def test_report_follows_the_colors_of_the_page_and_keeps_figures_apart(report):
    text = report.read_text(encoding="utf-8")
    drawings = re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL)
    assert all("var(--ink)" in drawing and "#262626" not in drawing for drawing in drawings)
    assert "prefers-color-scheme: dark" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)


def test_figures_are_saved_for_print(report):
    from matplotlib.image import imread

    height, width, _ = imread(report.parent / "gap.png").shape
    assert (width, height) == (1440, 1110)  # 4.8 x 3.7 inches at 300 dpi
    assert (report.parent / "simplex.png").exists()


def test_a_report_is_reproducible(tmp_path):
    pages = [save_report(tmp_path / name, {"gap": gap_figure({"comal": [CYCLING]})}, [], "Title") for name in "ab"]
    assert pages[0].read_text(encoding="utf-8") == pages[1].read_text(encoding="utf-8")


def test_matplotlib_is_imported_only_to_draw_and_its_absence_is_a_sentence():
    code = """
import sys
import trl_nash.games.plots as plots
from trl_nash.extras import pip_install
assert not {"matplotlib", "torch"} & set(sys.modules)
sys.modules["matplotlib"] = None
try:
    plots.gap_figure({"comal": [[0.1, 0.2]]})
except ImportError as error:
    assert str(error) == f"Figures need matplotlib: {pip_install('plots')}.", error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def test_figures_leave_the_users_settings_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    gap_figure({"comal": [CYCLING]})
    assert dict(matplotlib.rcParams) == before
