# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Games of dialogues held by language models that are small enough to be read out in every state."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from transformers import PreTrainedConfig, PreTrainedModel

from ..language import PROMPT, LanguageGame
from ..matrix import MatrixGame, default_names
from .game import DialogueGame
from .tree import DialogueTree


class DialogueLanguageGame:
    """
    A game of dialogues in made-up words, one token each, separated by spaces: the prompt, an answer, a reply, ...

    Anything but a proper answer, at any turn, makes a dialogue that loses to every proper one.

    Args:
        game ([`DialogueGame`]): its answers must be called a, b, c ..., and its replies otherwise.

    Attributes:
        prompts (`tuple[str, ...]`): what stands before an answer in each state, in the order of the game's states.
        tokenizer ([`~transformers.PreTrainedTokenizerFast`]): every word is a token.
        with_rest ([`DialogueGame`]): the game with "anything else" as the last answer of each turn.

    Raises:
        `ValueError`: If answers or replies have other names.
    """

    def __init__(self, game: DialogueGame):
        for names in game.answers:
            if names != default_names(len(names)):
                raise ValueError(
                    f"The answers of a language game are called {', '.join(default_names(len(names)))}; got "
                    f"{', '.join(names)}."
                )
        said = {word for names in game.replies for word in names}
        if said & {word for names in game.answers for word in names} or any(len(word.split()) != 1 for word in said):
            raise ValueError(f"Replies must be single words that are no answers; got {', '.join(sorted(said))}.")
        self.game = game
        self.with_rest = _with_rest(game)
        states = [""]
        for turn in range(1, game.turns):
            before = np.prod(game.shape[: 2 * turn], dtype=int)
            each = len(game.dialogues) // before
            words = [dialogue.split()[: 2 * turn] for dialogue in game.dialogues[::each]]
            states += [" ".join(text) for text in words]
        self.prompts = tuple(f"{PROMPT} {state}".strip() for state in states)
        # A state is a prompt whose answers can be read out; what they win is known at the end of a dialogue only.
        self._sizes = np.bincount(game.state_of)
        self._states = LanguageGame(
            {prompt: MatrixGame(np.full((n, n), 0.5)) for prompt, n in zip(self.prompts, self._sizes, strict=True)}
        )
        self.tokenizer = self._states.tokenizer

    def build_model(
        self, start: ArrayLike, *, config: PreTrainedConfig | None = None, seed: int = 0
    ) -> PreTrainedModel:
        """
        A causal language model, trained until it answers as `start` does in every state.

        Args:
            start (`ArrayLike` of shape `(S,)`): the policy.
            config, seed: as in [`LanguageGame.build_model`].
        """
        rows = np.split(self.game.policy(start), np.cumsum(self._sizes)[:-1])
        return self._states.build_model(dict(zip(self.prompts, rows, strict=True)), config=config, seed=seed)

    def policy(self, model: torch.nn.Module, temperature: float = 1.0) -> np.ndarray:
        """The model's exact policy in the game `with_rest`, float64 of the length of that game."""
        read = self._states.policies(model, temperature)
        whole, place = self.with_rest, 0
        blocks = [np.zeros(block.shape) for block in whole.blocks(np.zeros(len(whole)))]
        for turn, block in enumerate(blocks):
            block[..., -1] = 1.0  # after something else, where nothing matters
            for state in np.ndindex(*self.game.shape[: 2 * turn]):
                block[state] = read[self.prompts[place]] / read[self.prompts[place]].sum()
                place += 1
        return np.concatenate([block.ravel() for block in blocks])

    def duality_gap(self, model: torch.nn.Module, temperature: float = 1.0) -> float:
        """The exact duality gap of the model, whatever it may say, by backward induction over all dialogues."""
        return self.with_rest.duality_gap(self.policy(model, temperature))


def _with_rest(game: DialogueGame) -> DialogueGame:
    """The game with one more answer a turn, with which dialogues lose to all others."""
    answers = [(*names, "else") for names in game.answers]
    # The user replies to it as to the last answer, which makes no difference.
    user = [np.pad(table, [(0, place % 2 == 0) for place in range(table.ndim)], mode="edge") for table in game.user]
    shape = DialogueTree(answers, game.replies, user).shape
    choices = np.array(np.unravel_index(np.arange(np.prod(shape)), shape)).reshape(len(shape), -1)
    limits = np.array(game.shape)[:, None]
    proper = (choices < limits).all(axis=0)
    old = np.ravel_multi_index(tuple(np.minimum(choices, limits - 1)), game.shape)
    preferences = 0.5 + 0.5 * (proper[:, None] * 1.0 - proper)
    both = np.ix_(proper, proper)
    preferences[both] = game.preferences[np.ix_(old[proper], old[proper])]
    return DialogueGame(preferences, answers, game.replies, user)
