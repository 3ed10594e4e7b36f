# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a run consists of: rounds, rows, policies that are kept, comparisons. Counted as the trainers do it."""

import math
from dataclasses import dataclass


STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp2", "cpu")
DEEPSPEED = ("zero1", "zero2", "zero3")
SHARDED = ("zero3", "fsdp2")  # strategies under which a process holds a part of each weight
# Judges that look at each completion by itself, once.
SCORERS = ("reward", "gpm")


@dataclass(frozen=True)
class Run:
    """A training run, in the names of the training commands. The defaults are theirs for ONPO."""

    algorithm: str = "onpo"
    fits: str = "one"
    anchor_history: int = 5
    reference_rounds: int = 6
    opponent: str = "mixture"
    mixture_coef: float = 0.125
    pair_selection: str = "all"
    num_generations: int = 2
    num_iterations: int = 1
    rounds: int = 10
    steps_per_generation: int = 1
    per_device_train_batch_size: int = 8
    per_device_generation_batch_size: int | None = None
    max_length: int = 512
    max_new_tokens: int = 64
    prompt_length: int | None = None  # means, of which tokens and time are made; memory follows the largest
    completion_length: int | None = None
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
    def mean_completion(self) -> int:
        return self.completion_length or self.max_new_tokens

    @property
    def prompts_per_round(self) -> int:
        return self.per_device_train_batch_size * self.steps_per_generation * self.num_processes

    @property
    def rows(self) -> int:
        """Rows in a micro-step of a device."""
        return self.per_device_train_batch_size * self.num_generations

    @property
    def generation_prompts(self) -> int:
        """Prompts in one call of the generator on a device."""
        return self.per_device_generation_batch_size or self.per_device_train_batch_size

    @property
    def fit_passes(self) -> int:
        """Passes over a round's rows that train."""
        return self.num_iterations * (2 if self.is_onpo("two") else 1)

    def is_onpo(self, fits: str) -> bool:
        return self.algorithm == "onpo" and self.fits == fits

    @property
    def plays_mixture(self) -> bool:
        """Whether Nash-MD's opponent needs two policies at every token."""
        return self.algorithm == "nash-md" and self.opponent == "mixture" and self.mixture_coef > 0

    # ---- Sampling and judging ----

    @property
    def sampled(self) -> int:
        """Completions that the engine samples for a prompt at a time: in twos."""
        return 2 * math.ceil(self.num_generations / 2)

    @property
    def completions(self) -> int:
        """Completions of a prompt that take part, with Nash-MD's opponents."""
        return self.num_generations * (2 if self.algorithm == "nash-md" else 1)

    @property
    def generated(self) -> int:
        """Completions of a prompt that are sampled in a round."""
        if self.algorithm != "nash-md":
            return self.sampled
        return self.sampled + (self.num_generations if self.plays_mixture else self.sampled)

    @property
    def judged_pairs(self) -> int:
        """Pairs of a prompt that a judge sees."""
        count = self.num_generations
        if self.algorithm == "nash-md":
            return count * count
        if self.pair_selection == "iid":
            return count // 2
        return tournament_games(count) if self.pair_selection == "tournament" else count * (count - 1) // 2

    @property
    def trained_pairs(self) -> int:
        """Pairs of a prompt in the buffer."""
        return 1 if self.pair_selection in ("best_worst", "tournament") else self.judged_pairs

    @property
    def judge_calls(self) -> int:
        """Questions to the judge for one prompt, before its cache."""
        return self.completions if self.judge in SCORERS else self.judged_pairs * self.judge_orders

    # ---- Frozen policies ----

    def kept(self) -> int:
        """The largest number of copies of the trained weights that are kept on the CPU."""
        initial = 0 if self.use_peft else 1  # adapters off is the initial policy
        if self.algorithm == "comal":
            return initial + (self.rounds > self.reference_rounds)
        if self.algorithm == "onpo":
            past = min(self.rounds, self.anchor_history) if self.fits == "one" else 1
            return initial + past
        return initial + (self.algorithm == "nash-md" and self.opponent == "ema")

    def scorings(self, index: int) -> int:
        """Passes over the rows of round `index`, counted from 0, that score them under a policy."""
        live_and_initial = 2
        if self.algorithm == "comal":
            return live_and_initial + (index >= self.reference_rounds)
        if self.is_onpo("one"):
            return live_and_initial + min(index, self.anchor_history - 1)
        if self.is_onpo("two"):
            return live_and_initial + (index > 0) + 1  # and once more between the fits
        return live_and_initial

    @property
    def all_scorings(self) -> int:
        return sum(self.scorings(index) for index in range(self.rounds))


def tournament_games(count: int) -> int:
    """Comparisons of `trainers.tournament`: all play once, winners on for the best, losers for the worst, a final."""
    games, winners, losers = count // 2, count - count // 2, count // 2
    while winners > 1 or losers > 1:
        games += winners // 2 + losers // 2
        winners, losers = winners - winners // 2, losers - losers // 2
    return games + 1
