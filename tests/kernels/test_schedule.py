# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What is multiplied and what is allocated: frozen, trained, tied and adapted heads; and the optional outputs."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from trl_nash.kernels import linear_logprob, op, schedule
from trl_nash.kernels.products import HALVES

from .oracle import (
    assert_as_in_fp64,
    differentiate,
    kernel_logps,
    logits_of,
    make_problem,
    make_upstream,
    relative_error,
    rounded,
    true_logps,
)


SMALL_TILES = {"workspace_bytes": 1}  # 128 columns
ALL = 10**9
# Each of the gradients of hidden states, adapter and their sum is rounded to bf16: 4 to 6e-3 if a few rows rule.
HALF = {"value": 5e-5, "gradient": 7e-3}
HEAD = ("weight", "bias")


@pytest.fixture
def products(monkeypatch) -> list[tuple[int, int]]:
    """The shapes of what products with W or E are written to."""
    shapes, multiply = [], schedule.multiply

    def spy(a, b, out, add=False):
        shapes.append(tuple(out.shape))
        multiply(a, b, out, add)

    monkeypatch.setattr(schedule, "multiply", spy)
    return shapes


# ---- Products ----


@pytest.mark.parametrize(
    ("frozen", "stash_bytes", "forward", "backward"),
    [
        (HEAD, 0, 2, 0),
        (HEAD, ALL, 2, 0),
        ((), ALL, 2, 1),
        ((), 0, 2, 2),
        (("hidden",), ALL, 1, 1),
        (("hidden",), 0, 1, 2),
        (("weight",), ALL, 2, 0),  # the gradient of a bias is a sum
        (("weight",), 0, 2, 1),
        (("hidden", "weight", "bias"), ALL, 1, None),
    ],
    ids=str,
)
def test_products_of_a_tile(products, frozen, stash_bytes, forward, backward):
    """Two for a frozen head, of which none in the backward; three for a trained one, four if E is made again."""
    problem = make_problem(40, 16, 300, bias=True)
    for name in ("hidden", *HEAD):
        problem[name].requires_grad_(name not in frozen)
    logps = kernel_logps(problem, stash_bytes=stash_bytes, **SMALL_TILES)
    assert len(products) == 3 * forward
    products.clear()
    if backward is not None:
        logps.sum().backward()
        assert len(products) == 3 * backward
        assert (problem["weight"].grad is None) == ("weight" in frozen)
        # No product has the shape of the gradient of W, unless it is wanted.
        assert any(shape[0] != 40 for shape in products) == ("weight" not in frozen)


def test_products_with_some_rows_kept(products):
    problem = make_problem(600, 16, 300)
    assert_as_in_fp64(problem, stash_bytes=40 * 300 * 4, **SMALL_TILES)
    # Rows 0 - 40, 40 - 552 and 552 - 600: two products of each in the forward; one, two and two in the backward.
    assert len(products) == 3 * (6 + 5)


def test_head_grad_false_freezes_the_head(products):
    problem = make_problem(40, 16, 300, bias=True)
    _, true = differentiate(true_logps, problem, torch.ones(40), dtype=torch.float64)
    _, gradients = differentiate(kernel_logps, problem, torch.ones(40), head_grad=False, **SMALL_TILES)
    assert gradients["weight"] is None and gradients["bias"] is None and len(products) == 6
    assert relative_error(gradients["hidden"], true["hidden"]) <= 1e-5
    assert problem["weight"].requires_grad is False  # nothing of the caller's was touched


def test_no_grad_makes_neither_gradient_nor_stash(products, monkeypatch):
    found = []
    forward = op.forward
    monkeypatch.setattr(op, "forward", lambda *args: found.append(forward(*args)) or found[-1])
    problem = make_problem(40, 16, 300, bias=True, rank=2)
    for name in ("hidden", "weight", "bias", "a", "b"):
        problem[name].requires_grad_()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            logps = kernel_logps(problem, stash_bytes=ALL, **SMALL_TILES)
        assert not logps.requires_grad and (logps - true_logps(problem)).abs().max() <= 2e-5
        assert all(output.numel() <= 40 for output in found.pop())
    assert len(products) == 2 * 3 * 2 and {shape[1] for shape in products} == {128, 44}  # logits, by W and by b
    kernel_logps({name: t.detach() if torch.is_tensor(t) else t for name, t in problem.items()}, stash_bytes=ALL)
    assert all(output.numel() <= 40 for output in found.pop())


def test_tied_weight():
    """One parameter as embedding and head: its gradient is the sum of both uses."""
    problem = make_problem(30, 16, 200)
    tokens = torch.randint(200, (30,), generator=torch.Generator().manual_seed(7))
    upstream = make_upstream(30)

    def gradient(function, dtype):
        weight = problem["weight"].to(dtype).requires_grad_()
        hidden = torch.nn.functional.embedding(tokens, weight).cumsum(0)
        (found,) = torch.autograd.grad(
            function(problem | {"hidden": hidden, "weight": weight}), weight, upstream.to(dtype)
        )
        return found

    assert relative_error(gradient(kernel_logps, torch.float32), gradient(true_logps, torch.float64)) <= 1e-5


# ---- Adapters on the head ----


@pytest.mark.parametrize("stash_bytes", [0, 10 * 300 * 4, ALL], ids=["again", "some", "kept"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_lora(dtype, stash_bytes):
    problem = make_problem(40, 32, 300, spread=4.0, rank=3, bias=True, dtype=dtype) | {"softcap": 20.0}
    half = dtype in HALVES
    tolerances = HALF if half else {"value": 2e-5, "gradient": 1e-5}
    assert_as_in_fp64(problem, stash_bytes=stash_bytes, **tolerances, **SMALL_TILES)


@pytest.mark.parametrize("stash_bytes", [0, ALL], ids=["again", "kept"])
def test_lora_on_a_frozen_head(products, stash_bytes):
    problem = make_problem(40, 32, 300, rank=3)
    _, true = differentiate(true_logps, problem, make_upstream(40), dtype=torch.float64)
    options = {"frozen": ("weight",), "stash_bytes": stash_bytes, **SMALL_TILES}
    _, gradients = differentiate(kernel_logps, problem, make_upstream(40), **options)
    assert gradients.pop("weight") is None
    for name, gradient in gradients.items():
        assert relative_error(gradient, true[name]) <= 1e-5
    # Nothing has the shape of the gradient of W, which is (columns of a tile, 32); that of b is wanted.
    assert not [shape for shape in products if shape[0] != 40 and shape[1] == 32]
    assert [shape for shape in products if shape[0] != 40] == [(128, 3), (128, 3), (44, 3)]


def test_lora_under_autocast():
    """The adapter's inner states, of which there are few, are not rounded: all that is rounded is what W sees."""
    problem = make_problem(60, 48, 300, spread=4.0, rank=3)
    problem["b"] = problem["b"].bfloat16().float()
    with torch.autocast("cpu", torch.bfloat16):
        logps, gradients = differentiate(kernel_logps, problem, make_upstream(60))
    factors = rounded(problem, torch.bfloat16, "a", "b")
    true, true_gradients = differentiate(true_logps, factors, make_upstream(60), dtype=torch.float64)
    assert (logps - true).abs().max() <= HALF["value"]
    for name, gradient in gradients.items():
        assert relative_error(gradient, true_gradients[name]) <= HALF["gradient"], name


def test_wide_lora_on_a_narrow_head():
    """What PEFT makes of a bf16 model: its adapters are fp32, and must not be rounded to the head's dtype."""
    assert_as_in_fp64(rounded(make_problem(60, 48, 300, spread=4.0, rank=3), torch.bfloat16, "a", "b"), **HALF)


def test_fresh_lora_changes_nothing():
    problem = make_problem(20, 16, 100, rank=4)
    problem["b"].zero_()
    plain = {name: problem[name] for name in ("hidden", "weight", "targets")}
    assert torch.equal(kernel_logps(problem), kernel_logps(plain))


# ---- Memory ----


def allocated(function) -> tuple[int, int]:
    """Peak and largest single allocation, in bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    sizes = [event.nbytes() for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return int(torch.tensor(sizes).cumsum(0).max()), max(sizes)


@pytest.mark.parametrize("frozen", [(), ("weight",)], ids=["trained", "frozen"])
@pytest.mark.parametrize("options", [{}, {"softcap": 5.0}], ids=["plain", "softcap"])
def test_memory_does_not_grow_with_tokens_times_vocabulary(frozen, options):
    def measure(rows, vocabulary):
        problem = make_problem(rows, 8, vocabulary) | options
        problem["weight"][problem["targets"][:20]] *= -40.0  # rows that are done again, too
        run = {"frozen": frozen, "stash_bytes": 0, "workspace_bytes": 2**16}
        return allocated(lambda: differentiate(kernel_logps, problem, torch.ones(rows), **run))

    logits = 1024 * 4096 * 4
    peak, largest = measure(1024, 4096)
    assert largest <= 512 * 128 * 4  # a tile
    assert peak <= logits / 8
    # Twice the logits need some more vectors, hidden states or rows of W.
    assert measure(1024, 8192)[0] - peak <= logits / 16
    assert measure(2048, 4096)[0] - peak <= logits / 16
    # The measure does see logits where there are some.
    assert allocated(lambda: true_logps(make_problem(1024, 8, 4096)))[1] == 2 * logits  # in fp64


def test_stash_stays_within_its_budget(monkeypatch):
    found = []
    forward = op.forward
    monkeypatch.setattr(op, "forward", lambda *args: found.append(forward(*args)) or found[-1])
    problem = make_problem(100, 8, 1000)
    for dtype, itemsize in ((torch.float32, 4), (torch.bfloat16, 2), (torch.float16, 2), (torch.float64, 8)):
        narrow = rounded(problem, dtype)
        narrow["weight"].requires_grad_()
        for entries, rows in ((0, 0), (999, 0), (1000, 1), (37_999, 37), (10**9, 100)):
            kernel_logps(narrow, stash_bytes=entries * itemsize)
            stash = found.pop()[-1]
            assert stash.shape == (rows, 1000) and stash.dtype.itemsize == itemsize


# ---- Other outputs ----


@pytest.mark.parametrize("spread", [1.0, 8.0, 40.0])
@pytest.mark.parametrize("options", [{}, {"softcap": 30.0, "temperature": 0.5, "logit_scale": 2.0}], ids=str)
def test_other_outputs(options, spread):
    problem = make_problem(90, 40, 300, spread=spread, bias=True) | options
    logits = logits_of(**problem)
    problem["targets"][::2] = logits[::2].argmax(1)
    problem["hidden"].requires_grad_()
    names = ("is_top1", "entropy", "log_probs", "mean_logits")
    top1, entropy, logps, mean = kernel_logps(problem, outputs=names, **SMALL_TILES)
    assert logps.requires_grad and not any(other.requires_grad for other in (top1, entropy, mean))
    true = logits.log_softmax(-1)
    reach = float(logits.abs().max())
    assert (entropy + (true.exp() * true).sum(1)).abs().max() <= max(2e-5, reach * 1e-6)
    assert (mean - logits.mean(1)).abs().max() <= max(2e-5, reach * 1e-6)
    assert top1.dtype == torch.bool and torch.equal(top1, problem["targets"] == logits.argmax(1))
    mask = torch.arange(90) % 4 == 0
    for masked, whole in zip(
        kernel_logps(problem, outputs=names, mask=mask), (top1, entropy, logps, mean), strict=True
    ):
        assert masked.dtype == whole.dtype and not masked[~mask].any()
        assert torch.allclose(masked[mask].float(), whole[mask].float(), atol=1e-4)


def test_the_first_of_equal_logits_is_the_top():
    """With numbers that fp32 adds exactly: equal logits are equal, within a tile and across tiles."""
    hidden, weight = torch.ones(4, 2), torch.zeros(300, 2)
    weight[[5, 40, 200, 299]] = 1.0
    targets = torch.tensor([5, 40, 200, 6])
    arguments = (hidden, weight, targets)
    (top1,) = linear_logprob(*arguments, outputs=("is_top1",), **SMALL_TILES)
    assert top1.tolist() == [True, False, False, False]
    (top1,) = linear_logprob(hidden, torch.zeros(300, 2), torch.tensor([0, 1, 130, 299]), outputs=["is_top1"])
    assert top1.tolist() == [True, False, False, False]
