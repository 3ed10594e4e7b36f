# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
The table of methods in `docs/background/algorithms.md` is what the definitions give when their settings are symbols.

`python tests/test_methods_table.py` prints it.
"""

import inspect
from fractions import Fraction
from functools import partial
from pathlib import Path

import sympy

from trl_nash.algorithms import AVERAGE, INITIAL, Method, Policy, methods
from trl_nash.algorithms.table import LATE, kept, samplings


PAGE = Path(__file__).parents[1] / "docs/background/algorithms.md"
BEGIN, END = "<!-- methods:begin -->\n", "<!-- methods:end -->\n"
COLUMNS = ("method", "centre", "step", "pairs from", "fits a round", "policies kept", "samplings a round")
STEP, RHO, TAU, SHARE, LATEST, BEFORE = sympy.symbols("η ρ τ c λ₀ λ₁", positive=True)
HELD = {"step_size": STEP, "beta": RHO / STEP}  # ρ = ητ
ROWS = {
    "[iterative IPO](../reference/methods/iterative_ipo.md)": partial(methods.iterative_ipo, step_size=STEP),
    "[ONPO](../reference/methods/onpo.md), one fit, 5 policies": partial(
        methods.onpo, step_size=STEP, anchor_history=5
    ),
    "ONPO, two fits": partial(methods.onpo_two_fits, step_size=STEP),
    "INPO": partial(methods.inpo, **HELD),
    "[COMAL](../reference/methods/comal.md): INPO, and ref ← π_t every K rounds": partial(methods.inpo, **HELD),
    "EGPO": partial(methods.egpo, **HELD),
    "MNPO, two policies": partial(methods.mnpo, **HELD, history_weights=(LATEST, BEFORE)),
    "MPO: ref ← π_t every K rounds": partial(methods.mpo, **HELD),
    "Nash mirror prox": partial(methods.nash_mirror_prox, **HELD),
    "Nash-MD, on tables": partial(methods.nash_md, **HELD),
    "Nash-EMA, on tables": partial(methods.nash_ema, **HELD),
    "online IPO, [Nash-MD](../reference/methods/nash_md.md) without a mixture": partial(
        methods.regularized_response, beta=TAU
    ),
    "IPO-MD, Nash-MD": partial(methods.regularized_response, beta=TAU, mixture_coef=SHARE),
    "Nash-EMA": partial(methods.average_response, beta=TAU),
}
NAMES = {
    INITIAL: "ref",
    AVERAGE: "π̄_t",
    LATE.now: "π_t",
    LATE.live: "π_{t+½}",
    LATE.between: "π_{t-½}",
    **{LATE.before(age): f"π_{{t-{age}}}" for age in range(1, 5)},
}
FRACTIONS = {0.5: "½", 0.25: "¼", 0.125: "⅛"}


def text(number) -> str:
    """A number or a formula: `⅛`, `1/16`, `η/(1 + ρ)`."""
    if isinstance(number, float):
        return FRACTIONS.get(number) or str(Fraction(number))
    return str(sympy.together(number)).replace("*", "").replace("ρ + 1", "1 + ρ")


def mixture(weights: dict[Policy, float]) -> str:
    """`ref^ρ π_t^(1 - ρ)`."""
    powers = {NAMES[policy]: text(weight) for policy, weight in weights.items()}
    factors = [f"{name}^{power}" if len(power) == 1 else f"{name}^({power})" for name, power in powers.items()]
    return " ".join(factor.removesuffix("^1") for factor in factors)


def row(name: str, method: Method) -> list[str]:
    fits = method(LATE)
    cells = [
        [mixture(fit.centre) for fit in fits],
        [text(fit.step_size) for fit in fits],
        [mixture(fit.pairs_from) if fit.pairs_from else NAMES[LATE.now] for fit in fits],
    ]
    # The reference, then the latest policies first.
    held = ", ".join(NAMES[policy] for policy in sorted(kept(method), key=lambda p: (p.round > 0, -p.round)))
    merged = [", then ".join(dict.fromkeys(texts)) for texts in cells]
    return [name, *merged, str(len(fits)), held or "none", str(samplings(method))]


def table() -> str:
    rows = [COLUMNS, ["---"] * len(COLUMNS), *(row(name, method) for name, method in ROWS.items())]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in rows)


def test_the_page_shows_what_the_definitions_say():
    text = PAGE.read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0] == table()


def test_every_definition_has_a_row():
    defined = {name for name, thing in vars(methods).items() if inspect.isfunction(thing) and name[0] != "_"}
    assert {method.func.__name__ for method in ROWS.values()} == defined


if __name__ == "__main__":
    print(table(), end="")
