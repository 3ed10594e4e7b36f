# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Games by name, and games from files."""

import csv
import difflib
import json
import os
import tokenize
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.special import expit

from .matrix import MatrixGame


LONGEST_NUMBER = 100  # digits of a seed
LARGEST_RANDOM = 10_000  # answers: 800 MB of preferences


def comal_cycle() -> MatrixGame:
    """
    The synthetic experiment of COMAL ([2410.23223](https://huggingface.co/papers/2410.23223)): b beats a, c beats b, a
    beats c. Its Nash policy is (4, 3, 4)/11.
    """
    return MatrixGame([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]])


def rock_paper_scissors(win_rate: float = 1.0) -> MatrixGame:
    """Each answer beats one and loses to the other, `win_rate` of the time. The Nash policy is uniform."""
    cycle = _cycle(win_rate, win_rate, win_rate)
    return MatrixGame(cycle.T, ["rock", "paper", "scissors"])


def dice(faces: Sequence[Sequence[float]] = ((2, 4, 9), (1, 6, 8), (3, 5, 7))) -> MatrixGame:
    """
    Dice, of which the higher throw wins. The first of these beats the second, which beats the third, which beats the
    first, each 5/9 of the time, although all have the same mean.

    Args:
        faces (`Sequence[Sequence[float]]`): of each die.
    """
    if not all(len(die) for die in faces):
        raise ValueError("`faces` must give every die at least one face.")
    throws = [np.asarray(die, dtype=np.float64) for die in faces]
    wins = [[(np.sign(mine[:, None] - theirs).mean() + 1) / 2 for theirs in throws] for mine in throws]
    return MatrixGame(wins)


def raters(shares: Sequence[float] = (1 / 3, 1 / 3, 1 / 3)) -> MatrixGame:
    """
    Three types of raters who rank a > b > c, b > c > a and c > a > b: each consistent, but the majority is not
    (Condorcet's paradox) as long as every share is below ½.

    Args:
        shares (`Sequence[float]`): of the three types, adding up to 1.
    """
    parts = np.asarray(shares, dtype=np.float64)
    if parts.shape != (3,) or not parts.min() >= 0 or abs(parts.sum() - 1) > 1e-6:
        raise ValueError(f"`shares` must be three numbers from 0 that add up to 1, got {parts.tolist()}.")
    # Only the type that starts with b ranks b before a, only the third c before b, only the first a before c.
    return MatrixGame(_cycle(*(1 - np.roll(parts / parts.sum(), -1))))


def weak_edge(strong: float = 0.9, weak: float = 0.51) -> MatrixGame:
    """
    A cycle that is nearly a ranking: a beats b and b beats c `strong` of the time, c beats a only `weak`. The Nash
    policy hardly ever gives b.
    """
    return MatrixGame(_cycle(strong, strong, weak))


def condorcet(winner: float = 0.6, cycle: float = 0.9) -> MatrixGame:
    """One answer beats all others, `winner` of the time: it is the Nash policy. The others form a cycle."""
    game = np.full((4, 4), winner)
    game[:, 0] = 1 - winner
    game[0, 0] = 0.5
    game[1:, 1:] = _cycle(cycle, cycle, cycle)
    return MatrixGame(game, ["best", "a", "b", "c"])


def bradley_terry(rewards: Sequence[float] = (0.0, 1.0, 2.0)) -> MatrixGame:
    """`P(i ≻ j) = σ(r_i - r_j)`: no cycles, and the answer of highest reward is the Nash policy."""
    scores = np.asarray(rewards, dtype=np.float64)
    if scores.ndim != 1:
        raise ValueError(f"`rewards` must be a list of one number per answer, got shape {scores.shape}.")
    return MatrixGame(expit(scores[:, None] - scores))


def random_game(size: int = 5, seed: int = 0) -> MatrixGame:
    """Preferences drawn uniformly from [0, 1], again until no answer beats all others (no Condorcet winner)."""
    if size < 3:
        raise ValueError(f"`size` must be at least 3, got {size}: of two answers one always beats the other.")
    if size > LARGEST_RANDOM:
        raise ValueError(f"`size` must be at most {LARGEST_RANDOM}, got {size}: the matrix would not fit in memory.")
    generator = np.random.default_rng(seed)
    while True:
        upper = np.triu(generator.uniform(-0.5, 0.5, (size, size)), 1)
        game = MatrixGame(0.5 + upper - upper.T)
        if game.advantage.min(axis=1).max() < 0:
            return game


GAMES: dict[str, Callable[..., MatrixGame]] = {
    "comal-cycle": comal_cycle,
    "rock-paper-scissors": rock_paper_scissors,
    "dice": dice,
    "raters": raters,
    "weak-edge": weak_edge,
    "condorcet": condorcet,
    "bradley-terry": bradley_terry,
    "random": random_game,
}


def load_game(spec: str | os.PathLike) -> MatrixGame:
    """
    The game that `spec` stands for.

    Args:
        spec (`str` or `os.PathLike`):
            A key of `GAMES`; `random:8` or `random:8:3` (answers, seed); or a file of `P(row ≻ column)`: CSV or TSV,
            whose first row may name the answers, NumPy's `.npy`, or JSON, a list of lists or an object with
            `"preferences"` and maybe `"actions"`.

    Raises:
        `ValueError`: If there is no such game or file, or the file holds no game.
    """
    spec = str(spec)
    name, *numbers = spec.split(":")
    if name == "random" and numbers:
        if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
            raise ValueError(f"{spec!r} is no random game: write random:SIZE or random:SIZE:SEED, as in random:8:3.")
        if max(map(len, numbers)) > LONGEST_NUMBER:
            raise ValueError(f"The numbers of {spec:.80} have at most {LONGEST_NUMBER} digits.")
        return random_game(*map(int, numbers))
    if spec in GAMES:
        return GAMES[spec]()
    path = Path(spec)
    if path.suffix.lower() in _READERS:
        return _load_file(path)
    from .dialogues.named import DIALOGUES

    if spec in DIALOGUES:
        raise ValueError(
            f"{spec!r} is a game of dialogues: `trl-nash simulate` plays it, and `trl_nash.games.DIALOGUES` has it."
        )
    guess = difflib.get_close_matches(spec, GAMES, n=1)
    hint = f"did you mean {guess[0]!r}? T" if guess else "t"
    raise ValueError(
        f"There is no game {spec!r}: {hint}here are {', '.join(GAMES)}, random:SIZE:SEED and files "
        f"({', '.join(_READERS)})."
    )


def default_start(answers: int) -> list[float]:
    """Far from the equilibrium of the games of three answers, where a start at it would show nothing; else uniform."""
    return [0.2, 0.5, 0.3] if answers == 3 else [1 / answers] * answers


def _cycle(first: float, second: float, third: float) -> np.ndarray:
    """The matrix of a > b > c > a with these win rates."""
    return np.array([[0.5, first, 1 - third], [1 - first, 0.5, second], [third, 1 - second, 0.5]])


def _load_file(path: Path) -> MatrixGame:
    try:
        preferences, actions = _READERS[path.suffix.lower()](path)
        return MatrixGame(preferences, actions)
    except OSError as error:
        raise ValueError(f"The game file {path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, csv.Error, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise ValueError(f"The game file {path} cannot be used: {str(error).rstrip('.')}.") from None


def _read_table(path: Path) -> tuple[list[list[float]], list[str] | None]:
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte-order mark
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        rows = [row for row in csv.reader(file, delimiter=delimiter) if any(cell.strip() for cell in row)]
    if not rows:
        raise ValueError("it is empty")
    named = not any(_is_number(cell) for cell in rows[0])
    names = [cell.strip() for cell in rows.pop(0)] if named else None
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise ValueError(f"its rows have from {min(widths)} to {max(widths)} cells, they must have the same number")
    return [[float(cell) for cell in row] for row in rows], names


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_json(path: Path) -> tuple[list, list[str] | None]:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, dict):
        if "preferences" not in content:
            raise ValueError('its object must have "preferences", the matrix')
        actions = content.get("actions")
        if not (actions is None or isinstance(actions, list) and all(isinstance(name, str) for name in actions)):
            raise ValueError('its "actions" must be a list of names')
        return content["preferences"], actions
    return content, None


def _read_npy(path: Path) -> tuple[np.ndarray, None]:
    with path.open("rb") as file:  # `np.load` would also open archives
        return np.lib.format.read_array(file, allow_pickle=False), None


_READERS = {".csv": _read_table, ".tsv": _read_table, ".json": _read_json, ".npy": _read_npy}
