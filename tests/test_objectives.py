# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The equations, against arithmetic by hand and expectations by enumeration."""

from itertools import product

import pytest
import torch

from trl_nash.objectives import (
    cycle_rate,
    hard_label,
    importance_weights,
    leave_one_out_advantage,
    pair_loss,
    pair_margin,
    pair_target,
    policy_gradient_loss,
    win_rates,
)


NAN = float("nan")
ALL_OF_3 = torch.tensor([(0, 1), (0, 2), (1, 2)])
# The synthetic game of COMAL: b beats a, c beats b, a beats c.
CYCLE = torch.tensor([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]], dtype=torch.float64)


def rows(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ---- Pairs ----


def test_target_is_step_size_times_the_advantage_of_the_first():
    """η (P - ½): 4 (.75 - .5) = 1, 4 (0 - .5) = -2, and an abstention stays one."""
    target = pair_target(rows([0.75, 0.0, NAN]), step_size=4.0)
    torch.testing.assert_close(target, rows([1.0, -2.0, NAN]), equal_nan=True)


def test_margin_is_the_difference_of_the_log_ratios_of_its_pair():
    """Log-ratios (1, 3, 7): h(0, 1) = 1 - 3 = -2 and h(2, 0) = 7 - 1 = 6; another prompt has its own pairs."""
    pairs = torch.tensor([[(0, 1), (2, 0)], [(1, 2), (1, 0)]])
    margin = pair_margin(rows([1.0, 3.0, 7.0], [0.0, 10.0, 4.0]), pairs)
    torch.testing.assert_close(margin, rows([-2.0, 6.0], [6.0, 10.0]))


def test_loss_is_the_mean_square_over_the_pairs_of_each_prompt():
    """((3 - 1)² + (0 - 1)²) / 2 = 2.5 for one prompt, ((1 + 1)² + 0) / 2 = 2 for the other."""
    loss = pair_loss(rows([3.0, 0.0], [1.0, 5.0]), rows([1.0, 1.0], [-1.0, 5.0]))
    torch.testing.assert_close(loss, rows(2.5, 2.0))


def test_an_abstained_pair_adds_0_to_the_numerator_and_1_to_the_denominator():
    """Of three pairs one abstains: ((3 - 1)² + 0 + (2 - 0)²) / 3 = 8/3, not 8/2; its gradient is 0, not nan."""
    margin = rows([3.0, 100.0, 2.0], [1.0, 1.0, 1.0]).requires_grad_()
    loss = pair_loss(margin, rows([1.0, NAN, 0.0], [NAN, NAN, NAN]))
    torch.testing.assert_close(loss, rows(8 / 3, 0.0))
    loss.sum().backward()
    # 2 (h - target) / 3
    torch.testing.assert_close(margin.grad, rows([4 / 3, 0.0, 4 / 3], [0.0, 0.0, 0.0]))


# ---- Labels ----


def test_weights_count_in_the_sum_and_not_in_the_number():
    """(2 (3 - 1)² + 0 · 5²) / 2 = 4; an abstention is 0 whatever its weight."""
    loss = pair_loss(rows([3.0, 0.0], [3.0, 0.0]), rows([1.0, 5.0], [1.0, NAN]), rows([2.0, 0.0], [2.0, 7.0]))
    torch.testing.assert_close(loss, torch.tensor([4.0, 4.0], dtype=torch.float64))


def test_soft_labels_are_the_preferences_themselves():
    preference = rows([0.2, NAN, 1.0])
    assert hard_label(preference, "soft") is preference


def test_argmax_labels_are_the_winner_and_a_tie_stays_a_half():
    """P = .51 -> 1, .49 -> 0, .5 -> .5, 0 -> 0, 1 -> 1; no opinion stays none."""
    label = hard_label(rows([0.51, 0.49, 0.5, 0.0, 1.0, NAN]), "argmax")
    torch.testing.assert_close(label, rows([1.0, 0.0, 0.5, 0.0, 1.0, NAN]), equal_nan=True)


def test_sampled_labels_are_draws_from_the_preference():
    """Labels are 0 or 1; certain preferences are certain; 100,000 draws of P = .3 average .3 ± 5 standard errors."""
    generator = torch.Generator().manual_seed(0)
    certain = hard_label(rows([0.0, 1.0, NAN]), "sampled", generator)
    torch.testing.assert_close(certain, rows([0.0, 1.0, NAN]), equal_nan=True)
    drawn = hard_label(torch.full((100_000,), 0.3), "sampled", generator)
    assert set(drawn.tolist()) == {0.0, 1.0}
    assert abs(drawn.mean().item() - 0.3) < 5 * (0.3 * 0.7 / 100_000) ** 0.5


def test_an_unknown_label_is_named():
    with pytest.raises(ValueError, match="'soft', 'sampled' or 'argmax', got 'hard'"):
        hard_label(rows([0.5]), "hard")


# ---- K completions ----


def test_win_rates_are_means_over_the_judged_opponents():
    """
    P(0>1) = .9, P(0>2) = .2, P(1>2) = .6: rates (.9 + .2)/2, (.1 + .6)/2, (.8 + .4)/2. Without a verdict on (0, 2):
    .9, (.1 + .6)/2, .4. With a verdict on (0, 1) only, completion 2 has no rate.
    """
    preference = rows([0.9, 0.2, 0.6], [0.9, NAN, 0.6], [0.9, NAN, NAN])
    expected = rows([0.55, 0.35, 0.6], [0.9, 0.35, 0.4], [0.9, 0.1, NAN])
    torch.testing.assert_close(win_rates(preference, ALL_OF_3, 3), expected, equal_nan=True)


def test_cycle_rate_is_the_share_of_judged_triples_whose_majorities_turn():
    """
    Prompt 1: 0 > 1 > 2 > 0 (a cycle). Prompt 2: 0 > 1 > 2 and 0 > 2 (none). Prompt 3: a tie makes no cycle.
    Prompt 4: not judged in full, so not counted. 1 of 3. Cycles of either sense count.
    """
    preference = rows([0.9, 0.2, 0.6], [0.9, 0.8, 0.6], [0.9, 0.5, 0.6], [0.9, NAN, 0.6])
    assert cycle_rate(preference, ALL_OF_3, 3).item() == pytest.approx(1 / 3)
    assert cycle_rate(1 - preference[:1], ALL_OF_3, 3).item() == 1.0
    assert cycle_rate(preference[3:], ALL_OF_3, 3).isnan()


def test_cycle_rate_of_4_completions_against_counting():
    """Majorities 0>1, 1>2, 2>0 turn; 3 loses to all, so of the 4 triples one is a cycle."""
    wins = {(0, 1): 0.7, (0, 2): 0.3, (0, 3): 0.9, (1, 2): 0.7, (1, 3): 0.9, (2, 3): 0.9}
    pairs = torch.tensor(list(wins))
    assert cycle_rate(rows(list(wins.values())), pairs, 4).item() == 0.25


# ---- Policy gradient ----


def test_advantage_leaves_its_own_completion_out_of_the_baseline():
    """
    Rates .7, .4, .1, centred .2, -.1, -.4: A = .2 - (-.25) = .45, -.1 - (-.1) = 0, -.4 - .05 = -.45. When the second
    completion has no verdict it gets 0 and is nobody's baseline: ±.6. One verdict of two abstaining leaves the mean.
    """
    preference = rows([[0.6, 0.8], [0.5, 0.3], [0.1, 0.1]], [[0.6, 0.8], [NAN, NAN], [0.1, NAN]])
    torch.testing.assert_close(leave_one_out_advantage(preference), rows([0.45, 0.0, -0.45], [0.6, 0.0, -0.6]))


def test_advantage_of_a_single_completion_has_the_half_as_its_only_baseline():
    """p - ½ = .8 - .5; no other completion, no other baseline."""
    torch.testing.assert_close(leave_one_out_advantage(rows([[0.8]])), rows([0.3]))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_leave_one_out_baseline_is_unbiased(count):
    """
    Over all draws of K own and K opponent actions, the expected score-function gradient
    `mean_i A_i ∇log π(y_i)` is the gradient of P(π ≻ ν); a baseline that includes i itself is not.
    """
    logits = rows(0.3, -0.4, 0.9).requires_grad_()
    opponent = rows(0.2, 0.5, 0.3)
    (exact,) = torch.autograd.grad(logits.softmax(-1) @ CYCLE @ opponent, logits)

    own = torch.tensor(list(product(range(3), repeat=count)))
    both = torch.tensor(list(product(own.tolist(), own.tolist())))  # (3^K * 3^K, 2, K)
    logps = logits.log_softmax(-1)
    chance = logps.detach().exp()[both[:, 0]].prod(-1) * opponent[both[:, 1]].prod(-1)
    assert chance.sum().item() == pytest.approx(1.0)
    preference = CYCLE[both[:, 0, :, None], both[:, 1, None, :]]  # (N, K, K)

    def expected(advantage):
        (gradient,) = torch.autograd.grad(
            (chance * (advantage * logps[both[:, 0]]).mean(-1)).sum(), logits, retain_graph=True
        )
        return gradient

    torch.testing.assert_close(expected(leave_one_out_advantage(preference)), exact, rtol=0, atol=1e-12)
    rates = preference.mean(-1)
    assert (expected(rates - rates.mean(-1, keepdim=True)) - exact).abs().max() > 1e-2


def test_policy_gradient_multiplies_each_token_by_the_kl_that_is_still_to_come():
    """
    log π = (-1, -2, -3), log μ = (-1.5, -2.5, -1), so the terms are (.5, .5, -2) and to go (-1, -1.5, -2). With A = .2
    and τ = .1 the coefficients are .2 + .1 = .3, .35, .4, and the gradient of the loss is minus those.
    """
    logps = rows([-1.0, -2.0, -3.0]).requires_grad_()
    loss = policy_gradient_loss(logps, rows([-1.5, -2.5, -1.0]), rows(0.2), beta=0.1)
    # -( -1 * .3 - 2 * .35 - 3 * .4 )
    torch.testing.assert_close(loss, rows(2.2))
    loss.sum().backward()
    torch.testing.assert_close(logps.grad, rows([-0.3, -0.35, -0.4]))


@pytest.mark.parametrize(
    "mode, expected",
    [
        # Ratios of tokens 2, 4, 1/8 and of the completions 1, 4, 1/8 with bounds 1/2 and 3.
        ("token_truncate", [[2.0, 0.5], [3.0, 1.0], [0.5, 1.0]]),
        ("token_mask", [[2.0, 0.5], [0.0, 1.0], [0.0, 1.0]]),
        ("sequence_truncate", [[1.0], [3.0], [0.5]]),
        ("sequence_mask", [[1.0], [0.0], [0.0]]),
    ],
)
def test_importance_weights_by_hand(mode, expected):
    """A token whose log-prob the engine did not give weighs nothing and everything: its ratio is 1."""
    gap = rows([2.0, 0.5], [4.0, 1.0], [0.125, 1.0]).log()
    gap[1, 1] = NAN
    torch.testing.assert_close(importance_weights(gap, mode, clip_min=0.5, clip_max=3.0), rows(*expected))


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_importance_weights_are_those_of_grpo(mode):
    """TRL's own arithmetic, taken from `GRPOTrainer`'s source, on random ratios."""
    import inspect
    import math
    import textwrap
    from types import SimpleNamespace

    from trl import GRPOTrainer

    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    start = source.index("sequence_level_is = ")
    start, end = source.rindex("\n", 0, start), source.index("# Compute the per-token log probabilities", start)
    trainer = SimpleNamespace(
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_min=0.6,
        vllm_importance_sampling_clip_max=1.5,
    )
    gap = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) / 4
    names = {"self": trainer, "per_token_logps_diff": gap, "torch": torch, "math": math}
    exec(textwrap.dedent(source[start:end]), names)
    expected = names["vllm_importance_sampling_ratio"]
    torch.testing.assert_close(importance_weights(gap, mode, clip_min=0.6, clip_max=1.5), expected)
