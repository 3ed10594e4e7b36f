# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Models that judge on this machine: how they are loaded, and run on many texts of different lengths."""

import contextlib
import inspect
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase


logger = logging.getLogger(__name__)

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
        `ValueError`: If the model lacks weights, or has none in safetensors.
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
            raise
        raise ValueError(
            f"{path} has no weights in safetensors; convert them, or, if you trust the file, which may hold code, "
            f'pass `model_kwargs={{"use_safetensors": False}}`.'
        ) from error
    except ImportError as error:
        if "quantization_config" not in options:
            raise
        raise ImportError(
            f'Quantised judges need bitsandbytes: pip install "trl-nash[quantization]" ({error}).'
        ) from None
    if untrained := [*info["missing_keys"], *info["mismatched_keys"]]:
        raise ValueError(f"{path} is not {kind}: {untrained} would be random.")
    return model.eval() if device is None or "device_map" in options else model.eval().to(device)


def load_tokenizer(path: str, model_kwargs: dict[str, Any] | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of the model at `path`, loaded as `model_kwargs` say that the model is."""
    options = {key: value for key, value in (model_kwargs or {}).items() if key in ("revision", "trust_remote_code")}
    return AutoTokenizer.from_pretrained(path, **options)


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


@contextlib.contextmanager
def on_device(model: nn.Module, device: Any, offload: bool) -> Iterator[None]:
    """With `offload`, the model is on `device` in here and on the CPU outside."""
    if not offload:
        yield
        return
    model.to(device)
    try:
        yield
    finally:
        model.to("cpu")
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()  # room for the policy


def check_offload(offload: bool, device: Any) -> None:
    if offload and device is None:
        raise ValueError("`offload=True` needs a `device`, where the judge is put while it judges.")


def batches(lengths: list[int], tokens: int) -> list[list[int]]:
    """Rows of similar length together, of at most `tokens` tokens with their padding; a longer row is alone."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):  # a group begins with its longest row
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def pad(sequences: list[list[int]], side: str) -> dict[str, torch.Tensor]:
    """
    Token ids as `input_ids`, `attention_mask` and `position_ids` of shape (rows, longest). Padding is token 0, masked.
    """
    longest = max(map(len, sequences))
    ids, mask = torch.zeros(2, len(sequences), longest, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        place = slice(longest - len(sequence), None) if side == "left" else slice(len(sequence))
        ids[row, place] = torch.tensor(sequence)
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


class LocalModel:
    """
    A model that judges, and its tokenizer.

    Args:
        model (`str` or `nn.Module`):
            Path or hub id, or the model itself.
        tokenizer (`str` or [`~transformers.PreTrainedTokenizerBase`], *optional*):
            By default it is loaded from where the model came from.
        auto_class, kind, model_kwargs:
            See [`load_model`]; for models given by path.
        device (`str` or `torch.device`, *optional*):
            Where the model judges. By default it stays where it is.
        offload (`bool`, *optional*, defaults to `False`):
            Whether it is on the CPU while it does not judge.
        tokens_per_batch (`int`, *optional*, defaults to `16384`):
            Most tokens of a forward, padding included. A longer text is alone in its forward.
        max_length (`int`, *optional*):
            Most tokens of a text. By default what the model's configuration says, if it does.

    Attributes:
        contexts_cut (`int`): prompts that were cut to fit.
    """

    def __init__(
        self,
        model: str | nn.Module,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        *,
        auto_class: Any,
        kind: str,
        device: Any = None,
        offload: bool = False,
        tokens_per_batch: int = 16384,
        max_length: int | None = None,
        model_kwargs: dict[str, Any] | None = None,
    ):
        check_offload(offload, device)
        for name, value in {"tokens_per_batch": tokens_per_batch, "max_length": max_length}.items():
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be positive, got {value}.")
        self.path = model if isinstance(model, str) else None
        self.model_kwargs = model_kwargs or {}
        self.device, self.offload = device, offload
        self.tokens_per_batch = tokens_per_batch
        self.contexts_cut = 0
        if isinstance(model, str):
            start = "cpu" if offload else device
            model = load_model(auto_class, model, kind=kind, device=start, **self.model_kwargs)
        elif device is not None and not offload:
            model = model.to(device)
        self.model = model.eval()
        name = model.config._name_or_path
        if tokenizer is None and not name:
            raise ValueError(
                f"The judge model {type(model).__name__} was not loaded from a path, so its tokenizer is unknown; "
                f"pass it as `tokenizer`."
            )
        if tokenizer is None or isinstance(tokenizer, str):
            tokenizer = load_tokenizer(tokenizer or self.path or name, self.model_kwargs)
        self.tokenizer = tokenizer
        self.max_length = max_length or getattr(model.config.get_text_config(), "max_position_embeddings", None)
        forward = (model.get_base_model() if hasattr(model, "get_base_model") else model).forward
        self._takes_positions = "position_ids" in inspect.signature(forward).parameters

    @property
    def identity(self) -> str | None:
        """
        What the outputs depend on, as JSON; `None` for a model that was given as an object. Weights in a folder are
        known by their files' sizes and times, those from the hub by their commit.
        """
        if self.path is None:
            return None
        files = sorted(Path(self.path).glob("*.safetensors"))
        return json.dumps(
            [
                os.path.abspath(self.path) if files else self.path,
                getattr(self.model.config, "_commit_hash", None),
                [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files],
                {key: value for key, value in self.model_kwargs.items() if key != "token"},
                [self.tokenizer.name_or_path, self.tokenizer.chat_template, self.max_length],
            ],
            sort_keys=True,
            default=repr,
        )

    def count_cut(self) -> None:
        """A prompt was cut."""
        if not self.contexts_cut:
            logger.warning(
                "Judge prompts are cut from the left where a question has more than %d tokens.", self.max_length
            )
        self.contexts_cut += 1

    def run(
        self, sequences: list[list[int]], forward: Callable[..., torch.Tensor], padding_side: str = "left"
    ) -> list[torch.Tensor]:
        """
        Outputs of the model, in batches of rows of similar length.

        Args:
            sequences (`list[list[int]]`):
                Token ids of each row.
            forward (`Callable`):
                `forward(rows, **inputs)` runs `self.model` on a batch: `rows` are the indices of its sequences,
                `inputs` what [`pad`] returns. Its result has a row for each.
            padding_side (`str`, *optional*, defaults to `"left"`):
                With `"left"` the last position of a batch is the last token of every row.

        Returns:
            `list[torch.Tensor]`: one for each sequence, float32 on the CPU.
        """
        outputs: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
        with on_device(self.model, self.device, self.offload), torch.inference_mode():
            device = next(self.model.parameters()).device
            for rows in batches([len(sequence) for sequence in sequences], self.tokens_per_batch):
                inputs = pad([sequences[row] for row in rows], padding_side)
                if not self._takes_positions:
                    del inputs["position_ids"]
                inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
                for row, output in zip(rows, forward(rows, **inputs).float().cpu(), strict=True):
                    outputs[row] = output
        return outputs
