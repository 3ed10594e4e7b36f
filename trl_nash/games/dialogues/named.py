# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Games of dialogues by name."""

import os
from collections.abc import Callable, Sequence

import numpy as np

from ..named import default_start, load_game
from .game import DialogueGame, Game
from .tree import DialogueTree


def dialogue_cycle(turns: int = 2, shares: Sequence[float] = (1.0,), luck: float = 0.0) -> DialogueGame:
    r"""
    A cycle of three answers at every turn of a dialogue, another one against who said the same than against others.

    `P(z ≻ z') - ½ = .6 A(a_1, a_1') + Σ_{h>1} A_h(a_h, a_h')`, A being `P - ½` of COMAL's cycle
    ([2410.23223](https://huggingface.co/papers/2410.23223)), whose Nash policy is (4, 3, 4)/11. A_h is A where all
    that was said before is the same in both dialogues. Where it is not, it is a weaker cycle, with the Nash policy (1,
    5, 5)/11. So a policy that is right about those only who have said the same so far is wrong. All is scaled so that
    the largest preference is .99, before what luck does to it.

    Args:
        turns (`int`, *optional*, defaults to `2`): H, at least 2.
        shares (`Sequence[float]`, *optional*, defaults to `(1.0,)`):
            Probabilities of the user's replies, whatever was said: x, y ... From two on the user is random.
        luck (`float`, *optional*, defaults to `0.0`):
            λ from 0 to ½. All of the above is times `1 - 2λ`, and the share of the user's replies that are the first
            of their names is worth λ to who got them.
    """
    if turns < 2:
        raise ValueError(f"`turns` must be at least 2, got {turns}: one turn is the game `comal-cycle`.")
    if not 0 <= luck <= 0.5:
        raise ValueError(f"`luck` must be from 0 to 0.5, got {luck}.")
    alike, apart = _cycle(4, 3, 4) / 10, _cycle(1, 5, 5) / 20 / (3 ** (turns - 2) * len(shares))
    answers, replies = ["abc"] * turns, [[chr(ord("x") + reply) for reply in range(len(shares))]] * (turns - 1)
    user = [shares] * (turns - 1)
    shape = DialogueTree(answers, replies, user).shape
    choices = np.unravel_index(np.arange(np.prod(shape)), shape)
    advantage, same = 0.6 * alike[np.ix_(choices[0], choices[0])], True
    for turn in range(1, turns):
        for choice in choices[2 * turn - 2 : 2 * turn]:
            same = same & (choice[:, None] == choice)
        pair = np.ix_(choices[2 * turn], choices[2 * turn])
        advantage = advantage + np.where(same, alike[pair], apart[pair])
    advantage *= 0.49 / advantage.max()
    fortune = np.mean([reply == 0 for reply in choices[1::2]], axis=0)
    advantage = (1 - 2 * luck) * advantage + luck * (fortune[:, None] - fortune)
    return DialogueGame(0.5 + advantage, answers, replies, user)


def _cycle(*nash: float) -> np.ndarray:
    """`P - ½` of b > a, c > b, a > c, the Nash policy of which has these proportions."""
    a, b, c = nash
    return np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])


DIALOGUES: dict[str, Callable[[], DialogueGame]] = {
    "two-turns": lambda: dialogue_cycle(2),
    "three-turns": lambda: dialogue_cycle(3),
    "moody-user": lambda: dialogue_cycle(2, shares=(0.6, 0.4), luck=0.2),
}
"""What games of dialogues are called on the command line."""


def default_policy(game: Game) -> np.ndarray:
    """[`default_start`], in each state of a game of dialogues, of shape `(N,)` or `(S,)`."""
    if isinstance(game, DialogueGame):
        return np.concatenate([default_start(answers) for answers in np.bincount(game.state_of)])
    return game.policy(default_start(len(game)))


def load_any_game(spec: str | os.PathLike) -> Game:
    """The game of dialogues of that name, or what [`load_game`] makes of it."""
    return DIALOGUES[str(spec)]() if str(spec) in DIALOGUES else load_game(spec)
