# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a round is made of: samples as token lists, and the padded micro-batches that a policy is fitted to."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence


IGNORED = -100  # label of a position that is no completion token
# Nobody has more to say; the policy has had its turns; there is no room for more; its last turn has no end.
ENDINGS = ("over", "max_turns", "max_length", "unfinished")


@dataclass(frozen=True)
class Samples:
    """
    Completions of some prompts, unpadded, and which of them are to be compared.

    The first `num_generations` completions of a prompt are trained on; an algorithm may add opponents behind them.
    """

    prompt_ids: list[list[int]]  # B
    completion_ids: list[list[list[int]]]  # B x N, with the end-of-sequence token where one was sampled
    # M index pairs into the N completions, the same for every prompt; without any the run's pairing finds them
    pairs: list[tuple[int, int]] | None = None
    logps: list[list[list[float]]] | None = None  # of the tokens of the first K completions, as the engine gave them
    # Of dialogues (`generation/dialogue`), whose completions are whole trajectories, B x N of each:
    masks: list[list[list[int]]] | None = None  # 1 at the policy's own tokens, 0 at what others said; left out all 1
    turns: list[list[list[dict]]] | None = None  # the messages behind the prompt, which are judged
    endings: list[list[str]] | None = None  # one of `ENDINGS`, or in which way the dialogue failed: it is not judged

    def __post_init__(self):
        if self.masks is None:
            return
        for completions, masks in zip(self.completion_ids, self.masks, strict=True):
            for ids, mask in zip(completions, masks, strict=True):
                assert len(ids) == len(mask), (len(ids), len(mask))

    @property
    def lengths(self) -> list[list[int]]:
        """B x N numbers of tokens of the policy's own."""
        if self.masks is None:
            return [[len(ids) for ids in completions] for completions in self.completion_ids]
        return [[sum(mask) for mask in masks] for masks in self.masks]

    @property
    def beside(self) -> dict[str, list | None]:
        """What is known of the completions beside their tokens, by field."""
        return {name: v for name, v in self._columns.items() if name not in ("prompt_ids", "completion_ids")}

    @property
    def failed(self) -> list[list[bool]]:
        """B x N: which dialogues failed."""
        if self.endings is None:
            return [[False] * len(completions) for completions in self.completion_ids]
        return [[ending not in ENDINGS for ending in own] for own in self.endings]

    def split(self) -> list["Samples"]:
        """Those of each prompt by themselves."""
        columns = {name: value for name, value in self._columns.items() if value is not None}
        rows = zip(*columns.values(), strict=True)
        return [Samples(pairs=self.pairs, **{n: [v] for n, v in zip(columns, row, strict=True)}) for row in rows]

    @staticmethod
    def together(parts: list["Samples"]) -> "Samples":
        """Samples of several prompts as one; of what is not known of all nothing is, and the pairs are the same."""
        columns = {
            name: None
            if any(getattr(part, name) is None for part in parts)
            else [row for part in parts for row in getattr(part, name)]
            for name in parts[0]._columns
        }
        return Samples(pairs=parts[0].pairs, **columns)

    def against(self, completion_ids: list[list[list[int]]], beside: dict[str, list | None]) -> "Samples":
        """
        With opponents behind the completions of each prompt, and what is known of them beside their tokens: their
        log-probs are nobody's business.
        """
        known = {"completion_ids": completion_ids, **beside}
        columns = {
            name: [mine + other for mine, other in zip(value, known[name], strict=True)]
            for name, value in self._columns.items()
            if name not in ("prompt_ids", "logps") and value is not None
        }
        return replace(self, **columns)

    def chosen(self, players: list[list[int]]) -> "Samples":
        """Of each prompt those completions, in this order."""
        columns = {
            name: value and [[row[k] for k in own] for row, own in zip(value, players, strict=True)]
            for name, value in self._columns.items()
            if name != "prompt_ids"
        }
        return replace(self, **columns)

    @property
    def _columns(self) -> dict[str, list | None]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "pairs"}


@dataclass(frozen=True)
class PairBatch:
    """One micro-batch of a round: B prompts with K completions each, in rows `b * K + k`, padded on the right."""

    input_ids: torch.Tensor  # (B * K, T)
    attention_mask: torch.Tensor  # (B * K, T)
    labels: torch.Tensor  # (B * K, T), IGNORED where no token of the policy's own is
    pairs: torch.Tensor  # (B, M, 2) indices into a prompt's completions
    preference: torch.Tensor  # (B, M) P(first beats second) or its label; nan abstains
    centre_logps: torch.Tensor | None = None  # (B * K, T - 1) of the KL centre, 0 outside the completion
    sampled_logps: torch.Tensor | None = None  # (B * K, T - 1) by the engine that sampled; nan where it has none
    live_weight: float = 0.0  # of the policy that is fitted, in the centre: `centre_logps` is the rest of it
    weights: torch.Tensor | None = None  # (B, M) of the pairs in their mean, where they are not 1
    kl_from: dict[str, torch.Tensor] = field(default_factory=dict)  # by metric: (B * K,) log-probs of completions

    def __len__(self) -> int:
        return self.pairs.size(0)

    @property
    def num_completions(self) -> int:
        return self.input_ids.size(0) // len(self)

    @property
    def inputs(self) -> dict[str, torch.Tensor | int]:
        """What a model with a fused head is called with."""
        names = ("input_ids", "attention_mask", "labels", "num_completions")
        return {name: getattr(self, name) for name in names}

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The fields that are tensors."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}

    def to(self, device: torch.device) -> "PairBatch":
        def move(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}

        return replace(self, **move(self.tensors), kl_from=move(self.kl_from))


def collate(
    prompt_ids: list[list[int]],
    completion_ids: list[list[list[int]]],
    pairs: torch.Tensor,
    preference: torch.Tensor,
    pad_token_id: int,
    logps: list[list[list[float]]] | None = None,
    weights: torch.Tensor | None = None,
    masks: list[list[list[int]]] | None = None,
) -> PairBatch:
    """Pads prompts with their completions into a [`PairBatch`]. The width fixed here is kept for the whole round."""
    masks = masks or [[[1] * len(ids) for ids in completions] for completions in completion_ids]
    rows, labels, sampled_logps = [], [], None
    if logps is not None:
        parts = [(prompt, row) for prompt, own in zip(prompt_ids, logps, strict=True) for row in own]
        # The first token of a row is nobody's prediction, be it the prompt's or, of dialogues without one, another's.
        whole = [torch.tensor(([0.0] * len(prompt) + list(row))[1:]) for prompt, row in parts]
        sampled_logps = pad_sequence(whole, batch_first=True)
    for prompt, completions, own in zip(prompt_ids, completion_ids, masks, strict=True):
        for completion, mask in zip(completions, own, strict=True):
            rows.append(torch.tensor(prompt + completion))
            targets = [token if mine else IGNORED for token, mine in zip(completion, mask, strict=True)]
            labels.append(torch.tensor([IGNORED] * len(prompt) + targets))
    input_ids = pad_sequence(rows, batch_first=True, padding_value=pad_token_id)
    lengths = torch.tensor([len(row) for row in rows])
    return PairBatch(
        input_ids=input_ids,
        attention_mask=(torch.arange(input_ids.size(1)) < lengths[:, None]).long(),
        labels=pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        pairs=pairs,
        preference=preference,
        sampled_logps=sampled_logps,
        weights=weights,
    )


def until_eos(tokens: list[int], eos_token_ids: set[int]) -> list[int]:
    """The tokens up to and including the first end-of-sequence token."""
    for position, token in enumerate(tokens):
        if token in eos_token_ids:
            return tokens[: position + 1]
    return tokens


def save_batches(batches: list[PairBatch], file: str | Path) -> None:
    """
    Writes a round's micro-batches as safetensors. Those whose centre still lacks the live policy's part are behind the
    run already: checkpoints fall between optimizer steps, and a pass to come would have completed them.
    """
    from safetensors.torch import save_file

    tensors = {
        # A copy: micro-batches may share memory, which safetensors refuses.
        f"{index}.{name}": tensor.clone(memory_format=torch.contiguous_format)
        for index, batch in enumerate(batches)
        for name, tensor in batch.tensors.items()
    }
    save_file(tensors, file)


def load_batches(file: str | Path) -> list[PairBatch]:
    """Reads what [`save_batches`] wrote."""
    from safetensors.torch import load_file

    grouped: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(file).items():
        index, name = key.split(".")
        grouped.setdefault(int(index), {})[name] = tensor
    return [PairBatch(**grouped[index]) for index in sorted(grouped)]


def chunks(items: list, size: int) -> Iterator[list]:
    """Splits a list into runs of `size` items; the last one may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
