# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A language game says exactly what a model does: checked by enumerating all that it can write, and by sampling."""

from itertools import product

import numpy as np
import pytest
import torch
from helpers import make_trainer
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, LlamaConfig

from trl_nash.algorithms import INITIAL
from trl_nash.games import LanguageGame, MatrixGame, load_game
from trl_nash.games.equilibria import geometric_mixture
from trl_nash.games.language import PROMPT


CYCLE = load_game("comal-cycle")
START = [0.2, 0.5, 0.3]
CONTEXTUAL = {"first prompt": CYCLE, "second": load_game("bradley-terry"), "the third one": load_game("random:5")}


@pytest.fixture(scope="module")
def two_tokens():
    game = LanguageGame(CYCLE, tokens_per_answer=2)
    return game, game.build_model(START)


def everything(game: LanguageGame, model, prompt: str, temperature: float = 1.0) -> dict[str, float]:
    """The probability of every text that the model can write, token after token."""
    found = {(): 1.0}
    prompt_ids = game.tokenizer(prompt)["input_ids"]
    for _ in range(game.tokens_per_answer):
        longer = {}
        for ids, probability in found.items():
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt_ids, *ids]])).logits[0, -1]
            chances = (logits.double() / temperature).softmax(-1)
            longer |= {(*ids, token): probability * chance.item() for token, chance in enumerate(chances)}
        found = longer
    return {game.tokenizer.decode(list(ids)): probability for ids, probability in found.items()}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_policies_are_what_enumeration_finds(two_tokens, temperature):
    game, model = two_tokens
    texts = everything(game, model, PROMPT, temperature)
    assert sum(texts.values()) == pytest.approx(1)
    expected = [texts[answer] for answer in game.answers(PROMPT)]
    policy = game.policies(model, temperature)[PROMPT]
    np.testing.assert_allclose(policy, [*expected, 1 - sum(expected)], atol=1e-6)


def test_policies_are_what_a_trainer_samples(two_tokens, tmp_path):
    game, model = two_tokens
    trainer = make_trainer(
        "ipo",
        tmp_path,
        model=model,
        tokenizer=game.tokenizer,
        dataset=game.dataset(2),
        judge=game.judge,
        max_new_tokens=game.tokens_per_answer,
    )
    _, completions = trainer.generate([PROMPT] * 1000, 4)
    answers = [game.index(PROMPT, trainer.judging.decode(ids)) for row in completions for ids in row]
    expected = game.policies(model)[PROMPT]
    deviation = np.bincount(answers, minlength=4) / 4000 - expected
    assert (np.abs(deviation) < 4 * np.sqrt(expected / 4000) + 1e-3).all()


def test_model_starts_where_it_is_told_to():
    starts = {"first prompt": START, "second": [0.6, 0.3, 0.1], "the third one": [0.4, 0.3, 0.1, 0.1, 0.1]}
    game = LanguageGame(CONTEXTUAL)
    policies = game.policies(game.build_model(starts, seed=3))
    for prompt, start in starts.items():
        np.testing.assert_allclose(policies[prompt], [*start, 0], atol=5e-3)
        assert game.kl_from(starts, policies) < 1e-3


def test_start_is_uniform_if_left_out():
    game = LanguageGame(CYCLE)
    np.testing.assert_allclose(game.policies(game.build_model())[PROMPT][:3], 1 / 3, atol=5e-3)


def test_same_seed_same_model_and_no_effect_on_others():
    game = LanguageGame(CYCLE)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (game.build_model(START, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_other_architectures_and_lora_are_read_too():
    game = LanguageGame(CYCLE, tokens_per_answer=2)
    config = GPT2Config(vocab_size=20, n_embd=32, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=1)
    model = game.build_model(START, config=config)
    before = game.policies(model)[PROMPT]
    np.testing.assert_allclose(before[:3], START, atol=5e-3)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM"))
    np.testing.assert_allclose(game.policies(wrapped)[PROMPT], before, atol=1e-7)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    assert np.abs(game.policies(wrapped)[PROMPT] - before).max() > 1e-3


def test_answers_share_their_first_tokens_and_are_told_apart():
    game = LanguageGame(load_game("random:5"), tokens_per_answer=2)
    answers = game.answers(PROMPT)
    assert len(set(answers)) == 5 and all(len(answer.split()) == 2 for answer in answers)
    assert len({answer.split()[0] for answer in answers}) < 5
    assert [game.index(PROMPT, answer) for answer in answers] == [0, 1, 2, 3, 4]
    for text in ("", "a", "c c", f"{answers[0]} a", PROMPT):
        assert game.index(PROMPT, text) == 5


def test_prompts_of_games_of_different_sizes_have_their_own_answers():
    game = LanguageGame(CONTEXTUAL)
    assert [len(game.answers(prompt)) for prompt in CONTEXTUAL] == [3, 3, 5]
    assert game.index("second", game.answers("the third one")[4]) == 3  # no answer there


def test_dataset_has_all_prompts_equally_often():
    assert LanguageGame(CONTEXTUAL).dataset(7)["prompt"] == [*CONTEXTUAL, *CONTEXTUAL, "first prompt"]


def test_judge_knows_the_game_of_each_prompt():
    game = LanguageGame(CONTEXTUAL)
    for prompt, matrix in CONTEXTUAL.items():
        answers = game.answers(prompt)
        first, second = zip(*product(answers, repeat=2), strict=True)
        verdicts = game.judge([prompt] * len(first), list(first), list(second))
        np.testing.assert_allclose(np.reshape(verdicts, matrix.preferences.shape), matrix.preferences)


def test_anything_else_loses_to_every_answer():
    game = LanguageGame(CYCLE)
    assert game.judge([PROMPT] * 4, ["a", "?", "?", "?"], ["?", "a", "!", "?"]) == [1.0, 0.0, 0.5, 0.5]


def test_gap_counts_improper_answers():
    game = LanguageGame(CYCLE)
    nash = game.nash[PROMPT]
    assert game.duality_gap({PROMPT: np.append(nash, 0)}) == pytest.approx(0, abs=1e-12)
    # Any answer beats the tenth that is improper for sure, and ties with the rest.
    assert game.duality_gap({PROMPT: np.append(0.9 * nash, 0.1)}) == pytest.approx(2 * 0.1 * 0.5)


def test_gap_and_kl_are_means_over_prompts():
    game = LanguageGame({"one": CYCLE, "two": CYCLE})
    policies = {"one": np.append(game.nash["one"], 0), "two": np.array([*START, 0])}
    assert game.duality_gap(policies) == pytest.approx(CYCLE.duality_gap(START) / 2)
    expected = sum(p * np.log(p / q) for p, q in zip(game.nash["two"], START, strict=True)) / 2
    assert game.kl_from(game.nash, policies) == pytest.approx(expected)


def test_token_mixture_is_what_the_mixture_opponent_writes(two_tokens, tmp_path):
    """
    Nash-MD's own sampler, with the policy far from its reference: its answers are the enumerated token-wise mixture,
    and not the mixture of whole answers.
    """
    game, model = two_tokens
    trainer = make_trainer(
        "nash-md",
        tmp_path,
        model=game.build_model(START),
        tokenizer=game.tokenizer,
        dataset=game.dataset(2),
        judge=game.judge,
        max_new_tokens=2,
    )
    trainer.policies.ensure_initial()
    trainer.model.load_state_dict(game.build_model([0.7, 0.1, 0.2], seed=1).state_dict())
    _, completions = trainer.generate([PROMPT] * 1000, 8, {INITIAL: 0.4})
    answers = [game.index(PROMPT, trainer.judging.decode(ids)) for row in completions for ids in row]
    shares = np.bincount(answers, minlength=4)[:3] / 8000
    policy, reference = np.array([0.7, 0.1, 0.2]), np.array(START)
    mixture = game.token_mixture(policy, reference, 0.4)
    assert mixture.sum() == pytest.approx(1)
    assert np.abs(shares - mixture).max() < 4 * 0.5 / np.sqrt(8000) + 2e-3
    assert np.abs(geometric_mixture(policy, reference, 0.4) - mixture).max() > 0.02


def test_token_mixture_of_one_token_is_the_mixture_of_answers():
    game = LanguageGame(load_game("random:5"))
    rng = np.random.default_rng(0)
    policy, reference = rng.dirichlet(np.ones(5), size=2)
    np.testing.assert_allclose(
        game.token_mixture(policy, reference, 0.3), geometric_mixture(policy, reference, 0.3), rtol=1e-12
    )


def test_token_mixture_at_its_ends_is_policy_and_reference():
    game = LanguageGame(load_game("random:7"), tokens_per_answer=3)
    policy, reference = np.random.default_rng(1).dirichlet(np.ones(7), size=2)
    np.testing.assert_allclose(game.token_mixture(policy, reference, 0.0), policy, rtol=1e-12)
    np.testing.assert_allclose(game.token_mixture(policy, reference, 1.0), reference, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LanguageGame(CYCLE, tokens_per_answer=0), "tokens_per_answer"),
        (lambda: LanguageGame({}), "at least one word"),
        (lambda: LanguageGame({" ": CYCLE}), "at least one word"),
        (lambda: LanguageGame(CYCLE).build_model([0.5, 0.5]), "3 probabilities"),
        (lambda: LanguageGame(CONTEXTUAL).build_model({"second": START}), "no policy for the prompt 'first prompt'"),
        (lambda: LanguageGame(CYCLE).build_model(config=LlamaConfig(vocab_size=3)), "vocab_size"),
        (lambda: LanguageGame(MatrixGame([[0.5]])), "two answers"),
    ],
)
def test_what_cannot_be_played_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
