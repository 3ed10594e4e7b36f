# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Equilibria of dialogue games: in sequence form, where a game is as large as its tree and not as its strategies."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linprog

from ...algorithms.checks import check_positive
from .game import DialogueGame


LARGEST_GAP = 1e-9


def sequence_form_equilibrium(game: DialogueGame) -> np.ndarray:
    r"""
    A Nash policy of a dialogue game, of shape `(S,)`, by the linear program in sequence form (Koller, Megiddo and von
    Stengel, 1996).

    A policy is its plan x, the products of `π` along dialogues (`x(s, ·)` adds up to x of the answer before s), in
    which win rates are linear. Whoever answers it best gets `min q(root)` over values q of states that are at least
    those of their answers. So x and q are one program, whose q(root) is 0: the value of the game is ½.

    States that x does not come to are given the uniform policy; nobody can gain by what is done there.

    Raises:
        `ValueError`: If the solver's policy has a duality gap above 1e-9.
    """
    size, states = len(game), len(game.answer_before)
    # K[i, j]: how much answer i's dialogues gain on dialogues of answer j, of last answers, times the user's part.
    last = game.passes[:, -len(game.dialogues) :] * game.chance[:, None]
    payoff = np.zeros((size, size))
    payoff[-last.shape[1] :, -last.shape[1] :] = last.T @ game.advantage @ last
    sums = np.zeros((states, size))  # E: plan of the answers of a state, less that of the answer before it
    sums[game.state_of, np.arange(size)] = 1
    sums[np.arange(1, states), game.answer_before[1:]] = -1
    # Variables x >= 0 and q: minimise q(root) subject to E x = e and Eᵀ q >= K x.
    result = linprog(
        np.eye(size + states)[size],
        A_ub=np.hstack([payoff, -sums.T]),
        b_ub=np.zeros(size),
        A_eq=np.hstack([sums, np.zeros((states, states))]),
        b_eq=np.eye(states)[0],
        bounds=[(0, None)] * size + [(None, None)] * states,
        method="highs-ds",  # whose vertices are exact to rounding
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    plan = np.zeros(size) if result.x is None else result.x[:size].clip(min=0)
    policy = game.behaviour(plan)
    if game.duality_gap(policy) > LARGEST_GAP:
        raise ValueError(
            "The equilibrium hangs on differences between preferences that are too small to resolve: round "
            "`preferences` to 5 digits."
        )
    return policy


def regularized_dialogue_equilibrium(
    game: DialogueGame, reference: ArrayLike, beta: float
) -> tuple[np.ndarray, float]:
    r"""
    The equilibrium of the game in which straying from the reference costs `τ KL(·‖ref)` of dialogues, and its
    residual.

    Nash mirror prox (`trl_nash.algorithms.nash_mirror_prox`) with exact steps comes to it at a linear rate; how near
    it is is read from the best response.

    Returns:
        The policy, of shape `(S,)`, and `max |log π - log BR(π)|` in nats.

    Raises:
        `ValueError`: If `reference` is no policy, `beta` is not positive, or the residual stays above 1e-10 / τ.
    """
    from ...algorithms import nash_mirror_prox
    from ..solvers.executor import iterate

    check_positive("beta", beta)
    allowed = 1e-10 * max(1, 1 / beta)
    residual = np.inf
    log_reference = np.log(game.policy(reference))

    def method(past):
        return nash_mirror_prox(past, step_size=2.0, beta=beta)

    for number, log_policy in enumerate(iterate(game, method, start=reference)):
        if number % 20 == 0:
            response = game.tilted(log_reference, game.gains(np.exp(log_policy)) / beta)
            before, residual = residual, float(np.abs(log_policy - response).max())
            if residual < 1e-13 * max(1, 1 / beta) or residual < allowed and residual > before / 2 or number > 20_000:
                break
    if residual > allowed:
        raise ValueError(
            f"The equilibrium for `beta` {beta:g} was not found (residual {residual:.1g} nats): make `beta` larger."
        )
    return np.exp(log_policy), residual
