# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Tokens and floating-point operations (FLOP) of a run."""

from dataclasses import replace
from typing import NamedTuple

from ..known import SCORERS
from ..model import ModelSizes
from ..run import Run
from ..run.evaluation import judge_calls, pool_calls, pool_samplings, samplings, scorings
from ..run.lengths import longest
from .activations import STASH
from .bytes import compute_bytes, shares_prompts, trained_tensors


class Tokens(NamedTuple):
    """Tokens of all devices together, at the mean lengths."""

    generated: int
    scored: float  # prompts and completions that go through a policy without gradient
    trained: float


def tokens(model: ModelSizes, run: Run, scorings: float) -> Tokens:
    """Tokens of a round with that many scorings."""
    rows = run.prompts_per_round * run.num_generations
    read, _ = positions(model, run, rows, run.mean_prompt, run.mean_completion)
    return Tokens(run.prompts_per_round * run.completions * run.mean_own, read * scorings, read * run.fit_passes)


def evaluation_tokens(model: ModelSizes, run: Run) -> Tokens:
    """Tokens of an evaluation."""
    rows = run.evaluation_prompts * run.num_generations
    read, _ = positions(model, evaluating(run), rows, run.mean_prompt, run.mean_completion)
    return Tokens(rows * samplings(run) * run.mean_own, read * scorings(run), 0)


def evaluating(run: Run) -> Run:
    """A run as its evaluations score: without a backward no layer checkpoints anything."""
    return replace(run, gradient_checkpointing=False)


def positions(model: ModelSizes, run: Run, rows: int, prompt: int, completion: int) -> tuple[float, float]:
    """
    Tokens that go through the trunk where rows are scored, and pairs of them of which attention makes products. A
    prompt is read once for its completions, of which the last token is not read then.
    """
    if not shares_prompts(model, run):
        width = prompt + completion
        return rows * width, rows * width * width
    prompts, behind = rows / run.num_generations, completion - 1
    return prompts * prompt + rows * behind, prompts * prompt**2 + rows * behind * (prompt + behind)


def forward_flop(model: ModelSizes, rows: int, width: int) -> float:
    """A forward pass of the trunk. Attention is counted in full, as PyTorch's counter does: causal kernels do half."""
    return 2 * rows * width * model.active + attention_flop(model, rows * width * width)


def attention_flop(model: ModelSizes, pairs: float) -> float:
    return 4 * model.layers * pairs * model.attention


def head_flop(model: ModelSizes, positions: int, products: int = 1) -> float:
    return 2 * positions * model.hidden_size * model.vocabulary * products


def fit_flop(model: ModelSizes, run: Run, rows: int, prompt: int, completion: int) -> float:
    """Forward and backward of rows, through the trunk and the head."""
    read, pairs = positions(model, run, rows, prompt, completion)
    linear, attention = 2 * read * model.active, attention_flop(model, pairs)
    passes = 2 if run.use_peft else 3  # forward, gradients of inputs, gradients of weights
    flop = passes * linear + attention * 3.5  # its backward makes the matrix again: five products for two
    if run.use_peft:
        adapter = 2 * read * sum(trained_tensors(model, run))
        flop += 3 * adapter
        linear += adapter
    if run.gradient_checkpointing:
        flop += linear + attention
        if not run.use_peft:  # nothing needs what a layer's last product returns
            flop -= 2 * read * model.layers * model.hidden_size * model.intermediate_size
    return flop + head_flop(model, rows * completion, head_products(model, run))


def head_products(model: ModelSizes, run: Run) -> int:
    """Matrix products of the head in a training step, see docs/background/kernels.md."""
    if run.use_peft:
        return 2
    needed = max(2, compute_bytes(run)) * run.rows * run.longest_own * model.vocabulary
    return 3 if run.strategy != "cpu" and needed <= STASH else 4


def scoring_flop(model: ModelSizes, run: Run, rows: int) -> float:
    """A pass of a round's rows under one policy."""
    read, pairs = positions(model, run, rows, run.mean_prompt, run.mean_completion)
    return 2 * read * model.active + attention_flop(model, pairs) + head_flop(model, rows * run.mean_own)


def generation_flop(model: ModelSizes, run: Run, rows: int) -> float:
    """Prompts, each of them read once for its K completions, then token by token."""
    prompt, completion = run.mean_prompt, decoded(run, run.generation_chunk * run.num_generations)
    positions = completion * (prompt + completion / 2)  # that are attended to
    flop = prefill_flop(model, run, rows / run.num_generations) + 2 * rows * completion * model.active
    return flop + 4 * model.layers * rows * positions * model.attention + head_flop(model, rows * completion)


def prefill_flop(model: ModelSizes, run: Run, prompts: float) -> float:
    """
    All but a prompt's last token, from which its completions begin; in a dialogue all that was said is read again
    before each further turn.
    """
    flop = forward_flop(model, prompts, run.mean_prompt - 1)
    for turn in range(1, run.turns):
        said = min(2 * turn * run.mean_turn, run.mean_completion)
        flop += forward_flop(model, prompts * run.num_generations, run.mean_prompt + said)
    return flop


def decoded(run: Run, rows: float) -> float:
    """Tokens that are decoded for each of `rows` completions of a call: `generate` goes on until all have ended."""
    return run.turns * (run.mean_turn if run.use_vllm else longest(run.mean_turn, run.max_new_tokens, rows))


def judge_flop(run: Run) -> float:
    """A round's comparisons by a local model: prompt and answers in a forward pass."""
    return judge_call_flop(run) * run.judge_calls * run.prompts_per_round


def judge_call_flop(run: Run) -> float:
    answers = 1 if run.judge in SCORERS else 2
    return 2.0 * run.judge_parameters * (run.mean_prompt + answers * run.mean_completion)


def evaluation_flop(model: ModelSizes, run: Run) -> float:
    """FLOP of an evaluation on all devices."""
    rows = run.evaluation_prompts * run.num_generations
    calls = run.evaluation_prompts * judge_calls(run)
    flop = generation_flop(model, run, rows * samplings(run)) + judge_call_flop(run) * calls
    return flop + scorings(run) * scoring_flop(model, evaluating(run), rows)


def pool_flop(model: ModelSizes, run: Run) -> float:
    """FLOP of an opponent pool on all devices, over a run: its answers, one to a prompt, and their comparisons."""
    alone, prompts = replace(run, num_generations=1), run.evaluation_prompts
    answers = generation_flop(model, alone, prompts * pool_samplings(run)) if run.opponent_pool_rounds else 0.0
    return answers + judge_call_flop(run) * prompts * pool_calls(run)


def round_flop(model: ModelSizes, run: Run, scorings: float) -> dict[str, float]:
    """FLOP of a round on all devices, by what they are for."""
    rows = run.prompts_per_round * run.num_generations
    sampled = run.completions + (run.num_generations if run.plays_mixture else 0)  # two policies for each of those
    return {
        "generation": generation_flop(model, run, run.prompts_per_round * sampled),
        **({"weights to vLLM": 0.0} if run.use_vllm else {}),
        "judge": judge_flop(run),
        "scoring": scorings * scoring_flop(model, run, rows),
        "fit": run.fit_passes * fit_flop(model, run, rows, run.mean_prompt, run.mean_completion),
    }
