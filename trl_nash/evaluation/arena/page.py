# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""An arena as one page that needs no other file and no network: figures, and all answers with their verdicts."""

import json
import math
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from ...judges.questions.template import as_text
from ...judges.transcript import Transcript, speaker, words
from ..matrix import Estimate
from .result import ArenaResult
from .standings import UNKNOWN, Standing, Standings


_PAGE = Path(__file__).with_name("page.html")


def save_page(result: ArenaResult, standings: Standings, sentences: Sequence[str], file: Path, title: str) -> Path:
    """
    Writes the page.

    Args:
        result ([`ArenaResult`]): answers and verdicts.
        standings ([`Standings`]): the figures.
        sentences (`Sequence[str]`): below the ranking.
        file (`Path`): the page.
        title (`str`): of the page.

    Returns:
        `Path`: The page.
    """
    facts = {
        "judge": result.judge,
        "policies": ", ".join(line.name for line in standings.lines),
        "prompts": f"{len(result.rows):,}",
        "pairs judged": f"{sum(record['preference'] is not None for record in result.records):,} of "
        f"{len(result.records):,}",
    }
    parts = {
        "TITLE": escape(title),
        "FACTS": "".join(f"<dt>{escape(term)}</dt><dd>{escape(fact)}</dd>\n" for term, fact in facts.items()),
        "RANKING": _ranking(standings),
        "SENTENCES": "\n".join(f"<p>{escape(sentence)}</p>" for sentence in sentences),
        "HEAT": _heat(standings),
        # In a script no tag may begin.
        "DATA": json.dumps(_data(result, standings), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
    }
    # All at once: a part may hold any text, also the name of another one.
    page = re.sub("@([A-Z]+)@", lambda found: parts[found[1]], _PAGE.read_text(encoding="utf-8"))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")
    return file


def _data(result: ArenaResult, standings: Standings) -> dict[str, Any]:
    """What the page's script shows, policies in the order of the ranking."""
    names = [line.name for line in standings.lines]
    place = {index: names.index(name) for index, name in enumerate(result.names)}
    verdicts: dict[int, dict[str, list[Any]]] = {}
    for record in result.records:
        pair = f"{place[record['first_index']]} {place[record['second_index']]}"
        verdicts.setdefault(record["row"], {})[pair] = [record["preference"], record["abstained"]]
    rows = []
    for row in result.rows:
        answers: list[str | list[list[str]] | None] = [None] * len(names)
        for index, text in enumerate(row.completions):
            answers[place[index]] = _shown(text)
        prompt = as_text(row.prompt)
        rows.append(
            {"index": row.index, "prompt": prompt, "answers": answers, "verdicts": verdicts.get(row.index, {})}
        )
    return {"names": names, "rows": rows}


def _shown(completion: str | None) -> str | list[list[str]] | None:
    """An answer; of a dialogue who says what."""
    if not isinstance(completion, Transcript):
        return completion
    return [[speaker(message), words(message)] for message in completion.messages]


def _ranking(standings: Standings) -> str:
    best = [f"by best of {standings.count}"] * bool(standings.count)
    names = ["policy", "win rate", "", "at equal length", "equilibrium", "", "exploitability", *best, "Elo"]
    heading = "".join(
        f'<th scope="col"{" class=number" * (index not in (0, 2, 5))}>{name}</th>'
        for index, name in enumerate([*names, "characters", "cut"])
    )
    body = "".join(f"<tr>{_line(line, bool(best))}</tr>\n" for line in standings.lines)
    return (
        f'<div class="wide"><table class="ranking"><thead><tr>{heading}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _line(line: Standing, best: bool) -> str:
    name = escape(line.name)
    cells = [
        f'<th scope="row" title="{name}">{name}</th>',
        _cell(_percent(line.win_rate.value), line.win_rate),
        f"<td>{_track(line.win_rate, middle=True)}</td>",
        _cell(_percent(line.length_controlled)),
        _cell(_percent(line.weight.value), line.weight),
        f"<td>{_track(line.weight, middle=False)}</td>",
        _cell(_percent(line.exploitability.value), line.exploitability),
        *[_cell(_percent(line.best_of.value), line.best_of)] * best,
        _cell(_points(line.elo.value), line.elo, _points),
        _cell("–" if math.isnan(line.characters) else f"{line.characters:,.0f}"),
        _cell(_percent(line.cut)),
    ]
    return "".join(cells)


def _cell(text: str, estimate: Estimate = UNKNOWN, form: Callable[[float], str] = lambda x: f"{100 * x:.1f}") -> str:
    interval = "" if math.isnan(estimate.low) else f"<small>{form(estimate.low)} – {form(estimate.high)}</small>"
    return f'<td class="number">{text}{interval}</td>'


def _track(estimate: Estimate, middle: bool) -> str:
    """A share on a line from 0 to 1: a dot with its interval, or a bar."""
    if math.isnan(estimate.value):
        return ""
    whisker = ""
    if not math.isnan(estimate.low):
        whisker = f'<i style="left:{estimate.low:.2%};width:{estimate.high - estimate.low:.2%}"></i>'
    what = f'<b style="left:{estimate.value:.2%}"></b>' if middle else f'<s style="width:{estimate.value:.2%}"></s>'
    label = f"{_percent(estimate.value)}, {_between(estimate)}"
    inside = f"<u></u>{whisker}{what}" if middle else f"{what}{whisker}"
    return f'<span class="track" role="img" aria-label="{label}">{inside}</span>'


def _heat(standings: Standings) -> str:
    names = standings.matrix.names
    heading = "".join(f'<th scope="col" title="{escape(name)}">{escape(name)}</th>' for name in names)
    body = ""
    for i, name in enumerate(names):
        cells = "".join(_square(standings, i, j) for j in range(len(names)))
        body += f'<tr><th scope="row" title="{escape(name)}">{escape(name)}</th>{cells}</tr>\n'
    return (
        f'<div class="wide"><table class="heat"><thead><tr><th></th>{heading}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _square(standings: Standings, i: int, j: int) -> str:
    if i == j:
        return "<td></td>"
    names, rate = standings.matrix.names, float(standings.rates.value[i, j])
    link = f"#{escape(urlencode({'left': names[i], 'right': names[j]}))}"
    if math.isnan(rate):
        label = escape(f"{names[i]} and {names[j]} were never compared")
        return f'<td class="hole"><a href="{link}" aria-label="{label}">–</a></td>'
    limits = Estimate(rate, float(standings.rates.low[i, j]), float(standings.rates.high[i, j]))
    # Less than in proportion, so that one can see what differs from one half by some points.
    side, strength = ("cold", rate - 0.5) if rate >= 0.5 else ("warm", 0.5 - rate)
    mix = f"color-mix(in oklab, var(--{side}) calc(var(--strength) * {(2 * strength) ** 0.75:.3f}), var(--paper))"
    label = escape(f"{names[i]} beats {names[j]} in {_percent(rate)}, {_between(limits)}")
    return (
        f'<td style="background:{mix}"><a href="{link}" aria-label="{label}">{100 * rate:.0f}'
        f"<small>{100 * limits.low:.0f} – {100 * limits.high:.0f}</small></a></td>"
    )


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"


def _points(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.0f}".replace("-", "−")


def _between(estimate: Estimate) -> str:
    return "" if math.isnan(estimate.low) else f"95 % interval {estimate.low:.1%} to {estimate.high:.1%}"
