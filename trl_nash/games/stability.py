# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What the stability of an algorithm (`trl_nash.algorithms.stability`) has to know of a game: how fast it turns."""

import math

import numpy as np
from numpy.typing import ArrayLike

from ..algorithms.table import regularized, settled_beta
from .dialogues.game import Game
from .equilibria import nash_equilibrium, regularized_equilibrium
from .matrix import MatrixGame


_NONE = 1e-9  # rates below are rounding


def rotation_rates(game: Game, policy: ArrayLike) -> np.ndarray:
    r"""
    The κ_j > 0, largest first: ±iκ_j are the eigenvalues of `(P-½)(diag π - π πᵀ)` that are not zero.

    There are at most N/2. An equilibrium of one answer has none. Of dialogues π is over whole dialogues, and
    deviations are those that policies can make, [`DialogueGame.tangent`].
    """
    # diag π - π πᵀ = FᵀF, and F (P-½) Fᵀ is skew: its eigenvalues are exactly imaginary, those of a Hermitian matrix.
    return _rates(game.tangent(game.policy(policy)), game)


def gradient_rotation_rates(game: MatrixGame, equilibrium: ArrayLike) -> np.ndarray:
    r"""
    The [`rotation_rates`] of a policy gradient (GRPO), at an equilibrium.

    Its step is `diag π (P-½) π`, so that deviations are turned by `diag π (P-½) (diag π - π πᵀ)`, which is skew where
    `(P-½) π` is 0 on the answers that π gives: `diag π (P-½) diag π`.
    """
    return _rates(np.diag(game.policy(equilibrium)), game)


def _rates(factor: np.ndarray, game: Game) -> np.ndarray:
    rates = np.linalg.eigvalsh(1j * (factor @ game.advantage @ factor.T))
    return rates[rates > _NONE][::-1]


def rotation_rate(game: Game, policy: ArrayLike) -> float:
    r"""`κ = max_j κ_j` of [`rotation_rates`], in radians a round and unit of step; 0 if nothing rotates."""
    return float(rotation_rates(game, policy).max(initial=0.0))


def own_rates(algorithm: str, game: Game, step_size: float, beta: float, reference: ArrayLike | None) -> np.ndarray:
    """The rates that decide on an algorithm, around the equilibrium that its opponent comes to rest at."""
    equilibrium = own_equilibrium(algorithm, game, step_size, beta, reference)
    if algorithm == "grpo":
        return gradient_rotation_rates(game.whole, equilibrium)
    return rotation_rates(game, equilibrium)


def own_equilibrium(
    algorithm: str, game: Game, step_size: float, beta: float, reference: ArrayLike | None
) -> np.ndarray:
    """Where the opponent of an algorithm comes to rest: at an equilibrium of the game, or of a regularised one."""
    if not regularized(algorithm):
        return nash_equilibrium(game)
    reference = game.uniform if reference is None else game.policy(reference)
    settled = settled_beta(algorithm, step_size, beta)
    return reference if math.isinf(settled) else regularized_equilibrium(game, reference, settled).policy
