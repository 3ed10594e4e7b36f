# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Games of dialogues held by language models that are small enough to be read out in every state."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import ArrayLike
from transformers import PreTrainedConfig, PreTrainedModel

from ...data.messages import Message
from ...judges.transcript import messages_of
from ..equilibria import nash_equilibrium
from ..language import PROMPT, GameJudge, LanguageGame
from ..matrix import MatrixGame, default_names
from .game import DialogueGame
from .tree import DialogueTree


_REST = "else"
# What was said, and nothing else: so a state is the same tokens in a dialogue as where it is read out.
_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


class DialogueLanguageGame:
    """
    A game of dialogues in made-up words, one token each, separated by spaces: the prompt, an answer, a reply, ...

    Anything but a proper answer, at any turn, makes a dialogue that loses to every proper one.

    It has all that a trainer needs, as [`LanguageGame`] does, and `user`, the game's own: a function of messages, for
    `user=`. Answers end a turn of the policy: with `max_new_tokens` of 1, nothing else is in a turn.

    Args:
        game ([`DialogueGame`]): its answers must be called a, b, c ..., and its replies otherwise.
        seed (`int`, *optional*, defaults to `0`): of what a random user says.

    Attributes:
        prompts (`tuple[str, ...]`): what stands before an answer in each state, in the order of the game's states.
        tokenizer ([`~transformers.PreTrainedTokenizerFast`]): every word is a token.
        judge ([`GameJudge`]): answers with the game's probabilities of whole dialogues.
        nash (`dict[str, np.ndarray]`): the equilibrium, of shape `(S,)`, under the one prompt.
        tokens_per_answer (`int`): 1, in each turn.
        with_rest ([`DialogueGame`]): the game with "anything else" as the last answer of each turn.

    Raises:
        `ValueError`: If answers or replies have other names.
    """

    tokens_per_answer = 1

    def __init__(self, game: DialogueGame, seed: int = 0):
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
        self.tokenizer.chat_template = _TEMPLATE
        self.judge = GameJudge(self)
        self.nash = {PROMPT: nash_equilibrium(game)}
        self._index = {dialogue: place for place, dialogue in enumerate(self.with_rest.dialogues)}
        self._dice = np.random.default_rng(seed)

    def dataset(self, size: int) -> Dataset:
        """`size` rows with the `"prompt"`, as a message."""
        return Dataset.from_dict({"prompt": [[{"role": "user", "content": PROMPT}]] * size})

    def user(self, messages: Sequence[Message]) -> str | None:
        """What the game's user says next; `None` at the end, and after anything but a proper answer."""
        said = [message["content"] for message in messages[1:]]
        turn = len(said) // 2
        words = [names for pair in zip(self.game.answers, (*self.game.replies, ()), strict=True) for names in pair]
        proper = len(said) % 2 and all(word in names for word, names in zip(said, words, strict=False))
        if not proper or turn == self.game.turns - 1:
            return None
        place = tuple(names.index(word) for word, names in zip(said, words, strict=False))
        return str(self._dice.choice(self.game.replies[turn], p=self.game.user[turn][place]))

    def preference(self, prompt: str | list[Message], first: str, second: str) -> float:
        """P(first ≻ second) of two dialogues, as a judge gets them."""
        places = (
            self._index.get(" ".join(message["content"] or "" for message in messages_of(dialogue)), -1)  # of the rest
            for dialogue in (first, second)
        )
        return float(self.with_rest.preferences[tuple(places)])

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
        model = self._states.build_model(dict(zip(self.prompts, rows, strict=True)), config=config, seed=seed)
        answers = dict.fromkeys(word for names in self.game.answers for word in names)
        ends = self.tokenizer.convert_tokens_to_ids(list(answers))
        model.generation_config.eos_token_id = [self.tokenizer.eos_token_id, *ends]
        return model

    def policies(self, model: torch.nn.Module, temperature: float = 1.0) -> dict[str, np.ndarray]:
        """The model's exact policy in the game `with_rest`, float64 of the length of that game, under the prompt."""
        read = self._states.policies(model, temperature)
        return {PROMPT: self._laid_out([read[prompt] / read[prompt].sum() for prompt in self.prompts])}

    def duality_gap(self, policies: Mapping[str, np.ndarray]) -> float:
        """Of what [`~DialogueLanguageGame.policies`] returns: by backward induction over all dialogues."""
        return self.with_rest.duality_gap(policies[PROMPT])

    def kl_from(self, targets: Mapping[str, ArrayLike], policies: Mapping[str, np.ndarray]) -> float:
        """`KL(target‖π)` of dialogues in nats, of a policy of the game without the rest, e.g. `game.nash`."""
        return float(self.with_rest.kl_divergences(self.extended(targets)[PROMPT], policies[PROMPT][None])[0])

    def improper(self, policies: Mapping[str, np.ndarray]) -> float:
        """The probability of saying anything but a proper answer, in any turn."""
        proper = [_REST not in dialogue.split() for dialogue in self.with_rest.dialogues]
        return max(1 - float(self.with_rest.distribution(policies[PROMPT])[proper].sum()), 0.0)

    def extended(self, policies: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
        """Policies of the game as policies of `with_rest`, which never say anything else."""
        rows = np.split(self.game.policy(policies[PROMPT]), np.cumsum(self._sizes)[:-1])
        return {PROMPT: self._laid_out([np.append(row, 0.0) for row in rows])}

    def _laid_out(self, rows: list[np.ndarray]) -> np.ndarray:
        """A policy of `with_rest` of a distribution in each state of the game."""
        whole, place = self.with_rest, 0
        blocks = [np.zeros(block.shape) for block in whole.blocks(np.zeros(len(whole)))]
        for turn, block in enumerate(blocks):
            block[..., -1] = 1.0  # after something else, where nothing matters
            for state in np.ndindex(*self.game.shape[: 2 * turn]):
                block[state] = rows[place]
                place += 1
        return np.concatenate([block.ravel() for block in blocks])


def _with_rest(game: DialogueGame) -> DialogueGame:
    """The game with one more answer a turn, with which dialogues lose to all others."""
    answers = [(*names, _REST) for names in game.answers]
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
