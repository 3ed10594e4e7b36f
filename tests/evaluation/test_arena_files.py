# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What an arena writes: figures, files for other tools, and the page, in a browser where there is one."""

import json
import re

import browser
import numpy as np
import pandas as pd
import pytest

from trl_nash.evaluation import WinRateMatrix
from trl_nash.evaluation.arena import Arena, ArenaResult, Standings
from trl_nash.evaluation.arena.report import sentences, write_files
from trl_nash.judges import Abstained, as_judge


NASTY = '</script><script>document.title = "broken"</script> <b>bold</b> & "quotes" İstanbul @DATA@ @HEAT@'
PROMPTS = [f"question {index}" for index in range(24)]
COUNTS = {"rock": 3, "paper": 4, "scissors": 5, "<i>it": 6}


def circle(prompts, first, second):
    """The first letter wins over the next one in the circle, nine times in ten; `z` is nobody's to judge but by p."""
    if any(a == b for a, b in zip(first, second, strict=True)):
        raise ValueError("nobody asks about equal texts")
    return [_verdict(a[0], b[0]) for a, b in zip(first, second, strict=True)]


def _verdict(a: str, b: str):
    if "z" in (a, b):
        return {"p": 0.0, "z": 1.0}.get(a, Abstained("refused")) if {a, b} == {"z", "p"} else Abstained("refused")
    return {"rs": 0.9, "sr": 0.1, "pr": 0.9, "rp": 0.1, "sp": 0.9, "ps": 0.1}[a + b]


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """An arena of a circle and of a policy that is compared with one other only; the folder, and its figures."""
    folder = tmp_path_factory.mktemp("arena")

    def write(name: str, rows: list[dict]) -> str:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(folder / name)

    prompts = write("prompts.jsonl", [{"prompt": p, "uid": f"u{i}"} for i, p in enumerate(PROMPTS)])
    specs = []
    for letter, (name, count) in zip("rpsz", COUNTS.items(), strict=True):
        texts = [f"{letter}{' word' * count} {NASTY if index == 7 else index}" for index in range(len(PROMPTS))]
        rows = [{"prompt": prompt, "completion": text} for prompt, text in zip(PROMPTS, texts, strict=True)]
        specs.append(f"{name}={write(f'{letter}.jsonl', rows[:20] if letter == 's' else rows)}")
    arena = Arena(specs, prompts, folder / "out")
    arena.sample()
    result = arena.judge(as_judge(circle), "circle @HEAT@")
    matrix = WinRateMatrix.from_judgements(result.names, result.records, resamples=100)
    standings = Standings.of(result, matrix)
    write_files(result, standings, arena.contestants, arena.directory)
    return folder / "out", standings, result


def test_figures(played):
    folder, standings, _ = played
    found = json.loads((folder / "arena.json").read_text())
    assert found["not_in_the_game"] == ["<i>it"] == standings.left_out
    weights = {line["name"]: line["weight"]["value"] for line in found["policies"]}
    assert weights == {
        "rock": pytest.approx(1 / 3), "paper": pytest.approx(1 / 3), "scissors": pytest.approx(1 / 3), "<i>it": None
    }  # fmt: skip
    (cycle,) = found["cycles"]
    assert set(cycle["policies"]) == {"rock", "paper", "scissors"} and cycle["strength"] == pytest.approx(0.4)
    table = pd.read_parquet(folder / "arena.parquet")
    assert table["name"].tolist() == [line.name for line in standings.lines]
    assert table["win_rate_low"].le(table["win_rate"]).all()
    said = " ".join(sentences(standings))
    assert "Not all have answers to all 24 prompts: scissors has 20." in said
    assert "Never compared, because an answer or a verdict is missing on every prompt: " in said
    assert "each wins at least 90.0%" in said
    assert re.search(r"Elo is off by 40\.0%, and surely by [23]\d\.\d%, for", said)  # of 20 prompts that say the same


def test_a_function_may_judge(write_rows, tmp_path):
    files = [
        write_rows([{"prompt": p, "completion": word * n} for p in "abcd"], f"{word}.jsonl")
        for n, word in ((1, "x"), (9, "y"))
    ]
    arena = Arena(files, write_rows([{"prompt": p} for p in "abcd"], "prompts.jsonl"), tmp_path / "out")
    arena.sample()
    found = arena.judge(lambda prompts, first, second: [float(a > b) for a, b in zip(first, second, strict=True)])
    assert found.matrix.rates[1, 0] == 1


def test_a_circle_may_be_chance():
    """Of three that are alike, and one that loses to all of them."""
    rates = np.array([[0.5, 0.51, 0.49, 0.9], [0.49, 0.5, 0.51, 0.9], [0.51, 0.49, 0.5, 0.9], [0.1, 0.1, 0.1, 0.5]])
    noise = np.random.default_rng(0).uniform(-0.04, 0.04, (24, 4, 4))
    noise -= noise.mean(0)
    p = rates + noise - noise.transpose(0, 2, 1)
    matrix = WinRateMatrix("abcd", p, np.ones(p.shape[:2]), resamples=200)
    result = ArenaResult(tuple("abcd"), "judge", [], [{}] * 4, [], {}, {})
    (said,) = [sentence for sentence in sentences(Standings.of(result, matrix)) if "beats" in sentence]
    assert "That may be chance: some of their intervals contain 50 %." in said and "No ranking" not in said


def test_files_for_alpaca_eval_and_arena_hard(played):
    """Read as `alpaca_eval.utils.load_or_convert_to_dataframe` and Arena-Hard's `load_model_answers` read them."""
    folder, _, result = played
    frame = pd.read_json(folder / "alpaca_eval" / "scissors.json")
    assert {"instruction", "output", "generator", "dataset"} <= set(frame.columns)
    assert frame["generator"].unique().tolist() == ["scissors"] and len(frame) == 20
    answers = {row.prompt: row.completions[2] for row in result.rows if row.completions[2] is not None}
    assert dict(zip(frame["instruction"], frame["output"], strict=True)) == answers
    lines = (folder / "model_answer" / "scissors.jsonl").read_text().splitlines()
    by_uid = {line["uid"]: line for line in map(json.loads, lines)}
    assert [by_uid[f"u{i}"]["messages"][-1]["content"]["answer"] for i in range(20)] == list(answers.values())
    assert {line["model"] for line in by_uid.values()} == {"scissors"}
    assert len({line["ans_id"] for line in by_uid.values()}) == 20
    assert (folder / "model_answer" / "i-it.jsonl").exists()


def test_the_page_holds_all_and_lets_nothing_out(played):
    folder, standings, result = played
    page = (folder / "arena.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!#)|url\(|@import", page.replace(NASTY, ""))
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    data = json.loads(data)
    assert data["names"] == [line.name for line in standings.lines]
    for row, shown in zip(result.rows, data["rows"], strict=True):
        assert shown["prompt"] == row.prompt
        assert dict(zip(data["names"], shown["answers"], strict=True)) == dict(
            zip(result.names, row.completions, strict=True)
        )
    assert page.count('class="hole"') == 4 and "<i>it" not in page.replace(json.dumps("<i>it"), "")
    assert page.count("</script>") == 2 and page.count('<table class="heat">') == 1 and "circle @HEAT@" in page


@pytest.mark.slow
@pytest.mark.skipif(browser.find() is None, reason="no Chromium is installed, in which the page would be read")
@pytest.mark.parametrize("width, dark", [(1280, False), (1280, True), (390, False), (390, True)])
def test_the_page_in_a_browser(played, tmp_path, width, dark):
    """Filter, search, links of the heat map, what an address says; nothing wider than the screen; day and night."""
    folder, _, _ = played
    with browser.Browser(tmp_path / "profile") as page:
        page.screen(width, 900, dark)
        page.open(folder / "arena.html")
        assert page.run("document.title") == "Arena"
        assert page.run("document.documentElement.scrollWidth") <= width
        paper = page.run("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper))) < 200) == dark
        count = "document.getElementById('count').textContent"
        assert page.run(count) == "24 of 24 prompts" and page.run("document.querySelectorAll('article').length") == 20
        page.run("document.getElementById('more').click()")
        assert page.run("document.querySelectorAll('article').length") == 24
        page.run("document.querySelector('.heat a[aria-label^=\"rock beats scissors\"]').click()")
        assert page.run("[control.left, control.right].map(c => data.names[c.value])") == ["rock", "scissors"]

        def choose(**values: str) -> str:
            for name, value in values.items():
                page.run(
                    f"control.{name}.value = {json.dumps(value)}; control.{name}.dispatchEvent(new Event('input'))"
                )
            return page.run(count)

        assert choose(verdict="left") == "20 of 24 prompts"
        assert page.run("document.querySelectorAll('.side:first-child.wins').length") == 20
        assert page.run("document.querySelector('.verdict').textContent") == "rock wins with 90 %."
        assert choose(verdict="right") == "0 of 24 prompts"
        assert choose(verdict="none") == "4 of 24 prompts"
        assert page.run("document.querySelector('.verdict').textContent") == "No verdict: not compared."
        assert choose(verdict="", search="QUOTES") == "1 of 24 prompts"
        assert NASTY in page.run("document.querySelector('.side .text').textContent")
        assert page.run("document.querySelectorAll('article script, article b').length") == 0
        assert choose(search="question 1") == "11 of 24 prompts"
        assert page.run("document.querySelector('mark').textContent") == "question 1"
        address = page.run("location.hash")
        page.open(folder / "arena.html", address)
        assert page.run(count) == "11 of 24 prompts"
        assert page.run("[control.left, control.right].map(c => data.names[c.value])") == ["rock", "scissors"]
        assert page.run("document.documentElement.scrollWidth") <= width
        page.picture(tmp_path / "page.png")
        assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
