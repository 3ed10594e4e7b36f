# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Values and gradients of `linear_logprob` against whole logits in fp64, where rounding would show most."""

import math

import pytest
import torch

from trl_nash.kernels import LoRA, linear_logprob

from .oracle import (
    assert_as_in_fp64,
    differentiate,
    kernel_logps,
    logits_of,
    make_problem,
    make_upstream,
    relative_error,
    rounded,
    row_errors,
    true_logps,
    with_logps,
)


FP32 = {"value": 2e-5, "gradient": 1e-5}
HALF = {"value": 5e-5, "gradient": 4e-3}  # 1e-2 would mean that a logit was rounded
TOLERANCES = {torch.float32: FP32, torch.bfloat16: HALF, torch.float16: HALF}
SMALL_TILES = {"workspace_bytes": 1}  # 128 columns


@pytest.mark.parametrize("stash_bytes", [0, 10**9], ids=["again", "kept"])
@pytest.mark.parametrize(
    ("rows", "size", "vocabulary"),
    [(1, 1, 1), (1, 7, 129), (127, 33, 50), (129, 64, 300), (515, 9, 256), (65537, 3, 5)],
)
def test_sizes(rows, size, vocabulary, stash_bytes):
    problem = make_problem(rows, size, vocabulary, bias=True)
    if vocabulary == 1:  # there is no choice, and so no gradient to divide by
        logps, gradients = differentiate(kernel_logps, problem, torch.ones(rows), stash_bytes=stash_bytes)
        assert not logps.any() and not any(gradient.any() for gradient in gradients.values())
        return
    assert_as_in_fp64(problem, -torch.ones(1) if rows == 1 else None, stash_bytes=stash_bytes, **SMALL_TILES)


@pytest.mark.parametrize("reach", [1, 10, 30, 60])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_large_logits(dtype, reach):
    problem = make_problem(64, 128, 500, spread=reach / 4.2, dtype=dtype)
    assert 0.85 * reach < logits_of(**problem).abs().max() < 1.15 * reach
    tolerances = TOLERANCES[dtype]
    if dtype == torch.float32 and reach == 60:
        # Products in fp32 are off by 2.8e-5 themselves, and torch's log-softmax of them by 4.1e-5.
        tolerances = FP32 | {"value": 4e-5}
    assert_as_in_fp64(problem, **tolerances, **SMALL_TILES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_of_16_bit_gradients(dtype):
    problem = make_problem(300, 96, 700, spread=5.0, dtype=dtype, bias=True)
    upstream = 2.0**10 * make_upstream(300).sign()  # fp16 needs its loss scaled, or rows vanish in the truth too
    found, true = (
        differentiate(function, problem, upstream, dtype=wide)[1]["hidden"]
        for function, wide in ((kernel_logps, None), (true_logps, torch.float64))
    )
    errors = row_errors(found, true)
    assert errors.quantile(0.95) <= 6e-3 and errors.max() <= 1.5e-2
    assert not found[upstream == 0].any()


@pytest.mark.parametrize("doubt", [1e-3, 1e-6])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_confident_tokens(dtype, doubt):
    """`1 - p` and the gradient are relatively exact, where softmax in fp32 less 1 has at most two digits of 1e-6."""
    problem = with_logps(make_problem(32, 64, 300, dtype=torch.float64), math.log1p(-doubt), dtype)
    # What loss scaling passes down in fp16, where 1e-6 itself is hardly a number.
    upstream = torch.full((32,), 2.0**16 if dtype == torch.float16 else 1.0)
    logps, gradients = differentiate(kernel_logps, problem, upstream)
    true, true_gradients = differentiate(true_logps, problem, upstream, dtype=torch.float64)
    found_doubt, true_doubt = torch.expm1(logps.double()), torch.expm1(true)
    assert true_doubt.abs().max() < 1.1 * doubt
    assert ((found_doubt - true_doubt) / true_doubt).abs().max() <= 2e-5
    row_tolerance = 1e-5 if dtype == torch.float32 else 6e-3
    assert row_errors(gradients["hidden"], true_gradients["hidden"]).max() <= row_tolerance
    assert relative_error(gradients["weight"], true_gradients["weight"]) <= TOLERANCES[dtype]["gradient"]


@pytest.mark.parametrize("stash_bytes", [0, 10 * 300 * 4, 10**9], ids=["again", "some", "kept"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("logp", [-45.0, -46.0, -47.0, -60.0, -87.0, -100.0, -127.0, -200.0, None])
def test_unlikely_tokens(logp, dtype, stash_bytes):
    """Rows below about -46 are done again; `None` mixes them with others, among kept rows and not."""
    mixed = torch.tensor([-0.1, -200.0, -3.0, -45.9, -46.3, -1.0, -127.0, -9.0]).repeat(4)
    problem = make_problem(32, 64, 300, dtype=torch.float64)
    problem = with_logps(problem, mixed if logp is None else logp, dtype)
    tolerances = TOLERANCES[dtype]
    if dtype == torch.float32 and logp in (-200.0, None):
        # Numbers near 200 are each rounded by up to 0.8e-5: two logits and their difference.
        tolerances = FP32 | {"value": 4e-5}
    assert_as_in_fp64(problem, make_upstream(32), stash_bytes=stash_bytes, **tolerances, **SMALL_TILES)


def test_logits_below_minus_100():
    problem = make_problem(40, 32, 300, spread=3.0)
    problem["bias"] = torch.full((300,), -150.0)
    assert logits_of(**problem).max() < -100
    assert_as_in_fp64(problem, value=4e-5)  # fp32 has steps of 1.5e-5 there


@pytest.mark.parametrize("stash_bytes", [0, 10**9], ids=["again", "kept"])
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"logit_scale": 0.0625},
        {"logit_scale": 2.0, "temperature": 2.0},
        {"softcap": 3.0},
        {"softcap": 2.0, "logit_scale": 1.7, "temperature": 0.6},
        {"softcap": 30.0, "temperature": 0.2, "logit_scale": -3.0},  # with log-probs below -46
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_transforms(dtype, options, stash_bytes):
    problem = make_problem(50, 40, 300, spread=4.0, bias=True, dtype=dtype) | options
    tolerances = TOLERANCES[dtype]
    if options.get("logit_scale") == -3.0:
        assert true_logps(problem).min() < -80
        # |z| is up to 141, where fp32 has steps of 1.5e-5; plain torch in fp32 is off by 2.8e-5.
        tolerances = tolerances | {"value": 5e-5}
    assert_as_in_fp64(problem, stash_bytes=stash_bytes, **tolerances, **SMALL_TILES)


def test_unlikely_because_of_the_bias():
    problem = make_problem(20, 16, 300)
    problem["bias"] = torch.full((300,), 150.0)
    problem["bias"][problem["targets"]] = -10.0
    assert true_logps(problem).max() < -140
    assert_as_in_fp64(problem, value=4e-5, **SMALL_TILES)


def test_saturated_softcap_has_no_gradient():
    problem = make_problem(20, 16, 50, spread=200.0) | {"softcap": 1.0, "targets": torch.arange(20)}
    saturated = logits_of(**problem).abs() == 1.0
    assert saturated.float().mean() > 0.8
    logps, gradients = differentiate(kernel_logps, problem, torch.ones(20))
    true, true_gradients = differentiate(true_logps, problem, torch.ones(20), dtype=torch.float64)
    assert (logps - true).abs().max() <= 2e-5
    # The slope, 1 - tanh², has steps of 6e-8; the largest is near 1.
    for name, found in gradients.items():
        assert (found - true_gradients[name]).abs().max() <= 1e-4 * true_gradients[name].abs().max().clamp(min=1e-2)


def test_a_forbidden_token():
    """A bias of -inf takes an entry out, without a trace in the gradients of others."""
    problem = make_problem(20, 16, 200, bias=True)
    problem["bias"][7] = -torch.inf
    problem["targets"] = 8 + torch.arange(20)
    _, gradients = differentiate(kernel_logps, problem, torch.ones(20))
    _, true = differentiate(true_logps, problem, torch.ones(20), dtype=torch.float64)
    assert all(relative_error(gradients[name], true[name]) <= 1e-5 for name in gradients)
    assert not gradients["weight"][7].any()


# ---- dtypes ----


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_rounds_factors_only(dtype):
    """fp32 parameters under autocast: as in a linear layer hidden states and weight are rounded, and nothing else."""
    problem = make_problem(60, 48, 300, spread=4.0, bias=True)
    upstream = make_upstream(60)
    with torch.autocast("cpu", dtype):
        logps, gradients = differentiate(kernel_logps, problem, upstream)
    true, true_gradients = differentiate(true_logps, rounded(problem, dtype, "bias"), upstream, dtype=torch.float64)
    assert logps.dtype == torch.float32 and (logps - true).abs().max() <= 5e-5
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert relative_error(gradient, true_gradients[name]) <= 4e-3


@pytest.mark.parametrize("wide", ["hidden", "weight", "bias"])
def test_mixed_dtypes_round_nothing(wide):
    """Without autocast the wider factor decides; the bias is added as it is."""
    assert_as_in_fp64(rounded(make_problem(40, 32, 200, spread=4.0, bias=True), torch.bfloat16, wide), **HALF)


# ---- Positions that do not count ----


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("stash_bytes", [0, 10**9], ids=["again", "kept"])
def test_masked_garbage_does_not_leak(garbage, stash_bytes):
    problem = make_problem(30, 12, 150, bias=True, rank=2)
    mask = torch.arange(30).view(5, 6) % 3 != 0
    few = problem | {"hidden": problem["hidden"][mask.flatten()], "targets": problem["targets"][mask.flatten()]}
    upstream = make_upstream(30)
    problem["hidden"][~mask.flatten()] = garbage
    problem["targets"][~mask.flatten()] = -100
    shaped = problem | {"hidden": problem["hidden"].view(5, 6, 12), "targets": problem["targets"].view(5, 6)}
    logps, gradients = differentiate(kernel_logps, shaped, upstream.view(5, 6), mask=mask, stash_bytes=stash_bytes)
    true, true_gradients = differentiate(true_logps, few, upstream[mask.flatten()], dtype=torch.float64)
    assert (logps[mask] - true).abs().max() <= 2e-5 and not logps[~mask].any()
    hidden = gradients.pop("hidden")
    assert relative_error(hidden[mask], true_gradients["hidden"]) <= 1e-5 and not hidden[~mask].any()
    for name, gradient in gradients.items():
        assert relative_error(gradient, true_gradients[name]) <= 1e-5


@pytest.mark.parametrize("frozen", [(), ("weight",), ("hidden",)], ids=str)
@pytest.mark.parametrize("rows", [0, 6])
def test_nothing_counts(rows, frozen):
    """Every parameter still gets a gradient, of zeros: hooks that reduce gradients over ranks wait for each other."""
    problem = make_problem(rows, 8, 20) | {"targets": torch.full((rows,), -100)}
    mask = torch.zeros(rows, dtype=torch.bool)
    logps, gradients = differentiate(kernel_logps, problem, torch.ones(rows), frozen=frozen, mask=mask)
    assert logps.shape == (rows,) and not logps.any()
    for name, gradient in gradients.items():
        if name in frozen:
            assert gradient is None
        else:
            assert gradient is not None and gradient.shape == problem[name].shape and not gradient.any()


def test_no_rows():
    problem = make_problem(0, 8, 20)
    logps, gradients = differentiate(kernel_logps, problem, torch.ones(0))
    assert logps.shape == (0,) and logps.dtype == torch.float32
    assert gradients["hidden"].shape == (0, 8) and not gradients["weight"].any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("logp", [-5.0, -100.0])
def test_nan_stays_in_its_row(bad, logp):
    problem = with_logps(make_problem(16, 32, 150, dtype=torch.float64), logp)
    problem["hidden"][3, 5] = bad
    names = ("log_probs", "entropy", "mean_logits", "is_top1")
    problem["hidden"].requires_grad_()
    logps, *summaries, _ = kernel_logps(problem, outputs=names)
    logps.sum().backward()
    for result in (logps, *summaries, problem["hidden"].grad.sum(1)):
        assert (~result.isfinite()).nonzero().flatten().tolist() == [3]
    assert logps[3].isnan()
    good = torch.arange(16) != 3
    assert (logps - true_logps(problem))[good].abs().max() <= 2e-5


# ---- Errors ----


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hidden": torch.zeros(4, 8)}, r"`hidden` has shape \(4, 8\) and `targets` \(3,\)"),
        ({"weight": torch.zeros(20, 7)}, r"`weight` has shape \(20, 7\); .* size 8 it is \(vocabulary, 8\)"),
        ({"weight": torch.zeros(20)}, r"`weight` has shape \(20,\)"),
        ({"targets": torch.zeros(3, dtype=torch.int32)}, r"`targets` are torch.int32; .* torch.int64"),
        ({"targets": torch.tensor([0, 1, 20])}, r"`targets` go from 0 to 20; .* from 0 to 19\. .*`mask`"),
        ({"targets": torch.tensor([0, -100, 2])}, r"`targets` go from -100 to 2; .* from 0 to 19"),
        ({"bias": torch.zeros(8)}, r"`bias` has shape \(8,\); it is \(20,\)"),
        ({"mask": torch.ones(3)}, r"`mask` has shape \(3,\) and dtype torch.float32; it is bool"),
        ({"mask": torch.ones(4, dtype=torch.bool)}, r"`mask` has shape \(4,\) .* `targets`, \(3,\)"),
        ({"lora": LoRA(torch.zeros(2, 7), torch.zeros(20, 2))}, r"`lora` has shapes \(2, 7\) and \(20, 2\)"),
        ({"lora": (torch.zeros(2, 8), torch.zeros(20, 3), 1.0)}, r"\(r, 8\) and \(20, r\)"),
        ({"temperature": 0.0}, r"`temperature` is positive, got 0.0"),
        ({"temperature": math.inf}, r"`temperature` is positive, got inf"),
        ({"temperature": math.nan}, r"`temperature` is positive, got nan"),
        ({"softcap": 0.0}, r"`softcap` is positive, or None for no bound, got 0.0"),
        ({"softcap": math.inf}, r"`softcap` is .*, or None for no bound, got inf"),  # would be NaN everywhere
        ({"outputs": ("log_probs", "logits")}, r"`outputs` has 'logits'; it is made of 'log_probs', 'entropy'"),
        ({"head_grad": True}, "`head_grad=True`, but `weight` requires no gradient"),
        ({"head_grad": "yes"}, r"`head_grad` is True, False or \"auto\", got 'yes'"),
        ({"backend": "cuda"}, r"`backend` is one of 'auto', 'torch', 'triton', got 'cuda'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_errors(changes, sentence):
    arguments = {"hidden": torch.zeros(3, 8), "weight": torch.zeros(20, 8), "targets": torch.arange(3)} | changes
    with pytest.raises(ValueError, match=sentence):
        linear_logprob(**arguments)
