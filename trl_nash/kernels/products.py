# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Matrix products of 16-bit factors. CUDA gives them in fp32. A CPU with bf16 instructions is about twice as fast in bf16
as in fp32, but gives bf16: that is too coarse for logits, and fine enough for a part of a gradient.
"""

import torch
from packaging.version import Version
from torch import Tensor


HALVES = (torch.float16, torch.bfloat16)
# fp32 products of 16-bit matrices, on CUDA; 2.8 and 2.9 refuse to add them to an fp32 matrix.
_MM_OUT_DTYPE = Version(torch.__version__) >= Version("2.10.0")


def are_exact(factor: Tensor) -> bool:
    """Whether products of factors like this one come in fp32, and so serve for logits."""
    return factor.is_cuda and factor.dtype in HALVES and _MM_OUT_DTYPE


def are_fast(factor: Tensor) -> bool:
    """Whether products of factors like this one are faster than in fp32, and so serve for gradients."""
    return are_exact(factor) or (factor.is_cpu and factor.dtype == torch.bfloat16 and has_bf16_instructions())


def has_bf16_instructions() -> bool:
    """Whether this CPU has AVX512-BF16, as those with AMX have, as far as torch can tell, and uses it."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16", False)) and torch.backends.mkldnn.is_available()


def multiply(a: Tensor, b: Tensor, out: Tensor, add: bool = False) -> None:
    """`out = a @ b`, or `out += a @ b`; `out` is never a 16-bit one. On a CPU a 16-bit product is rounded before."""
    if a.dtype == out.dtype:
        out.addmm_(a, b) if add else torch.mm(a, b, out=out)
        return
    b = b.to(a.dtype)  # bf16 E, fp16 W
    if a.is_cpu:
        product = torch.mm(a, b)
        out.add_(product) if add else out.copy_(product)
        return
    out_dtype = out.dtype
    torch.addmm(out, a, b, out_dtype=out_dtype, out=out) if add else torch.mm(a, b, out_dtype=out_dtype, out=out)
