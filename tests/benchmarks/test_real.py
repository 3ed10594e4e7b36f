# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The benchmark on a real model runs from end to end, here on a tiny one, and what it reads off models is exact."""

import itertools
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import build_model, build_tokenizer
from transformers import AutoModelForCausalLM

from benchmarks import ROOT


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(tiny, folder, *further):
    page = folder / "background" / "page.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text("".join(f"<!-- {judge} -->\n<!-- {judge} -->\n" for judge in ("cycle", "majority", "one-rater")))
    sizes = "--judges cycle --methods comal grpo --rounds 2 --tried_rounds 1 --learning_rates 1e-3 3e-3 --threads 1"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.real", *sizes.split(), "--model", tiny, "--output"]
        + [folder / "found.json", "--docs", page],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(folder), "TRL_EXPERIMENTAL_SILENCE": "1"},
    )
    return done.stdout, json.loads((folder / "found.json").read_text()), page.read_text()


@pytest.fixture(scope="module")
def outcome(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    return folder, *run(tiny, folder)


@pytest.mark.slow
def test_every_method_has_its_tries_and_a_row(outcome):
    _, _, record, page = outcome
    assert [(row["method"], row["learning_rate"]) for row in record["tries"]] == [
        (method, rate) for method in ("comal", "grpo") for rate in (1e-3, 3e-3)
    ]
    for row in record["results"]:
        best = max((one for one in record["tries"] if one["method"] == row["method"]), key=lambda one: one["quality"])
        assert row["learning_rate"] == best["learning_rate"]
        assert [len(row[name]) for name in ("pairs", "seconds", "gap", "gap_per_prompt", "shares")] == [3] * 5
        assert f"| {row['method']} | {row['learning_rate']:g} |" in page
    comal, grpo = record["results"]
    assert comal["pairs"] == comal["pairs"][:1] + sorted(comal["pairs"][1:])
    assert grpo["gap"][0] == comal["gap"][0]  # the same start
    assert grpo["shares"][-1] != grpo["shares"][0] and comal["shares"][-1] != comal["shares"][0]


@pytest.mark.slow
def test_a_second_call_plays_nothing_again(outcome, tiny):
    folder, first, record, page = outcome
    again, same, text = run(tiny, folder)
    assert "..." in first and "..." not in again  # a line with dots is a run that begins
    assert (same, text) == (record, page)


def test_a_run_with_other_settings_is_another_run(tmp_path):
    """In its file, in the record and in the tables."""
    from benchmarks.real.measure import write
    from benchmarks.real.page import by_method
    from benchmarks.real.runs import Run

    usual = Run("cycle", "comal", 1e-3, 3, 0, 30, 8)
    others = {
        "passes = 2": usual._replace(passes=2),
        "K = 32": usual._replace(num_generations=32),
        "60 rounds": usual._replace(rounds=60),
        "step 4": usual._replace(step_size=4.0),
        "linear decay": usual._replace(lr_scheduler_type="linear"),
    }
    runs = [usual, *others.values(), usual._replace(seed=1)]
    assert len({run.file(tmp_path) for run in runs}) == len(runs)
    record = {"command": "", "tries": [], "results": []}
    for run in [*runs, *runs]:
        record = write(tmp_path / "found.json", record, run._asdict(), [])
    assert len(record["results"]) == len(runs)
    found = by_method(record["results"])
    assert {name: len(some) for name, some in found.items()} == {
        "comal": 2,
        **{f"comal, {words}": 1 for words in others},
    }


METHODS = ["comal", "mpo", "onpo", "onpo-two-fits", "inpo", "egpo", "nash-mp", "mnpo", "nash-md", "nash-prox"]
METHODS += ["online-ipo", "iterative-ipo", "sppo", "online-dpo", "grpo"]


def test_all_methods_can_be_asked_for():
    from benchmarks.real import __main__ as command
    from benchmarks.real.methods import METHODS as defined

    assert METHODS == list(command.METHODS) == list(defined)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_plays_the_rounds_that_it_is_given(method, tiny, tmp_path):
    from benchmarks.real.methods import METHODS, PROMPTS
    from benchmarks.real.play import play

    prompts = [f"a b {letter}" for letter in "abcdefghijklmnopqr"]
    run = {
        "judge": "majority",
        "method": method,
        "learning_rate": 1e-3,
        "passes": 2,
        "seed": 0,
        "rounds": 2,
        "num_generations": 4,
    }
    found = play(tiny, prompts, prompts[:3], folder=tmp_path, **run)
    rounds = 2 // METHODS[method].samplings
    assert len(found["readings"]) == rounds + 1 and found["kl"] != 0
    assert all(before["pairs"] < after["pairs"] for before, after in itertools.pairwise(found["readings"]))
    if method not in ("online-dpo", "nash-md", "nash-prox", "online-ipo"):  # they compare with others, or two answers
        # Equal answers to a prompt are not asked about.
        most = 2 * PROMPTS * math.comb(4, 2)
        assert 0.9 * most <= found["readings"][-1]["pairs"] <= most


def test_shares_are_the_models_own_probabilities(tiny):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from benchmarks.real.judges import opening
    from benchmarks.real.play import Reader, messages

    tokenizer, model = AutoTokenizer.from_pretrained(tiny), AutoModelForCausalLM.from_pretrained(tiny)
    prompts = ["a b c", "d", "yes no yes no"]
    found = Reader(tokenizer, prompts, batch=2).shares(model)
    for row, prompt in zip(found, prompts, strict=True):
        ids = tokenizer.apply_chat_template(messages(prompt), add_generation_prompt=True, return_dict=False)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            first = model(torch.tensor([ids])).logits[0, -1].float().softmax(-1)
        expected = np.zeros(3)
        for token, share in enumerate(first.tolist()):
            expected[opening("" if token == tokenizer.eos_token_id else tokenizer.decode([token]))] += share
        np.testing.assert_allclose(row, expected, atol=2e-3)  # bf16, and another padding
        assert row.sum() == pytest.approx(1, abs=1e-5)


def test_gaps_are_those_of_the_game():
    from benchmarks.real.judges import CYCLE
    from benchmarks.real.measure import gaps
    from trl_nash.games import nash_equilibrium

    nash = nash_equilibrium(CYCLE)
    assert gaps(np.stack([nash, nash])) == pytest.approx((0, 0), abs=1e-9)
    corners = np.eye(3)
    # Against a mixture of the three answers that all prompts are given, and against each of them by itself.
    assert gaps(corners)[0] == pytest.approx(CYCLE.duality_gap(np.full(3, 1 / 3)))
    assert gaps(corners)[1] == pytest.approx(np.mean([CYCLE.duality_gap(corner) for corner in corners]))


@pytest.mark.parametrize("judge", ["cycle", "one-rater", "majority"])
def test_judges_do_not_mind_the_order(judge):
    from benchmarks.real.judges import JUDGES

    answers = ["A good day", "Bad weather. Bad.", "", "Yes we can do this great thing", "12 is a number"]
    pairs = [(a, b) for a in answers for b in answers]
    first, second = map(list, zip(*pairs, strict=True))
    prompts = ["What is a good number?"] * len(pairs)
    there, back = (np.array(JUDGES[judge](prompts, *some)) for some in ((first, second), (second, first)))
    np.testing.assert_allclose(there + back, 1)
    assert set(there[[a == b for a, b in pairs]]) == {0.5}


def test_seeds_are_shown_and_other_passes_are_another_row(tmp_path):
    from benchmarks.real.page import contest
    from benchmarks.real.runs import Run

    start = {f"What is {letter}?": ["It is a letter.", "It is bad."] for letter in "abcdef"}

    def run(seed, passes, answer):
        found = Run("one-rater", "comal", 1e-3, passes, seed, 8, 4)._asdict()
        found |= {"pairs": [0, 6], "seconds": [0.0, 1.0], "win_rate": [0.5], "kl": 1.0, "wall_seconds": 60, "log": []}
        return found | {"start": start, "answers": {prompt: [answer, answer] for prompt in start}}

    runs = [run(0, 2, "What a great day!"), run(1, 2, "It is a letter."), run(0, 1, "A bad, bad day.")]
    table = [line.split(" | ") for line in contest(runs, tmp_path, "one-rater").splitlines() if line.startswith("|")]
    two_seeds, one_pass = table[3:]
    assert two_seeds[0] == "| comal" and one_pass[0] == "| comal, passes = 1"
    high, low = map(int, two_seeds[3].split(", "))
    assert high > 90 > 80 > low > 60 and one_pass[3] == ""  # half of the start's answers are bad


def test_the_model_remembers_no_quantisation(tmp_path):
    """Newer versions of transformers would refuse to train what says of itself that it is packed in GGUF."""
    from benchmarks.real.model import plain

    read = build_model(build_tokenizer())
    read.config.quantization_config = {"quant_method": "gguf", "dequantize": False, "gguf_file": "packed.gguf"}
    plain(read).save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(map(torch.equal, loaded.parameters(), read.parameters()))
