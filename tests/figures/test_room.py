# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Every figure, drawn: no text reaches out of it, and none is smaller than can be read at a phone's width."""

import numpy as np
import pytest


pytest.importorskip("matplotlib", reason="figures need the extra `plots`")

from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.text import Text  # noqa: E402

from trl_nash.evaluation.plots import histogram_figure, reliability_figure  # noqa: E402
from trl_nash.figures.style import STYLES, WIDTH  # noqa: E402
from trl_nash.games.plots import gap_figure, simplex_figure  # noqa: E402


TITLE = "Language models on comal-cycle\n80 rounds of 512 prompts, 3 seeds (band); mean of 5 rounds"
FALLING = [0.5 * 0.9 ** np.arange(200)]
HOVERING = [0.0123 + 0.002 * np.sin(np.arange(200))]
PATH = np.full((200, 3), 1 / 3)
BINS = [{"confidence": c, "right": c, "pairs": 9} for c in (0.55, 0.65, 0.75, 0.85, 0.95)]
JUDGES = ("judge", "second judge")
FIGURES = {
    "gaps of many decades": lambda: gap_figure({"comal": FALLING, "iterative-ipo": HOVERING}, title=TITLE),
    "gaps of few": lambda: gap_figure({"iterative-ipo": HOVERING, "online-dpo": HOVERING}, title=TITLE),
    "no title": lambda: gap_figure({"iterative-dpo": FALLING}),
    "simplex": lambda: simplex_figure(
        {name: [PATH] for name in list(STYLES)[:6]},
        equilibrium=PATH[0],
        actions=("short", "medium", "quite long"),
        start=PATH[0],
        targets={"inpo": PATH[0]},
        title=TITLE,
    ),
    "histogram": lambda: histogram_figure({name: np.linspace(0, 1, 50) for name in JUDGES}),
    "reliability": lambda: reliability_figure(dict.fromkeys(JUDGES, BINS), "the second judge"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_texts_are_inside_and_large_enough(name):
    figure = FIGURES[name]()
    drawn = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())  # in inches
    assert 0 <= drawn.x0 and drawn.x1 <= figure.get_figwidth() == WIDTH
    assert 0 <= drawn.y0 and drawn.y1 <= figure.get_figheight()
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 9
