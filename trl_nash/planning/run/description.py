# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a run consists of: rounds, rows, policies that are kept, comparisons. Counted as the trainers do it."""

import math
from dataclasses import dataclass
from inspect import signature

from ...algorithms import (
    AVERAGE,
    INITIAL,
    START,
    Fit,
    Past,
    Policy,
    average_response,
    named,
    needed,
    onpo_two_fits,
)
from ...algorithms.table import MOVING
from ...generation.dialogue import TURNS
from ...rounds.pairings import Pairing, pairing_of
from ..known import DEFINITIONS, GROUP_JUDGES, PLAYED, SCORERS


KL_SAMPLE = 64  # completions on which a policy is scored for the sake of a metric, as in `trainers.run.scorer`


@dataclass(frozen=True)
class Run:
    """A training run, in the names of the training commands. The defaults are theirs for ONPO."""

    algorithm: str = "onpo"
    fits: str = "one"
    anchor_history: int = 5
    history_weights: tuple[float, ...] = (0.5, 0.5)
    reference_rounds: int = 6
    opponent: str = "mixture"
    mixture_coef: float = 0.125
    pair_selection: str = "all"
    pairs_per_prompt: int | None = None
    num_generations: int = 2
    num_iterations: int = 1
    rounds: int = 10
    max_steps: int | None = None  # optimizer steps after which a run ends, within a round if need be
    steps_per_generation: int = 1
    gradient_accumulation_steps: int = 1
    per_device_train_batch_size: int = 8
    per_device_generation_batch_size: int | None = None
    per_device_eval_batch_size: int = 8
    evaluation_prompts: int = 0  # on which the policy is judged against the start
    evaluations: int = 1  # how often, with the one at the end
    opponent_pool_rounds: int | None = None  # after which a policy is kept for evaluations
    max_length: int = 512
    max_new_tokens: int = 64
    prompt_length: int | None = None  # means, of which tokens and time are made; memory follows the largest
    completion_length: int | None = None
    user: str | None = None  # who answers in a dialogue; of one turn without
    max_turns: int | None = None  # of the policy in a dialogue
    gradient_checkpointing: bool = True
    dtype: str = "float32"  # of the weights as they are loaded
    precision: str = "bf16"  # of the arithmetic: bf16, fp16, fp32
    optim: str = "adamw_torch_fused"
    use_peft: bool = False
    lora_r: int = 16
    lora_target_modules: tuple[str, ...] | None = None
    load_in_4bit: bool = False
    load_in_8bit: bool = False
    use_bnb_nested_quant: bool = False
    judge: str | None = None  # key of the judge, without its target
    judge_orders: int = 2
    judge_parameters: int = 0  # of a local model
    use_vllm: bool = False
    vllm_mode: str = "colocate"
    vllm_gpu_memory_utilization: float = 0.55
    vllm_tensor_parallel_size: int = 1
    vllm_enable_sleep_mode: bool = False
    num_processes: int = 1
    strategy: str = "ddp"

    # ---- A round ----

    @property
    def max_prompt(self) -> int:
        """Prompts are cut to this many tokens."""
        return self.max_length - self.max_new_tokens

    @property
    def mean_prompt(self) -> int:
        return self.prompt_length or self.max_prompt

    @property
    def turns(self) -> int:
        """The policy's turns in a completion, at most."""
        return (self.max_turns or TURNS) if self.user else 1

    @property
    def mean_turn(self) -> int:
        """Tokens of a turn, the policy's or the user's."""
        return self.completion_length or self.max_new_tokens

    @property
    def mean_own(self) -> int:
        """Tokens of a completion that the policy samples, if no dialogue ends early."""
        return self.turns * self.mean_turn

    @property
    def mean_completion(self) -> int:
        """Tokens of a completion, with the user's, who says as much as the policy."""
        whole = (2 * self.turns - 1) * self.mean_turn
        return whole if self.turns == 1 else max(self.mean_turn, min(whole, self.max_length - self.mean_prompt))

    @property
    def longest_own(self) -> int:
        """Tokens of a completion that are trained on, at most."""
        return min(self.turns * self.max_new_tokens, self.max_length - 1)

    @property
    def prompts_per_round(self) -> int:
        return self.per_device_train_batch_size * self.steps_per_generation * self.num_processes

    @property
    def rows(self) -> int:
        """Rows in a micro-step of a device."""
        return self.per_device_train_batch_size * self.num_generations

    @property
    def generation_chunk(self) -> int:
        """Prompts in one call of the generator on a device, which has no more of them than its part of a round."""
        chunk = self.per_device_generation_batch_size or self.per_device_train_batch_size
        return min(chunk, self.per_device_train_batch_size * self.steps_per_generation)

    # ---- What a round fits ----

    def past(self, index: int) -> Past:
        return Past(index, self.reference_rounds if self.algorithm in (*MOVING, "nash-prox") else None)

    def fits_of(self, past: Past) -> list[Fit]:
        """The regressions of a round, from the method's definition."""
        define = DEFINITIONS[self.algorithm]
        if self.algorithm == "onpo" and self.fits == "two":
            define = onpo_two_fits
        if self.algorithm == "nash-md" and self.opponent == "ema":
            define = average_response
        settings = {
            "step_size": 1.0,  # which policies a fit names, and so what is counted here, depends neither on this
            "beta": 0.5,  # nor on this
            "anchor_history": self.anchor_history,
            "history_weights": self.history_weights,
            "mixture_coef": self.mixture_coef if self.algorithm in ("nash-md", "online-ipo") else 0.0,
        }
        taken = signature(define).parameters
        return define(past, **{name: value for name, value in settings.items() if name in taken})

    @property
    def fit_passes(self) -> int:
        """Passes over a round's rows that train."""
        return self.num_iterations * self.fits_per_round

    @property
    def fits_per_round(self) -> int:
        return len(self.fits_of(self.past(0)))

    @property
    def optimizer_steps_per_round(self) -> int:
        return max(1, self.steps_per_generation * self.fit_passes // self.gradient_accumulation_steps)

    @property
    def optimizer_steps(self) -> int:
        """Of the run."""
        steps = self.rounds * self.optimizer_steps_per_round
        return steps if self.max_steps is None else min(steps, self.max_steps)

    @property
    def plays_mixture(self) -> bool:
        """Whether an opponent needs two policies at every token."""
        return any(len(fit.pairs_from or {}) > 1 for fit in self.fits_of(self.past(1)))

    # ---- Sampling and judging ----

    @property
    def samplings(self) -> int:
        """How often a round samples its prompts, for pairs of its own."""
        return 1 + sum(fit.pairs_from is not None for fit in self.fits_of(self.past(1))[1:])

    @property
    def colocates_vllm(self) -> bool:
        """Whether a vLLM engine is on the devices that train."""
        return self.use_vllm and self.vllm_mode == "colocate"

    @property
    def completions(self) -> int:
        """Completions of a prompt that take part in a round, with opponents that are not trained on."""
        return self.samplings * self.num_generations * (2 if self.algorithm in PLAYED else 1)

    @property
    def pairing(self) -> Pairing:
        """Which completions of a prompt are compared, where a method compares them with one another."""
        return pairing_of(self.pair_selection, self.pairs_per_prompt)

    @property
    def judged_pairs(self) -> int:
        """Pairs of a prompt that a judge sees."""
        count = self.num_generations
        return count * count if self.algorithm in PLAYED else self.pairing.calls(count)

    @property
    def trained_pairs(self) -> int:
        """Pairs of a prompt in the buffer."""
        count = self.num_generations
        return count * count if self.algorithm in PLAYED else self.pairing.trained(count)

    @property
    def judge_calls(self) -> int:
        """Questions to the judge for one prompt, before its cache."""
        if self.judge in SCORERS:
            return self.completions
        asked = 1 if self.judge in GROUP_JUDGES else self.judged_pairs
        return self.samplings * asked * self.judge_orders

    @property
    def judge_calls_a_round(self) -> int:
        return self.judge_calls * self.prompts_per_round

    @property
    def user_calls(self) -> int:
        """Questions to the user for one prompt, at most: behind the last turn nobody is asked."""
        return self.completions * (self.turns - 1)

    @property
    def user_calls_a_round(self) -> int:
        return self.user_calls * self.prompts_per_round

    @property
    def trains_on_policy(self) -> bool:
        """Whether the completions that are trained on are the policy's own."""
        return self.algorithm in PLAYED or not self.plays_mixture

    # ---- Frozen policies ----

    def kept(self) -> int:
        """The largest number of copies of the trained weights that are kept on the CPU."""
        initial = 0 if self.use_peft else 1  # adapters off is the initial policy
        average = AVERAGE in named(self.fits_of(self.past(0)))
        return initial + average + self.pool + max(self._kept_in(index) for index in range(self.rounds))

    @property
    def pool(self) -> int:
        """Policies that join the opponent pool, beside the start."""
        return self.rounds // self.opponent_pool_rounds if self.opponent_pool_rounds else 0

    def _kept_in(self, index: int) -> int:
        past = self.past(index)
        fits = range(len(self.fits_of(past)))
        return max(len(needed(self.fits_of, past, number) - {INITIAL, START, AVERAGE}) for number in fits)

    def scorings(self, index: int) -> float:
        """
        Passes over the rows of round `index`, counted from 0, that score them under a policy. That of the policy
        itself leaves out what comes before the first optimizer step, that for a metric is of a few rows.
        """
        past, total = self.past(index), 0.0
        first = min(self.gradient_accumulation_steps, self.steps_per_generation)
        for number, fit in enumerate(self.fits_of(past)):
            live = as_kept(Policy(index, number))
            centre = {as_kept(policy) for policy, weight in fit.centre.items() if weight}
            total += len(centre - {live}) + (live in centre) * (1 - first / self.steps_per_generation)
            if number == 0 and self.trains_on_policy and INITIAL not in centre | {live}:
                total += min(first, math.ceil(KL_SAMPLE / self.rows)) / self.steps_per_generation
        return total

    @property
    def all_scorings(self) -> float:
        return sum(self.scorings(index) for index in range(self.rounds))


def as_kept(policy: Policy) -> Policy:
    """The start is the initial policy."""
    return INITIAL if policy == START else policy
