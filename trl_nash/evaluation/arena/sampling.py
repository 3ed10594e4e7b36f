# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Sampling answers: from a model in memory, one at a time, or from a server."""

import gc
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...usage import UsageError
from ..frozen import model_beneath
from ..rows import Row
from .contestants import Contestant


Draw = Callable[[str, list[Row]], Iterator[list[dict[str, Any]]]]  # of a name, for the seed, and of prompts


class SamplingError(RuntimeError):
    """A server cannot go on. What it has answered is kept."""


@dataclass(frozen=True)
class Sampling:
    """
    How answers are sampled.

    Args:
        temperature (`float`, *optional*, defaults to `1.0`): 0 takes the likeliest token.
        top_p (`float`, *optional*, defaults to `1.0`): the share of the likeliest tokens that are drawn from.
        max_new_tokens (`int`, *optional*, defaults to `512`): after which an answer is cut.
        seed (`int`, *optional*, defaults to `0`): of the draws.
        batch_size (`int`, *optional*, defaults to `16`): prompts in a call of a model, and requests at a time.
        dtype (`str`, *optional*, defaults to `"auto"`): of the weights of models.
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether code that comes with a model is run.
        chat_template_kwargs (`dict`, *optional*): passed to the chat template, of servers too.
        strip_thinking (`bool`, *optional*, defaults to `False`): whether what is judged begins behind `</think>`.

    Raises:
        `UsageError`: If a value is out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0
    batch_size: int = 16
    dtype: str = "auto"
    trust_remote_code: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    strip_thinking: bool = False

    def __post_init__(self):
        for name, low, high in (("temperature", 0, 100), ("top_p", 1e-6, 1), ("max_new_tokens", 1, 10**7)):
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"{name} must be from {low:g} to {high:g}, got {getattr(self, name)!r}.")
        if self.batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {self.batch_size}.")

    @property
    def settings(self) -> dict[str, Any]:
        """What answers depend on."""
        return {name: value for name, value in asdict(self).items() if name not in ("batch_size", "trust_remote_code")}


def sampler(contestant: Contestant, sampling: Sampling) -> AbstractContextManager[Draw]:
    """
    What samples the answers of a policy, within a context in which a model is in memory.

    Args:
        contestant ([`Contestant`]): a model or a server.
        sampling ([`Sampling`]): how.

    Returns:
        A context of a function of a name, by which the draws are seeded, and of rows, the prompts. It yields lists of
        records as [`Answers`] has them, as they come.
    """
    if contestant.kind == "server":
        from .served import served

        return served(contestant, sampling)
    return _loaded(contestant, sampling)


@contextmanager
def _loaded(contestant: Contestant, sampling: Sampling) -> Iterator[Draw]:
    import torch

    from ...judges.local.loading import whole_weights
    from ...policies import load_frozen
    from ...trainers.loading import load_policy

    frozen = Path(contestant.spec) if contestant.kind == "frozen" else None
    spec = contestant.spec if frozen is None else str(model_beneath(frozen))
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    processes = torch.distributed.get_world_size() if distributed else 1
    with whole_weights():  # of a policy that stands beside one in training
        model = load_policy(spec, _Loading(sampling.dtype, sampling.trust_remote_code, world_size=processes)).eval()
    if processes > 1 and torch.accelerator.is_available():
        model = model.to(torch.accelerator.current_accelerator())
    if frozen is not None:
        load_frozen(model, frozen)
    held = [drawing(model, contestant.name, sampling, spec)]
    model = None
    try:
        yield lambda name, rows: held[0](name, rows)
    finally:
        held.clear()  # whoever keeps what was yielded does not keep the model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def drawing(model, name: str, sampling: Sampling, path: str | None = None) -> Draw:
    """
    What samples the answers of a model in memory.

    Args:
        model ([`~transformers.PreTrainedModel`]): in eval mode, on its device.
        name (`str`): what messages call it.
        sampling ([`Sampling`]): how.
        path (`str`, *optional*): where its tokenizer is; by default where the model is from.
    """
    import torch

    from ...generation.plain import generate_plainly
    from ...generation.prompts import AnswerReader, PromptRenderer
    from ...rounds.batch import chunks, until_eos
    from ...trainers.loading import load_tokenizer
    from ...trainers.online_dpo import agree_on_tokens

    tokenizer = load_tokenizer(path or model.name_or_path, trust_remote_code=sampling.trust_remote_code)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    ends = agree_on_tokens(model, tokenizer)
    if None in ends:
        raise ValueError(f"{name}: no token ends a completion: its tokenizer has no `eos_token`.")
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 10**9
    if context <= sampling.max_new_tokens:
        raise UsageError(
            f"max_new_tokens ({sampling.max_new_tokens}) must be less than the {context} tokens that {name} can read."
        )
    render = PromptRenderer(tokenizer, context - sampling.max_new_tokens, sampling.chat_template_kwargs)
    read = AnswerReader(tokenizer, sampling.strip_thinking)
    config = _generation_config(sampling, tokenizer, ends)
    devices = [model.device] if model.device.type == "cuda" else []

    def draw(seed: str, rows: list[Row]) -> Iterator[list[dict[str, Any]]]:
        prompts = {row.index: _rendered(render, row, name) for row in rows}
        for batch in chunks(rows, sampling.batch_size):
            start = time.perf_counter()
            ids = [prompts[row.index] for row in batch]
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(seed_of(seed, batch[0], sampling))
                completions = generate_plainly(model, config, model.device, ids, 1)
            completions = [until_eos(row[0], set(ends)) for row in completions]
            seconds = (time.perf_counter() - start) / len(batch)
            yield [
                as_record(row, read(tokens, prompt), len(tokens), bool(tokens) and tokens[-1] in ends, seconds)
                for row, prompt, tokens in zip(batch, ids, completions, strict=True)
            ]

    return draw


@dataclass(frozen=True)
class _Loading:
    """What [`load_policy`] asks of a trainer's arguments."""

    dtype: str
    trust_remote_code: bool
    merge_adapter: bool = False
    world_size: int = 1

    @property
    def model_init_kwargs(self) -> dict[str, Any]:
        return {"dtype": self.dtype}


def _rendered(render, row: Row, name: str) -> list[int]:
    try:
        return render.ids(row.prompt)[0]
    except ValueError as error:
        raise ValueError(f"{name} cannot be asked prompt {row.index} (from 0): {error}.") from None


def _generation_config(sampling: Sampling, tokenizer, ends: list[int]):
    """All of it: nothing is filled in from the model, whose own settings are not those that it was trained at."""
    from transformers import GenerationConfig

    options: dict[str, Any] = {"do_sample": False}
    if sampling.temperature:
        options = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends,
        use_cache=True,
        **options,
    )


def seed_of(name: str, row: Row, sampling: Sampling) -> int:
    """Another one for each name: win rates are those of answers that are drawn independently."""
    text = f"{sampling.seed} {name} {row.index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def as_record(row: Row, text: str, tokens: int | None, ended: bool, seconds: float) -> dict[str, Any]:
    """An answer as [`Answers`] has it."""
    record = {"row": row.index, "prompt": row.prompt, "completion": text}
    return record | {"tokens": tokens, "ended": ended, "seconds": round(seconds, 4)}
