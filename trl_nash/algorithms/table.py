# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The methods by name, and what is read off their definitions: the game they solve, and what a round of them needs."""

import inspect
from collections.abc import Callable
from functools import partial

from .fit import INITIAL, Fit, Method, Past, Policy, named, needed
from .methods import egpo, inpo, iterative_ipo, mnpo, mpo, nash_ema, nash_md, nash_mirror_prox, onpo


METHODS: dict[str, Callable[..., list[Fit]]] = {
    "iterative-ipo": iterative_ipo,
    "inpo": inpo,
    "mnpo": mnpo,
    "onpo": onpo,
    "comal": inpo,
    "nash-md": nash_md,
    "nash-ema": nash_ema,
    "egpo": egpo,
    "nash-mp": nash_mirror_prox,
    "mpo": mpo,
}
"""What the methods are called on the command line."""
MOVING = ("comal", "mpo")
"""Those whose reference moves to the policy every `reference_rounds` rounds; that of the others stays."""
LATE = Past(1000)
"""A round that looks back to no beginning."""
_ANY = {"step_size": 1.0, "beta": 0.5, "history_weights": (0.5, 0.5), "anchor_history": 5}


def takes(name: str, setting: str) -> bool:
    """Whether the definition of a method has such an argument."""
    return setting in inspect.signature(METHODS[name]).parameters


def bound(name: str, **settings) -> Method:
    """The method with those of the settings that its definition takes."""
    return partial(METHODS[name], **{key: value for key, value in settings.items() if takes(name, key)})


def has_reference(name: str) -> bool:
    """Whether its fits are held to a reference."""
    return name in METHODS and INITIAL in named(bound(name, **_ANY)(LATE))


def regularized(name: str) -> bool:
    """Whether it solves the game regularised around a reference that stays."""
    return has_reference(name) and name not in MOVING


def weighted(name: str) -> bool:
    """Whether the reference has the weight `step_size * beta` in a centre, which can then not be more than 1."""
    fits = bound(name, **_ANY | {"step_size": 4.0})(LATE) if has_reference(name) else []
    return any(fit.centre[INITIAL] > 1 for fit in fits)


def settled_beta(name: str, step_size: float, beta: float) -> float:
    r"""
    The τ whose regularised equilibrium is the opponent once a method that is [`regularized`] has come to rest.

    With `π ∝ ref^a π^{1-a} exp(η P(· ≻ ν))` and `ν ∝ ref^c π^{1-c}` it is `a / (η (1-c))`, and infinite for `c = 1`.
    """
    fit = bound(name, **_ANY | {"step_size": step_size, "beta": beta})(LATE)[-1]
    share = 1 - (fit.pairs_from or {}).get(INITIAL, 0.0)
    return fit.centre[INITIAL] / (fit.step_size * share) if share > 1e-12 else float("inf")


def samplings(method: Method, past: Past = LATE) -> int:
    """How often a round samples: once from the policy, if fits draw from it, and once from each other opponent."""
    opponents = [fit.pairs_from for fit in method(past)]
    return (None in opponents) + sum(opponent is not None for opponent in opponents)


def kept(method: Method, past: Past = LATE) -> set[Policy]:
    """The policies kept beside the one that is trained, in the fit of a round that keeps most."""
    return max((needed(method, past, number) for number in range(len(method(past)))), key=len)
