# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What is wrong with the settings of an algorithm on a game, in sentences."""

import numpy as np
from numpy.typing import ArrayLike

from ..algorithms.checks import check_positive
from ..algorithms.stability import check_arguments, contraction, largest_stable_step, worst_factors
from ..algorithms.table import MOVING, weighted
from .dialogues.game import Game
from .stability import own_rates


def check_stability(
    algorithm: str, game: Game, *, step_size: float, reference: ArrayLike | None = None, **settings
) -> list[str]:
    """
    What is wrong with a setting on a game: a sentence for every limit that it passes, none if it converges.

    Args:
        reference (`ArrayLike` of shape `(N,)`, *optional*): of the regularised game; uniform if left out.

    The other arguments are those of [`contraction`].
    """
    check_positive("step_size", step_size)
    check_arguments(algorithm, 0.0, **settings)
    beta = settings.get("beta", 0.0)
    rho = step_size * beta
    if weighted(algorithm) and rho > 1 + 1e-12:
        return [
            f"`step_size` * `beta` = {rho:.3g} must be at most 1, it is the weight of the reference: lower "
            f"`step_size` to {1 / beta:.3g}."
        ]
    rates = own_rates(algorithm, game, step_size, beta, reference)
    if not len(rates):
        return []
    factor = contraction(algorithm, step_size=step_size, kappa=rates, **settings)
    if factor < 1:
        return []
    if algorithm in MOVING:
        return _check_moving(algorithm, step_size, rates, beta, settings["reference_rounds"])
    turns = f"(rotation rate {rates[0]:.3g})"
    if (largest := largest_stable_step(algorithm, kappa=rates, **settings)) > 0:
        return [
            f"`step_size` {step_size:g} is past the largest that converges on this game, {largest:.3g} {turns}: "
            f"the policies spiral out, by a factor of {factor:.5g} a round."
        ]
    if algorithm == "onpo":
        return [
            f"`anchor_history` {settings['anchor_history']} converges at no `step_size`: use at least 3 (from 5 on it "
            "is nearly as good as the whole history)."
        ]
    return [
        f"No `step_size` converges: with {step_size:g} the policies spiral out of this game's cycle {turns}, by a "
        f"factor of {factor:.5g} a round."
    ]


def _check_moving(algorithm: str, step_size: float, rates: np.ndarray, beta: float, rounds: int) -> list[str]:
    """Why COMAL or MPO does not converge: too few rounds for slow rotations, too large a step for fast ones."""
    rho, messages = step_size * beta, []
    slow = np.array([1e-3 / step_size])  # the limit of slow rotations, where the smallest K is defined
    needed = rounds
    while worst_factors(algorithm, np.array([step_size]), slow, beta=beta, reference_rounds=needed)[0] >= 1:
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
