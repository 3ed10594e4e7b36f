# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`linear_logratio` against differences of log-softmax in fp64: shapes, reductions, signs, masks and gradients."""

import math

import pytest
import torch

from trl_nash.kernels import Head, LoRA, linear_logratio

from .oracle import make_problem, relative_error, rounded, true_logps


SHAPE = (3, 2, 7)  # 3 pairs of 7 tokens
ROWS = math.prod(SHAPE)
MASK = torch.arange(ROWS).view(SHAPE) % 4 != 1
MASK[1, 0] = False  # one sequence without a token
TARGETS = make_problem(ROWS, 16, 150)["targets"].view(SHAPE)


def shaped(seed: int, **changes) -> dict:
    problem = make_problem(ROWS, 16, 150, spread=3.0, seed=seed, bias=True, rank=2, **changes)
    return problem | {"hidden": problem["hidden"].view(*SHAPE, 16), "targets": TARGETS}


def head(problem: dict) -> Head:
    lora = LoRA(problem["a"], problem["b"], problem["scale"])
    return Head(problem["hidden"], problem["weight"], problem["bias"], 1.3, 20.0, lora)


def true(problem: dict) -> torch.Tensor:
    return true_logps(problem | {"logit_scale": 1.3, "softcap": 20.0, "temperature": 0.8})


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize(
    ("reduction", "signs", "shape"),
    [("none", None, SHAPE), ("sequence", None, (3, 2)), ("pair", None, (3,)), ("pair", [0.5, -2.0], (3,))],
    ids=str,
)
def test_values_and_gradients(reduction, signs, shape, masked):
    policy, *anchors = (shaped(seed) for seed in range(4))
    names = ("hidden", "weight", "bias", "a", "b")
    for problem in (policy, *anchors):
        for name in names:
            problem[name].requires_grad_()
    mask = MASK if masked else None
    cached = true(anchors[0]).detach().float()
    output = linear_logratio(
        head(policy),
        TARGETS,
        reference_logps=cached,
        references=[head(anchor) for anchor in anchors[1:]],
        temperature=0.8,
        mask=mask,
        reduction=reduction,
        signs=signs,
        workspace_bytes=1,
    )
    doubles = policy | {name: policy[name].detach().double().requires_grad_() for name in names}
    counts = torch.ones(SHAPE) if mask is None else mask.double()
    logps = true(doubles) * counts
    references = [true(anchor).detach() * counts for anchor in anchors]
    assert (output.log_probs - logps).abs().max() <= 2e-5
    assert len(output.logratios) == len(output.reference_logps) == 3
    weights = torch.tensor(signs or (1.0, -1.0)).double()
    upstreams = [torch.randn(shape, generator=torch.Generator().manual_seed(i)).double() for i in range(3)]
    total, true_total = 0.0, 0.0
    for found, found_logps, reference, upstream in zip(
        output.logratios, output.reference_logps, references, upstreams, strict=True
    ):
        assert found_logps.shape == SHAPE and (found_logps - reference).abs().max() <= 2e-5
        assert not found_logps.requires_grad
        ratio = logps - reference
        if reduction != "none":
            ratio = ratio.sum(-1)
        if reduction == "pair":
            ratio = ratio @ weights
        assert found.shape == shape and found.dtype == torch.float32
        assert (found - ratio).abs().max() <= 2e-4
        total, true_total = total + (upstream.float() * found).sum(), true_total + (upstream * ratio).sum()
    total.backward()
    true_total.backward()
    for name in names:
        assert relative_error(policy[name].grad, doubles[name].grad) <= 1e-5
        assert all(anchor[name].grad is None for anchor in anchors)


@pytest.mark.parametrize("reduction", ["sequence", "pair"])
def test_reductions_are_those_of_the_parts(reduction):
    """Value and gradient of a reduction equal autograd's through the sums of `none`, bitwise."""
    found = []
    for kind in ("none", reduction):
        problem = shaped(0)
        problem["hidden"].requires_grad_()
        (ratio,) = linear_logratio(
            head(problem), TARGETS, reference_logps=torch.zeros(SHAPE), mask=MASK, reduction=kind
        ).logratios
        if kind == "none":
            ratio = ratio.sum(-1)
            if reduction == "pair":
                ratio = ratio[:, 0] - ratio[:, 1]
        upstream = torch.arange(1.0, ratio.numel() + 1).view_as(ratio)
        ratio.backward(upstream)
        found.append((ratio.detach(), problem["hidden"].grad))
    assert all(map(torch.equal, *found))


def test_bf16_logratios():
    """The difference of two policies that are near each other keeps its digits."""
    policy = rounded(shaped(0), torch.bfloat16)
    near = policy | {"hidden": (policy["hidden"].float() + 0.02).bfloat16()}
    (ratio,) = linear_logratio(head(policy), TARGETS, references=[head(near)], temperature=0.8).logratios
    truth = true(policy) - true(near)
    assert 0.01 < truth.abs().mean() < 0.5
    assert (ratio - truth).abs().max() <= 5e-5


def test_the_same_policy_has_no_ratio():
    policy = head(shaped(0))
    (ratio,) = linear_logratio(policy, TARGETS, references=[policy], mask=MASK).logratios
    assert not ratio.any()


@pytest.mark.parametrize("garbage", [math.nan, math.inf])
def test_masked_garbage_does_not_leak(garbage):
    policy, anchor = shaped(0), shaped(1)
    cached = true(anchor).float()
    (clean,) = linear_logratio(head(policy), TARGETS, reference_logps=cached, mask=MASK, reduction="pair").logratios
    cached[~MASK] = garbage
    policy["hidden"][~MASK] = garbage
    policy["hidden"].requires_grad_()
    targets = TARGETS.masked_fill(~MASK, -100)
    output = linear_logratio(head(policy), targets, reference_logps=cached, mask=MASK, reduction="pair")
    output.logratios[0].sum().backward()
    assert torch.equal(output.logratios[0], clean)
    assert policy["hidden"].grad.isfinite().all() and not policy["hidden"].grad[~MASK].any()
    assert not output.reference_logps[0][~MASK].any()


def test_no_gradient_through_references():
    """Also not through log-probs that came with a graph."""
    policy, anchor = shaped(0), shaped(1)
    policy["weight"].requires_grad_()
    cached = true(anchor).float().requires_grad_()
    output = linear_logratio(head(policy), TARGETS, reference_logps=[cached], references=[head(policy)])
    assert not any(logps.requires_grad for logps in output.reference_logps)
    sum(ratio.sum() for ratio in output.logratios).backward()
    assert cached.grad is None and policy["weight"].grad is not None


def test_shape_of_one_sequence():
    problem = make_problem(5, 16, 150)
    policy = Head(problem["hidden"], problem["weight"])
    (ratio,) = linear_logratio(
        policy, problem["targets"], reference_logps=torch.zeros(5), reduction="sequence"
    ).logratios
    assert ratio.shape == () and abs(float(ratio) - float(true_logps(problem).sum())) <= 1e-4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"reduction": "mean"}, "`reduction` is one of 'none', 'sequence', 'pair', got 'mean'"),
        ({"signs": [1.0, -1.0]}, "`signs` are those of a pair: .* `reduction=\"pair\"` .*'none'"),
        ({"reference_logps": None}, "pass `reference_logps` or `references`"),
        ({"reference_logps": []}, "pass `reference_logps` or `references`"),
        ({"reference_logps": torch.zeros(3, 2)}, r"`reference_logps` has shape \(3, 2\); .* \(3, 2, 7\)"),
        ({"reduction": "pair", "signs": [1.0, 1.0, -2.0]}, r"`signs` has shape \(3,\) for `targets` .* \(3, 2, 7\)"),
        ({"reduction": "pair", "signs": 1.0}, r"`signs` has shape \(\)"),
        ({"mask": torch.ones(3, 2)}, r"`mask` has shape \(3, 2\)"),
        ({"temperature": -1.0}, "`temperature` is positive, got -1.0"),
        ({"backend": "gpu"}, "`backend` is one of"),
        ({"references": [Head(torch.zeros(3, 2, 6, 16), torch.zeros(150, 16))]}, r"`hidden` .* \(3, 2, 6, 16\)"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_errors(changes, sentence):
    arguments = {"reference_logps": torch.zeros(SHAPE)} | changes
    with pytest.raises(ValueError, match=sentence):
        linear_logratio(head(shaped(0)), TARGETS, **arguments)


def test_a_pair_needs_two_sequences():
    problem = make_problem(5, 16, 150)
    policy = Head(problem["hidden"], problem["weight"])
    with pytest.raises(ValueError, match=r"`signs` has shape \(2,\) for `targets` of shape \(5,\)"):
        linear_logratio(policy, problem["targets"], reference_logps=torch.zeros(5), reduction="pair")
