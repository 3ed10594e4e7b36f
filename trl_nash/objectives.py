# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
The papers' equations as pure functions of log-ratios and preferences. No trainer, no model.

Every pair method here fits a policy to `π ∝ exp(a) · exp(η P(· ≻ ν))`: one mirror-descent step around the anchor
`a` against the policy ν that the pairs were sampled from (`docs/background/algorithms.md` derives it). A method is
only a choice of anchor, step and sampler.
"""

import math

import torch


def pair_target(preference: torch.Tensor, step_size: float) -> torch.Tensor:
    r"""
    The margin `η (P(y₁ ≻ y₂) - ½)` that a pair is regressed to, in nats.

    Args:
        preference (`torch.Tensor`): `P(y₁ ≻ y₂)` or a label in {0, ½, 1}, any shape; `nan` abstains and stays `nan`.
        step_size (`float`): η, the step that multiplies the win rate.
    """
    return step_size * (preference - 0.5)


def pair_margin(logratio: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    r"""
    `h = (log π(y₁) - a(y₁)) - (log π(y₂) - a(y₂))` of each pair, in nats; `a` is the log of a fit's centre.

    Args:
        logratio (`torch.Tensor` of shape `(B, N)`): `log π(y) - a(y)` of the N completions of a prompt, summed over
            tokens.
        pairs (`torch.Tensor` of shape `(B, M, 2)`): indices into the N completions.

    Returns:
        `torch.Tensor` of shape `(B, M)`.
    """
    first, second = (logratio.gather(1, pairs[..., side]) for side in (0, 1))
    return first - second


def pair_loss(margin: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    r"""
    Squared regression of margins to targets, `mean over pairs of (h - η (P - ½))²`: the loss of IPO (2310.12036),
    INPO (2407.00617), ONPO (2502.16852) and COMAL's inner solver (2410.23223) with soft labels.

    Of single responses, with `log π(y)/π_t(y)` for the margin and `η (P(y ≻ π_t) - ½)` for the target, it is the loss
    of SPPO (2405.00675).

    With a label drawn from `Bernoulli(P)` in place of `P` this is the papers' `(h - η/2)²` over (winner, loser), with
    the same minimiser and more variance.

    Args:
        margin (`torch.Tensor` of shape `(B, M)`): from [`pair_margin`].
        target (`torch.Tensor` of shape `(B, M)`): from [`pair_target`]; `nan` is an abstention: it adds 0 to the sum
            and 1 to the count, and no gradient.
        weights (`torch.Tensor` of shape `(B, M)`, *optional*):
            Of the pairs in the mean, whose count stays M: they make up for how likely a pair was to be compared. 1 if
            left out.

    Returns:
        `torch.Tensor` of shape `(B,)`: the mean over the pairs of each prompt.
    """
    judged = ~target.isnan()
    residual = torch.where(judged, margin - target.nan_to_num(), torch.zeros_like(margin))
    squares = residual.square()
    return (squares if weights is None else weights * squares).mean(-1)


def policy_gradient_loss(
    logps: torch.Tensor,
    reference_logps: torch.Tensor,
    advantage: torch.Tensor,
    beta: float,
    weights: torch.Tensor | float = 1.0,
) -> torch.Tensor:
    r"""
    Loss whose gradient is Nash-MD's (2312.00886), with the KL term as reward-to-go:

    `-Σ_n ∇log π(y_n) · ( A - τ Σ_{m≥n} log π(y_m)/μ(y_m) )`

    Args:
        logps (`torch.Tensor` of shape `(R, T)`): log-probs of the tokens under the policy, 0 where there is no token.
        reference_logps (`torch.Tensor` of shape `(R, T)`): the same under the reference μ.
        advantage (`torch.Tensor` of shape `(R,)`): `P(y ≻ y') - ½` with any baseline already taken off.
        beta (`float`): τ, the KL coefficient.
        weights (`torch.Tensor` of shape `(R, 1)` or `(R, T)`, *optional*, defaults to 1):
            From [`importance_weights`], where another policy than π has sampled.

    Returns:
        `torch.Tensor` of shape `(R,)`: one loss per completion.
    """
    kl = logps.detach() - reference_logps
    kl_to_go = kl.flip(-1).cumsum(-1).flip(-1)
    return -(weights * logps * (advantage[:, None] - beta * kl_to_go)).sum(-1)


IMPORTANCE_MODES = ("sequence_truncate", "sequence_mask", "token_truncate", "token_mask")


def importance_weights(
    gap: torch.Tensor, mode: str, clip_min: float | None = None, clip_max: float | None = None
) -> torch.Tensor:
    r"""
    `π(y)/q(y)` of completions that q has sampled, kept within bounds: with these weights, and no bounds, an
    expectation under q is the one under π. Modes, as in TRL's GRPO:

    - `"sequence_truncate"`: one ratio a completion, cut to the bounds.
    - `"sequence_mask"`: one ratio a completion, 0 outside the bounds.
    - `"token_truncate"`, `"token_mask"`: the same of each token by itself, which is biased and varies less.

    Args:
        gap (`torch.Tensor` of shape `(R, T)`):
            `log π - log q` of the tokens, 0 where there is none; `nan` counts as 0.
        mode (`str`): one of the four.
        clip_min, clip_max (`float`, *optional*): the bounds.

    Returns:
        `torch.Tensor` of shape `(R, 1)` or `(R, T)`.
    """
    gap = gap.nan_to_num(nan=0.0)
    ratio = (gap.sum(-1, keepdim=True) if mode.startswith("sequence") else gap).exp()
    least, most = clip_min or 0.0, math.inf if clip_max is None else clip_max
    if mode.endswith("truncate"):
        return ratio.clamp(least, most)
    return torch.where((ratio < least) | (ratio > most), 0.0, ratio)


def leave_one_out_advantage(preference: torch.Tensor) -> torch.Tensor:
    r"""
    `A_i = (p_i - ½) - mean_{k≠i} (p_k - ½)` with `p_i` the mean preference of completion i over its opponents.

    The baseline does not depend on completion i, so the gradient stays unbiased. An abstention leaves the mean; a
    completion without any verdict gets 0 and is nobody's baseline.

    Args:
        preference (`torch.Tensor` of shape `(B, K, J)`): `P(y_i ≻ y'_j)`, `nan` abstains.

    Returns:
        `torch.Tensor` of shape `(B, K)`.
    """
    centred = preference.nanmean(-1) - 0.5
    judged = ~centred.isnan()
    centred = centred.nan_to_num()
    others = judged.sum(-1, keepdim=True) - judged.long()
    baseline = (centred.sum(-1, keepdim=True) - centred) / others.clamp(min=1)
    return torch.where(judged, centred - baseline, 0.0)


def hard_label(preference: torch.Tensor, kind: str, generator: torch.Generator | None = None) -> torch.Tensor:
    """
    The label that a preference is trained as; `nan` stays `nan`.

    `"soft"` is P itself, `"sampled"` a draw from Bernoulli(P) (unbiased, noisy), `"argmax"` is 1[P > ½] (it solves the
    game of majorities instead of P; a tie stays ½).
    """
    if kind == "soft":
        return preference
    if kind == "argmax":
        return torch.where(preference.isnan(), preference, (preference - 0.5).sign() / 2 + 0.5)
    if kind == "sampled":
        drawn = torch.bernoulli(preference.nan_to_num(0.5), generator=generator)
        return torch.where(preference.isnan(), preference, drawn)
    raise ValueError(f"preference_label must be 'soft', 'sampled' or 'argmax', got {kind!r}.")


def win_rates(preference: torch.Tensor, pairs: torch.Tensor, num_completions: int) -> torch.Tensor:
    """
    Mean win rate of each completion against the others it was compared with.

    Args:
        preference (`torch.Tensor` of shape `(B, M)`): `nan` abstains.
        pairs (`torch.Tensor` of shape `(M, 2)`): the compared completions.
        num_completions (`int`): K.

    Returns:
        `torch.Tensor` of shape `(B, K)`; `nan` for a completion without any verdict.
    """
    table = preference.new_full((preference.size(0), num_completions, num_completions), torch.nan)
    table[:, pairs[:, 0], pairs[:, 1]] = preference
    table[:, pairs[:, 1], pairs[:, 0]] = 1 - preference
    return table.nanmean(-1)


def cycle_rate(preference: torch.Tensor, pairs: torch.Tensor, num_completions: int) -> torch.Tensor:
    """
    Share of the judged triples of completions whose majorities form a cycle (a beats b beats c beats a): how
    non-transitive the preferences are. `nan` when no triple was judged in full.
    """
    beats = preference.new_full((preference.size(0), num_completions, num_completions), torch.nan)
    # torch's sign of nan is 0, which would count an abstention as a tie.
    majority = (preference - 0.5).sign().masked_fill(preference.isnan(), torch.nan)
    beats[:, pairs[:, 0], pairs[:, 1]] = majority
    beats[:, pairs[:, 1], pairs[:, 0]] = -majority
    i, j, k = torch.combinations(torch.arange(num_completions), 3).T
    turn = beats[:, i, j] + beats[:, j, k] + beats[:, k, i]
    return (turn.abs() == 3).sum() / (~turn.isnan()).sum()
