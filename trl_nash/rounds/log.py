# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a round has sampled so far, on disk: a run that is killed in the middle of it goes on from there."""

import base64
import json
import os
import random
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .batch import Samples


class RoundLog:
    """
    The samples of a round in the order in which they were drawn, one line each, with the state of the random
    generators behind each of them. Verdicts are not kept here: judges have a cache of their own.

    Args:
        file (`Path`):
            This rank's file. What it holds of another round is dropped.
        key (`str`):
            All that the samples depend on.
        agree (`Callable[[int], int]`):
            The smallest of the ranks' numbers: what one rank has to draw, all draw.
    """

    def __init__(self, file: Path, key: str, agree: Callable[[int], int]):
        lines = self._read(file, key)
        self._file, self._lines = file, lines[: agree(len(lines))]
        fresh = file.with_suffix(".new")
        with self._writing():
            file.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text("".join(f"{line}\n" for line in [json.dumps(key), *self._lines]), encoding="utf-8")
            os.replace(fresh, file)

    @staticmethod
    def _read(file: Path, key: str) -> list[str]:
        if not file.is_file():
            return []
        first, *lines = file.read_text(encoding="utf-8").split("\n")
        # Behind the last line break there is nothing, or a line that a kill has cut.
        return lines[:-1] if first == json.dumps(key) else []

    def draw(self, sample: Callable[[], Samples]) -> Samples:
        """The next samples: those that are in the file, then what `sample` draws, which is written to it."""
        if self._lines:
            entry = json.loads(self._lines.pop(0))
            set_random_state(entry.pop("random"))
            return Samples(**entry | {"pairs": entry["pairs"] and [tuple(pair) for pair in entry["pairs"]]})
        samples = sample()
        with self._writing(), self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(samples) | {"random": random_state()}) + "\n")
        return samples

    @contextmanager
    def _writing(self):
        try:
            yield
        except OSError as error:
            raise RuntimeError(
                f"{self._file} cannot be written ({error.strerror or error}). Make room there and go on from the "
                "last checkpoint, or start again: what is in the file is not sampled again."
            ) from error


def random_state() -> dict[str, Any]:
    """The state of the generators that sampling draws from, as JSON takes it."""
    name, keys, *rest = np.random.get_state()
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return {
        "random": random.getstate(),
        "numpy": [name, keys.tolist(), *rest],
        **{key: base64.b64encode(tensor.numpy().tobytes()).decode() for key, tensor in tensors.items()},
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Goes back to a state that [`random_state`] returned."""
    version, internal, gauss = state["random"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(_tensor(state["torch"]))
    if "cuda" in state:
        torch.cuda.set_rng_state(_tensor(state["cuda"]))


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
