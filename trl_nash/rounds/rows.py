# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Which rows a round is made of, and which of them a process reads: each row once, whatever the number of processes,
workers and shards.

Loaders from here are not prepared by accelerate: the processes share the rows out by themselves.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, cycle, islice, repeat

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from transformers.trainer_utils import seed_worker


ROWS_AT_ONCE = 16  # of a stream, that a worker hands over


@dataclass(frozen=True)
class Share:
    """
    What a process takes of each round: its run of `prompts` rows out of `world_size * prompts` consecutive ones.

    Args:
        prompts (`int`): rows of a round that the process takes.
        micro_steps (`int`): micro-steps of a round, over all its passes and fits.
        rank, world_size (`int`): of the process.
        seed (`int`): of the order of a map-style dataset; the same on all processes.
        epoch (`Callable[[], int]`): the epoch that is about to start.
        unfinished (`Callable[[], int]`, *optional*):
            Micro-steps of a round sampled before that are still to come when an epoch starts.
    """

    prompts: int
    micro_steps: int
    rank: int
    world_size: int
    seed: int
    epoch: Callable[[], int]
    unfinished: Callable[[], int] = lambda: 0

    @property
    def round_size(self) -> int:
        return self.world_size * self.prompts

    def micro_steps_of(self, size: int) -> int:
        """Micro-steps of an epoch of `size` rows. What is left at its end and fills no round is dropped."""
        return size // self.round_size * self.micro_steps

    def items(self, rows: Iterable) -> Iterator[list]:
        """One item a micro-step: the process's rows at the first one of a round, an empty list at its others."""
        yield from repeat([], self.unfinished())
        for group in grouped(rows, self.round_size):
            if len(group) == self.round_size:
                yield group[self.rank * self.prompts : (self.rank + 1) * self.prompts]
                yield from repeat([], self.micro_steps - 1)


def grouped(rows: Iterable, size: int) -> Iterator[list]:
    """Runs of `size` rows; the last one may be shorter."""
    rows = iter(rows)
    while group := list(islice(rows, size)):
        yield group


def round_loader(dataset: Dataset, share: Share, **reading) -> DataLoader:
    """
    Yields one item a micro-step: the process's rows at the first one of a round, an empty list at its others.

    The order of a map-style dataset depends on seed and epoch alone, so that a run resumed in a later epoch sees the
    rows that it would have seen; that of a stream is its own.

    Args:
        dataset (map-style or [`~torch.utils.data.IterableDataset`]): rows; the same on all processes.
        share ([`Share`]): what the process takes of them.
        reading: `num_workers` and the other options of the [`~torch.utils.data.DataLoader`] that reads.

    Raises:
        `ValueError`: if the processes would not read the same rows.
    """
    if share.world_size > 1 and not reading.get("in_order", True):
        raise ValueError("`dataloader_in_order=False` would mix the processes' rounds up: leave it at True.")
    generator = torch.Generator().manual_seed(share.seed)  # its own: an epoch draws nothing from the global one
    if isinstance(dataset, IterableDataset):
        if share.world_size > 1 and getattr(dataset, "_distributed", None) is not None:
            raise ValueError(
                "`train_dataset` was split with `split_dataset_by_node` and would be split again: pass the whole of "
                "it, and every process takes its rows of each round."
            )
        return DataLoader(StreamedRounds(dataset, share, **reading), batch_size=None, generator=generator)
    return DataLoader(
        Rows(dataset),
        batch_sampler=RoundPositions(len(dataset), share),
        collate_fn=list,
        generator=generator,
        worker_init_fn=partial(seed_worker, num_workers=reading.get("num_workers", 0), rank=share.rank),
        **reading,
    )


class RoundPositions(Sampler):
    """The positions of the process's rows in a map-style dataset of `size` rows, one list a micro-step."""

    def __init__(self, size: int, share: Share):
        self.size, self.share = size, share

    def __len__(self) -> int:
        return self.share.micro_steps_of(self.size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.share.seed + self.share.epoch())
        return self.share.items(torch.randperm(self.size, generator=generator).tolist())


class Rows(Dataset):
    """The rows of a map-style dataset one by one: a dataset that reads several at once is never asked for none."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int):
        return self.dataset[position]


class StreamReader:
    """The rows of a stream, read by workers if there are any, in an order that does not depend on their speed."""

    def __init__(self, stream: Iterable, *, generator: torch.Generator, num_workers: int = 0, **reading):
        self.stream, self.loader = stream, None
        if num_workers > 0:
            reading |= {"num_workers": num_workers, "generator": generator, "collate_fn": list}
            self.loader = DataLoader(stream, batch_size=ROWS_AT_ONCE, **reading)

    def __iter__(self) -> Iterator:
        return iter(self.stream) if self.loader is None else chain.from_iterable(self.loader)


class StreamedRounds(IterableDataset):
    """The items of a stream: its rows, wherever they were read, are put together to rounds in the process itself."""

    def __init__(self, stream: IterableDataset, share: Share, **reading):
        self.stream, self.share = stream, share
        self.generator = torch.Generator()
        self.rows = StreamReader(stream, generator=self.generator, **reading)

    def __len__(self) -> int:
        return self.share.micro_steps_of(len(self.stream))

    def __iter__(self) -> Iterator[list]:
        epoch = self.share.epoch()
        if hasattr(self.stream, "set_epoch"):
            self.stream.set_epoch(epoch)
        self.generator.manual_seed(self.share.seed + epoch)  # workers of all processes draw the same
        return self.share.items(self.rows)


class Filler(dict):
    """A row that is sampled only so that all processes make the same number of calls: it is not judged or counted."""


def count_of(rows: list[dict]) -> int:
    """How many rows of an evaluation count. They come first."""
    return sum(not isinstance(row, Filler) for row in rows)


class EvaluationLoader:
    """
    Rows to evaluate, in the order of the dataset: at each step the next `world_size * batch_size` of them, of which
    each process takes a run. Where the last step has too few, what a process lacks are [`Filler`]s at the end of its
    list, so that all lists of a step have one length and every row counts once.

    Args:
        dataset (map-style or [`~torch.utils.data.IterableDataset`]): rows; the same on all processes.
        batch_size (`int`): rows of a step that the process takes.
        rank, world_size (`int`): of the process.
        reading: `num_workers` and the other options of the [`~torch.utils.data.DataLoader`] that reads.
    """

    def __init__(self, dataset: Dataset, *, batch_size: int, rank: int, world_size: int, **reading):
        self.dataset, self.step_size, self.rank, self.world_size = dataset, batch_size * world_size, rank, world_size
        # Evaluations are far between, so workers are not kept; which rows are fillers is known by the order.
        self.reading = reading | {"persistent_workers": False, "in_order": True, "generator": torch.Generator()}

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.step_size)

    def __iter__(self) -> Iterator[list[dict]]:
        if isinstance(self.dataset, IterableDataset):
            shares = self._shares(StreamReader(self.dataset, **self.reading))
        else:
            steps = list(self._shares(range(len(self.dataset))))
            positions, counts = [own for own, _ in steps], [count for _, count in steps]
            rows = DataLoader(self.dataset, batch_sampler=positions, collate_fn=list, **self.reading)
            shares = zip(rows, counts, strict=True)
        for rows, count in shares:
            yield rows[:count] + [Filler(row) for row in rows[count:]]

    def _shares(self, rows: Iterable) -> Iterator[tuple[list, int]]:
        """What the process takes at each step, and how many of these count."""
        for group in grouped(rows, self.step_size):
            size = math.ceil(len(group) / self.world_size)
            own = group[self.rank * size : (self.rank + 1) * size]
            yield own + list(islice(cycle(group), size - len(own))), len(own)
