# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Loading models that judge on this machine."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ...extras import pip_install


NF4 = {"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}


def load_model(auto_class: Any, path: str, *, kind: str, device: Any = None, **model_kwargs) -> nn.Module:
    """
    Load a model that judges: whole on every process, from safetensors, without code from the hub.

    Args:
        auto_class (`type`):
            What has the `from_pretrained`.
        path (`str`):
            Path or hub id.
        kind (`str`):
            What the model ought to be, for error messages: `"a reward model"`.
        device (`str` or `torch.device`, *optional*):
            Where to put it.
        model_kwargs:
            Arguments of `from_pretrained`, such as `dtype`, `revision` or `quantization_config`. `load_in_4bit=True`
            and `load_in_8bit=True` are short for a `BitsAndBytesConfig` (NF4). `use_safetensors=False` also reads
            pickled weights.

    Raises:
        `ValueError`: If there is no model, it lacks weights, or has none in safetensors.
        `ImportError`: If it is to be quantised and bitsandbytes is missing.
    """
    options = {"use_safetensors": True, **model_kwargs}
    if short := {key: options.pop(key) for key in ("load_in_4bit", "load_in_8bit") if key in options}:
        options["quantization_config"] = {**short, **NF4}
    if options.get("quantization_config") is not None and device is not None:
        options.setdefault("device_map", {"": device})  # quantised while it is loaded, on the device
    try:
        with whole_weights():
            model, info = auto_class.from_pretrained(path, output_loading_info=True, **options)
    except OSError as error:
        if "safetensors" not in str(error) or not options["use_safetensors"]:
            raise not_found(path, kind, error) from error
        raise ValueError(
            f"{path} has no weights in safetensors; convert them, or, if you trust the file, which may hold code, "
            f'pass `model_kwargs={{"use_safetensors": False}}`.'
        ) from error
    except ImportError as error:
        if "quantization_config" not in options:
            raise
        raise ImportError(f"Quantised judges need bitsandbytes: {pip_install('quantization')} ({error}).") from None
    if untrained := [*info["missing_keys"], *info["mismatched_keys"]]:
        raise ValueError(f"{path} is not {kind}: {untrained} would be random.")
    return model.eval() if device is None or "device_map" in options else model.eval().to(device)


def load_tokenizer(path: str, model_kwargs: dict[str, Any] | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of the model at `path`, loaded as `model_kwargs` say that the model is."""
    options = {key: value for key, value in (model_kwargs or {}).items() if key in ("revision", "trust_remote_code")}
    try:
        return AutoTokenizer.from_pretrained(path, **options)
    except OSError as error:
        raise not_found(path, "the judge's tokenizer", error) from error


def not_found(path: str, kind: str, error: Exception) -> ValueError:
    """What is said of a path or hub id of which something cannot be loaded that ought to be a `kind`."""
    reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
    return ValueError(
        f"{path!r} cannot be loaded as {kind}: check the path or hub id, and your token if it is gated ({reason})."
    )


@contextlib.contextmanager
def whole_weights() -> Iterator[None]:
    """
    Here `from_pretrained` gives whole models. For the policy's sake it is told to shard them under ZeRO-3, where a
    judge would get empty weights (`'weight' must be 2-D`), and under FSDP to read them on the first process only.
    """
    from transformers.integrations import deepspeed

    reference = deepspeed._hf_deepspeed_config_weak_ref
    config = reference() if reference is not None else None
    fsdp = os.environ.pop("FSDP_CPU_RAM_EFFICIENT_LOADING", None)
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            deepspeed.set_hf_deepspeed_config(config)
        if fsdp is not None:
            os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = fsdp
