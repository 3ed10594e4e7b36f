# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Colours against both grounds and through any eye, and the pictures of the documentation."""

import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from trl_nash.figures.page import save_report
from trl_nash.figures.style import DARK, GRID, INK, PAPER, QUIET, STYLES, TIME, WIDTH, styles


ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
# What is compared most often, in the README and in the demo.
COMPARED = ("comal", "onpo", "inpo", "nash-md", "iterative-ipo", "online-dpo", "grpo")
# Machado, Oliveira and Fernandes (2009): what is seen of linear RGB without one kind of cones.
EYES = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def linear(color: str) -> np.ndarray:
    """Linear RGB of `#rrggbb`."""
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(color: str, paper: str) -> float:
    """As WCAG 2.2 defines it."""
    lights = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (color, paper))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def distance(one: str, other: str, eye) -> float:
    """Euclidean in CIELAB of D65: about 2 can just be told apart, side by side."""

    def lab(color: str) -> np.ndarray:
        rgb = (np.array(eye) @ linear(color)).clip(0, 1)
        to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
        t = to_xyz @ rgb / to_xyz.sum(axis=1)
        f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    return float(np.linalg.norm(lab(one) - lab(other)))


def test_contrast_is_what_wcag_says():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


def test_every_color_stands_out_from_its_ground():
    """But for the grid, which is to be seen last."""
    assert {INK, QUIET, *TIME, *(style.color for style in STYLES.values())} <= set(DARK)
    drawn = set(DARK) - {PAPER, GRID}
    low = {color: contrast(color, PAPER) for color in drawn} | {
        DARK[color]: contrast(DARK[color], DARK[PAPER]) for color in drawn
    }
    assert {color: ratio for color, ratio in low.items() if ratio < 4.5} == {}


@pytest.mark.parametrize("eye", EYES)
def test_colors_are_told_apart(eye):
    for scheme in ("color", "dark"):
        for one, other in combinations(STYLES, 2):
            apart = distance(getattr(STYLES[one], scheme), getattr(STYLES[other], scheme), EYES[eye])
            least = 11 if {one, other} <= set(COMPARED) else 5
            assert apart >= least, f"{one} and {other}, {scheme}: {apart:.1f}"


def test_a_color_has_one_counterpart_in_the_dark():
    names = [INK, QUIET, PAPER, GRID, *TIME, *(style.color for style in STYLES.values())]
    assert len(set(names)) == len(names) == len(DARK)


def test_a_color_is_an_algorithms_in_any_company():
    alone, together = styles(["onpo"]), styles(["mine", "comal", "onpo", "Online_DPO"])
    assert together["onpo"] == alone["onpo"]
    assert list(together) == ["mine", "comal", "onpo", "Online_DPO"]
    assert together["Online_DPO"].name == "online DPO"
    assert together["mine"].name == "mine" and together["mine"].color in DARK
    assert len({style.color for style in together.values()}) == 4


def test_pictures_of_the_documentation_have_both_schemes():
    names = {file.name for file in IMAGES.iterdir()}
    stems = {name.rpartition("-")[0] for name in names}
    assert names == {f"{stem}-{scheme}.svg" for stem in stems for scheme in ("light", "dark")}
    for stem in stems:
        light, dark = ((IMAGES / f"{stem}-{scheme}.svg").read_text(encoding="utf-8") for scheme in ("light", "dark"))
        found = re.findall(r"#[0-9a-f]{6}\b", light)
        assert set(found) <= set(DARK) and "image" not in re.findall(r"<(\w+)", light)
        assert [DARK[color] for color in found] == re.findall(r"#[0-9a-f]{6}\b", dark)
        # As wide as the style says: at the width of a phone, 9 points are 9 pixels.
        assert float(re.search(r'viewBox="0 0 ([\d.]+) ', light)[1]) == pytest.approx(72 * WIDTH)


def test_pages_show_both_schemes_of_a_picture():
    for page in (ROOT / "docs").rglob("*.md"):
        shown = re.findall(r"images/([\w-]+)-(light|dark)\.svg#gh-(\w+)-mode-only", page.read_text(encoding="utf-8"))
        assert page.read_text(encoding="utf-8").count("images/") == len(shown)
        assert all(scheme == mode for _, scheme, mode in shown)
        assert {name for name, scheme, _ in shown if scheme == "light"} == {
            name for name, scheme, _ in shown if scheme == "dark"
        }


def test_a_page_without_matplotlib_has_facts_and_table_and_says_what_to_install(tmp_path):
    code = """
import sys
sys.modules["matplotlib"] = None
from trl_nash.games.plots import gap_figure, save_report
page = save_report(
    sys.argv[1], lambda: {"gap": gap_figure({"comal": [[0.1, 0.2]]})}, [{"method": "COMAL", "gap": 0.1}], "A game",
    facts={"start": "uniform"}, captions={"gap": "falls"},
)
text = page.read_text()
assert "<figure>" not in text and "falls" not in text and "plots" in text and "Figures need matplotlib" in text, text
assert "COMAL" in text and "uniform" in text
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=600)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_page_has_every_color_in_both_schemes(tmp_path):
    page = save_report(tmp_path, {}, [], "A game").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6});", line)) for line in re.findall(r":root.*", page))
    assert {color: dark[name] for name, color in light.items()} == DARK


def test_a_color_that_is_none_of_the_style_is_refused():
    pytest.importorskip("matplotlib", reason="figures need the extra `plots`")
    from trl_nash.figures.style import figure_settings
    from trl_nash.figures.svg import recolor, svg

    with figure_settings() as matplotlib:
        figure = matplotlib.figure.Figure()
        figure.add_axes((0, 0, 1, 1)).plot([0, 1], color="#123456")
    with pytest.raises(KeyError, match="#123456"):
        recolor(svg("odd", figure), DARK)
