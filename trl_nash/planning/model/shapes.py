# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The sizes of a model that memory and time depend on: from its configuration, or by hand."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ...usage import UsageError
from .known import known_config, near


COUNTS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)
BY_HAND = (*COUNTS, "tie_word_embeddings")


class Linear(NamedTuple):
    """`count` linear layers of the trunk that share name and shape."""

    name: str  # the last part of it: q_proj
    inputs: int
    outputs: int
    count: int

    @property
    def elements(self) -> int:
        return self.inputs * self.outputs * self.count


@dataclass(frozen=True)
class ModelSizes:
    """A causal language model, in numbers of elements. All but the attention's widths can be counted exactly."""

    name: str
    linears: tuple[Linear, ...]  # of the trunk: what is quantised, and what LoRA adapts
    embeddings: tuple[int, ...]  # elements of each embedding; the head's weight too where the two are tied
    head: int  # elements of an output head of its own, 0 if it is the embedding
    others: tuple[int, ...]  # elements of each other tensor: norms, biases
    experts: tuple[int, ...]  # elements of each tensor that holds all experts of a layer
    active_experts: float  # the share of them that a token goes through
    layers: int
    hidden_size: int
    intermediate_size: int  # of what one token goes through
    attention: int  # heads times their size
    key_value: int
    vocabulary: int

    @property
    def parameters(self) -> int:
        return sum(self.tensors)

    @property
    def tensors(self) -> list[int]:
        """The elements of each parameter."""
        linears = [linear.inputs * linear.outputs for linear in self.linears for _ in range(linear.count)]
        return [*linears, *self.embeddings, *([self.head] if self.head else []), *self.others, *self.experts]

    @property
    def trunk(self) -> int:
        """Elements of the trunk's linear layers, without experts."""
        return sum(linear.elements for linear in self.linears)

    @property
    def active(self) -> float:
        """Elements of the trunk that a token is multiplied with."""
        return self.trunk + self.active_experts * sum(self.experts)

    def adapted(self, targets: Iterable[str] | None) -> list[Linear]:
        """The linear layers that LoRA adapts: by default queries and values, as in PEFT, and fused ones if need be."""
        targets = list(targets or ("q_proj", "v_proj", "query_key_value", "qkv_proj", "c_attn"))
        if targets == ["all-linear"]:
            return list(self.linears)
        return [linear for linear in self.linears if linear.name in targets]


def sizes_from_config(config, name: str) -> ModelSizes:
    """
    Counts the parameters of the model that `config` describes, built without memory on the device `meta`.

    Args:
        config ([`~transformers.PreTrainedConfig`]): of a causal language model.
        name (`str`): how the plan calls it.

    Raises:
        `ValueError`: if transformers has no causal language model for it.
    """
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    config = config.get_text_config()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings().weight
    linears, embeddings, experts, others, seen = Counter(), [], [], [], {id(head)}
    tied = any(head is module.weight for module in model.modules() if isinstance(module, nn.Embedding))
    for path, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen and not (tied and isinstance(module, nn.Embedding) and parameter is head):
                continue
            seen.add(id(parameter))
            if key == "weight" and isinstance(module, nn.Linear):
                linears[path.rpartition(".")[2], module.in_features, module.out_features] += 1
            elif isinstance(module, nn.Embedding):
                embeddings.append(parameter.numel())
            else:
                (experts if parameter.dim() == 3 else others).append(parameter.numel())
    hidden, heads = config.hidden_size, config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    per_token = getattr(config, "num_experts_per_tok", None) or 1
    number = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 1
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden
    return ModelSizes(
        name=name,
        linears=tuple(Linear(*key, count) for key, count in linears.items()),
        embeddings=tuple(embeddings),
        head=0 if tied else head.numel(),
        others=tuple(others),
        experts=tuple(experts),
        active_experts=per_token / number,
        layers=config.num_hidden_layers,
        hidden_size=hidden,
        intermediate_size=(getattr(config, "moe_intermediate_size", None) or inner) * per_token if experts else inner,
        attention=heads * head_dim,
        key_value=(getattr(config, "num_key_value_heads", None) or heads) * head_dim,
        vocabulary=head.size(0),
    )


def sizes_by_hand(parameters: int | None, **given) -> ModelSizes:
    """
    The sizes of a Llama. What is not given follows from `parameters`: layers of 128 times their number in width, and a
    feed-forward width that makes up the total.

    Args:
        parameters (`int`, *optional*): about how many there are.
        given: names of [`BY_HAND`] and their values, `None` where unknown.

    Raises:
        UsageError: If the size is not given (`parameters`, or `hidden_size` and `num_hidden_layers`), or impossible.
    """
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if name != "tie_word_embeddings" and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}.")
    if parameters is None and not {"hidden_size", "num_hidden_layers"} <= given.keys():
        raise UsageError(
            "say which model: --model_name_or_path DIRECTORY|CONFIG.json, --parameters 7B, or --hidden_size with "
            "--num_hidden_layers."
        )
    hidden = given.get("hidden_size")
    if hidden is None:
        layers = given.get("num_hidden_layers")
        width = (parameters / (12 * layers)) ** 0.5 if layers else (128 * parameters / 12) ** (1 / 3)
        hidden = max(128, round(width / 128) * 128)
    layers = given.get("num_hidden_layers") or max(1, round(parameters / (12 * hidden * hidden)))
    head_dim = given.get("head_dim") or hidden // (given.get("num_attention_heads") or max(1, hidden // 128))
    heads = given.get("num_attention_heads") or max(1, hidden // head_dim)
    attention, key_value = heads * head_dim, (given.get("num_key_value_heads") or min(heads, 8)) * head_dim
    vocabulary = given.get("vocab_size", 128256)
    tied = given.get("tie_word_embeddings", parameters is not None and parameters < 4 * 10**9)  # as small models are
    around = hidden * 2 * (attention + key_value)
    inner = given.get("intermediate_size")
    if inner is None:
        rest = 10 * layers * hidden * hidden if parameters is None else parameters
        rest -= 0 if parameters is None else (1 if tied else 2) * vocabulary * hidden + layers * around
        inner = rest // (3 * layers * hidden)
    if inner < 1:
        raise UsageError(
            f"--parameters {parameters:,} leaves nothing for the layers beside a vocabulary of {vocabulary:,}: give "
            "--vocab_size, --hidden_size and --num_hidden_layers."
        )
    shapes = {
        "q_proj": (hidden, attention),
        "k_proj": (hidden, key_value),
        "v_proj": (hidden, key_value),
        "o_proj": (attention, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }
    return ModelSizes(
        name=f"a Llama of {layers} layers of {hidden}",
        linears=tuple(Linear(name, *shape, layers) for name, shape in shapes.items()),
        embeddings=(vocabulary * hidden,),
        head=0 if tied else vocabulary * hidden,
        others=(hidden,) * (2 * layers + 1),
        experts=(),
        active_experts=1.0,
        layers=layers,
        hidden_size=hidden,
        intermediate_size=inner,
        attention=attention,
        key_value=key_value,
        vocabulary=vocabulary,
    )


def load_sizes(path: str, *, local_files_only: bool = True, **kwargs) -> ModelSizes:
    """
    Reads `config.json` of a directory, of the hub's cache, or the file itself, or knows the model by its name.

    Args:
        path (`str`): the directory, the file, or the name.
        local_files_only (`bool`, *optional*, defaults to `True`): whether nothing is downloaded.
        kwargs: of [`~transformers.AutoConfig.from_pretrained`]: `revision`, `trust_remote_code`.

    Raises:
        UsageError: If there is none, or it is not of a causal language model.
    """
    file = Path(path)
    if not file.exists() and (path.startswith((".", "/", "~")) or path.endswith(".json")):
        raise UsageError(f"--model_name_or_path {path}: there is no such file or directory.")
    if file.is_dir() and not (file / "config.json").is_file():
        raise UsageError(f"--model_name_or_path {path}: there is no config.json in it.")
    from transformers import AutoConfig

    try:
        if file.is_file():
            values = json.loads(file.read_text(encoding="utf-8"))
            config = AutoConfig.for_model(**values)
        else:
            config = AutoConfig.from_pretrained(path, local_files_only=local_files_only, **kwargs)
    except Exception as error:
        if not file.exists():
            config = known_config(path)
            if config is None:
                raise UsageError(
                    f"--model_name_or_path {path} is neither in the hub's cache nor known by its name"
                    f"{_near_ones(path)}. Nothing is downloaded here: run `hf download {path} config.json` first, or "
                    "give a folder with its config.json, or --parameters."
                ) from error
            return sizes_from_config(config, path)
        raise UsageError(f"--model_name_or_path {path}: {' '.join(str(error).split())}") from error
    try:
        return sizes_from_config(config, path)
    except (ValueError, AttributeError, KeyError, TypeError, ImportError) as error:
        raise UsageError(
            f"--model_name_or_path {path}: {type(config).__name__} is not of a causal language model that can be "
            "counted; give its sizes by hand (--parameters, --hidden_size ...)."
        ) from error


def _near_ones(path: str) -> str:
    names = near(path)
    return f" (known are {', '.join(names)})" if names else ""
