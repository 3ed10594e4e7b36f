# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Matrix games played by language models that are small enough to be read out exactly.

A [`LanguageGame`] makes all that a trainer needs (tokenizer, model, prompts, judge) out of matrix games, offline. The
trainer samples, asks and fits as it does with any model; the game reads the model's probability of every answer and
says how far the *model itself* is from the equilibrium, without sampling.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import ArrayLike
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from ..judges.base import PairwiseJudge
from .equilibria import nash_equilibrium
from .matrix import MatrixGame, default_names, kl_divergence


if TYPE_CHECKING:
    from .dialogues.language import DialogueLanguageGame

PROMPT = "choose"  # of a game without prompts of its own
_WARM_UP_STEPS = 2000
_WARM_UP_KL = 2e-4  # nats a prompt


class LanguageGame:
    """
    A game whose answers are short texts of made-up words. Anything else that a model may write is one more answer,
    which loses to every proper one.

    Args:
        games ([`MatrixGame`] or `dict[str, MatrixGame]`):
            The game, or one for each prompt: a contextual game, in which the right answer depends on the prompt.
        tokens_per_answer (`int`, *optional*, defaults to `1`):
            Length L of the answers. Longer ones share their first tokens, so that token-wise and answer-wise are
            different things.

    Attributes:
        games (`dict[str, MatrixGame]`): by prompt.
        tokenizer ([`~transformers.PreTrainedTokenizerFast`]): every word is a token.
        judge ([`PairwiseJudge`]): answers with the games' probabilities.
        nash (`dict[str, np.ndarray]`): the equilibrium of each game, shape (N,).
        with_rest (`dict[str, MatrixGame]`): each game with "anything else" as its last answer, N + 1 in all.

    Raises:
        `ValueError`: If there is no game, a prompt has no words, or `tokens_per_answer` is below 1.

    Example:

    ```python
    >>> game = LanguageGame(load_game("comal-cycle"))
    >>> model = game.build_model(start=[0.2, 0.5, 0.3])
    >>> trainer = COMALTrainer(
    ...     model,
    ...     judge=game.judge,
    ...     args=COMALConfig(max_new_tokens=game.tokens_per_answer, ...),
    ...     train_dataset=game.dataset(512),
    ...     processing_class=game.tokenizer,
    ... )
    >>> trainer.add_callback(GameCallback(game, trainer))
    ```
    """

    def __init__(self, games: MatrixGame | Mapping[str, MatrixGame], tokens_per_answer: int = 1):
        if tokens_per_answer < 1:
            raise ValueError(f"`tokens_per_answer` must be at least 1, got {tokens_per_answer}.")
        self.games = dict(games) if isinstance(games, Mapping) else {PROMPT: games}
        if not self.games or not all(prompt.split() for prompt in self.games):
            raise ValueError(f"Every game needs a prompt of at least one word, got {list(self.games)}.")
        self.tokens_per_answer = tokens_per_answer
        largest = max(map(len, self.games.values()))
        letters = 2
        while letters**tokens_per_answer < largest:
            letters += 1
        # Answer i is i written with `letters` digits: neighbours begin alike.
        self._spelling = np.stack(np.unravel_index(np.arange(largest), (letters,) * tokens_per_answer), axis=-1)
        words = default_names(letters)
        self._answers = [" ".join(words[digit] for digit in digits) for digits in self._spelling]
        self.tokenizer = _build_tokenizer([*words, *(word for prompt in self.games for word in prompt.split())])
        self.judge = GameJudge(self)
        self.nash = {prompt: nash_equilibrium(game) for prompt, game in self.games.items()}
        self.with_rest = {prompt: _with_rest(game) for prompt, game in self.games.items()}

    def answers(self, prompt: str) -> list[str]:
        """The texts of the N proper answers to a prompt, in the order of its game."""
        return self._answers[: len(self.games[prompt])]

    def dataset(self, size: int) -> Dataset:
        """`size` rows with a `"prompt"`, all prompts equally often."""
        prompts = list(self.games)
        return Dataset.from_dict({"prompt": [prompts[row % len(prompts)] for row in range(size)]})

    def build_model(
        self,
        start: ArrayLike | Mapping[str, ArrayLike] | None = None,
        *,
        config: PreTrainedConfig | None = None,
        seed: int = 0,
    ) -> PreTrainedModel:
        """
        Makes a causal language model and trains it until it answers as `start` does.

        Args:
            start (`ArrayLike` or `dict[str, ArrayLike]`, *optional*):
                The policy, of shape (N,), or one for each prompt. Uniform if left out.
            config ([`~transformers.PreTrainedConfig`], *optional*):
                Any causal language model with a vocabulary of at least `len(tokenizer)`. A Llama of 2 layers, 32 wide,
                if left out.
            seed (`int`, *optional*, defaults to `0`):
                Of the initial weights.

        Raises:
            `ValueError`: If `start` is no policy of the game, or the model is too small for it.
        """
        starts = {prompt: game.policy(self._of(start, prompt, game)) for prompt, game in self.games.items()}
        config = self._default_config() if config is None else config
        if config.vocab_size < len(self.tokenizer):
            raise ValueError(
                f"`config.vocab_size` ({config.vocab_size}) must be at least {len(self.tokenizer)}, the words of this "
                "game (`len(game.tokenizer)`)."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, _WARM_UP_STEPS)
        targets = {prompt: torch.from_numpy(policy) for prompt, policy in starts.items()}
        floor = sum(torch.special.entr(target).sum() for target in targets.values())
        for _ in range(_WARM_UP_STEPS):
            kl = -sum((target * self._logps(model, prompt)).sum() for prompt, target in targets.items()) - floor
            if kl < _WARM_UP_KL * len(targets):
                return model
            kl.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        raise ValueError(f"The model cannot learn `start`: {kl:.2g} nats are left. Give it a larger `config`.")

    def policies(self, model: torch.nn.Module, temperature: float = 1.0) -> dict[str, np.ndarray]:
        """
        The model's exact distribution over answers.

        Args:
            model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]): the policy.
            temperature (`float`, *optional*, defaults to `1.0`): at which it is sampled.

        Returns:
            `dict[str, np.ndarray]`: for each prompt float64 of shape (N + 1,); the last entry is the probability of
            writing anything but a proper answer.
        """
        with torch.no_grad():
            proper = {prompt: self._logps(model, prompt, temperature).exp().cpu().numpy() for prompt in self.games}
        return {prompt: np.append(policy, max(1 - policy.sum(), 0.0)) for prompt, policy in proper.items()}

    def duality_gap(self, policies: Mapping[str, np.ndarray]) -> float:
        """Of what [`~LanguageGame.policies`] returns: the mean over prompts, improper answers included."""
        return float(np.mean([self.with_rest[prompt].duality_gap(policy) for prompt, policy in policies.items()]))

    def kl_from(self, targets: ArrayLike | Mapping[str, ArrayLike], policies: Mapping[str, np.ndarray]) -> float:
        """
        `KL(target‖π)` in nats, the mean over prompts.

        Args:
            targets (`ArrayLike` of shape (N,) or a `dict` of them by prompt): e.g. `game.nash`.
            policies (`dict[str, np.ndarray]`): what [`~LanguageGame.policies`] returns.
        """
        return float(
            np.mean(
                [kl_divergence(self._of(targets, prompt), policies[prompt][:-1]) for prompt in self.games],
            )
        )

    def token_mixture(self, policy: np.ndarray, reference: np.ndarray, coef: float) -> np.ndarray:
        """
        `π^{1-c} μ^c` mixed token by token, as Nash-MD's opponent writes its answers; not the mixture of whole answers'
        probabilities when L > 1.

        Args:
            policy (`np.ndarray` of shape (N,)): π, over proper answers.
            reference (`np.ndarray` of shape (N,)): μ.
            coef (`float`): c.
        """
        spelling = self._spelling[: len(policy)]
        mixture = np.ones(len(policy))
        for length in range(self.tokens_per_answer):
            # Entry [i, j]: whether answers i and j are the same up to this token, and with it.
            before = (spelling[:, None, :length] == spelling[None, :, :length]).all(-1)
            after = (spelling[:, None, : length + 1] == spelling[None, :, : length + 1]).all(-1)
            token, token_reference = ((after @ p) / (before @ p) for p in (policy, reference))
            weight = token ** (1 - coef) * token_reference**coef
            mixture *= weight / (before @ (weight / after.sum(-1)))
        return mixture

    def improper(self, policies: Mapping[str, np.ndarray]) -> float:
        """The probability of writing anything but a proper answer, the mean over prompts."""
        return float(np.mean([policy[-1] for policy in policies.values()]))

    def extended(self, policies: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
        """Policies of shape (N,) as those of `with_rest`, which never write anything else."""
        return {prompt: np.append(policy, 0.0) for prompt, policy in policies.items()}

    def preference(self, prompt: str, first: str, second: str) -> float:
        """P(first ≻ second) of two answers to a prompt."""
        preferences = self.with_rest[prompt].preferences
        return float(preferences[self.index(prompt, first), self.index(prompt, second)])

    def index(self, prompt: str, answer: str) -> int:
        """Which answer of the prompt's game a text is: 0 ... N-1, or N for anything else."""
        answers = self.answers(prompt)
        return answers.index(answer) if answer in answers else len(answers)

    def _of(self, values: ArrayLike | Mapping[str, ArrayLike] | None, prompt: str, game: MatrixGame | None = None):
        """What was given for a prompt: its own entry, the one for all, or the uniform policy."""
        if values is None:
            assert game is not None
            return np.full(len(game), 1 / len(game))
        if not isinstance(values, Mapping):
            return values
        if prompt not in values:
            raise ValueError(f"There is no policy for the prompt {prompt!r}: give one for each of {list(self.games)}.")
        return values[prompt]

    def _logps(self, model: torch.nn.Module, prompt: str, temperature: float = 1.0) -> torch.Tensor:
        """log π(answer | prompt) of the N proper answers, float64."""
        prompt_ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        rows = [
            prompt_ids + self.tokenizer(answer, add_special_tokens=False)["input_ids"]
            for answer in self.answers(prompt)
        ]
        input_ids = torch.tensor(rows, device=next(model.parameters()).device)
        logits = model(input_ids=input_ids, use_cache=False).logits[:, len(prompt_ids) - 1 : -1]
        logps = (logits.double() / temperature).log_softmax(-1)
        return logps.gather(-1, input_ids[:, len(prompt_ids) :, None]).sum((1, 2))

    def _default_config(self) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=len(self.tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
            # The default of 0.02 leaves a frozen head so flat that LoRA could not move the answers.
            initializer_range=0.2,
            bos_token_id=None,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )


class GameJudge(PairwiseJudge):
    """
    Answers with the probabilities of a language game. A text that is no proper answer loses to any that is.

    Args:
        game ([`LanguageGame`] or [`DialogueLanguageGame`]): whose prompts and answers it knows.
    """

    symmetric = True

    def __init__(self, game: "LanguageGame | DialogueLanguageGame"):
        self.game = game

    def judge(self, prompts, first, second):
        return [self.game.preference(*question) for question in zip(prompts, first, second, strict=True)]


def _with_rest(game: MatrixGame) -> MatrixGame:
    """The game with one more answer, which loses to all others."""
    size = len(game)
    preferences = np.full((size + 1, size + 1), 0.5)
    preferences[:size, :size] = game.preferences
    preferences[:size, size], preferences[size, :size] = 1.0, 0.0
    return MatrixGame(preferences)


def _build_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(["<pad>", "<eos>", *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
