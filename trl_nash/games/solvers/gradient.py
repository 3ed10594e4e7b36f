# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""GRPO with the win rate in its group as the reward: a policy gradient, which is centred at nothing."""

from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln, log_softmax

from ..history import History
from ..matrix import MatrixGame, check_positive
from .executor import Iterates, check_rounds, check_single_turn


MOST_GROUPS = 200_000


@np.errstate(over="ignore", invalid="ignore")  # reported by `Iterates`
def grpo(
    game: MatrixGame, *, start: ArrayLike, rounds: int, step_size: float, num_generations: int | None = None
) -> History:
    r"""
    GRPO ([2402.03300](https://huggingface.co/papers/2402.03300)) on the logits of a policy, one on-policy step of
    gradient ascent a round. The reward of an answer is its mean win rate against the rest of its group, as
    [`as_reward_func`] makes it for TRL's GRPOTrainer; there is no KL term (`beta=0`, which is TRL's default).

    `log π_{t+1} = log π_t + η π_t ⊙ (P(· ≻ π_t) - ½) + const`.

    That is its expected step with `scale_rewards="none"`, for groups of any size: the mean reward of a group is ½. It
    rotates outwards on a cycle as mirror descent does, more slowly by the probabilities of the answers.

    Args:
        step_size (`float`): η, the learning rate on the logits.
        num_generations (`int`, *optional*):
            G, for TRL's default `scale_rewards="group"` (and G = 8): advantages are divided by the standard deviation
            of the rewards in their group plus 1e-4. The step is its expectation over all groups of G answers. It rests
            at another policy than the equilibrium: for G = 2 only the winner counts, and at that of the majorities.

    Raises:
        `ValueError`: Also if there are more groups than can be enumerated.
    """
    check_single_turn("GRPO", game)
    check_rounds("rounds", rounds)
    check_positive("step_size", step_size)
    iterates = Iterates(game, start)
    gradient = _plain_gradient(game) if num_generations is None else _scaled_gradient(game, num_generations)
    for _ in range(rounds):
        iterates.add(log_softmax(iterates.last + step_size * gradient(iterates.last)), step_size)
    return iterates.history


def _plain_gradient(game: MatrixGame):
    def gradient(log_policy: np.ndarray) -> np.ndarray:
        policy = np.exp(log_policy)
        return policy * (game.advantage @ policy)

    return gradient


def _scaled_gradient(game: MatrixGame, size: int):
    r"""`E[ 1/G Σ_k A_k ∇ log π(y_k) ]` over groups of G answers, with TRL's advantages A, which add up to 0."""
    counts = _groups(len(game), size)  # how often each answer is in each group, (groups, N)
    reward = counts @ game.advantage.T / (size - 1)  # less ½, which is the mean of every group
    deviation = np.sqrt((counts * reward**2).sum(axis=1, keepdims=True) / (size - 1))
    steps = counts * reward / (deviation + 1e-4) / size
    orders = gammaln(size + 1) - gammaln(counts + 1).sum(axis=1)  # log of the number of draws that make this group
    return lambda log_policy: np.exp(counts @ log_policy + orders) @ steps


def _groups(answers: int, size: int) -> np.ndarray:
    """All multisets of `size` answers, as counts of shape (groups, answers)."""
    if size < 2:
        raise ValueError(f"`num_generations` must be at least 2 to make a group, got {size}.")
    if (groups := comb(answers + size - 1, size)) > MOST_GROUPS:
        possible = [fewer for fewer in range(2, size) if comb(answers + fewer - 1, fewer) <= MOST_GROUPS]
        fix = f"lower it to {possible[-1]}" if possible else "leave it out"
        raise ValueError(f"{groups:.2g} groups of `num_generations` {size} cannot be enumerated: {fix}.")
    # Of `size + answers - 1` places, `answers - 1` are bars; between two bars lie the draws of an answer.
    bars = np.array(list(combinations(range(size + answers - 1), answers - 1)))
    edges = np.pad(bars, ((0, 0), (1, 1)), constant_values=((0, 0), (-1, size + answers - 1)))
    return np.diff(edges, axis=1) - 1
