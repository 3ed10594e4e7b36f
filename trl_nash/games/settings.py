# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What is wrong with the settings of an algorithm on a game, in sentences."""

import numpy as np
from numpy.typing import ArrayLike

from .matrix import MatrixGame, check_positive
from .stability import (
    MAGNETS,
    SPIRALS,
    WEIGHTED,
    check_arguments,
    contraction,
    largest_stable_step,
    own_equilibrium,
    rotation_rates,
    worst_factor,
)


def check_stability(
    algorithm: str,
    game: MatrixGame,
    *,
    step_size: float,
    beta: float = 0.0,
    reference: ArrayLike | None = None,
    reference_rounds: int | None = None,
    ema_decay: float = 0.9,
    anchor_history: int | None = None,
) -> list[str]:
    """
    What is wrong with a setting on a game: a sentence for every limit that it passes, none if it converges.

    Args:
        reference (`ArrayLike` of shape `(N,)`, *optional*): of the regularised game; uniform if left out.

    The other arguments are those of [`contraction`].
    """
    check_positive("step_size", step_size)
    check_arguments(algorithm, 0.0, beta, reference_rounds)
    rho = step_size * beta
    if algorithm in WEIGHTED and rho > 1 + 1e-12:
        return [
            f"`step_size` * `beta` = {rho:.3g} must be at most 1, it is the weight of the reference: lower "
            f"`step_size` to {1 / beta:.3g}."
        ]
    rates = rotation_rates(game, own_equilibrium(algorithm, game, step_size, beta, reference))
    if not len(rates):
        return []
    fastest = rates[0]
    limits = {
        "beta": beta,
        "reference_rounds": reference_rounds,
        "ema_decay": ema_decay,
        "anchor_history": anchor_history,
    }
    factor = contraction(algorithm, step_size=step_size, kappa=rates, **limits)
    if factor < 1:
        return []
    if algorithm in SPIRALS:
        return [
            f"No `step_size` converges: with {step_size:g} the policies spiral out of this game's cycle (rotation "
            f"rate {fastest:.3g}), by a factor of {factor:.3g} a round."
        ]
    if algorithm in MAGNETS:
        return _check_magnet(algorithm, step_size, rates, beta, reference_rounds)
    largest = largest_stable_step(algorithm, kappa=rates, **limits)
    if largest == 0:  # a truncated ONPO
        return [
            f"`anchor_history` {anchor_history} converges at no `step_size`: use at least 3 (from 5 on it is nearly "
            "as good as the whole history)."
        ]
    return [
        f"`step_size` {step_size:g} is past the largest that converges on this game, {largest:.3g} (rotation rate "
        f"{fastest:.3g}): the policies spiral out, by a factor of {factor:.3g} a round."
    ]


def _check_magnet(algorithm: str, step_size: float, rates: np.ndarray, beta: float, rounds: int) -> list[str]:
    """Why COMAL or MPO does not converge: too few rounds for slow rotations, too large a step for fast ones."""
    rho, messages = step_size * beta, []
    slow = np.array([1e-3 / step_size])  # the limit of slow rotations, where the smallest K is defined
    needed = rounds
    while worst_factor(algorithm, np.array([step_size]), slow, beta, needed, 0.0)[0] >= 1:
        needed += 1
    if needed > rounds:
        messages.append(
            f"`reference_rounds` {rounds} is below {needed}, the smallest that converges for `step_size` * `beta` = "
            f"{rho:.3g} (better {max(needed, int(np.ceil(2 / rho)))})."
        )
    largest = largest_stable_step(algorithm, kappa=rates, beta=beta, reference_rounds=max(needed, rounds))
    if largest == 0:
        messages.append(
            f"No `step_size` converges with `beta` {beta:.3g} and `reference_rounds` {max(needed, rounds)} on this "
            f"game (rotation rate {rates[0]:.3g}): raise either."
        )
    elif step_size >= largest:
        messages.append(
            f"`step_size` {step_size:g} is past the largest that converges on this game with `reference_rounds` "
            f"{max(needed, rounds)}, {largest:.3g} (rotation rate {rates[0]:.3g})."
        )
    return messages
