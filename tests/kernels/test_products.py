# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""bf16 on a CPU, with and without bf16 instructions: both ways on any machine, against fp64."""

import pytest
import torch

from trl_nash.kernels import products, schedule

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
)


HALF = {"value": 5e-5, "gradient": 4e-3}
SMALL_TILES = {"workspace_bytes": 1}  # 128 columns


@pytest.fixture(params=[True, False], ids=["bf16", "fp32"])
def instructions(request, monkeypatch) -> bool:
    """Whether the machine is taken for one with bf16 instructions."""
    monkeypatch.setattr(products, "has_bf16_instructions", lambda: request.param)
    return request.param


@pytest.fixture
def factors(monkeypatch) -> list[tuple[torch.dtype, int]]:
    """The dtype of each product's factors, and how many of them are added up."""
    found, multiply = [], schedule.multiply

    def spy(a, b, out, add=False):
        assert a.dtype == b.dtype and out.dtype == torch.float32
        found.append((a.dtype, a.size(1)))
        multiply(a, b, out, add)

    monkeypatch.setattr(schedule, "multiply", spy)
    return found


# ---- Which product is used ----


def test_only_gradients_are_multiplied_in_bf16(instructions, factors):
    size, rows, vocabulary = 24, 40, 300  # tell E W (added up over columns) and Eᵀ h (over rows) from logits
    problem = make_problem(rows, size, vocabulary, dtype=torch.bfloat16)
    differentiate(kernel_logps, problem, make_upstream(rows))
    fast = torch.bfloat16 if instructions else torch.float32
    assert factors == [(torch.float32, size), (fast, vocabulary), (torch.float32, size), (fast, rows)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_dtypes_are_multiplied_in_fp32(dtype, instructions, factors):
    differentiate(kernel_logps, make_problem(9, 8, 30, dtype=dtype), make_upstream(9))
    assert {dtype for dtype, _ in factors} == {torch.float32}


@pytest.mark.parametrize("has", [True, False])
def test_instructions_are_what_torch_finds(has, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has}, raising=False)
    assert products.has_bf16_instructions() is (has and torch.backends.mkldnn.is_available())


def test_nothing_is_known_without_torchs_word(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"neon": True}, raising=False)  # another architecture
    assert products.has_bf16_instructions() is False
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # a torch that does not look
    assert products.has_bf16_instructions() is False


# ---- Products ----


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 129, 5), (65, 1000, 33), (128, 4096, 1)], ids=str)
def test_a_product_is_rounded_once(shape):
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(rows, inner, generator=generator).bfloat16()
    b = torch.randn(columns, inner, generator=generator).bfloat16().T
    true, size = a.double() @ b.double(), (a.double().abs() @ b.double().abs())
    out = torch.full((rows, columns), 7.0)
    products.multiply(a, b, out)
    # Half a step of bf16, and sums in fp32.
    assert ((out - true).abs() <= 2.0**-8 * true.abs() + 1e-6 * size).all()


def test_sums_of_products_are_fp32():
    """A thousand equal parts: in bf16 their sum would stop growing at 256 of them."""
    a, b, out = torch.ones(2, 1).bfloat16(), torch.ones(1, 3).bfloat16(), torch.zeros(2, 3)
    for _ in range(1000):
        products.multiply(a, b, out, add=True)
    assert (out == 1000).all()


# ---- Log-probs and gradients ----


@pytest.mark.parametrize("stash_bytes", [0, 10**9], ids=["again", "kept"])
@pytest.mark.parametrize(
    ("rows", "size", "vocabulary"), [(1, 7, 129), (129, 64, 300), (515, 33, 700), (64, 576, 4100), (40, 901, 1000)]
)
def test_sizes(rows, size, vocabulary, stash_bytes, instructions):
    """Neither tokens, hidden size nor vocabulary are multiples of a tile's."""
    problem = make_problem(rows, size, vocabulary, spread=3.0, dtype=torch.bfloat16)
    upstream = -torch.ones(1) if rows == 1 else None
    assert_as_in_fp64(problem, upstream, stash_bytes=stash_bytes, **HALF)
    assert_as_in_fp64(problem, upstream, stash_bytes=stash_bytes, **HALF, **SMALL_TILES)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.7},
        {"logit_scale": 0.0625},
        {"softcap": 3.0},
        {"softcap": 2.0, "logit_scale": 1.7, "temperature": 0.6},
        {"softcap": 30.0, "temperature": 0.5, "logit_scale": -3.0},  # with log-probs below -46
    ],
    ids=str,
)
def test_transforms(options, instructions):
    problem = make_problem(150, 72, 900, spread=4.0, bias=True, dtype=torch.bfloat16) | options
    assert_as_in_fp64(problem, **HALF, **SMALL_TILES)


@pytest.mark.parametrize("reach", [10, 60, 200])
def test_large_logits(reach, instructions):
    problem = make_problem(64, 128, 500, spread=reach / 4.2, dtype=torch.bfloat16)
    assert 0.85 * reach < logits_of(**problem).abs().max() < 1.15 * reach
    # At 200, steps of fp32 are 1.5e-5, and each of 128 summands may round by one.
    assert_as_in_fp64(problem, **HALF | ({"value": 2e-4} if reach == 200 else {}), **SMALL_TILES)


def test_rows_of_gradients(instructions):
    """Parts from 40 tiles, each of them rounded, and no row far off."""
    problem = make_problem(200, 96, 5000, spread=5.0, dtype=torch.bfloat16)
    upstream = make_upstream(200)
    _, found = differentiate(kernel_logps, problem, upstream, **SMALL_TILES)
    _, true = differentiate(true_logps, problem, upstream, dtype=torch.float64)
    errors = row_errors(found["hidden"], true["hidden"])
    assert errors.quantile(0.95) <= 6e-3 and errors.max() <= 1.5e-2


def test_autocast_and_an_adapter(instructions):
    """Weights in fp32 are rounded to bf16 for both products; an adapter's are not."""
    problem = make_problem(90, 48, 700, spread=4.0, bias=True, rank=3)
    upstream = make_upstream(90)
    with torch.autocast("cpu", torch.bfloat16):
        logps, gradients = differentiate(kernel_logps, problem, upstream, **SMALL_TILES)
    true, true_gradients = differentiate(
        true_logps, rounded(problem, torch.bfloat16, "bias", "a", "b"), upstream, dtype=torch.float64
    )
    assert (logps - true).abs().max() <= 5e-5
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert relative_error(gradient, true_gradients[name]) <= 7e-3, name


def test_twice_the_same(instructions):
    problem = make_problem(130, 40, 700, dtype=torch.bfloat16)
    first, second = (differentiate(kernel_logps, problem, make_upstream(130), **SMALL_TILES) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(first[1][name], second[1][name]) for name in first[1])
