# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
The Triton kernels on a GPU, or else in Triton's interpreter. `test_triton.py` runs these tests in a process of their
own, because the interpreter has to be chosen before Triton is imported. It cuts floats off to bf16 where a GPU rounds
them.
"""

import oracle
import pytest
import torch
import triton
import triton.language as tl
from oracle import assert_as_in_fp64, differentiate, kernel_logps, logits_of, relative_error, true_logps

from trl_nash.kernels import folds, triton_folds


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # where the interpreter is
BF16_CUT = 2**-7  # of a number, at most; half of it if rounded
FP32_CLOSE = {"rtol": 2e-6, "atol": 2e-6}


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def make_problem(*sizes, **options):
    """That of the oracle, here."""
    problem = oracle.make_problem(*sizes, **options)
    return {key: value.to(DEVICE) if isinstance(value, torch.Tensor) else value for key, value in problem.items()}


def make_upstream(rows):
    return oracle.make_upstream(rows).to(DEVICE)


@pytest.fixture
def narrow_blocks(monkeypatch):
    """Blocks of 64 columns, so that small matrices have several and a rest."""
    shape = triton_folds._shape
    monkeypatch.setattr(triton_folds, "_shape", lambda rows: {**shape(rows), "block": 64})


# ---- Each function against its twin ----


def fold_arguments(rows, columns, *, bias, softcap, target_entry, spread):
    targets = torch.arange(rows) * 37 % (3 * columns) - columns  # a third of them in the tile
    targets[: min(rows, 4)] = torch.tensor([0, columns - 1, columns, -1])[: min(rows, 4)]
    targets = targets.to(DEVICE)
    return {
        "tile": spread * randn(rows, columns, seed=1),
        "bias": None if bias is None else randn(columns, seed=2, dtype=bias),
        "targets": targets,
        "anchor": randn(rows, seed=3),
        "target_entry": randn(rows, seed=4) if target_entry else None,
        "logit_scale": 0.6,
        "softcap": softcap,
        "temperature": 1.0 if softcap is None else 0.8,
        "sums": None,
        "statistics": None,
        "entries": None,
    }


def fold_with(module, arguments, *, sums, statistics, entries):
    """What one of the modules makes, in views that are strided and do not begin where their memory does."""
    rows, columns = arguments["tile"].shape
    arguments = {**arguments, "tile": arguments["tile"].clone()}
    if sums:
        arguments["sums"] = torch.full((rows, 3), 7.0, device=DEVICE)[:, 1]
    if statistics:
        arguments["statistics"] = torch.full((2, 3, rows + 5), 7.0, device=DEVICE)[1, :, 2 : rows + 2]
    stash = None
    if entries == "tile":
        arguments["entries"] = arguments["tile"]
    elif entries is not None:
        stash = torch.full((rows + 1, columns + 9), 7.0, dtype=entries, device=DEVICE)
        arguments["entries"] = stash[1:, 3 : columns + 3]
    module.fold(**arguments)
    return arguments["sums"], arguments["statistics"], arguments["entries"], stash


@pytest.mark.parametrize("rows, columns", [(1, 1), (3, 64), (7, 200)])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize(
    "bias, target_entry, sums, statistics, entries",
    [
        (None, False, True, False, None),
        (None, False, True, False, torch.bfloat16),
        (torch.bfloat16, False, True, True, torch.bfloat16),
        (torch.float32, False, True, True, "tile"),
        (torch.float16, True, False, False, torch.float32),
        (None, True, False, False, torch.bfloat16),
        (None, True, True, True, "tile"),
    ],
)
def test_fold_is_its_twin(narrow_blocks, rows, columns, softcap, bias, target_entry, sums, statistics, entries):
    arguments = fold_arguments(rows, columns, bias=bias, softcap=softcap, target_entry=target_entry, spread=2.0)
    outputs = {"sums": sums, "statistics": statistics, "entries": entries}
    found = fold_with(triton_folds, arguments, **outputs)
    true = fold_with(folds, arguments, **outputs)
    tolerance = {"rtol": BF16_CUT, "atol": 0} if entries == torch.bfloat16 else FP32_CLOSE
    if sums:
        torch.testing.assert_close(found[0], true[0], **FP32_CLOSE)
    if statistics:
        torch.testing.assert_close(found[1], true[1], rtol=1e-5, atol=1e-5)
        assert torch.equal(found[1][2], true[1][2])  # who wins is counted
    if entries is not None:
        torch.testing.assert_close(found[2], true[2], **tolerance)
    if found[3] is not None:
        found[2].zero_()
        true[2].zero_()
        assert torch.equal(found[3], true[3])  # nothing is written around the entries


def test_fold_of_many_rows_takes_another_launch():
    arguments = fold_arguments(512, 2, bias=None, softcap=None, target_entry=False, spread=1.0)
    assert triton_folds._shape(512) != triton_folds._shape(511)
    found = fold_with(triton_folds, arguments, sums=True, statistics=False, entries="tile")
    true = fold_with(folds, arguments, sums=True, statistics=False, entries="tile")
    for one, other in zip(found[::2], true[::2], strict=True):
        torch.testing.assert_close(one, other, **FP32_CLOSE)


def test_entries_may_lie_over_two_billion_further():
    memory = torch.empty(2**31 + 8, dtype=torch.bfloat16, device=DEVICE)  # of which nearly all is never touched
    entries = memory.as_strided((3, 8), (2**30, 1))
    arguments = fold_arguments(3, 8, bias=None, softcap=None, target_entry=False, spread=1.0)
    expected = fold_with(folds, arguments, sums=False, statistics=False, entries=torch.bfloat16)[2]
    triton_folds.fold(**{**arguments, "entries": entries})
    torch.testing.assert_close(entries, expected, rtol=BF16_CUT, atol=0)


def test_equal_logits_win_only_before_the_target():
    tile, targets = torch.full((4, 5), 0.1, device=DEVICE), torch.tensor([0, 2, 4, 9], device=DEVICE)
    statistics = torch.empty(3, 4, device=DEVICE)
    anchor = torch.full((4,), 0.1, device=DEVICE) * 0.7
    triton_folds.fold(tile, None, targets, anchor, None, 0.7, None, 1.0, None, statistics, None)
    assert statistics[2].tolist() == [0, 2, 4, 5]


@pytest.mark.parametrize("hidden_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("transposed", [False, True])
def test_target_logits_and_rows_are_their_twins(narrow_blocks, hidden_dtype, transposed):
    rows, size, vocabulary = 7, 135, 11
    # Of few bits: what is rounded to 16 is not what this test is about.
    hidden = (8 * randn(rows, size + 2)).round().div(8).to(hidden_dtype)[:, 1:-1]
    weight = (8 * randn(vocabulary, size, seed=1)).round().div(8)
    weight = weight.T.contiguous().T if transposed else weight
    targets = torch.randint(vocabulary, (2 * rows,), generator=torch.Generator().manual_seed(2)).to(DEVICE)[::2]
    scale = randn(2 * rows, seed=3)[::2]
    found, true = (torch.ones(rows, 2, device=DEVICE) for _ in range(2))
    found_gradient, true_gradient = (torch.ones(rows, size + 4, device=DEVICE) for _ in range(2))
    for module, logits, gradient in [(triton_folds, found, found_gradient), (folds, true, true_gradient)]:
        module.target_logits(hidden, weight, targets, logits[:, 1])
        module.add_target_rows(gradient[:, 2:-2], weight, targets, scale, hidden_dtype)
    torch.testing.assert_close(found, true, rtol=2e-6, atol=1e-5)
    torch.testing.assert_close(found_gradient, true_gradient, rtol=1e-6, atol=1e-6)


def test_nothing_is_launched_for_no_rows(monkeypatch):
    """Every launch asks for its shape, as that of one row does in the end."""
    launched, shape = [], triton_folds._shape
    monkeypatch.setattr(triton_folds, "_shape", lambda rows: launched.append(rows) or shape(rows))
    empty, weight, none = randn(0, 4), randn(3, 4), torch.empty(0, dtype=torch.int64, device=DEVICE)
    triton_folds.target_logits(empty, weight, none, randn(0))
    triton_folds.add_target_rows(empty, weight, none, randn(0), torch.float32)
    triton_folds.fold(empty, None, none, randn(0), None, 1.0, None, 1.0, randn(0), None, None)
    assert launched == []
    one, target = randn(1, 4), torch.zeros(1, dtype=torch.int64, device=DEVICE)
    triton_folds.target_logits(one, weight, target, randn(1))
    triton_folds.add_target_rows(one, weight, target, randn(1), torch.float32)
    triton_folds.fold(one, None, target, randn(1), None, 1.0, None, 1.0, randn(1), None, None)
    assert launched == [1, 1, 1]


@triton.jit
def tanh_of(x, out, block: tl.constexpr):
    index = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(out + index, triton_folds._tanh(tl.load(x + index)))


def test_tanh_keeps_its_digits():
    x = torch.cat([torch.logspace(-30, 1.5, 2**15), torch.linspace(0, 8, 2**15 - 1), torch.tensor([torch.inf])])
    x = torch.cat([x, -x]).to(DEVICE)
    found, true = torch.empty_like(x), torch.tanh(x.double())
    tanh_of[(len(x) // 2**12,)](x, found, block=2**12)
    error = (found - true).abs()
    last_bits = 2 if DEVICE == "cuda" else 1  # exp and division are to 2 units in the last place there
    assert error.max() <= 1e-7 * last_bits
    assert (error / true.abs())[true != 0].max() <= 1.5e-7 * last_bits


# ---- Through `linear_logprob`, against autograd in fp64 ----


TILED = {"backend": "triton", "workspace_bytes": 4 * 128 * 129}


@pytest.mark.parametrize("rows", [0, 1, 127, 129])
def test_any_number_of_rows(rows):
    problem = make_problem(rows, 24, 130)
    if rows:
        assert_as_in_fp64(problem, torch.ones(rows, device=DEVICE) if rows == 1 else make_upstream(rows), **TILED)
    else:
        assert kernel_logps(problem, **TILED).shape == (0,)


@pytest.mark.parametrize(
    "kinds, options",
    [
        ({"spread": 3.0}, {"stash_bytes": 0}),
        ({"spread": 3.0}, {"stash_bytes": 2**30}),
        ({"spread": 3.0, "bias": True}, {"stash_bytes": 4 * 300 * 6}),  # six rows are kept
        ({"rank": 3, "bias": True}, {"temperature": 0.7, "logit_scale": 0.4}),
        ({"spread": 8.0, "bias": True}, {"softcap": 5.0}),
        ({"spread": 8.0, "rank": 3}, {"softcap": 5.0, "temperature": 0.7, "logit_scale": 1.7, "stash_bytes": 2**30}),
    ],
)
def test_trained_head(kinds, options):
    problem = make_problem(17, 25, 300, **kinds)
    plain = {name: value for name, value in options.items() if name != "stash_bytes"}
    upstream = make_upstream(17)
    logps, gradients = differentiate(kernel_logps, problem, upstream, **options, **TILED)
    true, true_gradients = differentiate(
        lambda parts: true_logps({**parts, **plain}), problem, upstream, dtype=torch.float64
    )
    assert (logps - true).abs().max() <= 2e-5
    for name, gradient in gradients.items():
        assert relative_error(gradient, true_gradients[name]) <= 1e-5, name


def test_frozen_head():
    problem = make_problem(17, 25, 300, bias=True)
    upstream, frozen = make_upstream(17), ("weight", "bias")
    logps, gradients = differentiate(kernel_logps, problem, upstream, frozen=frozen, **TILED)
    true, true_gradients = differentiate(true_logps, problem, upstream, frozen=frozen, dtype=torch.float64)
    assert (logps - true).abs().max() <= 2e-5
    assert relative_error(gradients["hidden"], true_gradients["hidden"]) <= 1e-5
    assert gradients["weight"] is None and gradients["bias"] is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(dtype):
    problem = make_problem(17, 25, 300, spread=3.0, bias=True, dtype=dtype)
    upstream = make_upstream(17)
    logps, gradients = differentiate(kernel_logps, problem, upstream, stash_bytes=2**30, **TILED)
    true, true_gradients = differentiate(true_logps, problem, upstream, dtype=torch.float64)
    assert (logps - true).abs().max() <= 5e-5
    for name, gradient in gradients.items():
        assert relative_error(gradient, true_gradients[name]) <= 8e-3, name  # twice that of rounded entries


@pytest.mark.parametrize("stash_bytes", [0, 2**30])
def test_very_unlikely_targets(stash_bytes):
    """A bias of -100 or -200 at the target: its log-prob is that or less, and rows with a sum over 1e30 are redone."""
    problem = make_problem(6, 25, 300, bias=True)
    problem["targets"] = torch.tensor([0, 1, 2, 3, 0, 1], device=DEVICE)
    problem["bias"][:3] = torch.tensor([-60.0, -100.0, -200.0])
    logps, gradients = differentiate(
        kernel_logps, problem, torch.ones(6, device=DEVICE), stash_bytes=stash_bytes, **TILED
    )
    true, true_gradients = differentiate(true_logps, problem, torch.ones(6, device=DEVICE), dtype=torch.float64)
    assert true.min() < -200
    assert ((logps - true) / true).abs().max() <= 1e-6
    for name, gradient in gradients.items():
        assert relative_error(gradient, true_gradients[name]) <= 1e-5, name


def test_statistics():
    problem = make_problem(9, 25, 300, spread=3.0, bias=True)
    problem["targets"][:3] = logits_of(**problem)[:3].argmax(-1)
    names = ("log_probs", "entropy", "mean_logits", "is_top1")
    options = {"temperature": 0.7, "softcap": 20.0}
    found = dict(zip(names, kernel_logps(problem, outputs=names, **options, **TILED), strict=True))
    logits = logits_of(**problem, **options)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(found["entropy"].double(), entropy, rtol=0, atol=2e-5)
    torch.testing.assert_close(found["mean_logits"].double(), logits.mean(-1), rtol=0, atol=2e-5)
    assert torch.equal(found["is_top1"], logits.argmax(-1) == problem["targets"])
    assert found["is_top1"].any() and not found["is_top1"].all()


def test_rows_out_of_the_mask_do_not_matter():
    problem = make_problem(9, 25, 300)
    mask = torch.arange(9, device=DEVICE) % 3 != 1
    upstream = make_upstream(9)
    true, true_gradients = differentiate(true_logps, problem, upstream * mask, dtype=torch.float64)
    problem["hidden"][~mask] = torch.nan
    problem["targets"][~mask] = -100
    logps, gradients = differentiate(kernel_logps, problem, upstream, mask=mask, **TILED)
    torch.testing.assert_close(logps.double(), true * mask, rtol=0, atol=2e-5)
    for name, gradient in gradients.items():
        assert relative_error(gradient, true_gradients[name]) <= 1e-5, name


def test_layouts_of_the_callers():
    """A transposed weight, transposed hidden states and every second target."""
    problem = make_problem(18, 25, 300)
    problem = {
        "hidden": problem["hidden"][:9].T.contiguous().T,
        "weight": problem["weight"].T.contiguous().T,
        "targets": problem["targets"][::2],
    }
    assert_as_in_fp64(problem, make_upstream(9), **TILED)


def test_twice_is_bitwise_the_same():
    problem, upstream = make_problem(9, 25, 300, bias=True), make_upstream(9)
    first, second = (differentiate(kernel_logps, problem, upstream, **TILED) for _ in range(2))
    assert torch.equal(first[0], second[0])
    for name in first[1]:
        assert torch.equal(first[1][name], second[1][name])


# ---- What the interpreter is too slow for, and what only a GPU has ----


@pytest.mark.skipif(DEVICE == "cpu", reason="products of 16-bit matrices with fp32 results are a GPU's")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("frozen", [(), ("weight",)])
def test_large_heads_are_as_exact(dtype, backend, frozen):
    problem = make_problem(700, 896, 20_000, spread=5.0, dtype=dtype)
    upstream = make_upstream(700)
    logps, gradients = differentiate(kernel_logps, problem, upstream, frozen=frozen, backend=backend)
    true, true_gradients = differentiate(true_logps, problem, upstream, frozen=frozen, dtype=torch.float64)
    assert (logps - true).abs().max() <= 5e-5
    for name, gradient in gradients.items():
        if name not in frozen:
            assert relative_error(gradient, true_gradients[name]) <= 4e-3, name


@pytest.mark.skipif(DEVICE == "cpu", reason="frees memory of a GPU")
def test_a_frozen_head_needs_no_memory_for_logits():
    problem = make_problem(4096, 64, 50_000, dtype=torch.bfloat16)
    problem["hidden"].requires_grad_()
    for expected in (None, 128 * 2**20):  # the first one compiles
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        kernel_logps(problem, workspace_bytes=32 * 2**20).sum().backward()
        if expected is not None:
            assert torch.cuda.max_memory_allocated() - before <= expected  # logits in bf16 are 390 MiB
