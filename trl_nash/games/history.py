# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The policies that an algorithm went through, and how far each is from an equilibrium."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .dialogues.game import Game


@dataclass(frozen=True)
class History:
    """
    The run of an algorithm for T rounds.

    Args:
        game ([`MatrixGame`] or [`DialogueGame`]): that was played.
        policies (`np.ndarray` of shape `(T + 1, N)`): the policy after each round; row 0 is the start.
    """

    game: Game
    policies: np.ndarray

    @property
    def last(self) -> np.ndarray:
        """The policy after the last round, shape `(N,)`."""
        return self.policies[-1]

    @property
    def gaps(self) -> np.ndarray:
        """[`MatrixGame.duality_gap`] of each policy, shape `(T + 1,)`."""
        return self.game.duality_gaps(self.policies)

    @property
    def averages(self) -> np.ndarray:
        """The mean of each policy and those before it, start included, shape `(T + 1, N)`."""
        return self.game.averages(self.policies)

    @property
    def average_gaps(self) -> np.ndarray:
        """[`MatrixGame.duality_gap`] of each average policy, shape `(T + 1,)`."""
        return self.game.duality_gaps(self.averages)

    def kl_to(self, target: ArrayLike) -> np.ndarray:
        """`KL(target‖π_t)` in nats, shape `(T + 1,)`; infinite where π_t lacks an answer of `target`."""
        return self.game.kl_divergences(target, self.policies)
