# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Formulas as MathML, which browsers draw themselves: no script, no font, no server."""

import html
import re

from latex2mathml.converter import convert


_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', flags=re.DOTALL)


def on_page_content(content: str, **kwargs) -> str:
    """Replaces what `pymdownx.arithmatex` has marked."""

    def formula(match: re.Match) -> str:
        block = match[1] == "div"
        mathml = convert(html.unescape(match[2]).strip(), display="block" if block else "inline")
        # The converter takes functions for names of variables, which stand without spaces.
        mathml = mathml.replace("<mi>log</mi>", '<mo lspace="0.17em" rspace="0.17em">log</mo>')
        return f'<div class="formula">{mathml}</div>' if block else mathml

    return _FORMULA.sub(formula, content)
