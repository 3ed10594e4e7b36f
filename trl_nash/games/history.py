# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The policies that an algorithm went through, and how far each is from an equilibrium."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import kl_div

from .matrix import MatrixGame


@dataclass(frozen=True)
class History:
    """
    The run of an algorithm for T rounds.

    Args:
        game ([`MatrixGame`]): that was played.
        policies (`np.ndarray` of shape `(T + 1, N)`): the policy after each round; row 0 is the start.
    """

    game: MatrixGame
    policies: np.ndarray

    @property
    def last(self) -> np.ndarray:
        """The policy after the last round, shape `(N,)`."""
        return self.policies[-1]

    @property
    def gaps(self) -> np.ndarray:
        """[`MatrixGame.duality_gap`] of each policy, shape `(T + 1,)`."""
        return self._gaps(self.policies)

    @property
    def averages(self) -> np.ndarray:
        """The mean of each policy and those before it, start included, shape `(T + 1, N)`."""
        return self.policies.cumsum(axis=0) / np.arange(1, len(self.policies) + 1)[:, None]

    @property
    def average_gaps(self) -> np.ndarray:
        """[`MatrixGame.duality_gap`] of each average policy, shape `(T + 1,)`."""
        return self._gaps(self.averages)

    def kl_to(self, target: ArrayLike) -> np.ndarray:
        """`KL(target‖π_t)` in nats, shape `(T + 1,)`; infinite where π_t lacks an answer of `target`."""
        # In contrast to `rel_entr`, no term is negative: rounding keeps a divergence of 0 at 0.
        return kl_div(self.game.policy(target), self.policies).sum(axis=1)

    def _gaps(self, policies: np.ndarray) -> np.ndarray:
        return 2 * (policies @ self.game.advantage.T).max(axis=1)
