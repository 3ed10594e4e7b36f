# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Sampling answers from a model in memory."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoConfig

from ...data.columns import as_turn
from ...data.messages import Dialogue, tools_of
from ...generation.dialogue.play import TurnByTurn
from ...generation.dialogue.users import User
from ...generation.plain import generate_plainly
from ...generation.prompts import AnswerReader, PromptRenderer
from ...judges.local.loading import not_found, whole_weights
from ...policies import load_frozen
from ...rounds.batch import chunks, until_eos
from ...trainers.loading import adapter_config, load_policy, load_tokenizer, named
from ...trainers.online_dpo import agree_on_tokens
from ...usage import UsageError
from ..frozen import model_beneath
from ..rows import Row
from .answers import answer_record, dialogue_record
from .contestants import Contestant
from .sampling import Draw, Sampling, SaysOnce, columns_of, seed_of


Sample = Callable[[list[list[int]]], list[list[int]]]  # a completion of each context
_RANDOM = threading.Lock()  # the generator is the process's, and models may be asked in several threads


@contextmanager
def loaded(contestant: Contestant, sampling: Sampling, user: User | None = None) -> Iterator[Draw]:
    """A model that is in memory within the context."""
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
    held = [drawing(model, contestant.name, sampling, spec, user)]
    model = None
    try:
        yield lambda name, rows: held[0](name, rows)
    finally:
        held.clear()  # whoever keeps what was yielded does not keep the model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def check_there(contestant: Contestant, sampling: Sampling) -> None:
    """
    Refuses what is no model, or an adapter of none, before any weights are read.

    Raises:
        `ValueError`: If there is none.
    """
    adapter = adapter_config(contestant.spec)
    path = contestant.spec if adapter is None else adapter["base_model_name_or_path"]
    try:
        with named(path):
            AutoConfig.from_pretrained(path, trust_remote_code=sampling.trust_remote_code)
    except (OSError, ValueError) as error:
        raise not_found(path, "a causal language model", error) from error


def drawing(model, name: str, sampling: Sampling, path: str | None = None, user: User | None = None) -> Draw:
    """
    What samples the answers of a model in memory.

    Args:
        model ([`~transformers.PreTrainedModel`]): in eval mode, on its device.
        name (`str`): what messages call it.
        sampling ([`Sampling`]): how.
        path (`str`, *optional*): where its tokenizer is; by default where the model is from.
        user ([`User`], *optional*): who answers it, where answers are dialogues.
    """
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
    config = _generation_config(sampling, tokenizer, ends)
    devices = [model.device] if model.device.type == "cuda" else []

    def sample(contexts: list[list[int]]) -> list[list[int]]:
        completions = generate_plainly(model, config, model.device, contexts, 1)
        return [until_eos(own, set(ends)) for (own,) in completions]

    if user is None:
        play = partial(_answers, render, AnswerReader(tokenizer, sampling.strip_thinking), sample, set(ends))
    else:
        play = partial(_dialogues, _source(name, sampling, context, render, ends, user), sample)

    def draw(seed: str, rows: list[Row]) -> Iterator[list[dict[str, Any]]]:
        _check_prompts(render, rows, name)
        for batch in chunks(rows, sampling.batch_size):
            start = time.perf_counter()
            with _RANDOM, torch.random.fork_rng(devices=devices):
                torch.manual_seed(seed_of(seed, batch[0], sampling))
                records = play(batch)
            seconds = (time.perf_counter() - start) / len(batch)
            yield [record | {"seconds": round(seconds, 4)} for record in records]

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


def _check_prompts(render: PromptRenderer, rows: list[Row], name: str) -> None:
    for row in rows:
        try:
            render.text(row.prompt)
        except ValueError as error:
            raise ValueError(f"{name} cannot be asked prompt {row.index} (from 0): {error}.") from None


def _answers(
    render: PromptRenderer, read: AnswerReader, sample: Sample, ends: set[int], rows: list[Row]
) -> list[dict[str, Any]]:
    prompts = [render.ids(row.prompt)[0] for row in rows]
    return [
        answer_record(row, read(tokens, prompt), len(tokens), bool(tokens) and tokens[-1] in ends)
        for row, prompt, tokens in zip(rows, prompts, sample(prompts), strict=True)
    ]


def _dialogues(source: TurnByTurn, sample: Sample, rows: list[Row]) -> list[dict[str, Any]]:
    prompts = [Dialogue(as_turn(row.prompt), tools_of(row.columns), columns_of(row)) for row in rows]
    played = source.play(prompts, 1, lambda contexts, count: ([[own] for own in sample(contexts)], None))
    kept = zip(rows, played.turns, played.endings, played.lengths, strict=True)
    return [dialogue_record(row, turns, ending, tokens) for row, (turns,), (ending,), (tokens,) in kept]


def _source(
    name: str,
    sampling: Sampling,
    context: int,
    render: PromptRenderer,
    ends: list[int],
    user: User,
) -> TurnByTurn:
    limits = SimpleNamespace(
        max_turns=sampling.turns,
        max_length=context,
        max_new_tokens=sampling.max_new_tokens,
        strip_thinking=sampling.strip_thinking,
    )
    try:
        return TurnByTurn(limits, render, ends, user, say_once=SaysOnce(name))
    except ValueError as error:
        raise ValueError(f"{name} holds no dialogues: {error}") from None


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
