# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`trl-nash judge` with a pairing, and two of them compared on one file."""

import json

import numpy as np
import pytest
from judge_files import Unanswered, complaint
from scipy.stats import spearmanr

from trl_nash.cli.main import main


# Three prompts with four completions each, the strength of a completion being its length.
ROWS = [
    {"prompt": "up", "completions": ["x", "xx", "xxx", "xxxx"]},
    {"prompt": "down", "completions": ["xxxx", "xxx", "xx", "x"]},
    {"prompt": "mixed", "completions": ["xxx", "x", "xxxx", "xx"]},
]
ASKED: list[tuple] = []


def sharp(prompts, first, second):
    """P(a beats b) is 1 for the longer one."""
    ASKED.extend(zip(prompts, first, second, strict=True))
    return [float(len(a) > len(b)) for a, b in zip(first, second, strict=True)]


sharp.symmetric = True


@pytest.fixture(autouse=True)
def judge(monkeypatch):
    ASKED.clear()
    monkeypatch.setattr("judge_files.sharp", sharp, raising=False)


def run(write_rows, tmp_path, *options: str, rows=ROWS) -> dict:
    argv = ["judge", write_rows(rows, "answers.jsonl"), "--judge", "judge_files:sharp"]
    assert main([*argv, "--output_dir", str(tmp_path / "out"), *options]) == 0
    return json.loads((tmp_path / "out" / "judge.json").read_text())["judge"]


def swiss_rates(lengths: list[int]) -> np.ndarray:
    """
    By hand: (0, 1) and (2, 3) meet, then the winners and the losers; the scores are NumPy's least squares.
    """
    beats = {(i, j): float(lengths[i] > lengths[j]) - 0.5 for i in range(4) for j in range(4)}
    won = [0 if beats[0, 1] > 0 else 1, 2 if beats[2, 3] > 0 else 3]
    lost = [1 - won[0], 5 - won[1]]
    edges = [(0, 1), (2, 3), tuple(won), tuple(lost)]
    matrix, target = np.zeros((4, 4)), np.zeros(4)
    for row, (i, j) in enumerate(edges):
        matrix[row, i], matrix[row, j], target[row] = 1, -1, beats[i, j]
    return 0.5 + np.linalg.lstsq(matrix, target, rcond=None)[0] * 4 / 3


def test_a_pairing_is_compared_with_all_pairs(write_rows, tmp_path, capsys):
    """Calls by hand (6 pairs of each, or 4 in 2 waves), correlations by SciPy, and no pair is asked twice."""
    found = run(write_rows, tmp_path, "--compare_pairing", "swiss")["pairings"]
    assert len(ASKED) == len(set(ASKED)) == 18
    assert {name: (cost["pairs"], cost["waves"]) for name, cost in found["costs"].items()} == {
        "all": (18, 1),
        "swiss": (12, 2),
    }
    assert found["costs"]["swiss"]["seconds"] == pytest.approx(found["costs"]["all"]["seconds"] * 12 / 18)
    lengths = [[len(text) for text in row["completions"]] for row in ROWS]
    expected = [spearmanr(own, swiss_rates(own).round(9)).statistic for own in lengths]
    correlation = found["rank_correlation"]
    assert correlation["mean"] == pytest.approx(np.mean(expected)) and correlation["prompts"] == 3
    low, high = correlation["interval"]
    assert -1 <= low < correlation["mean"] <= high <= 1
    same = [np.mean([own[k] == 4 for k in np.flatnonzero(np.isclose(r, r.max()))])
            for own, r in ((own, swiss_rates(own)) for own in lengths)]  # fmt: skip
    assert found["same_best"]["mean"] == pytest.approx(np.mean(same))
    text = capsys.readouterr().out
    assert f"swiss: rank correlation with all {np.mean(expected):.3f}" in text and "over 3 prompts" in text
    assert "a row for each of 18 pairs" in text


def test_what_one_has_asked_the_other_does_not_ask_again(write_rows, tmp_path):
    """The other way round, in two commands: 12 pairs, and then the 6 that are left."""
    found = run(write_rows, tmp_path, "--pair_selection", "swiss")
    assert len(ASKED) == 12 and found["pairs"] == 12 and "pairings" not in found
    found = run(write_rows, tmp_path, "--pair_selection", "swiss", "--compare_pairing", "all")
    assert len(ASKED) == len(set(ASKED)) == 18 and found["pairs"] == 12
    assert found["pairings"]["costs"]["all"]["pairs"] == 18
    assert found["pairings"]["same_best"]["prompts"] == 3


def test_rows_of_several_sizes_and_equal_texts(write_rows, tmp_path):
    """Of equal texts no judge is asked; a row of two has no more than a pair for either."""
    rows = [*ROWS, {"prompt": "equal", "completions": ["x", "x", "xx"]}, {"prompt": "two", "completions": ["x", "xx"]}]
    judged = run(write_rows, tmp_path, "--compare_pairing", "circular", rows=rows)
    found = judged["pairings"]
    assert found["costs"]["all"]["seconds"] == pytest.approx(judged["cost"]["seconds"])  # of all that was asked
    assert {name: cost["pairs"] for name, cost in found["costs"].items()} == {
        "all": 18 + 2 + 1,
        "circular": 12 + 2 + 1,
    }
    assert len(ASKED) == len(set(ASKED)) and found["rank_correlation"]["prompts"] == 5


def test_one_prompt_has_no_interval_and_prompts_without_verdicts_no_best(write_rows, tmp_path, monkeypatch, capsys):
    """Who knows no win rate agrees with nobody: a judge that says nothing does not make pairings look alike."""
    found = run(write_rows, tmp_path / "one", "--compare_pairing", "swiss", rows=ROWS[:1])["pairings"]
    assert found["same_best"] == {"mean": 1.0, "interval": [None, None], "prompts": 1}

    def silent(prompts, first, second):
        return [
            None if prompt == "down" else p for prompt, p in zip(prompts, sharp(prompts, first, second), strict=True)
        ]

    monkeypatch.setattr("judge_files.sharp", silent)
    found = run(write_rows, tmp_path / "some", "--compare_pairing", "swiss")["pairings"]
    assert found["same_best"]["prompts"] == found["rank_correlation"]["prompts"] == 2
    capsys.readouterr()
    found = run(write_rows, tmp_path / "none", "--compare_pairing", "swiss", rows=ROWS[1:2])["pairings"]
    assert found["same_best"] == found["rank_correlation"] == {"mean": None, "interval": [None, None], "prompts": 0}
    assert "same best" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, message",
    [
        (["--compare_pairing", "best"], "--compare_pairing must be one of 'all'"),
        (["--compare_pairing", "random"], "--compare_pairing='random' needs --pairs_per_prompt"),
        (["--pair_selection", "random", "--pairs_per_prompt", "7"], "is how many of the 6 pairs of 4 completions"),
        (["--pairs_per_prompt", "3"], "--pairs_per_prompt belongs to random and active"),
        (["--compare_pairing", "all"], "all is asked already: name another pairing"),
        (
            ["--pair_selection", "swiss", "--judge", "group:judge_files:sharp"],
            "at once, and swiss saves nothing: leave",
        ),
    ],
)
def test_what_does_not_go_together(write_rows, capsys, options, message):
    argv = [write_rows(ROWS, "answers.jsonl"), *options]
    assert message in complaint(capsys, *argv, *([] if "--judge" in options else ["--judge", "judge_files:sharp"]))


def test_judges_that_compare_for_themselves_get_the_same_pairs(write_rows, tmp_path):
    """Of five completions another one rests in each row and wave: an ensemble, which is given all pairs of a batch."""
    rows = [{"prompt": text, "completions": ["x" * ord(c) for c in text]} for text in ("bdaec", "abcde", "edcba")]
    options = ("--pair_selection", "swiss", "--compare_pairing", "all")
    plain = run(write_rows, tmp_path / "plain", *options, rows=rows)["pairings"]
    asked = len(ASKED)
    argv = ["judge", write_rows(rows, "answers.jsonl"), "--judge", "ensemble", "--output_dir", str(tmp_path / "out")]
    assert main([*argv, "--judge_kwargs", json.dumps({"judges": ["judge_files:sharp"]}), *options]) == 0
    found = json.loads((tmp_path / "out" / "judge.json").read_text())["judge"]["pairings"]
    assert len(ASKED) == 2 * asked == 2 * 3 * 10
    for key in ("rank_correlation", "same_best", "prompts"):
        assert found[key] == plain[key]


GROUPS: list[tuple] = []


def grouped(prompts, groups):
    """A score for each completion of a group, its length."""
    GROUPS.extend(zip(prompts, map(tuple, groups), strict=True))
    return [[2.0 * len(text) for text in group] for group in groups]


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("first", ["all", "circular"])
def test_a_group_is_one_question_for_all_waves(write_rows, tmp_path, monkeypatch, first, second):
    """In both orders; a second judge, of pairs, is asked those that the pairings ask, and no other."""
    GROUPS.clear()
    monkeypatch.setattr("judge_files.grouped", grouped, raising=False)
    argv = ["judge", write_rows(ROWS, "answers.jsonl"), "--judge", "group:judge_files:grouped"]
    argv += ["--pair_selection", first, "--compare_pairing", "elimination", "--output_dir", str(tmp_path / "out")]
    argv += ["--second_judge", "judge_files:sharp"] if second else []
    assert main(argv) == 0
    assert sorted(GROUPS) == sorted(
        (row["prompt"], tuple(order)) for row in ROWS for order in (row["completions"], row["completions"][::-1])
    )
    assert len(ASKED) == len(set(ASKED)) <= (18 if second else 0)
    found = json.loads((tmp_path / "out" / "judge.json").read_text())["judge"]
    assert found["pairs"] == {"all": 18, "circular": 12}[first]
    costs = found["pairings"]["costs"]
    assert [(cost["pairs"], cost["waves"]) for cost in costs.values()] == [(found["pairs"], 1), (15, 3)]
    assert costs["elimination"]["seconds"] == pytest.approx(3 * costs[first]["seconds"])
    assert costs[first]["seconds"] == pytest.approx(found["cost"]["seconds"])
    done = len(GROUPS), len(ASKED)
    assert main(argv) == 0 and (len(GROUPS), len(ASKED)) == done


def test_a_server_that_is_away_is_asked_once_in_a_run(write_rows, tmp_path, monkeypatch):
    """And again in the next one: what both pairings ask is one question for both of them."""
    monkeypatch.setattr(Unanswered, "asked", [])
    monkeypatch.setattr(Unanswered, "away", {"x"})
    argv = ["judge", write_rows(ROWS, "answers.jsonl"), "--judge", "judge_files:Unanswered"]
    argv += ["--compare_pairing", "swiss", "--output_dir", str(tmp_path / "out")]
    assert main(argv) == 0 and len(Unanswered.asked) == 18
    assert main(argv) == 0 and len(Unanswered.asked) == 18 + 9  # three pairs with it in each row
