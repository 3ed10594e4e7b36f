# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

r"""
Three ways to make a fit on dialogues, for the argument `pairs` of a solver. All take a centre (log-probabilities of
answers), a step η and the policy ν that the pairs come from.

**The exact step** (`solvers.exact_pairs`, the default) is that of mirror descent over dialogues,
`argmax_π η P(π ≻ ν) - KL(π‖centre)`: [`DialogueGame.tilted`].

**The regression over dialogues** ([`dialogue_pairs`] of infinitely many pairs, `SampledPairs` of finitely many) is what
a trainer does. With `h(z) = Σ_h log π(a_h|s_h) - centre(a_h|s_h)` summed over the turns of the policy, it minimises

`E_{z,z'~ν} ( h(z) - h(z') - η (P(z ≻ z') - ½) )² = 2 Var_ν( h(z) - η P(z ≻ ν) ) + const`

over policies. The user's part of the probability of a dialogue is in π and in the centre alike and cancels in h.

- If the user is deterministic, h may be any function of dialogues up to a constant. So the variance is 0 at the exact
  step, whatever ν is.
- If the user is random, h may not: in each state the probabilities of answers add up to 1, so that a policy cannot
  have a larger h after a lucky reply than after an unlucky one. What is left is the user's luck. The minimum is a
  projection onto policies, weighted by ν, and another policy than the exact step: by O(η²) per fit if the centre is ν
  itself, and by O(η) if it is another policy, as the centres of ONPO, INPO and COMAL are.
- At rest it does no harm. Where the fitted policy is ν itself, the derivative of the variance by a logit is a mean over ν
  of that logit's score times `h - η P`, in which what was said before and the luck of later replies have mean 0. It is 0
  at the exact step and nowhere else. So a method that draws its pairs from the policy which it fits rests where it does
  with exact steps; one that draws from a mixture (Nash-MD) does not. For the same reason the *gradient* of the first
  optimizer step on fresh pairs is exact: it is the further steps on the same pairs that see the luck.
- Around a policy that is at rest, a state is fitted with the step `η / (1 + η luck(s))` in place of η, luck being the
  value of the state less the mean value after another reply. From `η luck(s) <= -1` on, the regression leaves the
  equilibrium: there, making the state's log-ratios as negative as can be explains its bad luck.

**The step in each state** ([`state_pairs`]) is that of ONPO's paper for several turns: `π(a|s) ∝ exp(centre(a|s) +
η Q(s,a))`, Q going on with ν. It is the exact step at the last answer. Before that the exact step has
`log E_ν exp(η P)` where this has `η E_ν P`, so that they differ by O(η²) with any user. The Nash policies at rest are the
same, but a regularised equilibrium is not: Q has no KL of the turns to come.
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
