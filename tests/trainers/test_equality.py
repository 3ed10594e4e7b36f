# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
One definition, two executors: the trainers' own loop on a model of three answers, each fit in closed form, goes
through the policies of the exact executor of games.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from helpers import make_config, prompt_dataset
from peft import LoraConfig, get_peft_model
from scipy.special import log_softmax
from tiny import build_model, build_tokenizer
from torch import nn

import trl_nash
from trl_nash import algorithms
from trl_nash.algorithms import INITIAL, START, Past, Policy
from trl_nash.algorithms.play import play_round
from trl_nash.games import MatrixGame
from trl_nash.games.solvers.executor import exact_pairs


ROUNDS = 20
WORDS = "abc"
# COMAL's cycle, in numbers that fp32 holds exactly: preferences pass through it.
PREFERENCES = np.array([[0.5, 0.09375, 0.796875], [0.90625, 0.5, 0.09375], [0.203125, 0.90625, 0.5]])
GAME = MatrixGame(PREFERENCES, actions=list(WORDS))
LOG_START = np.log([0.2, 0.5, 0.3])
INNER = {"step_size": 0.75, "beta": 0.4}

# name: the trainer, the options of its config, the definition with its settings, and `reference_rounds`
METHODS = {
    "iterative-ipo": ("NashTrainer", {"step_size": 0.5}, partial(algorithms.iterative_ipo, step_size=0.5), None),
    "onpo": (
        "ONPOTrainer",
        {"step_size": 0.75, "anchor_history": 4},
        partial(algorithms.onpo, step_size=0.75, anchor_history=4),
        None,
    ),
    "onpo, two fits": (
        "ONPOTrainer",
        {"step_size": 0.75, "fits": "two"},
        partial(algorithms.onpo_two_fits, step_size=0.75),
        None,
    ),
    "inpo": ("INPOTrainer", INNER, partial(algorithms.inpo, **INNER), None),
    "comal": ("COMALTrainer", INNER | {"reference_rounds": 4}, partial(algorithms.inpo, **INNER), 4),
    "egpo": ("EGPOTrainer", INNER, partial(algorithms.egpo, **INNER), None),
    "mnpo": (
        "MNPOTrainer",
        INNER | {"history_weights": [0.5, 0.25, 0.25]},
        partial(algorithms.mnpo, **INNER, history_weights=[0.5, 0.25, 0.25]),
        None,
    ),
    "mpo": ("MPOTrainer", INNER | {"reference_rounds": 3}, partial(algorithms.mpo, **INNER), 3),
    "nash mirror prox": ("NashMirrorProxTrainer", INNER, partial(algorithms.nash_mirror_prox, **INNER), None),
    "online ipo": (
        "OnlineIPOTrainer",
        {"step_size": 2.0},
        partial(algorithms.regularized_response, beta=0.5),
        None,
    ),
    "ipo-md": (
        "OnlineIPOTrainer",
        {"step_size": 2.0, "mixture_coef": 0.25},
        partial(algorithms.regularized_response, beta=0.5, mixture_coef=0.25),
        None,
    ),
}


class Table(nn.Module):
    """`log π` of three one-token answers, in fp64, as a linear layer that LoRA knows."""

    def __init__(self, answers: list[int]):
        super().__init__()
        self.logits = nn.Linear(1, 3, bias=False, dtype=torch.float64)
        self.answers = torch.tensor(answers)
        with torch.no_grad():
            self.logits.weight.copy_(torch.tensor(LOG_START)[:, None])

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        logits = self.logits(torch.ones(1, dtype=torch.float64))
        # Prompt and completion are one token each, so column 1 holds the answer.
        return logits.log_softmax(-1)[torch.searchsorted(self.answers, labels[:, 1:].contiguous())]


def judge(prompts, first, second):
    return [PREFERENCES[WORDS.index(a), WORDS.index(b)] for a, b in zip(first, second, strict=True)]


judge.symmetric = True


class Loop:
    """A trainer over a table, whose samples are all pairs of answers, each with the chance of being drawn."""

    def __init__(self, name: str, output_dir, lora: bool):
        trainer, options, _, _ = METHODS[name]
        trainer_class = getattr(trl_nash, trainer)
        self.tokenizer = build_tokenizer()
        self.draws = torch.tensor(list(product(range(3), repeat=2)))
        args = make_config("ipo", output_dir, per_device_train_batch_size=len(self.draws))
        given = {key: getattr(args, key) for key in ("output_dir", "use_cpu", "bf16", "report_to", "disable_tqdm")}
        given |= {"max_new_tokens": 1, "max_length": 16, "per_device_train_batch_size": len(self.draws)}
        self.trainer = trainer_class(
            model=build_model(self.tokenizer),
            args=trainer_class.config_class(**given, num_generations=2, gradient_checkpointing=False, **options),
            train_dataset=prompt_dataset(["d"] * len(self.draws)),
            processing_class=self.tokenizer,
            judge=judge,
            peft_config=LoraConfig(r=1, target_modules=["q_proj"]) if lora else None,
        )
        self.answers = self.tokenizer.convert_tokens_to_ids(list(WORDS))
        self.table = Table(self.answers)
        if lora:
            self.table = get_peft_model(self.table, LoraConfig(r=2, target_modules=["logits"])).double()
        self.trainer.model = self.trainer.model_wrapped = self.table
        self.trainer.score = lambda model, batch: model(labels=batch.labels)
        self.trainer.generate = self.generate

    def log_policy(self, model: nn.Module | None = None) -> np.ndarray:
        labels = torch.tensor([[-100, answer] for answer in self.answers])
        with torch.no_grad():
            return (self.table if model is None else model)(labels=labels)[:, 0].numpy().copy()

    def generate(self, prompts, count, policy=None):
        """All that can be drawn; from whom says how likely it is."""
        log_opponent = self.log_policy()
        for other, weight in (policy if isinstance(policy, Mapping) else {policy: 1.0} if policy else {}).items():
            with self.trainer.policies.active(other) as model:
                log_opponent = (1 - weight) * log_opponent + weight * self.log_policy(model)
        opponent = torch.tensor(log_opponent).softmax(-1)
        self.chance = opponent[self.draws].prod(-1)
        prompt = self.tokenizer("d").input_ids
        return [prompt] * len(prompts), [[[self.answers[i]] for i in draw] for draw in self.draws.tolist()]

    def fit(self) -> None:
        """The next fit of the trainer: the weights become the minimiser of its objective in expectation."""
        trainer = self.trainer
        batch = trainer._prepare_inputs([{"prompt": "d"}] * len(self.draws))
        with torch.no_grad():
            batch = trainer.scorer.complete(batch, trainer.score(self.table, batch))
        batch = replace(batch, preference=batch.preference.double())  # so that η times it is exact as well
        index = torch.searchsorted(torch.tensor(self.answers), batch.labels[:, 1:].contiguous())

        def loss(logits):
            return (self.chance * trainer.objective(logits.log_softmax(-1)[index], batch)).sum()

        # Margins are linear in the logits, so the loss is a parabola and one Newton step ends at its bottom.
        logits = torch.tensor(self.log_policy())
        gradient = torch.autograd.functional.jacobian(loss, logits)
        hessian = torch.autograd.functional.hessian(loss, logits)
        self.set(logits - torch.linalg.pinv(hessian, hermitian=True) @ gradient)

    @torch.no_grad()
    def set(self, logits: torch.Tensor) -> None:
        if isinstance(self.table, Table):
            self.table.logits.weight.copy_(logits[:, None])
            return
        layer = self.table.base_model.model.logits
        a, scale = layer.lora_A["default"].weight[:, 0], layer.scaling["default"]
        change = logits - layer.base_layer.weight[:, 0]
        layer.lora_B["default"].weight.copy_(torch.outer(change, a / (scale * a.dot(a))))

    def resumed(self, name: str, folder, lora: bool) -> "Loop":
        """Another trainer that goes on from what this one keeps in a checkpoint."""
        within = self.trainer._micro_step % self.trainer.args.micro_steps_per_round
        self.trainer.keeper.save(folder, self.trainer.batches if within else [], 0)
        other = Loop(name, folder / "out", lora)
        other.table.load_state_dict(self.table.state_dict())
        other.trainer.state.global_step = self.trainer._micro_step
        other.trainer.create_optimizer()  # as a run has one
        other.trainer.start_run(folder)
        other.chance = self.chance
        return other


@pytest.mark.parametrize("stop", [None, 7], ids=["whole", "resumed"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
@pytest.mark.parametrize("name", METHODS)
def test_the_trainer_plays_the_definition(name, lora, stop, tmp_path):
    """
    The same policies to 1e-9, the same kept, the same centres, steps and opponents in all fits of 20 rounds; also when
    another trainer goes on in the middle of it (and of the round, where that has two fits).
    """
    _, _, method, reference_rounds = METHODS[name]
    loop = Loop(name, tmp_path / "out", lora)
    loop.trainer.policies.start_over()
    policies = {START: LOG_START, INITIAL: LOG_START}
    moved = 0.0
    for round in range(ROUNDS):
        past = Past(round, reference_rounds)
        fits = method(past)
        assert loop.trainer.args.schedule.fits == len(fits)
        play_round(method, past, policies, lambda opponent: exact_pairs(GAME)(log_softmax(opponent)))
        for number, fit in enumerate(fits):
            if round == stop and number == len(fits) - 1:
                loop = loop.resumed(name, tmp_path / "checkpoint", lora)
            loop.fit()
            assert (loop.trainer.round, loop.trainer.place.fit) == (round, number)
            assert loop.trainer.fit == fit
        expected = policies[Policy(round + 1)]
        np.testing.assert_allclose(loop.log_policy(), expected, rtol=0, atol=1e-9)
        kept = {INITIAL if policy == START else policy for policy in policies if policy != Policy(round + 1)}
        assert set(loop.trainer.policies) - {INITIAL} == kept - {INITIAL}
        for policy in kept - {INITIAL}:
            with loop.trainer.policies.active(policy) as model:
                np.testing.assert_allclose(loop.log_policy(model), policies[policy], rtol=0, atol=1e-9)
        moved = max(moved, np.abs(expected - LOG_START).max())
    assert moved > 0.1
