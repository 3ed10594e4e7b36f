# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A policy and its tokenizer from a path or hub id: a model, or an adapter with the model that it belongs to."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import CONFIG_NAME, cached_file

from ..compat import create_model_from_path


ADAPTER_FILE = "adapter_config.json"


def adapter_config(path: str, revision: str | None = None) -> dict | None:
    """
    The configuration of the adapter at a path or hub id; `None` if there is none, as where a model is.

    Raises:
        `ValueError`: if it does not say which model it belongs to.
    """
    file = _file(path, ADAPTER_FILE, revision)
    if file is None:
        return None
    with open(file, encoding="utf-8") as stream:
        config = json.load(stream)
    if not config.get("base_model_name_or_path"):
        raise ValueError(
            f"The adapter in {path} does not say which model it belongs to: set `base_model_name_or_path` in its "
            f"{ADAPTER_FILE}."
        )
    return config


def load_tokenizer(path: str, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model or adapter. An adapter without one of its own has its model's."""
    adapter = adapter_config(path, revision)
    if adapter is not None and _file(path, "tokenizer_config.json", revision) is None:
        path, revision = adapter["base_model_name_or_path"], adapter.get("revision")
    with named(path):
        return AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)


def load_policy(path: str, args, peft_config=None) -> torch.nn.Module:
    """
    The model at a path or hub id. Where that is an adapter, it is the model that the adapter belongs to, with the
    adapter on top, to be trained further; with `merge_adapter` with the adapter in its weights.

    Args:
        path (`str`): of a model or adapter.
        args ([`NashConfig`]): `model_init_kwargs`, `trust_remote_code`, `merge_adapter`.
        peft_config ([`~peft.PeftConfig`], *optional*): of an adapter that is put on the model.

    Raises:
        `ValueError`: if an adapter was to be put on an adapter, or to be merged where there is none.
    """
    kwargs = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
    if args.world_size > 1:
        kwargs.setdefault("device_map", None)  # "auto" would spread every rank's copy over all devices
    revision = kwargs.get("revision")
    adapter = adapter_config(path, revision)
    check_adapter(path, adapter, args.merge_adapter, peft_config)
    if adapter is None:
        with named(path):
            return create_model_from_path(path, AutoModelForCausalLM, **kwargs)
    from peft import PeftModel

    base = adapter["base_model_name_or_path"]
    with named(base):
        model = create_model_from_path(base, AutoModelForCausalLM, **kwargs | {"revision": adapter.get("revision")})
    model = PeftModel.from_pretrained(model, path, revision=revision, is_trainable=not args.merge_adapter)
    if not args.merge_adapter:
        return model
    model = model.merge_and_unload()
    for parameter in model.parameters():  # PEFT has frozen them
        parameter.requires_grad_(parameter.is_floating_point())
    return model


def check_adapter(path: str, adapter: dict | None, merge: bool, peft_config=None) -> None:
    """Refuses to drop an adapter, and to merge none."""
    if adapter is None and merge:
        raise ValueError(f"`merge_adapter` does nothing: {path} is a model and no adapter. Leave it out.")
    if adapter is not None and peft_config is not None and not merge:
        raise ValueError(
            f"{path} is an adapter, which is trained further: leave `peft_config` out. Or set `merge_adapter=True`: "
            "then it becomes part of its model, and the new adapter is trained."
        )


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
    """Names the model that is neither here nor can be asked for, where transformers speaks of something else."""
    try:
        yield
    except (OSError, ValueError) as error:
        if Path(path).is_dir() and not (Path(path) / CONFIG_NAME).is_file():
            why = f"there is no {CONFIG_NAME} in this folder. Name the one into which the model was saved."
        elif isinstance(error.__cause__, HFValidationError):
            why = "there is no such folder, and the hub has no such names. Check the path."
        elif isinstance(error.__cause__, LocalEntryNotFoundError):
            why = (
                "there is no such folder, the hub cannot be asked (offline), and no such model was loaded from it "
                "before. Check the name."
            )
        else:
            raise
        raise FileNotFoundError(f"the model {path}: {why}") from error


def _file(path: str, name: str, revision: str | None) -> str | None:
    """A file of a folder or hub repository, if it is there."""
    try:
        return cached_file(
            path,
            name,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:  # no such repository, or none that can be reached: said where the model is loaded
        return None
