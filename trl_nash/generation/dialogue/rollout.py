# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A dialogue on its way: what was said, as tokens and as messages."""

import os
from dataclasses import dataclass, field
from typing import Any

from ...data.messages import Message
from ...rounds.batch import Samples


class RolloutFailed(Exception):
    """
    Somebody whom a rollout depends on did not do his part: it is not judged.

    Args:
        reason (`str`): a word or two, by which such rollouts are counted.
        message (`str`): what happened.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass
class Rollout:
    """
    One dialogue.

    Args:
        prompt (`list[dict]`): the messages that it begins with.
        prompt_ids (`list[int]`): these as the policy's tokens.
        columns (`dict`): of the row that the prompt is from.
    """

    prompt: list[Message]
    prompt_ids: list[int]
    columns: dict[str, Any] = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)  # behind the prompt
    mask: list[int] = field(default_factory=list)  # 1 where the policy has sampled the token
    logps: list[float] | None = field(default_factory=list)  # by the engine that sampled, 0 at others' tokens
    turns: list[Message] = field(default_factory=list)  # behind the prompt
    own_turns: int = 0
    ending: str | None = None  # one of `ENDINGS`, or in which way it failed
    room: Any = None  # where its tools are

    @property
    def context(self) -> list[int]:
        """All tokens, which the next one depends on."""
        return self.prompt_ids + self.ids

    @property
    def messages(self) -> list[Message]:
        """All messages, the prompt's first."""
        return [*self.prompt, *self.turns]

    def say(self, ids: list[int], message: Message, logps: list[float] | None) -> None:
        """A turn of the policy: these very tokens are trained on."""
        self.ids += ids
        self.mask += [1] * len(ids)
        self.logps = None if logps is None or self.logps is None else self.logps + list(logps)
        self.turns.append(message)
        self.own_turns += 1

    def hear(self, ids: list[int], messages: list[Message]) -> None:
        """What others say, with all that the chat template writes between two turns of the policy."""
        self.ids += ids
        self.mask += [0] * len(ids)
        self.logps = None if self.logps is None else self.logps + [0.0] * len(ids)
        self.turns += messages


def as_samples(rollouts: list[list[Rollout]], padding: int) -> Samples:
    """
    The rollouts of B prompts, N of each. A prompt is what they all begin with: where the prompts themselves differ,
    the rest of each is others' speech in front of its completion.

    Args:
        rollouts (`list[list[Rollout]]`): B x N.
        padding (`int`): the token that stands for a completion of none.
    """
    prompt_ids, completion_ids, masks, logps = [], [], [], []
    for own in rollouts:
        shared = os.path.commonprefix([rollout.prompt_ids for rollout in own])
        extra = [rollout.prompt_ids[len(shared) :] for rollout in own]
        prompt_ids.append(shared)
        nothing = [0 if rollout.ids else 1 for rollout in own]
        completion_ids.append([e + r.ids + [padding] * n for e, r, n in zip(extra, own, nothing, strict=True)])
        masks.append([[0] * len(e) + r.mask + [0] * n for e, r, n in zip(extra, own, nothing, strict=True)])
        known = [r.logps if r.logps is not None else None for r in own]
        logps.append([k and [0.0] * len(e) + k for k, e in zip(known, extra, strict=True)])
    complete = all(
        values is not None and len(values) == len(ids)
        for own, rows in zip(logps, completion_ids, strict=True)
        for values, ids in zip(own, rows, strict=True)
    )
    return Samples(
        prompt_ids,
        completion_ids,
        [],
        logps if complete else None,
        masks,
        [[r.turns for r in own] for own in rollouts],
        [[r.ending for r in own] for own in rollouts],
    )
