# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from trl_nash.cli.main import main
from trl_nash.cli.simulate import DEFAULT_ALGORITHMS
from trl_nash.extras import pip_install
from trl_nash.games.dialogues.named import DIALOGUES
from trl_nash.games.matrix import MatrixGame
from trl_nash.games.named import GAMES
from trl_nash.games.simulation import Simulation
from trl_nash.games.solvers import SOLVERS, onpo


CYCLE = [[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]]
EQUILIBRIUM = np.array([4, 3, 4]) / 11


def simulate(*argv: str) -> int:
    return main(["simulate", *argv])


@pytest.fixture
def results(tmp_path):
    """Runs the command and returns what it wrote, by algorithm."""

    def run(*argv: str) -> dict[str, dict]:
        assert simulate(*argv, "--output_dir", str(tmp_path / "out")) == 0
        record = json.loads((tmp_path / "out" / "simulation.json").read_text(encoding="utf-8"))
        return {entry["algorithm"]: entry for entry in record["algorithms"]}

    return run


@pytest.fixture
def matrix_file(tmp_path) -> str:
    path = tmp_path / "cycle.csv"
    path.write_text("short,medium,long\n" + "".join(",".join(map(str, row)) + "\n" for row in CYCLE))
    return str(path)


def test_the_default_shows_who_converges(results, capsys):
    found = results()
    assert tuple(found) == DEFAULT_ALGORITHMS
    verdicts = {name: entry["verdict"] for name, entry in found.items()}
    assert verdicts == {
        "comal": "converges",
        "onpo": "converges",
        "inpo": "converges, regularised",
        "iterative-ipo": "cycles",
    }
    assert found["comal"]["last gap"] < 1e-6
    assert found["onpo"]["last gap"] < 1e-3
    assert found["inpo"]["last gap"] == pytest.approx(0.0588, abs=1e-4)
    assert found["iterative-ipo"]["mean gap of the last 20 %"] > 0.4
    shown = capsys.readouterr().out
    for text in (
        "a 0.364, b 0.273, c 0.364",
        "0.209",
        "a 0.200, b 0.500, c 0.300 (gap 0.28)",
        "INPO",
        "step_size < 2.76",
    ):
        assert text in shown


def test_files_hold_every_round(tmp_path, results):
    found = results("--algorithm", "onpo", "comal", "--rounds", "30", "--step_size", "0.5")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "simulation.json",
        "simulation.csv",
        "gap.png",
        "simplex.png",
        "report.html",
    }
    with (tmp_path / "out" / "simulation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 31
    history = onpo(MatrixGame(CYCLE), start=[0.2, 0.5, 0.3], rounds=30, step_size=0.5)
    mine = [row for row in rows if row["algorithm"] == "onpo"]
    np.testing.assert_array_equal([float(row["gap"]) for row in mine], history.gaps)
    np.testing.assert_array_equal([float(row["average_gap"]) for row in mine], history.average_gaps)
    np.testing.assert_allclose([float(row["kl_to_equilibrium"]) for row in mine], history.kl_to(EQUILIBRIUM))
    np.testing.assert_array_equal([[float(row[action]) for action in "abc"] for row in mine], history.policies)
    assert found["onpo"]["settings"] == {"step_size": 0.5}
    assert found["comal"]["settings"] == {"step_size": 0.5, "beta": 0.1, "reference_rounds": 20}
    np.testing.assert_array_equal(found["onpo"]["policies"], [history.last])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2 and "COMAL" in page


def test_a_matrix_of_ones_own(results, capsys, matrix_file):
    found = results("--matrix", matrix_file, "--algorithm", "comal", "--start", "0.1", "0.1", "0.8")
    assert found["comal"]["verdict"] == "converges"
    shown = capsys.readouterr().out
    assert "short 0.364, medium 0.273, long 0.364" in shown and "cycle.csv, 3 answers" in shown


@pytest.mark.parametrize("algorithm", SOLVERS)
def test_every_algorithm_runs_with_its_defaults(algorithm, capsys):
    assert simulate("--algorithm", algorithm, "--rounds", "20") == 0
    assert "verdict" in capsys.readouterr().out


def test_options_reach_the_solver(results, capsys):
    found = results(
        *("--algorithm", "comal", "--rounds", "4", "--step_size", "1", "2", "--beta", "0.2", "--reference_rounds", "2")
    )
    assert found["comal"]["settings"] == {"step_size": [1, 2], "beta": 0.2, "reference_rounds": 2}
    found = results("--algorithm", "onpo", "--rounds", "4", "--fits", "two")
    assert found["onpo"]["settings"] == {"step_size": 1, "fits": "two"}
    found = results("--algorithm", "onpo", "--rounds", "4", "--anchor-history=3")
    assert found["onpo"]["settings"] == {"step_size": 1, "anchor_history": 3}
    found = results("--algorithm", "mnpo", "--rounds", "4", "--history_weights", "0.7", "0.3")
    assert found["mnpo"]["settings"] == {"step_size": 1, "beta": 0.1, "history_weights": [0.7, 0.3]}
    found = results("--algorithm", "nash-md", "--rounds", "4", "--reference", "0.2", "0.2", "0.6")
    assert found["nash-md"]["settings"] == {"beta": 0.1, "reference": [0.2, 0.2, 0.6]}
    assert "a 0.200, b 0.200, c 0.600" in capsys.readouterr().out


def test_new_names_converge_or_not_as_they_should(results, capsys):
    found = results("--algorithm", "mnpo", "grpo", "egpo", "--rounds", "600")
    assert {name: entry["verdict"] for name, entry in found.items()} == {
        "mnpo": "converges, regularised",
        "grpo": "cycles",
        "egpo": "converges, regularised",
    }
    assert found["mnpo"]["last gap"] == pytest.approx(0.0588, abs=1e-4)
    assert found["mnpo"]["largest_stable_step"] == pytest.approx(5.74, abs=0.01)
    assert found["grpo"]["largest_stable_step"] == 0 and found["grpo"]["last gap"] > 0.2
    shown = capsys.readouterr().out
    assert "Warning, GRPO: No `step_size` converges: with 1 the policies spiral out" in shown
    assert "(rotation rate 0.0687), by a factor of 1.0024 a round." in shown


def test_a_short_history_diverges_and_a_longer_one_does_not(results):
    # docs: step 2, exact: a history of 2 diverges, of 5 does not.
    verdicts = [
        results("--algorithm", "onpo", "--step_size", "2", "--anchor_history", str(history))["onpo"]["verdict"]
        for history in (2, 5)
    ]
    assert verdicts == ["cycles", "converges"]


def test_a_setting_past_its_limit_is_warned_of(results, capsys):
    found = results("--algorithm", "onpo", "comal", "--step_size", "4", "--reference_rounds", "2", "--beta", "0.05")
    assert found["onpo"]["verdict"] == "cycles"
    assert found["onpo"]["largest_stable_step"] == pytest.approx(1 / (np.sqrt(3) * 0.209), rel=0.01)
    assert found["onpo"]["warnings"] and found["comal"]["warnings"]
    shown = capsys.readouterr().out
    assert "Warning, ONPO: " in shown and "Warning, COMAL: " in shown


def test_settings_within_their_limits_are_not_warned_of(capsys):
    assert simulate("--algorithm", "comal", "onpo", "inpo") == 0
    assert "Warning" not in capsys.readouterr().out


def test_sampled_pairs_with_seeds(results, capsys, tmp_path):
    found = results("--pairs", "500", "--preference_label", "sampled", "--seeds", "3", "--rounds", "100")
    assert len(found["comal"]["policies"]) == 3
    assert found["comal"]["verdict"] == "hovers near"
    assert found["comal"]["mean gap of the last 20 %"] < 0.08
    assert found["iterative-ipo"]["verdict"] == "cycles"
    shown = " ".join(capsys.readouterr().out.split())
    assert "500 sampled pairs a round, preference_label sampled, 100 rounds, medians of 3 seeds" in shown
    with (tmp_path / "out" / "simulation.csv").open(newline="") as file:
        assert {row["seed"] for row in csv.DictReader(file)} == {"0", "1", "2"}


def test_selection_and_temperature_reach_the_sampler(results):
    options = ("--algorithm", "onpo", "--pairs", "200", "--rounds", "3")
    policies = [
        results(*options, *others)["onpo"]["policies"][0]
        for others in (
            (),
            ("--temperature", "3"),
            ("--num_generations", "8", "--pair_selection", "best_worst"),
            ("--preference_label", "argmax"),
        )
    ]
    assert len({tuple(policy) for policy in policies}) == 4


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ("--bta 1", "unknown option --bta: did you mean --beta?"),
        ("--eta 1", "unknown option --eta: did you mean --step_size?"),
        ("--xyz 1", "unknown option --xyz; `trl-nash simulate --help` lists the options."),
        ("onpo", "unexpected argument 'onpo': options are written --name value."),
        ("--algorithm comall", "unknown algorithm comall: did you mean comal?"),
        ("--algorithm ppo-clip", "unknown algorithm ppo-clip: there are iterative-ipo,"),
        ("--algorithm onpo --beta 0.1", "--beta means nothing to onpo: it is an option of inpo, comal,"),
        ("--algorithm comal inpo --fits two", "--fits means nothing to comal and inpo: it is an option of onpo."),
        ("--step_size 1 2", "several values of --step_size are a schedule for comal: onpo takes one."),
        ("--fits two --anchor_history 2", "--anchor_history belongs to --fits one"),
        ("--fits three", "argument --fits: invalid choice: 'three'"),
        ("--temperature 2", "--temperature is for sampled pairs, and without --pairs fits are exact: add --pairs N."),
        ("--seeds 3", "--seeds is for sampled pairs"),
        ("--history_weights 1", "--history_weights means nothing to comal and onpo and inpo and iterative-ipo"),
        ("--pairs 10 --algorithm grpo", "--pairs: grpo is no regression on pairs and only fitted exactly"),
        ("--pairs 10 --algorithm sppo", "--pairs: sppo is no regression on pairs and only fitted exactly"),
        ("--pairs 10 --pair_selection best_worst", "changes nothing with two answers per prompt"),
        ("--rounds 0", "--rounds must be at least 1, got 0."),
        ("--pairs 10 --seeds 0", "--seeds must be at least 1, got 0."),
        ("--rounds many", "argument --rounds: invalid int value: 'many'"),
        ("--start 0.5 0.5", "--start: A policy of this game has 3 probabilities"),
        ("--start 1 0 0", "--start must give every answer a probability above 0"),
        ("--reference 1 1 1", "--reference: A policy is made of probabilities that add up to 1"),
        ("--game dice --matrix file.csv", "argument --matrix: not allowed with argument --game"),
        ("--output_dir /dev/null/out", "--output_dir /dev/null/out: Not a directory. Name another directory."),
    ],
)
def test_options_that_cannot_be_run_are_answered_with_a_sentence(argv, sentence, capsys):
    assert simulate(*argv.split()) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.out == "" and captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ("--step_size -1", "comal: `step_size` must be a positive number, got -1.0."),
        ("--step_size 20", "lower `step_size` to 10."),
        ("--algorithm mnpo --history_weights 1 1", "mnpo: `history_weights` must be at least 0 and add up to 1"),
        ("--beta 0", "`beta` must be a positive number, got 0.0."),
        ("--algorithm onpo --step_size 1e308", "overflows with `step_size` 1e+308"),
        ("--pairs 0", "`pairs` must be at least 1 a round, got 0."),
        ("--pairs 5 --temperature 0", "`temperature` must be a positive number, got 0.0."),
        ("--game comal-cycel", "did you mean"),
        ("--matrix no-such-file.csv", "no-such-file.csv"),
    ],
)
def test_settings_that_are_refused_are_answered_before_anything_runs(argv, sentence, capsys):
    assert simulate(*argv.split()) in (1, 2)
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.out == "" and captured.err.count("\n") == 1


def test_a_game_in_a_file_that_is_none_is_a_sentence(tmp_path, capsys):
    path = tmp_path / "game.csv"
    path.write_text("0.5,0.6\n0.6,0.5\n")
    assert simulate("--matrix", str(path)) == 1
    assert "must be 1" in capsys.readouterr().err


def test_without_matplotlib_numbers_are_written(tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert simulate("--rounds", "20", "--output_dir", str(tmp_path)) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"simulation.json", "simulation.csv", "report.html"}
    assert "<figure>" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert pip_install("plots") in capsys.readouterr().out


def test_games_of_other_sizes_have_no_simplex(tmp_path):
    assert simulate("--game", "random:5", "--rounds", "20", "--output_dir", str(tmp_path)) == 0
    assert (tmp_path / "gap.png").exists() and not (tmp_path / "simplex.png").exists()


def test_a_start_at_the_equilibrium_is_said(capsys):
    assert simulate("--game", "rock-paper-scissors", "--start", *3 * [str(1 / 3)]) == 0
    assert "The start is an equilibrium" in capsys.readouterr().out


def test_a_slow_game_is_not_called_a_cycle(results):
    # Its policies hardly turn within 300 rounds; in 3000 they arrive.
    assert results("--game", "weak-edge", "--algorithm", "comal")["comal"]["verdict"] == "no progress"
    long = results("--game", "weak-edge", "--algorithm", "comal", "--rounds", "3000")
    assert long["comal"]["verdict"] == "converges"


def test_few_rounds_give_no_verdict(results):
    assert results("--algorithm", "onpo", "--rounds", "10")["onpo"]["verdict"] == "too few rounds to tell"


def test_a_wrong_fixed_point_is_no_convergence():
    # Nash-MD's constant step has one: see its docstring.
    plans = {"nash-md": {"beta": 0.1, "step_size": 1.0}}
    game = MatrixGame(CYCLE)
    simulation = Simulation("cycle", game, start=np.array([0.2, 0.5, 0.3]), rounds=400, sampling=None, plans=plans)
    simulation.run(simulation.outcomes[0], seed=0)
    assert simulation.verdict(simulation.outcomes[0]) == "settles elsewhere"


def test_help_is_quick_and_needs_neither_torch_nor_scipy():
    code = (
        "import sys\nfrom trl_nash.cli.main import main\n"
        "try:\n    main(['simulate', '--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "found = {'torch', 'transformers', 'trl', 'scipy', 'matplotlib'} & set(sys.modules)\nassert not found, found\n"
        "import time; assert time.process_time() < 2  # of the processor alone"
    )
    text = subprocess.run([sys.executable, "-c", code], check=True, timeout=600, capture_output=True, text=True).stdout
    assert "examples:" in text and "--pair_selection" in text


def test_games_of_dialogues(results, tmp_path, capsys):
    """Exact steps and sampled rollouts: who converges is as on answers of one turn."""
    setting = ["--game", "two-turns", "--step_size", "2", "--beta", "0.1667", "--reference_rounds", "6"]
    for pairs in ([], ["--pairs", "3072"]):
        found = results(*setting, "--rounds", "100", *pairs)
        gaps = {name: entry["mean gap of the last 20 %"] for name, entry in found.items()}
        assert max(gaps["comal"], gaps["onpo"]) <= 0.05 and gaps["iterative-ipo"] > 0.5
        assert gaps["inpo"] == pytest.approx(0.2, abs=0.02) and "regularised" in found["inpo"]["verdict"]
    record = json.loads((tmp_path / "out" / "simulation.json").read_text(encoding="utf-8"))["game"]
    assert len(record["dialogues"]) == len(record["preferences"]) == 9 and len(record["actions"]) == 12
    shown = capsys.readouterr().out
    assert "9 dialogues of 2 turns with a deterministic user" in shown and "b x b 0.250" in shown


def test_bad_settings_on_dialogues_are_said(capsys):
    assert simulate("--game", "two-turns", "--algorithm", "sppo") == 1
    assert "SPPO is played on games of one turn" in capsys.readouterr().err
    assert simulate("--game", "two-turns", "--start", "0.2", "0.5", "0.3") == 2
    assert "has 12 probabilities" in capsys.readouterr().err


def test_help_names_every_algorithm_and_game(capsys):
    with pytest.raises(SystemExit):
        simulate("--help")
    text = "".join(capsys.readouterr().out.split())  # names may be broken at their dashes
    assert all(name in text for name in (*SOLVERS, *GAMES, *DIALOGUES))


@pytest.mark.parametrize(
    "argv",
    [
        ["--algorithm", "onpo", "--step_size", "100"],
        ["--algorithm", "comal", "--step_size", "10", "--beta", "0.033333", "--reference_rounds", "6"],
        ["--algorithm", "comal", "--reference_rounds", "5"],
        ["--algorithm", "inpo", "--step_size", "4"],
        ["--algorithm", "onpo", "--anchor_history", "2"],
        ["--algorithm", "nash-ema", "--rounds", "3000"],
    ],
)
def test_what_cannot_converge_is_not_said_to(results, argv, capsys):
    """A limit cycle may shrink for a while, and stay far from the equilibrium."""
    (entry,) = results(*argv).values()
    assert entry["warnings"] and "converges" not in entry["verdict"]
    screen = capsys.readouterr().out
    assert "not with these settings" in screen or "never" in screen
