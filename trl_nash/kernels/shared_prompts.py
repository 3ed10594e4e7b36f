# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The rows of a batch, taken apart into what the completions of a prompt have in common and the rest of each."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SharedPrompts:
    """
    B prompts with K completions each: what the K rows of a prompt begin with, once, and what follows it in each.

    What they begin with ends with the first token whose next one is scored, or before one that differs between them;
    the last token of a row, behind which nothing is scored, is not read at all.
    """

    prefix_ids: Tensor  # (B, P), padded on the left
    prefix_mask: Tensor  # (B, P)
    input_ids: Tensor  # (B * K, S), padded on the right
    attention_mask: Tensor  # (B * K, P + S), of a row's prefix and of what follows
    targets: Tensor  # (B * K, 1 + S), behind the end of the prefix and behind what follows
    positions: Tensor  # (B * K, 1 + S), of `targets` among those of the whole rows

    @classmethod
    def of(cls, input_ids: Tensor, attention_mask: Tensor, targets: Tensor, count: int, ignored: int):
        """
        Args:
            input_ids (`torch.Tensor` of shape `(B * K, T)`): rows `b * K + k`, padded on the right.
            attention_mask (`torch.Tensor` of shape `(B * K, T)`): 0 at padding.
            targets (`torch.Tensor` of shape `(B * K, T - 1)`): the next tokens, `ignored` where none is scored.
            count (`int`): K.
            ignored (`int`): see `targets`.
        """
        ids, mask, own = (rows.unflatten(0, (-1, count)) for rows in (input_ids, attention_mask.bool(), targets))
        common = ((ids == ids[:, :1]) & mask)[..., :-1]
        common[..., 1:] &= own[..., :-1] == ignored
        lengths = common.all(1).long().cumprod(-1).sum(-1)  # (B,) of the prefixes
        place = torch.arange(max(1, int(lengths.max())), device=ids.device)
        place = place - place.numel() + lengths[:, None]
        prefix_ids, prefix_mask = ids[:, 0].gather(1, place.clamp(min=0)), (place >= 0).long()

        starts = lengths.repeat_interleave(count)[:, None]
        ends = attention_mask.sum(-1, keepdim=True) - 1
        positions = starts - 1 + torch.arange(1 + max(1, int((ends - starts).max())), device=ids.device)
        scored = (positions >= 0) & (positions < ends)
        places = positions.clamp(0, targets.size(1) - 1)
        return cls(
            prefix_ids,
            prefix_mask,
            input_ids.gather(1, places[:, 1:]),
            torch.cat([prefix_mask.repeat_interleave(count, 0), scored[:, 1:].long()], 1),
            targets.gather(1, places).where(scored, ignored),
            positions,
        )

    def spread(self, values: Tensor, width: int) -> Tensor:
        """Values of shape (B * K, 1 + S) at their places in whole rows of `width`, and 0 elsewhere."""
        room = values.new_zeros(values.size(0), width + values.size(1))
        return room.scatter(1, self.positions % room.size(1), values)[:, :width]
