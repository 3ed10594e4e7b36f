# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The truth for the kernels' tests: log-softmax of whole logits in fp64, and problems to try it on."""

import torch
from torch import Tensor

from trl_nash.kernels import LoRA, linear_logprob


TENSORS = ("hidden", "weight", "bias", "a", "b")


def make_problem(
    rows: int, size: int, vocabulary: int, *, spread: float = 1.0, bias=False, rank=0, seed=0, dtype=torch.float32
) -> dict:
    """Arguments of `linear_logprob`, with logits of standard deviation `spread`; `a` and `b` stand for `lora`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    problem = {
        "hidden": normal(rows, size),
        "weight": normal(vocabulary, size, scale=spread * size**-0.5),
        "targets": torch.randint(vocabulary, (rows,), generator=generator),
    }
    if bias:
        problem["bias"] = normal(vocabulary)
    if rank:
        problem |= {"a": normal(rank, size, scale=size**-0.5), "b": normal(vocabulary, rank), "scale": 0.7}
    return problem


def with_logps(problem: dict, logps: Tensor | float, dtype=torch.float32) -> dict:
    """`problem` (in fp64, with fewer rows than hidden sizes) with these log-probs, up to the rounding to `dtype`."""
    rows = len(problem["targets"])
    targets = torch.arange(rows)
    logits = problem["hidden"] @ problem["weight"].T
    others = logits.scatter(1, targets[:, None], -torch.inf).logsumexp(1)
    logps = torch.as_tensor(logps, dtype=torch.float64)
    missing = others + logps - torch.log(-torch.expm1(logps)) - logits[targets, targets]
    weight = problem["weight"].clone()
    weight[:rows] += missing[:, None] * torch.linalg.pinv(problem["hidden"]).T  # moves no other row's logits
    return {"hidden": problem["hidden"].to(dtype), "weight": weight.to(dtype), "targets": targets}


def make_upstream(rows: int, seed: int = 1) -> Tensor:
    """Of both signs and all sizes, with zeros."""
    upstream = torch.randn(rows, generator=torch.Generator().manual_seed(seed)) ** 3
    upstream[::5] = 0.0
    return upstream


def logits_of(
    hidden, weight, *, bias=None, a=None, b=None, scale=1.0, temperature=1.0, logit_scale=1.0, softcap=None, **_
) -> Tensor:
    """Whole logits in fp64, divided by the temperature."""
    logits = hidden.double() @ weight.double().T
    if a is not None:
        logits = logits + scale * (hidden.double() @ a.double().T) @ b.double().T
    if bias is not None:
        logits = logits + bias.double()
    logits = logits * logit_scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits / temperature


def true_logps(problem: dict) -> Tensor:
    logps = logits_of(**problem).log_softmax(-1)
    return logps.gather(-1, problem["targets"][..., None])[..., 0]


def kernel_logps(problem: dict, **options) -> Tensor:
    arguments = dict(problem)
    if "a" in arguments:
        arguments["lora"] = LoRA(arguments.pop("a"), arguments.pop("b"), arguments.pop("scale"))
    return linear_logprob(**arguments, **options)


def differentiate(function, problem: dict, upstream: Tensor, *, frozen=(), dtype=None, **options):
    """Log-probs, and by name the gradients of `(upstream * logps).sum()` with respect to each tensor of `problem`."""
    leaves = {
        name: problem[name].detach().to(dtype or problem[name].dtype).requires_grad_(name not in frozen)
        for name in TENSORS
        if name in problem
    }
    logps = function({**problem, **leaves}, **options)
    logps.backward(upstream.to(logps.dtype))
    return logps.detach(), {name: leaf.grad for name, leaf in leaves.items()}


def relative_error(found: Tensor, true: Tensor) -> float:
    """Of the Frobenius norm."""
    return float((found.double() - true.double()).norm() / true.double().norm())


def row_errors(found: Tensor, true: Tensor) -> Tensor:
    """Of each row's norm, for rows that have one."""
    norms = true.double().norm(dim=-1)
    return ((found.double() - true.double()).norm(dim=-1) / norms)[norms > 0]


def rounded(problem: dict, dtype: torch.dtype, *but: str) -> dict:
    """`problem` with all tensors in `dtype`, except for some."""
    return {k: v.to(dtype) if k in TENSORS and k not in but else v for k, v in problem.items()}


def assert_as_in_fp64(problem: dict, upstream: Tensor | None = None, *, value=2e-5, gradient=1e-5, **options) -> None:
    """Asserts that values and all gradients are those of fp64 on the same inputs."""
    upstream = make_upstream(len(problem["targets"])) if upstream is None else upstream
    logps, gradients = differentiate(kernel_logps, problem, upstream, **options)
    true, true_gradients = differentiate(true_logps, problem, upstream, dtype=torch.float64)
    assert (logps - true).abs().max() <= value
    for name, found in gradients.items():
        assert found.dtype == problem[name].dtype
        assert relative_error(found, true_gradients[name]) <= gradient, name
