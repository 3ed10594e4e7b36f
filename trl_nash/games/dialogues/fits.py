# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

r"""
Three ways to make a fit on dialogues, for the argument `pairs` of a solver. All take a centre (log-probabilities of
answers), a step η and the policy ν that the pairs come from.

**The exact step** (`solvers.exact_pairs`, the default) is that of mirror descent over dialogues,
`argmax_π η P(π ≻ ν) - KL(π‖centre)`: [`DialogueTree.tilted`].

**The regression over dialogues** ([`dialogue_pairs`] of infinitely many pairs, [`SampledPairs`] of finitely many) is
what a trainer does. With `h(z) = Σ_h log π(a_h|s_h) - centre(a_h|s_h)`, summed over the turns of the policy, it
minimises over policies

`E_{z,z'~ν} ( h(z) - h(z') - η (P(z ≻ z') - ½) )² = 2 Var_ν( h(z) - η P(z ≻ ν) ) + const`.

The user's part of the probability of a dialogue is in π and in the centre alike and cancels in h.

- If the user is deterministic, h may be any function of dialogues, up to a constant. So the variance is 0 at the exact
  step, whatever ν is.
- If the user is random, h may not. Probabilities add up to 1 in each state, so that no policy has larger log-ratios
  after a lucky reply than after an unlucky one. What is left of the variance is the user's luck. The minimum is a
  projection onto policies that is weighted by ν, and another policy than the exact step.
- Where a method comes to rest this does no harm. If the fitted policy is ν itself, the derivative of the variance by a
  logit is the mean of `2 (h - η P(· ≻ ν))` times that logit's score over dialogues of ν. What was said before and the
  luck of replies have no correlation with a score, and what is left is 0 for all logits exactly if the policy is the
  exact step. So methods whose pairs come from the policy at rest rest where exact steps do; one whose pairs come from
  a mixture (Nash-MD) does not. For the same reason the gradient of the *first* optimizer step on fresh pairs is exact
  if the policy that is fitted starts as ν. The further steps on the same pairs see the luck.

**The step in each state** ([`state_pairs`]) is that of ONPO's paper for several turns: `π(a|s) ∝ exp(centre(a|s) +
η Q(s,a))`, in which Q goes on with ν. It is the exact step at the last answer. Before that, the exact step around ν
has `log E_ν exp(η P)` where this has `η E_ν P`: they are O(η²) apart, with any user. Equilibria of the game are at
rest for both. A regularised equilibrium is not: Q does not see the KL of the turns to come.
"""

from collections.abc import Callable

import numpy as np

from .game import DialogueGame


Fit = Callable[[np.ndarray, float], np.ndarray]


def state_pairs(game: DialogueGame) -> Callable[[np.ndarray], Fit]:
    r"""Mirror descent in each state with Q as the gain: `π(a|s) ∝ exp(centre(a|s) + η Q(s,a))`, for `pairs=`."""

    def pairs(log_opponent: np.ndarray) -> Fit:
        gains = game.answer_gains(np.exp(log_opponent))
        return lambda log_centre, step_size: game.normalized(log_centre + step_size * gains)

    return pairs


def dialogue_pairs(game: DialogueGame) -> Callable[[np.ndarray], Fit]:
    """The regression on infinitely many pairs of dialogues from the root, over policies, for `pairs=`."""

    def pairs(log_opponent: np.ndarray) -> Fit:
        opponent = game.distribution(np.exp(log_opponent))
        weights = np.diag(opponent) - np.outer(opponent, opponent)
        wins = opponent * (game.advantage @ opponent)
        return lambda log_centre, step_size: game.fitted(log_centre, step_size, weights, wins)

    return pairs
