# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Figures as SVG without a ground, whose colours can be exchanged: for a page, or for a dark one."""

import io
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from .style import DARK, figure_settings


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOR = re.compile(r"(?<=: )#[0-9a-f]{6}\b")


def svg(name: str, figure: "Figure") -> str:
    """
    The figure as an `<svg>` element, in the colours of the light scheme. It is as wide as there is room.

    Args:
        name (`str`): what assistive technology calls it, and the beginning of its ids: a page holds several figures.
        figure (`matplotlib.figure.Figure`): what is drawn.

    Returns:
        `str`: The element, without a declaration of XML.
    """
    file = io.StringIO()
    with figure_settings() as matplotlib, matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"(?<![\d.])([1-9]\d*\.\d\d)\d+", r"\1", text)  # hundredths of a point are fine enough
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    named = f'<svg role="img" aria-label="{escape(name)}" '
    return re.sub(r'^<svg ([^>]*?)width="[^"]*" height="[^"]*" ?', rf"{named}\g<1>", text, count=1)


def recolor(text: str, colors: Mapping[str, str]) -> str:
    """
    A drawing with other colours.

    Args:
        text (`str`): an SVG.
        colors (`Mapping[str, str]`): what takes the place of each of its colours.

    Raises:
        `KeyError`: If the drawing has a colour that is not in `colors`, and so would stay as it is on any ground.
    """
    return _COLOR.sub(lambda match: colors[match[0]], text)


def save_schemes(directory: Path, name: str, figure: "Figure") -> None:
    """Writes `NAME-light.svg` and `NAME-dark.svg`, for pages that show the one or the other."""
    drawing = svg(name, figure)
    width, height = (figure.get_size_inches() * 96).round().astype(int)
    drawing = drawing.replace("<svg ", f'<svg width="{width}" height="{height}" ', 1)
    directory.mkdir(parents=True, exist_ok=True)
    for scheme, colors in {"light": {color: color for color in DARK}, "dark": DARK}.items():
        (directory / f"{name}-{scheme}.svg").write_text(recolor(drawing, colors), encoding="utf-8")
