# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Which pairs of a prompt's K completions are compared, in how many waves of questions, and whether a fit to them stays
the fit to all pairs. NumPy only.

```python
>>> pairing = pairing_of("random", pairs_per_prompt=8)
>>> compared = pairing.compare(ask, Groups(num_prompts, count, seed=0))  # ask: (B, m, 2) -> (B, m)
>>> win_rates(compared, count)  # (B, K)
```
"""

from .active import Active
from .base import Ask, Compared, Groups, Pairing, are_pairs, asked_once
from .fixed import All, Circular, Given, Iid, Random
from .knockout import BestWorst, Elimination, Tournament
from .scores import win_rates, win_table
from .swiss import Swiss


__all__ = [
    "PAIR_SELECTIONS",
    "Active",
    "All",
    "Ask",
    "BestWorst",
    "Circular",
    "Compared",
    "Elimination",
    "Given",
    "Groups",
    "Iid",
    "Pairing",
    "Random",
    "Swiss",
    "Tournament",
    "are_pairs",
    "asked_once",
    "pairing_of",
    "win_rates",
    "win_table",
]

_PLAIN = (All, Iid, Circular, Swiss, Elimination, Tournament, BestWorst)
_WITH_SIZE = (Random, Active)  # which take `pairs_per_prompt`
PAIR_SELECTIONS = tuple(
    pairing.name for pairing in (All, Iid, Random, Circular, Swiss, Elimination, Tournament, BestWorst, Active)
)


def pairing_of(selection: str, pairs_per_prompt: int | None = None) -> Pairing:
    """
    The pairing of a `pair_selection`.

    Args:
        selection (`str`): one of `PAIR_SELECTIONS`.
        pairs_per_prompt (`int`, *optional*): M of `"random"` and `"active"`, which need it; no other takes it.

    Raises:
        `ValueError`: If there is no such selection, or `pairs_per_prompt` does not go with it.
    """
    for pairing in _WITH_SIZE:
        if pairing.name == selection:
            if pairs_per_prompt is None:
                raise ValueError(f"`pair_selection='{selection}'` needs `pairs_per_prompt`: how many pairs are asked.")
            return pairing(pairs_per_prompt)
    for pairing in _PLAIN:
        if pairing.name == selection:
            if pairs_per_prompt is not None:
                raise ValueError(
                    f"`pairs_per_prompt` belongs to `pair_selection='random'` and 'active', and it is {selection!r}: "
                    "leave it out."
                )
            return pairing()
    known = ", ".join(map(repr, PAIR_SELECTIONS))
    raise ValueError(f"`pair_selection` must be one of {known}, got {selection!r}")
