# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""INPO, EGPO, MNPO, MPO, Nash mirror prox, Nash Prox, online IPO and SPPO: their settings, steps and commands."""

from types import SimpleNamespace

import helpers
import pytest
import torch
from helpers import CountingJudge, history, make_config, make_trainer
from tabular import GAME, START, ExactGame, mirror_step

from trl_nash import (
    EGPOConfig,
    EGPOTrainer,
    INPOConfig,
    INPOTrainer,
    MNPOConfig,
    MNPOTrainer,
    MPOConfig,
    MPOTrainer,
    NashMirrorProxConfig,
    NashMirrorProxTrainer,
    NashProxConfig,
    NashProxTrainer,
    OnlineIPOConfig,
    OnlineIPOTrainer,
    SPPOConfig,
    SPPOTrainer,
)
from trl_nash.algorithms import INITIAL, Fit, Policy
from trl_nash.cli.main import main
from trl_nash.rounds.batch import PairBatch
from trl_nash.rounds.pairings.base import all_pairs


STEP, BETA = 0.7, 0.3
RHO, SHRUNK = STEP * BETA, 1 / (1 + STEP * BETA)
BOTH = {"step_size": STEP, "beta": BETA, "num_generations": 2}
# name -> (trainer, config, the options that these tests give it)
METHODS = {
    "inpo": (INPOTrainer, INPOConfig, BOTH),
    "egpo": (EGPOTrainer, EGPOConfig, BOTH),
    "mnpo": (MNPOTrainer, MNPOConfig, BOTH | {"history_weights": [0.6, 0.1, 0.3]}),
    "mpo": (MPOTrainer, MPOConfig, BOTH | {"reference_rounds": 2}),
    "nash-mp": (NashMirrorProxTrainer, NashMirrorProxConfig, BOTH),
    "nash-prox": (NashProxTrainer, NashProxConfig, {"beta": BETA, "reference_rounds": 2}),
    "online-ipo": (OnlineIPOTrainer, OnlineIPOConfig, {"step_size": STEP}),
    "ipo-md": (OnlineIPOTrainer, OnlineIPOConfig, {"step_size": STEP, "mixture_coef": 0.25}),
    "sppo": (SPPOTrainer, SPPOConfig, {"step_size": STEP, "num_generations": 3}),
}
COMMANDS = ["inpo", "egpo", "mnpo", "mpo", "nash-mp", "nash-prox", "online-ipo", "sppo"]


@pytest.fixture(autouse=True)
def methods(monkeypatch):
    """`make_trainer` and `make_config` know them for the time of a test."""
    for name, method in METHODS.items():
        monkeypatch.setitem(helpers.ALGORITHMS, name, method)


# ---- Settings ----


@pytest.mark.parametrize(
    "method, options, message",
    [
        (
            "inpo",
            {"step_size": 2.0, "beta": 0.6},
            r"`step_size \* beta` .* cannot exceed 1, got 2 \* 0.6 = 1.2",
        ),
        (
            "egpo",
            {"step_size": 2.0, "beta": 0.6},
            r"`step_size \* beta` .* cannot exceed 1, got 2 \* 0.6 = 1.2",
        ),
        (
            "mnpo",
            {"step_size": 2.0, "beta": 0.6},
            r"`step_size \* beta` .* cannot exceed 1, got 2 \* 0.6 = 1.2",
        ),
        (
            "mnpo",
            {"history_weights": [0.5, 0.4]},
            r"`history_weights` must be a list that adds up to 1, got .0.5, 0",
        ),
        ("mnpo", {"history_weights": [1.5, -0.5]}, "`history_weights` must be between 0 and 1, got 1.5"),
        ("mnpo", {"history_weights": []}, "`history_weights` is an empty list"),
        ("mnpo", {"history_weights": 1.0}, "`history_weights` must be a list that adds up to 1, got 1.0"),
        ("mpo", {"reference_rounds": 0}, "`reference_rounds` must be at least 1, got 0"),
        ("nash-prox", {"reference_rounds": 0}, "`reference_rounds` must be at least 1, got 0"),
        ("nash-prox", {"num_iterations": 2}, "a round must be one optimizer step. Leave `num_iterations` at 1"),
        ("nash-prox", {"steps_per_generation": 2}, "a round must be one optimizer step"),
        ("online-ipo", {"mixture_coef": 1.5}, "`mixture_coef` must be between 0 and 1, got 1.5"),
        ("online-ipo", {"beta": 0.1}, "`beta=0.1` has no meaning in OnlineIPOConfig"),
        ("sppo", {"beta": 0.001}, "`beta=0.001` has no meaning in SPPOConfig"),
        ("sppo", {"pair_selection": "best_worst"}, "leave `pair_selection` at 'all', got 'best_worst'"),
        ("sppo", {"pair_selection": "iid"}, "leave `pair_selection` at 'all', got 'iid'"),
    ],
)
def test_settings_that_mean_nothing_are_refused_in_one_sentence(method, options, message, tmp_path):
    """Each is a ValueError that names the option and its value."""
    with pytest.raises(ValueError, match=message):
        make_config(method, tmp_path, **options)


@pytest.mark.parametrize("method", ["mpo", "nash-mp"])
def test_a_reference_that_is_not_linearised_may_weigh_more_than_1(method, tmp_path):
    """With ρ = 12 the centre is ref^{12/13} π^{1/13}: there is nothing to refuse."""
    config = make_config(method, tmp_path, step_size=20.0, beta=0.6)
    fit, *_ = config.fits_of(config.past(1))
    assert fit.centre == pytest.approx({INITIAL: 12 / 13, Policy(1): 1 / 13})
    assert fit.step_size == pytest.approx(20 / 13)


def test_a_step_of_0_holds_online_ipo_to_its_reference(tmp_path):
    """τ is infinite then, and nothing is divided by 0."""
    (fit,) = make_config("online-ipo", tmp_path, step_size=0.0).fits_of(helpers.make_config("ipo", tmp_path).past(0))
    assert fit == Fit({INITIAL: 1.0}, 0.0)


@pytest.mark.parametrize(
    "config, defaults",
    [
        (INPOConfig, {"step_size": 1 / 0.005, "rho": 1 / 3, "num_generations": 8}),
        (MNPOConfig, {"step_size": 1 / 0.0075, "rho": 1 / 3, "num_generations": 5, "history_weights": [0.5, 0.5]}),
        (SPPOConfig, {"step_size": 1 / 0.001, "rho": 0.0, "num_generations": 5}),
        (OnlineIPOConfig, {"step_size": 1.0, "rho": 0.0, "mixture_coef": 0.0}),
        (EGPOConfig, {"beta": 0.1}),
    ],
)
def test_defaults_are_those_of_the_papers(config, defaults, tmp_path):
    """η multiplies win rates here, and is a KL coefficient in the papers: the one is the inverse of the other."""
    args = config(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    for name, value in defaults.items():
        assert (args.step_size * args.beta if name == "rho" else getattr(args, name)) == pytest.approx(value), name


# ---- Steps ----


def closed_forms(method: str, rounds: int):
    """Yields π_2, π_3 ... of the papers, from π_1 = `START`, in log space."""
    history, reference = [START.log()], START.log()
    for t in range(rounds):
        log_policy = history[-1]
        towards = RHO * reference + (1 - RHO) * log_policy
        if method == "inpo":
            policy = mirror_step(towards, STEP, log_policy.exp())
        elif method == "egpo":
            policy = mirror_step(towards, STEP, mirror_step(towards, STEP, log_policy.exp()))
        elif method == "mnpo":
            past = [history[max(t - age, 0)] for age in range(3)]
            mixed = sum(weight * log_p for weight, log_p in zip([0.6, 0.1, 0.3], past, strict=True))
            policy = mirror_step(RHO * reference + (1 - RHO) * mixed, STEP, log_policy.exp())
        elif method == "online-ipo":
            policy = mirror_step(reference, STEP, log_policy.exp())
        else:  # (ref^ρ π_t exp(η P(· ≻ opponent)))^{1/(1+ρ)}
            reference = log_policy if method == "mpo" and t % 2 == 0 else reference
            opponent = log_policy.exp()
            for _ in range(2 if method == "nash-mp" else 1):
                opponent = (SHRUNK * (RHO * reference + log_policy + STEP * GAME @ opponent)).softmax(-1)
            policy = opponent
        history.append(policy.log())
        yield policy


@pytest.mark.parametrize("method", ["inpo", "egpo", "mnpo", "mpo", "nash-mp", "online-ipo"])
def test_exact_fits_are_the_papers_steps(method, tmp_path):
    """Four rounds of a trainer whose fits are exact, on COMAL's cycle, are four steps of the paper, to 1e-6."""
    game, before = ExactGame(method, tmp_path), START
    for policy in closed_forms(method, 4):
        game.play_round()
        torch.testing.assert_close(game.policy, policy, rtol=0, atol=1e-6)
        assert (policy - before).abs().max() > 1e-5  # there is something to be equal to
        before = policy


def test_sppo_regresses_log_ratios_to_win_rates():
    """
    mean over K of (log π(y)/π_t(y) - η (P̂(y ≻ π_t) - ½))², with P̂ the mean over the K - 1 others that were judged,
    written out one completion at a time in fp64; a completion without any verdict adds 0.
    """
    generator = torch.Generator().manual_seed(3)
    prompts, count, tokens, step = 2, 4, 5, 1.7
    logps, centre = (torch.randn(prompts * count, tokens, generator=generator, dtype=torch.float64) for _ in "ab")
    pairs = [tuple(pair) for pair in all_pairs(count).tolist()]
    preference = torch.rand(prompts, len(pairs), generator=generator, dtype=torch.float64)
    preference[0, pairs.index((1, 2))] = torch.nan
    for other in (0, 1, 3):
        preference[1, pairs.index((min(2, other), max(2, other)))] = torch.nan

    expected = []
    for prompt in range(prompts):
        losses = []
        for own in range(count):
            ratio = sum((logps - centre)[prompt * count + own].tolist())
            wins = []
            for other in set(range(count)) - {own}:
                verdict = preference[prompt, pairs.index((min(own, other), max(own, other)))].item()
                wins.append(verdict if own < other else 1 - verdict)
            judged = [win for win in wins if win == win]
            target = step * (sum(judged) / len(judged) - 0.5) if judged else ratio
            losses.append((ratio - target) ** 2)
        expected.append(sum(losses) / count)

    recorded = []
    trainer = SimpleNamespace(
        fit=Fit({}, step), reporter=SimpleNamespace(record_fit=lambda *values: recorded.append(values))
    )
    unused = torch.zeros(prompts * count, tokens + 1, dtype=torch.long)
    pairs = torch.tensor(pairs).expand(prompts, -1, -1)
    batch = PairBatch(unused, unused, unused, pairs, preference, centre_logps=centre)
    losses = SPPOTrainer.objective(trainer, logps, batch)
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    ((margin, target),) = recorded
    assert margin.shape == target.shape == (prompts, count) and target[1, 2].isnan()


# ---- Runs ----


@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
@pytest.mark.parametrize("method", METHODS)
def test_they_train(method, lora, tmp_path):
    """Three rounds on a tiny model: the weights move, and each round samples as often as the method's fits do."""
    judge = CountingJudge()
    trainer = make_trainer(method, tmp_path, judge=judge, lora=lora, max_steps=10**6)
    trainer.args.max_steps = 3 * trainer.args.optimizer_steps_per_round
    asked, generate = [], trainer.generate

    def keep(prompts, count, policy=None):
        asked.append(policy)
        return generate(prompts, count, policy)

    trainer.generate = keep
    before = helpers.weights(trainer.model)
    trainer.train()
    assert trainer.round == 2 and not helpers.equal(before, helpers.weights(trainer.model))
    expected = {
        **dict.fromkeys(("egpo", "nash-mp"), [None] * 6),  # the second fit's pairs are the live policy's too
        "ipo-md": [{INITIAL: 0.25}] * 3,
        "nash-prox": [None] * 6,  # the policy's own completions, and its opponents
    }
    assert asked == expected.get(method, [None] * 3)
    assert len(history(trainer, "loss")) == trainer.args.max_steps
    assert bool(history(trainer, "policy/kl_reference")) == (method != "ipo-md")


# ---- Commands ----


@pytest.mark.parametrize("command", COMMANDS)
def test_their_commands_have_help(command, capsys):
    """`trl-nash inpo --help` begins with the options of the algorithm."""
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert 0 < text.find("--num_generations") < text.find("--learning_rate")
