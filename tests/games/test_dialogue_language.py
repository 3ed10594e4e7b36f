# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Dialogues of a small language model, read out state by state, against its probabilities of whole texts."""

import numpy as np
import pytest
import torch

from trl_nash.games import DIALOGUES, DialogueGame, DialogueLanguageGame
from trl_nash.games.dialogues.named import default_policy
from trl_nash.games.language import PROMPT


MOODY = DIALOGUES["moody-user"]()


@pytest.fixture(scope="module")
def game() -> DialogueLanguageGame:
    return DialogueLanguageGame(MOODY)


@pytest.fixture(scope="module")
def model(game):
    return game.build_model(default_policy(MOODY))


def test_states_are_prompts_in_their_order(game):
    assert game.prompts[:4] == ("choose", "choose a x", "choose a y", "choose b x")
    answers = [prompt.split()[1:] for prompt in game.prompts]
    names = [MOODY.actions[index].split()[:-1] for index in np.unique(MOODY.state_of, return_index=True)[1]]
    assert answers == names


def test_probabilities_are_those_of_whole_dialogues(game, model):
    """The model's own forward on the text of a dialogue, of which the policy's words count."""
    read = game.policies(model)[PROMPT]
    said = dict(zip(game.with_rest.dialogues, game.with_rest.distribution(read), strict=True))
    texts = [f"choose {dialogue}" for dialogue in MOODY.dialogues]
    ids = torch.tensor(game.tokenizer(texts, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        logps = model(input_ids=ids).logits.double().log_softmax(-1)
    mine = sum(logps[range(len(ids)), place - 1, ids[:, place]] for place in (1, 3)).exp().numpy()
    np.testing.assert_allclose([said[dialogue] for dialogue in MOODY.dialogues], MOODY.chance * mine, rtol=1e-4)


def test_gap_of_a_model(game, model):
    """That of its start, which it has learned; and improper answers are best responded to by any proper dialogue."""
    assert game.duality_gap(game.policies(model)) == pytest.approx(MOODY.duality_gap(default_policy(MOODY)), abs=0.02)
    whole = game.with_rest
    assert len(whole.dialogues) == 4 * 2 * 4 and whole.duality_gap(np.exp(whole.normalized(np.zeros(len(whole))))) > 0
    silent = [np.zeros(block.shape) for block in whole.blocks(np.zeros(len(whole)))]
    for block in silent:
        block[..., -1] = 1
    assert whole.duality_gap(np.concatenate([block.ravel() for block in silent])) == 1
    late = [np.array(block) for block in silent]
    late[0][:] = [1, 0, 0, 0]
    assert whole.duality_gap(np.concatenate([block.ravel() for block in late])) == 1


def test_names_that_cannot_be_told_apart_are_refused():
    half = np.full((4, 4), 0.5)
    with pytest.raises(ValueError, match="are called a, b; got yes, no"):
        DialogueLanguageGame(DialogueGame(half, [["yes", "no"], "ab"]))
    for replies in (["a"], ["two words"]):
        with pytest.raises(ValueError, match="single words that are no answers"):
            DialogueLanguageGame(DialogueGame(half, ["ab", "ab"], [replies]))
