# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Settings that go by round and settings that go by epoch: which of them meet in a run."""

import math
from collections.abc import Iterator

from torch.utils.data import IterableDataset
from transformers.trainer_utils import has_length

from ..config import NashConfig
from ..pair_config import PairConfig


def check_schedules(args: NashConfig, dataset) -> None:
    """
    Refuses step sizes and KL coefficients that do not go together in a round that can come.

    Args:
        args ([`NashConfig`]): the run's.
        dataset (map-style or [`~torch.utils.data.IterableDataset`]): which the run trains on.
    """
    for round, epoch in rounds_and_epochs(args, dataset) if isinstance(args, PairConfig) else ():
        past = args.past(round, epoch)
        try:
            args.check_step(args.step_size_of(past), args.beta_of(past))
        except ValueError as error:
            raise ValueError(f"In round {round + 1}, sampled in epoch {epoch + 1}: {error}") from None


def rounds_and_epochs(args: PairConfig, dataset) -> Iterator[tuple[int, int]]:
    """
    Rounds and the epochs that sample them, counted from 0, as far as step sizes and coefficients still change. The
    epoch of a stream's round shows only as it comes: it may be any up to the round's own number.
    """
    per_round = args.optimizer_steps_per_round
    stream = isinstance(dataset, IterableDataset) or not has_length(dataset)
    in_epoch = 1 if stream else max(1, len(dataset) // args.prompts_per_round)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * in_epoch * per_round)
    count = math.ceil(steps / per_round)
    by_round, by_epoch = (len(value) if isinstance(value, list) else 1 for value in (args.step_size, args.beta))
    for epoch in range(min(math.ceil(count / in_epoch), max(by_round, by_epoch))):
        first = epoch * in_epoch
        last = count if stream else min(count, first + in_epoch)
        yield from ((round, epoch) for round in range(first, max(first + 1, min(last, by_round))))
