# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

r"""
Every method as what its rounds fit: a function of the past that returns [`Fit`]s, and nothing else.

`step_size` is η, which multiplies win rates; `beta` is τ, the price of a nat of KL from the reference. So
`ρ = step_size * beta` is the weight of the reference in a centre.
"""

from collections.abc import Sequence

from .fit import Fit, Past, Policy


def iterative_ipo(past: Past, *, step_size: float) -> list[Fit]:
    r"""Mirror descent, [2310.12036](https://huggingface.co/papers/2310.12036): `π_{t+1} ∝ π_t exp(η P(· ≻ π_t))`."""
    return [Fit({past.now: 1.0}, step_size)]


def inpo(past: Past, *, step_size: float, beta: float) -> list[Fit]:
    r"""
    INPO, [2407.00617](https://huggingface.co/papers/2407.00617): `π_{t+1} ∝ ref^ρ π_t^{1-ρ} exp(η P(· ≻ π_t))`.

    It is COMAL, [2410.23223](https://huggingface.co/papers/2410.23223), where the reference moves.
    """
    return [Fit(_towards_reference(past, step_size * beta), step_size)]


def onpo(past: Past, *, step_size: float, anchor_history: int | None = None) -> list[Fit]:
    r"""
    ONPO in one fit, [2502.16852](https://huggingface.co/papers/2502.16852): `π_{t+1} ∝ π'_t exp(2η P(· ≻ π_t))` with
    `log π'_t = ½ log π_t + ¼ log π_{t-1} + ...`, the remainder on the oldest of `anchor_history` policies (all if left
    out, or the 64 after which no float64 feels another).
    """
    count = min(past.round + 1, 64) if anchor_history is None else anchor_history
    halves = [(past.before(age), 0.5 ** (age + (age < count - 1))) for age in range(count)]
    return [Fit(_mixture(*halves), 2 * step_size)]


def onpo_two_fits(past: Past, *, step_size: float) -> list[Fit]:
    r"""
    ONPO as its Algorithm 1 has it, [2502.16852](https://huggingface.co/papers/2502.16852):
    `π'_{t+1} ∝ π'_t exp(η P(· ≻ π_t))`, then `π_{t+1} ∝ π'_{t+1} exp(η P(· ≻ π_t))` on the same pairs.
    """
    return [Fit({past.between: 1.0}, step_size), Fit({past.live: 1.0}, step_size)]


def egpo(past: Past, *, step_size: float, beta: float) -> list[Fit]:
    r"""
    EGPO, [2503.08942](https://huggingface.co/papers/2503.08942): a half step as [`inpo`]'s, then the same step from
    the same centre against `π_{t+½}`: `π_{t+1} ∝ ref^ρ π_t^{1-ρ} exp(η P(· ≻ π_{t+½}))`.
    """
    (half,) = inpo(past, step_size=step_size, beta=beta)
    return [half, half._replace(pairs_from={past.live: 1.0})]


def mnpo(past: Past, *, step_size: float, beta: float, history_weights: Sequence[float]) -> list[Fit]:
    r"""
    MNPO, [2509.23102](https://huggingface.co/papers/2509.23102), against λ-weighted past policies:
    `π_{t+1} ∝ ref^ρ Π_j π_{t-j}^{(1-ρ)λ_j} exp(η P(· ≻ π_t))`, with `history_weights` λ from j = 0.
    """
    rho = step_size * beta
    history = [(past.before(age), (1 - rho) * weight) for age, weight in enumerate(history_weights)]
    return [Fit(_mixture((past.reference, rho), *history), step_size)]


def mpo(past: Past, *, step_size: float, beta: float) -> list[Fit]:
    r"""
    MPO, [2410.16714](https://huggingface.co/papers/2410.16714), where the KL to the reference is not linearised:
    `π_{t+1} ∝ (ref^ρ π_t exp(η P(· ≻ π_t)))^{1/(1+ρ)}`. The reference, its magnet, moves.
    """
    shrunk = 1 / (1 + step_size * beta)
    return [Fit(_towards_reference(past, 1 - shrunk), shrunk * step_size)]


def nash_mirror_prox(past: Past, *, step_size: float, beta: float) -> list[Fit]:
    r"""
    Nash mirror prox, [2505.19731](https://huggingface.co/papers/2505.19731): [`mpo`]'s step to `π_{t+½}`, then the
    same step from the same centre against it, around a reference that stays.
    """
    (half,) = mpo(past, step_size=step_size, beta=beta)
    return [half, half._replace(pairs_from={past.live: 1.0})]


def nash_md(past: Past, *, step_size: float, beta: float) -> list[Fit]:
    r"""
    Nash-MD on tables, [2312.00886](https://huggingface.co/papers/2312.00886): `π_{t+1} ∝ π^μ_t exp(η P(· ≻ π^μ_t))`
    with the mixture `π^μ_t ∝ ref^ρ π_t^{1-ρ}`. On language models its policy gradient is [`regularized_response`].
    """
    mixture = _towards_reference(past, step_size * beta)
    return [Fit(mixture, step_size, pairs_from=mixture)]


def nash_ema(past: Past, *, step_size: float, beta: float) -> list[Fit]:
    r"""
    Nash-EMA on tables, [2312.00886](https://huggingface.co/papers/2312.00886): [`inpo`]'s step against the moving
    average of the policy. The paper averages weights and has no tabular form.
    """
    return [Fit(_towards_reference(past, step_size * beta), step_size, pairs_from={past.average: 1.0})]


def regularized_response(past: Past, *, beta: float, mixture_coef: float = 0.0) -> list[Fit]:
    r"""
    A step towards the regularised best response `ref · exp(P(· ≻ ν)/τ)` to `ν = ref^c π_t^{1-c}`, which is what the
    gradient methods follow without ever fitting it: Nash-MD ([2312.00886](https://huggingface.co/papers/2312.00886)),
    online IPO and IPO-MD ([2403.08635](https://huggingface.co/papers/2403.08635)), Nash Prox
    ([2505.19731](https://huggingface.co/papers/2505.19731), where the reference moves).
    """
    step_size = 1 / beta if beta else float("inf")
    mixture = _towards_reference(past, mixture_coef) if mixture_coef else None
    return [Fit({past.reference: 1.0}, step_size, pairs_from=mixture)]


def average_response(past: Past, *, beta: float) -> list[Fit]:
    r"""Nash-EMA on language models: [`regularized_response`] to the policy whose weights are the moving average."""
    (response,) = regularized_response(past, beta=beta)
    return [response._replace(pairs_from={past.average: 1.0})]


def _towards_reference(past: Past, weight: float) -> dict[Policy, float]:
    """`ref^w π_t^{1-w}`."""
    return _mixture((past.reference, weight), (past.now, 1 - weight))


def _mixture(*parts: tuple[Policy, float]) -> dict[Policy, float]:
    """The weights of policies, added up where one has several names: a reference that has just moved is `now`."""
    weights: dict[Policy, float] = {}
    for policy, weight in parts:
        weights[policy] = weights.get(policy, 0.0) + weight
    return weights
