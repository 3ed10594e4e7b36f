# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The two orders of a pair, and arithmetic in which `P(a ≻ b)` and `P(b ≻ a)` add up to 1 to the last bit."""

import hashlib
import json
import math
from typing import Any

import numpy as np


def one_order(prompt: Any, a: str, b: str) -> tuple[str, str]:
    """One of the two orders, at random: it depends on prompt and pair alone."""
    a, b = sorted([a, b])
    digest = hashlib.sha256(json.dumps([prompt, a, b], default=repr).encode()).digest()
    return (a, b) if digest[0] % 2 else (b, a)


def fair(there: float | None, back: float | None) -> float:
    """P(a ≻ b), of P(a ≻ b) and P(b ≻ a) as a judge gave them, or of the one of them that was asked."""
    if there is None:
        assert back is not None  # one of the two was asked
        return back if math.isnan(back) else 1.0 - back
    if back is None or math.isnan(there):
        return there
    if math.isnan(back):
        return back
    return float(probability((there - back) / 2))


def margin(probability: np.ndarray) -> np.ndarray:
    """P - ½; to the last bit minus the margin of 1 - P."""
    return np.where(probability < 0.5, 0.5 - (1.0 - probability), probability - 0.5)


def probability(margin: np.ndarray | float) -> np.ndarray:
    """½ + margin, for margins in [-½, ½]. Those of opposite margins add up to 1 to the last bit."""
    smaller = 0.5 - np.abs(margin)
    return np.where(np.less(margin, 0), smaller, 1.0 - smaller)
