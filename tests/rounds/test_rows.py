# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Rows of rounds: each once a pass, in one order, whatever the number of processes, workers and shards."""

import pytest
import torch
from accelerate import skip_first_batches
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_nash.rounds.rows import EvaluationLoader, Filler, Share, round_loader


def table(size: int) -> Dataset:
    return Dataset.from_dict({"row": range(size)})


def stream(size: int, shards: int) -> IterableDataset:
    """Rows 0, 1, 2 ... in shards of any sizes, some of them empty."""

    def read(shards):
        for shard in shards:
            yield from ({"row": row} for row in shard)

    cuts = [size * k * k // shards**2 for k in range(shards + 1)]
    return IterableDataset.from_generator(
        read, gen_kwargs={"shards": [range(*pair) for pair in zip(cuts, cuts[1:], strict=False)]}
    )


def share(rank=0, world_size=1, **options) -> Share:
    options = {"prompts": 2, "micro_steps": 2, "seed": 3, "epoch": lambda: 0} | options
    return Share(rank=rank, world_size=world_size, **options)


def numbers(loader) -> list[list[int]]:
    return [[row["row"] for row in item] for item in loader]


def rounds_of(dataset, world_size, round_size, micro_steps=2, epoch=0, **reading) -> list[list[int]]:
    """The rounds of an epoch, each put together from all ranks, whose items come at the same micro-steps."""
    ranks = []
    for rank in range(world_size):
        own = share(rank, world_size, prompts=round_size // world_size, micro_steps=micro_steps, epoch=lambda: epoch)
        items = numbers(round_loader(dataset, own, **reading))
        assert all(len(item) == (0 if step % micro_steps else own.prompts) for step, item in enumerate(items))
        ranks.append(items[::micro_steps])
        assert len(items) == len(ranks[0]) * micro_steps
    return [sum(parts, []) for parts in zip(*ranks, strict=True)]


# ---- What a round is made of ----


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    size=st.integers(0, 40),
    world_size=st.integers(1, 4),
    per_rank=st.integers(1, 5),
    micro_steps=st.integers(1, 4),
    shards=st.integers(0, 5),
    epoch=st.integers(0, 3),
)
def test_every_row_is_in_one_round_and_on_one_rank(size, world_size, per_rank, micro_steps, shards, epoch):
    """
    All ranks together have the rounds of one process, each row once an epoch; only the last rows, which fill no round,
    are left out. 0 shards stand for a map-style dataset.
    """
    dataset = stream(size, shards) if shards else table(size)
    round_size = world_size * per_rank
    rounds = rounds_of(dataset, world_size, round_size, micro_steps, epoch)
    assert rounds == rounds_of(dataset, 1, round_size, micro_steps, epoch)
    if shards:
        dataset.set_epoch(epoch)  # the order of the shards is another in every epoch
        order = [row["row"] for row in dataset]
    else:
        order = torch.randperm(size, generator=torch.Generator().manual_seed(3 + epoch)).tolist()
    assert sum(rounds, []) == order[: size // round_size * round_size]
    assert all(len(part) == round_size for part in rounds)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("shards", [0, 1, 2, 5])
def test_workers_lose_and_repeat_nothing(shards, workers):
    """
    Read by workers, a table has the order that it has without them. A stream's shards are read in turn, in the same
    turn for 2 processes as for one.
    """
    dataset = stream(200, shards) if shards else table(200)
    rounds = rounds_of(dataset, 1, 8, num_workers=workers)
    assert sorted(sum(rounds, [])) == list(range(200))
    assert rounds == rounds_of(dataset, 2, 8, num_workers=workers)
    if shards <= 1:
        assert rounds == rounds_of(dataset, 1, 8)


def test_a_stream_of_two_shards_and_two_workers_loses_nothing():
    """32 rows in 2 shards, 2 workers, 2 micro-steps a round: 4 rounds of 8 hold all of them."""
    rounds = rounds_of(stream(32, 2), 1, 8, num_workers=2)
    assert len(rounds) == 4 and sorted(sum(rounds, [])) == list(range(32))


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_that_are_kept_read_every_epoch(workers):
    """Persistent workers see the epoch that begins: a stream is shuffled anew, a table is read in its new order."""
    for dataset in (stream(32, 2).shuffle(seed=1, buffer_size=32), table(32)):
        now = []
        own = share(epoch=lambda now=now: len(now))
        loader = round_loader(dataset, own, num_workers=workers, persistent_workers=workers > 0)
        epochs = []
        for epoch in range(3):
            now[:] = [None] * epoch
            epochs.append(sum(numbers(loader), []))
        assert all(sorted(epoch) == list(range(32)) for epoch in epochs)
        assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
        # As a run sees it that begins with the last one.
        assert numbers(round_loader(dataset, share(epoch=lambda: 2), num_workers=workers))[::2] == [
            epochs[2][start : start + 2] for start in range(0, 32, 2)
        ]


class Drawn(torch.utils.data.IterableDataset):
    """A stream of one's own, with a length, in an order that is drawn where it is read; each worker has its half."""

    def __len__(self):
        return 24

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        order = torch.randperm(12) + 12 * worker.id
        yield from ({"row": row} for row in order.tolist())


def test_workers_of_all_processes_draw_the_same():
    """An order that workers draw is the same for all ranks, and for a run that is resumed in the epoch."""
    rounds = rounds_of(Drawn(), 2, 8, num_workers=2)
    assert sorted(sum(rounds, [])) == list(range(24))
    assert rounds == rounds_of(Drawn(), 1, 8, num_workers=2)
    assert rounds != rounds_of(Drawn(), 1, 8, epoch=1, num_workers=2)


def test_lengths():
    """In micro-steps, where they are known; of a stream without a length there is none."""
    own = share(0, 2, prompts=3, micro_steps=4)
    assert len(round_loader(table(20), own)) == 3 * 4
    assert len(round_loader(Drawn(), own)) == 4 * 4
    with pytest.raises(TypeError):
        len(round_loader(stream(20, 2), own))


# ---- Resuming ----


@settings(derandomize=True, deadline=None, max_examples=30)
@given(micro_steps=st.integers(1, 4), skipped=st.integers(0, 12), shards=st.integers(0, 2))
def test_skipping_is_leaving_out_the_first_items(micro_steps, skipped, shards):
    """As transformers skips what a resumed run has trained on."""
    dataset = stream(13, shards) if shards else table(13)
    own = share(0, 2, micro_steps=micro_steps)
    whole = numbers(round_loader(dataset, own))
    assert numbers(skip_first_batches(round_loader(dataset, own), skipped)) == whole[skipped:]


class Reading(torch.utils.data.Dataset):
    """Keeps which rows were read."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return 12

    def __getitem__(self, position):
        self.read.append(position)
        return {"row": position}


def test_rows_are_read_once_and_skipped_rows_never():
    """3 rounds of 4 rows and 5 micro-steps: each row is read once; resumed in the second, 4 are."""
    dataset = Reading()
    assert sum(numbers(round_loader(dataset, share(prompts=4, micro_steps=5))), []) == dataset.read
    assert sorted(dataset.read) == list(range(12))
    dataset.read.clear()
    assert len(numbers(skip_first_batches(round_loader(dataset, share(prompts=4, micro_steps=5)), 7))) == 8
    assert len(dataset.read) == 4


@pytest.mark.parametrize("shards", [0, 1])
def test_an_unfinished_round_comes_first(shards):
    """An epoch that begins 2 micro-steps before the end of a round brings rows at the third, and none of them less."""
    dataset = stream(8, shards) if shards else table(8)
    items = numbers(round_loader(dataset, share(micro_steps=3, unfinished=lambda: 2)))
    assert items == [[], []] + numbers(round_loader(dataset, share(micro_steps=3)))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shards", [0, 2])
def test_nothing_is_drawn_from_the_global_generator(shards, workers):
    """A run that is resumed at the beginning of a round draws what it would have drawn."""
    dataset = stream(8, shards) if shards else table(8)
    before = torch.get_rng_state()
    assert numbers(round_loader(dataset, share(), num_workers=workers))
    assert numbers(EvaluationLoader(dataset, batch_size=2, rank=0, world_size=1, num_workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


# ---- Refusals ----


def test_rounds_that_processes_would_not_share_are_refused():
    """Batches out of order, and a stream that was split before. One process may have either."""
    with pytest.raises(ValueError, match="`dataloader_in_order=False` would mix .* leave it at True"):
        round_loader(table(8), share(0, 2), num_workers=2, in_order=False)
    part = split_dataset_by_node(stream(8, 2), rank=0, world_size=2)
    with pytest.raises(ValueError, match="`train_dataset` was split with `split_dataset_by_node`"):
        round_loader(part, share(0, 2))
    assert numbers(round_loader(part, share())) and numbers(round_loader(table(8), share(), in_order=False))


# ---- Evaluation ----


def counted(items) -> list[list[int]]:
    return [[row["row"] for row in item if not isinstance(row, Filler)] for item in items]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(size=st.integers(0, 30), world_size=st.integers(1, 4), batch_size=st.integers(1, 4), shards=st.integers(0, 3))
def test_every_row_counts_once_in_an_evaluation(size, world_size, batch_size, shards):
    """
    Ranks make the same number of calls with lists of one length; what counts of a step is, rank after rank, the next
    rows of the dataset. One process has no fillers.
    """
    dataset = stream(size, shards) if shards else table(size)
    loaders = [
        EvaluationLoader(dataset, batch_size=batch_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    ranks = [list(loader) for loader in loaders]
    for items in zip(*ranks, strict=True):
        assert len({len(item) for item in items}) == 1 and 1 <= len(items[0]) <= batch_size
        assert all(not isinstance(row, Filler) for item in items for row in item[: len(counted([item])[0])])
    steps = zip(*map(counted, ranks), strict=True)
    assert sum((rows for step in steps for rows in step), []) == list(range(size))
    if not shards:
        assert len(loaders[0]) == len(ranks[0])


@pytest.mark.parametrize("shards", [0, 3])
def test_workers_read_an_evaluation(shards):
    """With 2 workers that are told to stay, and again in the next evaluation."""
    dataset = stream(30, shards) if shards else table(30)
    for rank in range(2):
        loader = EvaluationLoader(
            dataset, batch_size=4, rank=rank, world_size=2, num_workers=2, persistent_workers=True, in_order=False
        )
        first = list(loader)
        assert first == list(loader) and [len(item) for item in first] == [4, 4, 4, 3]
        assert len(sum(counted(first), [])) == 15
