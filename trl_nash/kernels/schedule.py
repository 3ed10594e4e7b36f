# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

r"""
Log-probs of target tokens and their gradients, from tiles of logits that are never rounded and never kept.

Raw logits are $a = \sum_i h_i W_i^T + b$ (a second product where an adapter sits on the head) and logits
$z = c \tanh(s a / c) / T$, or $s a / T$ without a softcap. The target's own logit $z_y$ is known first. With a shift m
for each row, 0 unless $\log p_y$ is very low,

$$ e_v = \exp(z_v - z_y - m) \ (v \ne y), \qquad \Sigma = \sum_{v \ne y} e_v, \qquad
   -\log p_y = m + \log(e^{-m} + \Sigma) = \log(1 + \Sigma) \text{ where } m = 0, $$

$$ E_v = e_v \dot z_v \ (v \ne y), \qquad E_y = -\Sigma \, \dot z_y, \qquad r = \frac{-s / T}{e^{-m} + \Sigma}, \qquad
   \frac{\partial \log p_y}{\partial a_v} = r E_v, $$

where $\dot z = 1 - \tanh^2(s a / c)$. E needs no maximum of its row, so that each tile is looked at once, and it does
not depend on the upstream gradient g, which only scales rows:

$$ \frac{\partial L}{\partial h} = g \circ [\, r \circ (E W) \,], \qquad
   \frac{\partial L}{\partial W} = E^T \big((g \, r) \circ h\big), \qquad
   \frac{\partial L}{\partial b} = E^T (g \, r). $$

The bracket is made in the forward, so that a frozen head has nothing to multiply in the backward; the gradient of W
needs E again, which is kept for as many rows as there is room for and made again for the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import ModuleType

import torch
from torch import Tensor

from . import folds
from .products import are_exact, are_fast, multiply
from .scores import Scores, entry_dtype, new_stash


# Rows with a larger Σ are done again with m = max(z_v - z_y), far from overflow of e and underflow of r.
LARGEST_SUM = 1e20


@dataclass(frozen=True)
class Projection:
    """N hidden states and what makes V logits of each, in tiles."""

    hiddens: list[Tensor]  # (N, D_i), all in the dtype that products are made of
    weights: list[Tensor]  # (V, D_i)
    bias: Tensor | None  # (V,)
    targets: Tensor  # (N,) in [0, V)
    logit_scale: float
    softcap: float | None
    temperature: float
    tile_rows: int
    tile_columns: int
    folds: ModuleType = field(default=folds)  # or `triton_folds`

    @property
    def dtype(self) -> torch.dtype:
        return self.hiddens[0].dtype

    @property
    def accumulator(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def stash_dtype(self) -> torch.dtype:
        return entry_dtype(self.dtype)

    @property
    def vocabulary(self) -> int:
        return len(self.weights[0])

    # ---- Forward ----

    def forward(self, *, gradient: bool, stash_rows: int, statistics: bool) -> Scores:
        """
        Log-probs, and the parts of their gradients that do not depend on what comes from upstream.

        Args:
            gradient (`bool`): whether to make the gradient with respect to the hidden states.
            stash_rows (`int`): for how many rows E is kept.
            statistics (`bool`): whether to make entropy, mean logit and `is_top1`.
        """
        raw = torch.zeros_like(self.targets, dtype=self.accumulator)
        for hidden, weight in zip(self.hiddens, self.weights, strict=True):
            self.folds.target_logits(hidden, weight, self.targets, raw)
        if self.bias is not None:
            raw += self.bias[self.targets]
        z, slope = self._transform(raw)
        shift = torch.zeros_like(z)

        stash = new_stash(raw, stash_rows, self.vocabulary, self.dtype)
        sums, stats, products = self._sweep(z, gradient, stash, statistics)
        again = (sums > LARGEST_SUM).nonzero()[:, 0]
        if len(again):
            few = self._select(again)
            shift[again] = few._largest() - z[again]
            stash_few = new_stash(raw, int((again < stash_rows).sum()), self.vocabulary, self.dtype)
            sums[again], stats[:, again], products[again] = few._sweep(
                (z + shift)[again], gradient, stash_few, statistics
            )
            stash[again[: len(stash_few)]] = stash_few

        rest = torch.exp(-shift)
        total = rest + sums
        scale = self.logit_scale / self.temperature
        row_scale, target_entry = -scale / total, -sums * slope
        if gradient:
            products *= row_scale[:, None]
            for part, weight in zip(self._split(products), self.weights, strict=True):
                self.folds.add_target_rows(part, weight, self.targets, row_scale * target_entry, self.dtype)
        stash.scatter_(1, self.targets[:stash_rows, None], target_entry[:stash_rows, None].to(stash.dtype))

        logps = -torch.where(shift == 0, torch.log1p(sums), shift + torch.log(total))
        entropy, mean_logit, is_top1 = raw.new_empty(0), raw.new_empty(0), raw.new_empty(0, dtype=torch.bool)
        if statistics:
            d_e, d, wins = stats
            columns = self.vocabulary
            entropy = -logps - (d_e + shift * sums) / total
            mean_logit = z + (d + (columns - 1) * shift) / columns
            is_top1 = (shift == 0) & (wins == 0)
        gradient = products.to(self.stash_dtype)
        return Scores(logps, entropy, mean_logit, is_top1, gradient, row_scale, z + shift, target_entry, stash)

    def _sweep(self, anchor: Tensor, gradient: bool, stash: Tensor, statistics: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Σ of shape (N,), sums for the statistics (3, N), and E W without the target's part (N, ΣD_i)."""
        count, tiles = len(self.targets), -(-self.vocabulary // self.tile_columns)
        sums = anchor.new_empty((tiles, count))
        stats = anchor.new_empty((tiles, 3 if statistics else 0, count))
        products = anchor.new_zeros((count, sum(h.size(1) for h in self.hiddens) if gradient else 0))
        buffer = self._buffer(self.accumulator)
        # On CUDA, entries are written in 16 bits; elsewhere E may lie where the logits lay.
        entry_buffer = self._buffer(self.stash_dtype) if gradient and are_exact(self.hiddens[0]) else buffer
        hiddens = self._factors(self.hiddens)
        for tile_index, columns in enumerate(ranges(0, self.vocabulary, self.tile_columns)):
            targets = self.targets - columns.start
            halves = weights = entry_weights = None  # never two of them: they may be wider than the weights themselves
            halves = [weight[columns].to(self.dtype) for weight in self.weights]
            weights = self._factors(halves)
            entry_weights = halves if are_fast(self.hiddens[0]) else weights
            for rows in [*ranges(0, len(stash), self.tile_rows), *ranges(len(stash), count, self.tile_rows)]:
                tile = self._logits([hidden[rows] for hidden in hiddens], weights, buffer)
                entries = None
                if rows.start < len(stash):
                    entries = stash[rows, columns]
                elif gradient:
                    entries = tile if entry_buffer is buffer else entry_buffer[: tile.numel()].view_as(tile)
                self._fold(
                    tile,
                    columns,
                    targets[rows],
                    anchor[rows],
                    sums=sums[tile_index, rows],
                    statistics=stats[tile_index, :, rows] if statistics else None,
                    entries=entries,
                )
                if gradient:
                    entries = self._entry_factor(entries)
                    for part, weight in zip(self._split(products[rows]), entry_weights, strict=True):
                        multiply(entries, weight, part, add=True)
        # In fp64 and one order: sums of sums are exact to the last bit, and always the same.
        return sums.sum(0, dtype=torch.float64).to(sums), stats.sum(0, dtype=torch.float64).to(stats), products

    def _largest(self) -> Tensor:
        """The largest logit of each row, of shape (N,)."""
        largest = torch.full_like(self.targets, -torch.inf, dtype=self.accumulator)
        buffer = self._buffer(self.accumulator)
        for columns in ranges(0, self.vocabulary, self.tile_columns):
            weights = self._factors([weight[columns].to(self.dtype) for weight in self.weights])
            for rows in ranges(0, len(self.targets), self.tile_rows):
                tile = self._logits(self._factors([hidden[rows] for hidden in self.hiddens]), weights, buffer)
                if self.bias is not None:
                    tile += self.bias[columns]
                torch.maximum(largest[rows], self._transform(tile)[0].amax(1), out=largest[rows])
        return largest

    # ---- Backward ----

    def weight_gradients(
        self, upstream: Tensor, anchor: Tensor, target_entry: Tensor, stash: Tensor, wanted: list[bool]
    ) -> list[Tensor]:
        """
        Gradients of the weights and, behind them, of the bias.

        Args:
            upstream (`torch.Tensor` of shape `(N,)`): `g r`.
            anchor, target_entry, stash: as in [`Scores`].
            wanted (`list[bool]`): one for each weight and one for the bias. What is not wanted comes back empty.
        """
        gradients = [
            torch.zeros_like(parameter) if is_wanted else upstream.new_empty(0)
            for parameter, is_wanted in zip([*self.weights, self.bias], wanted, strict=True)
        ]
        hiddens = self._factors(self.hiddens)
        scaled = [self._entry_factor((upstream[:, None] * hidden).to(self.stash_dtype)) for hidden in self.hiddens]
        buffer = self._buffer(self.accumulator)
        entry_buffer = self._buffer(self.stash_dtype) if are_exact(self.hiddens[0]) else buffer
        for columns in ranges(0, self.vocabulary, self.tile_columns):
            sums = [
                # In place where nothing is left to be rounded.
                gradient[columns] if gradient.dtype == self.accumulator else gradient[columns].to(self.accumulator)
                for gradient in gradients
            ]
            weights, targets = None, self.targets - columns.start
            for rows in [*ranges(0, len(stash), len(stash)), *ranges(len(stash), len(anchor), self.tile_rows)]:
                if rows.start < len(stash):
                    entries = stash[rows, columns]
                else:
                    weights = weights or self._factors([weight[columns].to(self.dtype) for weight in self.weights])
                    tile = self._logits([hidden[rows] for hidden in hiddens], weights, buffer)
                    entries = tile if entry_buffer is buffer else entry_buffer[: tile.numel()].view_as(tile)
                    self._fold(
                        tile, columns, targets[rows], anchor[rows], target_entry=target_entry[rows], entries=entries
                    )
                for total, factor in zip(sums[:-1], scaled, strict=True):
                    if total.numel():
                        multiply(self._entry_factor(entries).T, factor[rows], total, add=True)
                if sums[-1].numel():
                    sums[-1].addmv_(entries.T.to(self.accumulator), upstream[rows])
            for gradient, total in zip(gradients, sums, strict=True):
                if gradient.dtype != self.accumulator:
                    gradient[columns] = total
        return gradients

    # ---- Parts of both ----

    def _logits(self, hiddens: list[Tensor], weights: list[Tensor], buffer: Tensor) -> Tensor:
        """A tile of raw logits without bias, in `buffer`."""
        rows, columns = len(hiddens[0]), len(weights[0])
        tile = buffer[: rows * columns].view(rows, columns)
        for index, (hidden, weight) in enumerate(zip(hiddens, weights, strict=True)):
            multiply(hidden, weight.T, tile, add=index > 0)
        return tile

    def _fold(self, tile: Tensor, columns: slice, targets: Tensor, anchor: Tensor, **results: Tensor | None) -> None:
        """Folds a tile of some rows; `targets` are counted from its first column."""
        self.folds.fold(
            tile,
            None if self.bias is None else self.bias[columns],
            targets,
            anchor,
            results.get("target_entry"),
            self.logit_scale,
            self.softcap,
            self.temperature,
            results.get("sums"),
            results.get("statistics"),
            results.get("entries"),
        )

    def _transform(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of raw ones, and how their slope differs from `s / T`."""
        if self.softcap is None:
            return raw * (self.logit_scale / self.temperature), torch.ones_like(raw)
        capped = torch.tanh(raw * (self.logit_scale / self.softcap))
        return capped * (self.softcap / self.temperature), 1 - capped * capped

    def _factors(self, tensors: list[Tensor]) -> list[Tensor]:
        """Factors of logits as [`multiply`] takes them: in 16 bits where their products come in fp32."""
        return tensors if are_exact(self.hiddens[0]) else [t.to(self.accumulator) for t in tensors]

    def _entry_factor(self, entries: Tensor) -> Tensor:
        """A factor of gradients as [`multiply`] takes it: in 16 bits where these are faster."""
        return entries.to(self.stash_dtype if are_fast(self.hiddens[0]) else self.accumulator)

    def _split(self, matrix: Tensor) -> tuple[Tensor, ...]:
        return matrix.split([hidden.size(1) for hidden in self.hiddens], dim=1)

    def _buffer(self, dtype: torch.dtype) -> Tensor:
        size = min(self.tile_rows, len(self.targets)) * min(self.tile_columns, self.vocabulary)
        return torch.empty(size, dtype=dtype, device=self.targets.device)

    def _select(self, rows: Tensor) -> "Projection":
        return replace(self, hiddens=[hidden[rows] for hidden in self.hiddens], targets=self.targets[rows])


def ranges(start: int, stop: int, size: int) -> Iterator[slice]:
    """`size` numbers at a time of those from `start` to `stop`."""
    while start < stop:
        yield slice(start, min(start + size, stop))
        start += size
