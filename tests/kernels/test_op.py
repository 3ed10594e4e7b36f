# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The operator among torch's: its contract, autograd, `torch.compile`, and that runs repeat."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from trl_nash.kernels import LoRA, linear_logprob, op

from .oracle import (
    assert_as_in_fp64,
    differentiate,
    kernel_logps,
    make_problem,
    make_upstream,
    relative_error,
    true_logps,
    with_logps,
)


SMALL_TILES = {"workspace_bytes": 1}  # 128 columns
STASHES = pytest.mark.parametrize("stash_bytes", [0, 4 * 150 * 4, 10**9], ids=["again", "some", "kept"])


# ---- Contract ----


def operands(dtype=torch.float32, trains=True, bias=True, softcap=3.0, rows=5, stash_rows=3, statistics=True):
    """Positional arguments of `op.forward`, with two pairs of factors."""
    problem = make_problem(rows, 8, 20, bias=True, dtype=dtype)
    more = make_problem(rows, 2, 20, seed=1, dtype=dtype)
    hiddens, weights = ([p[name] for p in (problem, more)] for name in ("hidden", "weight"))
    for tensor in (*hiddens, *weights, problem["bias"]):
        tensor.requires_grad_(trains)
    hiddens[0].requires_grad_()
    options = (problem["targets"], 1.5, softcap, 0.7, 4, 7, False, True, stash_rows, statistics)
    return (hiddens, weights, problem["bias"] if bias else None, *options)


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"dtype": torch.bfloat16, "stash_rows": 5},
        {"trains": False, "stash_rows": 0, "statistics": False},
        {"bias": False, "softcap": None, "stash_rows": 0},
        {"rows": 0, "stash_rows": 0},
    ],
    ids=str,
)
def test_opcheck(case):
    arguments = operands(**case)
    torch.library.opcheck(op.forward, arguments)
    with torch.no_grad():
        *_, row_scale, anchor, target_entry, stash = op.forward(*arguments)
        hiddens, weights, bias, targets, *options = arguments
        parts = [[tensor.detach() for tensor in tensors] for tensors in (hiddens, weights)]
        backward = (*parts, None if bias is None else bias.detach(), targets, *options[:6])
        for wanted in ([True, False, bias is not None], [False, True, False]):
            torch.library.opcheck(op.weight_gradients, (*backward, row_scale, anchor, target_entry, stash, wanted))


# ---- Shapes and strides ----


@pytest.mark.parametrize("arrangement", ["transposed weight", "strided hidden", "expanded hidden"])
def test_strides(arrangement):
    problem = make_problem(24, 20, 150)
    if arrangement == "transposed weight":
        problem["weight"] = problem["weight"].T.contiguous().T
    elif arrangement == "strided hidden":
        problem["hidden"] = torch.randn(20, 48, generator=torch.Generator().manual_seed(3)).T[::2]
    else:
        problem["hidden"] = problem["hidden"][:1].expand(24, -1)
    assert_as_in_fp64(problem, **SMALL_TILES)


def test_shapes():
    problem = make_problem(24, 8, 30)
    flat = kernel_logps(problem)
    for shape in [(24,), (2, 12), (2, 3, 4), (24, 1)]:
        shaped = problem | {
            "hidden": problem["hidden"].view(*shape, 8),
            "targets": problem["targets"].view(shape),
        }
        assert torch.equal(kernel_logps(shaped), flat.view(shape))
    assert kernel_logps(problem | {"hidden": problem["hidden"][0], "targets": problem["targets"][0]}).shape == ()


# ---- Autograd ----


@STASHES
@pytest.mark.parametrize("options", [{}, {"softcap": 4.0, "temperature": 0.7, "logit_scale": 1.3}], ids=str)
def test_gradcheck(options, stash_bytes):
    problem = make_problem(6, 5, 150, bias=True, rank=2, spread=2.0, dtype=torch.float64)
    names = ("hidden", "weight", "bias", "a", "b")

    def function(*tensors):
        hidden, weight, bias, a, b = tensors
        return linear_logprob(
            hidden, weight, problem["targets"], bias=bias, lora=LoRA(a, b, 0.7), stash_bytes=stash_bytes,
            **options, **SMALL_TILES,
        )  # fmt: skip

    assert torch.autograd.gradcheck(function, [problem[name].requires_grad_() for name in names], fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@STASHES
def test_backward_twice(stash_bytes, dtype):
    """Nothing that is kept is scaled in place: the second backward finds what the first one found."""
    problem = make_problem(12, 16, 150, bias=True, rank=2, dtype=dtype)
    leaves = [problem[name].requires_grad_() for name in ("hidden", "weight", "bias", "a", "b")]
    logps = kernel_logps(problem, stash_bytes=stash_bytes, **SMALL_TILES)
    before = [leaf.detach().clone() for leaf in leaves]
    upstream = make_upstream(12)
    first, other, third = (
        torch.autograd.grad(logps, leaves, c, retain_graph=True) for c in (upstream, 3 * upstream - 1, upstream)
    )
    assert all(map(torch.equal, first, third)) and not any(map(torch.equal, first, other))
    assert all(map(torch.equal, before, leaves))


@STASHES
def test_runs_repeat_bitwise(stash_bytes):
    problem = with_logps(make_problem(40, 64, 150, dtype=torch.float64), torch.linspace(-120, -0.01, 40))
    runs = [
        differentiate(kernel_logps, problem, make_upstream(40), stash_bytes=stash_bytes, **SMALL_TILES)
        for _ in range(2)
    ]
    (first, first_gradients), (second, second_gradients) = runs
    assert torch.equal(first, second)
    assert all(torch.equal(first_gradients[name], second_gradients[name]) for name in first_gradients)


@pytest.mark.parametrize(("frozen", "wanted"), [(True, "hidden"), (False, "hidden"), (False, "weight")])
def test_second_derivatives_raise(frozen, wanted):
    """They are not there, and must not be wrong in silence, as where only the upstream gradient is differentiated."""
    problem = make_problem(4, 6, 20)
    problem["hidden"].requires_grad_()
    problem["weight"].requires_grad_(not frozen)
    with pytest.raises(RuntimeError):
        loss = kernel_logps(problem).pow(2).sum()
        (gradient,) = torch.autograd.grad(loss, problem[wanted], create_graph=True)
        gradient.pow(2).sum().backward()


def test_partial_gradients():
    """Any one leaf alone."""
    problem = make_problem(8, 16, 150, bias=True, rank=2)
    _, true = differentiate(true_logps, problem, torch.ones(8), dtype=torch.float64)
    for name, gradient in true.items():
        frozen = [other for other in true if other != name]
        _, found = differentiate(kernel_logps, problem, torch.ones(8), frozen=frozen)
        assert relative_error(found[name], gradient) <= 1e-5
        assert all(found[other] is None for other in frozen)


def test_checkpointing():
    problem = make_problem(8, 16, 150)
    upstream = make_upstream(8)
    plain = differentiate(kernel_logps, problem, upstream)[1]

    def checkpointed(problem, **_):
        return torch.utils.checkpoint.checkpoint(kernel_logps, problem, use_reentrant=False)

    again = differentiate(checkpointed, problem, upstream)[1]
    assert all(torch.equal(plain[name], again[name]) for name in plain)


# ---- torch.compile ----


@pytest.fixture
def compiled():
    """`linear_logprob`'s compiled twin, and a counter of its graphs."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    yield torch.compile(kernel_logps, fullgraph=True, backend=counter), counter
    torch._dynamo.reset()


@pytest.mark.parametrize("options", [{}, {"softcap": 4.0, "temperature": 0.7, "logit_scale": 1.3}], ids=str)
@pytest.mark.parametrize("frozen", [(), ("weight", "bias")], ids=["trained", "frozen"])
def test_compiled_equals_eager(compiled, frozen, options):
    function, counter = compiled
    problem = make_problem(10, 12, 150, bias=True, rank=2) | options
    run = {"frozen": frozen, "stash_bytes": 4 * 150 * 4, **SMALL_TILES}
    found, gradients = differentiate(function, problem, make_upstream(10), **run)
    eager, eager_gradients = differentiate(kernel_logps, problem, make_upstream(10), **run)
    assert torch.equal(found, eager)
    for name, gradient in eager_gradients.items():
        assert gradients[name] is gradient is None or torch.equal(gradients[name], gradient)
    (graph,) = counter.graphs
    assert [str(node.target) for node in graph.graph.nodes].count("trl_nash.linear_logprob.default") == 1


def test_compiled_for_any_number_of_rows(compiled):
    """Batches of other sizes and options of other values compile too, instead of breaking the graph."""
    function, _ = compiled
    for rows, options in ((4, {}), (9, {}), (11, {"temperature": 0.7}), (17, {"temperature": 0.9, "softcap": 5.0})):
        problem = make_problem(rows, 12, 150) | options
        found, gradients = differentiate(function, problem, make_upstream(rows))
        eager, eager_gradients = differentiate(kernel_logps, problem, make_upstream(rows))
        assert torch.equal(found, eager)
        assert all(torch.equal(gradients[name], eager_gradients[name]) for name in gradients)


def test_compiled_under_autocast(compiled):
    function, _ = compiled
    problem = make_problem(10, 12, 150)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(function(problem), kernel_logps(problem))
