# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`trl-nash demo --game`: real trainers, what they leave on the screen and on the disk, and what is refused."""

import json
import logging
import sys
import warnings

import numpy as np
import pytest

from trl_nash.cli.main import main
from trl_nash.demo import game
from trl_nash.extras import pip_install
from trl_nash.games.players import PLAYERS


@pytest.fixture(autouse=True)
def loud_again():
    """The demo silences logging for its process; a test run goes on."""
    with warnings.catch_warnings():
        yield
    logging.disable(logging.NOTSET)


def test_a_contest_is_shown_and_saved(tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["--game", "comal-cycle", "--algorithms", "nash-md", "online-dpo", "--rounds", "2", "--seeds", "2"]
    assert main(["demo", *argv, "--output_dir", str(out)]) == 0
    screen = capsys.readouterr().out
    assert "Nash-MD" in screen and "online DPO" in screen and "(.36 .27 .36)" in screen
    # There is no terminal here: every run says on its way where it is.
    assert "Nash-MD, seed 2, round 1/2: gap" in screen and "online DPO, seed 1, round 2/2: gap" in screen

    record = json.loads((out / "game.json").read_text())
    assert np.allclose(record["equilibrium"], np.array([4, 3, 4]) / 11)
    P = np.array(record["game"]["preferences"])
    for algorithm in ("nash-md", "online-dpo"):
        runs = record["algorithms"][algorithm]
        assert [run["seed"] for run in runs] == [0, 1]
        for run in runs:
            assert len(run["gaps"]) == 3 and np.shape(run["policies"]) == (3, 3)
            # The gap is that of the policy beside it; a trace of improper answers is all that is between them.
            gaps = 2 * ((np.array(run["policies"]) @ P.T).max(axis=1) - 0.5)
            assert np.allclose(gaps, run["gaps"], atol=0.02)
            assert np.allclose(run["policies"][0], [0.2, 0.5, 0.3], atol=5e-3)
        assert runs[0]["gaps"][1:] != runs[1]["gaps"][1:]

    for name in ("gap", "simplex"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 2 and "Nash-MD" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_a_trainer_that_trl_does_not_have_is_left_out(tmp_path, capsys, monkeypatch):
    """Said, and the others play; alone it is refused."""
    monkeypatch.delitem(PLAYERS, "online-dpo")
    argv = ["demo", "--game", "dice", "--rounds", "1", "--seeds", "1", "--output_dir", str(tmp_path), "--algorithms"]
    assert main([*argv, "nash-md", "online-dpo"]) == 0
    assert "the installed TRL has no trainer for it: online-dpo" in " ".join(capsys.readouterr().out.split())
    assert list(json.loads((tmp_path / "game.json").read_text())["algorithms"]) == ["nash-md"]
    assert main([*argv, "online-dpo"]) == 2
    assert "has no trainer for online-dpo: name another" in capsys.readouterr().err


def test_games_of_many_answers_have_no_simplex(tmp_path):
    out = tmp_path / "out"
    assert (
        main(["demo", "--game", "random:4", "--algorithms", "online-dpo", "--rounds", "1", "--output_dir", f"{out}"])
        == 0
    )
    assert (out / "gap.png").exists() and not (out / "simplex.png").exists()


def test_without_matplotlib_the_numbers_are_saved(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = tmp_path / "out"
    assert (
        main(["demo", "--game", "dice", "--algorithms", "online-dpo", "--rounds", "1", "--output_dir", f"{out}"]) == 0
    )
    assert {file.name for file in out.iterdir()} == {"game.json", "report.html"}
    assert pip_install("plots") in " ".join(capsys.readouterr().out.split())


def test_the_algorithms_offered_are_those_that_play():
    assert set(game.ALGORITHMS) == set(PLAYERS)
    assert set(game.DEFAULT_ALGORITHMS) <= set(PLAYERS)


def test_sparkline_is_a_logarithmic_scale():
    assert game.sparkline([1.0, 10**-1.25, 10**-2.5, 1e-9]) == "█▅▁▁"
    assert len(game.sparkline(np.geomspace(1, 1e-3, 500))) == 24


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--game", "comal"], "comal-cycle"),
        (["--game", "comal-cycle", "--algorithms", "nash_md"], "did you mean nash-md?"),
        (["--game", "comal-cycle", "--rounds", "0"], "--rounds must be at least 1"),
        (["--game", "comal-cycle", "--seeds", "0"], "--seeds must be at least 1"),
        (["--game", "comal-cycle", "--prompts", "x.jsonl"], "--prompts is not for --game"),
        (["--algorithms", "comal"], "--algorithms needs --game"),
        (["--seeds", "3"], "--seeds needs --game"),
        (["--game", "missing.csv"], "missing.csv"),
    ],
)
def test_what_cannot_be_played_is_one_sentence(argv, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *argv]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_contest_says_so(monkeypatch, capsys, tmp_path):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("trl_nash.games.players.play", interrupt)
    assert main(["demo", "--game", "comal-cycle", "--output_dir", str(tmp_path / "out")]) == 130
    assert "interrupted" in capsys.readouterr().err
