# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The trainers on games of dialogues: what they sample is what is read out, and where they arrive."""

from collections import Counter

import numpy as np
import pytest
from peft import LoraConfig

from trl_nash.games import DIALOGUES, DialogueLanguageGame, play
from trl_nash.games.dialogues.named import default_policy
from trl_nash.games.language import PROMPT
from trl_nash.games.players import own_equilibrium
from trl_nash.games.solvers import comal
from trl_nash.judges.transcript import Transcript, messages_of


MOODY, TWO_TURNS = DIALOGUES["moody-user"](), DIALOGUES["two-turns"]()
LORA = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")


def tail(values: list[float]) -> float:
    return float(np.mean(values[-max(len(values) // 5, 1) :]))


def messages(*said: str) -> list[dict]:
    roles = ("user", "assistant")
    return [{"role": roles[place % 2], "content": word} for place, word in enumerate((PROMPT, *said))]


def test_the_user_and_the_judge_are_those_of_the_game():
    game = DialogueLanguageGame(MOODY)
    said = Counter(game.user(messages("a")) for _ in range(2000))
    assert said["x"] / 2000 == pytest.approx(0.6, abs=4 * np.sqrt(0.24 / 2000)) and set(said) == {"x", "y"}
    for last in (messages("a", "x", "b"), messages(""), messages("x"), messages("a a")):
        assert game.user(last) is None
    dialogues = [Transcript(messages(*dialogue.split())[1:]) for dialogue in MOODY.dialogues]
    found = [[game.preference(PROMPT, a, b) for b in dialogues] for a in dialogues]
    np.testing.assert_allclose(found, MOODY.preferences, atol=1e-12)
    for improper in (Transcript(messages("a", "x", "")[1:]), Transcript(messages("x")[1:]), "a"):
        assert game.preference(PROMPT, dialogues[0], improper) == 1
        assert game.preference(PROMPT, improper, improper) == 0.5


def test_a_state_is_the_same_tokens_in_a_dialogue_as_where_it_is_read_out():
    game = DialogueLanguageGame(DIALOGUES["three-turns"]())
    for prompt in game.prompts:
        rendered = game.tokenizer.apply_chat_template(messages(*prompt.split()[1:]), return_dict=False)
        assert rendered == game.tokenizer(prompt, add_special_tokens=False)["input_ids"]


def test_trls_own_trainers_hold_no_dialogues():
    with pytest.raises(ValueError, match="'grpo' is TRL's own trainer, which holds no dialogues"):
        play(DialogueLanguageGame(TWO_TURNS), "grpo", start=default_policy(TWO_TURNS))


def test_own_equilibrium_is_the_regularised_one():
    game, start = DialogueLanguageGame(MOODY), default_policy(MOODY)
    own = own_equilibrium(game, "inpo", start)
    assert own[PROMPT] == pytest.approx(MOODY.regularized_best_response(own[PROMPT], start, 0.1), abs=1e-8)
    assert game.duality_gap(game.extended(own)) == pytest.approx(MOODY.duality_gap(own[PROMPT]))
    assert own_equilibrium(game, "comal", start) is None and own_equilibrium(game, "nash-md", start) is None


def test_what_is_sampled_is_what_is_read_out(monkeypatch):
    """Before each round the exact policy is read: 2048 dialogues of it are judged in the round."""
    game, rounds = DialogueLanguageGame(MOODY), []
    ask = game.judge.compare

    def compare(prompts, completions, pairs, **others):
        rounds.append(
            Counter(" ".join(m["content"] for m in messages_of(text)) for texts in completions for text in texts)
        )
        return ask(prompts, completions, pairs, **others)

    monkeypatch.setattr(game.judge, "compare", compare)
    watch = play(game, "comal", start=default_policy(MOODY), rounds=2)
    assert len(rounds) == 2
    for said, policies in zip(rounds, watch.policies, strict=False):
        count = sum(said.values())
        assert count == 2048
        expected = game.with_rest.distribution(policies[PROMPT])
        for dialogue, share in zip(game.with_rest.dialogues, expected, strict=True):
            if dialogue in MOODY.dialogues:
                assert abs(said[dialogue] / count - share) <= 4 * np.sqrt(share * (1 - share) / count), dialogue
    moved = np.abs(watch.policies[-1][PROMPT] - watch.policies[0][PROMPT]).max()
    assert moved > 0.05


def test_comals_gap_falls_as_that_of_exact_steps():
    """Few rounds of large steps, from a start that is easy to beat. The user is deterministic: a best response is a
    dialogue, and all are enumerated."""
    start, settings = np.tile([0.7, 0.2, 0.1], len(TWO_TURNS) // 3), {"step_size": 4.0, "beta": 0.15}
    game = DialogueLanguageGame(TWO_TURNS)
    watch = play(game, "comal", start=start, rounds=4, prompts=128, reference_rounds=3, **settings)
    for gap, policies in zip(watch.gaps, watch.policies, strict=True):
        wins = game.with_rest.preferences @ game.with_rest.distribution(policies[PROMPT])
        assert gap == pytest.approx(2 * wins.max() - 1)
    exact = comal(TWO_TURNS, start=start, rounds=4, reference_rounds=3, **settings).gaps
    np.testing.assert_allclose(watch.gaps, exact, atol=0.12)
    assert watch.gaps[-1] < 0.7 * watch.gaps[0]


@pytest.mark.slow
def test_comals_gap_falls():
    """The start has .22."""
    watch = play(DialogueLanguageGame(TWO_TURNS), "comal", start=default_policy(TWO_TURNS), rounds=40)
    assert watch.gaps[0] == pytest.approx(0.217, abs=0.02)
    assert tail(watch.gaps) < watch.gaps[0] / 2
