# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The fused log-ratio kernel: log-probs of tokens, and their differences, without logits."""

from .logprob import LoRA, linear_logprob
from .logratio import Head, LogRatioOutput, linear_logratio
from .patch import patch_trl


__all__ = ["Head", "LoRA", "LogRatioOutput", "linear_logprob", "linear_logratio", "patch_trl"]
