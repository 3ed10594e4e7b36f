# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""How well the fits of a run generalise, for advice."""


class Generalisation:
    """
    Means over rounds of the R² of prompts that are trained on, and of those that are held out.

    An R² below 0 counts as 0: one fit that overshoots, of which there is advice of its own, must not outweigh all
    others.
    """

    def __init__(self):
        self._rounds: list[tuple[float, float]] = []

    def add(self, metrics: dict[str, float]) -> None:
        """Takes the metrics of a round. Without held-out prompts there is nothing to take."""
        if "fit/r2_held_out" in metrics:
            found = metrics.get("fit/r2_end", 0.0), metrics["fit/r2_held_out"]
            self._rounds.append(tuple(max(r2, 0.0) for r2 in found))

    def facts(self, count: int) -> dict[str, float]:
        """What there is to know, if `count` prompts were held out of each of these rounds."""
        if not (rounds := len(self._rounds)):
            return {}
        trained, held_out = (sum(values) / rounds for values in zip(*self._rounds, strict=True))
        return {"held_out/prompts": rounds * count, "held_out/r2_end": trained, "held_out/r2": held_out}
