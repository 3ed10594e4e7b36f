# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Dialogues in the arena: win rates against those of a game that is known, what is kept, servers, files, the page."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import build_model

from trl_nash.evaluation.arena import Arena, Sampling, SamplingError, Standings
from trl_nash.evaluation.arena.report import sentences, write_files
from trl_nash.evaluation.rows import Row
from trl_nash.games import DIALOGUES, DialogueLanguageGame
from trl_nash.games.language import PROMPT
from trl_nash.judges import as_judge
from trl_nash.judges.transcript import Transcript, messages_of
from trl_nash.usage import UsageError


sys.path.append(str(Path(__file__).parents[1] / "judges"))
from loopback import Loopback, reply, says, status  # noqa: E402


MOODY = DIALOGUES["moody-user"]()
STARTS = {"timid": (0.8, 0.1, 0.1), "bold": (0.1, 0.1, 0.8)}  # in every state
ROWS = 200


def own_turns(prompts, first, second):
    """P(first ≻ second): more turns of the policy win; a text is one."""
    counts = [
        [1 if isinstance(said, str) else sum(turn["role"] == "assistant" for turn in said) for said in side]
        for side in (first, second)
    ]
    return [0.5 + 0.1 * (a - b) for a, b in zip(*counts, strict=True)]


own_turns.symmetric = True


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models whose policies in the game are known, and the game."""
    folder, game = tmp_path_factory.mktemp("models"), DialogueLanguageGame(MOODY)
    for name, start in STARTS.items():
        model_of(game, start).save_pretrained(folder / name)
        game.tokenizer.save_pretrained(folder / name)
    return folder, game


def model_of(game, start):
    """A model that answers so in every state: there are fewer states than dimensions, so that a head can be solved."""
    model, tokenizer = build_model(game.tokenizer, hidden_size=32), game.tokenizer
    answers = tokenizer.convert_tokens_to_ids(list("abc"))
    with torch.no_grad():
        states = [
            tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids for prompt in game.prompts
        ]
        hidden = torch.cat([model.model(ids).last_hidden_state[:, -1] for ids in states]).double()
        logits = torch.full((len(states), len(tokenizer)), -30.0, dtype=torch.float64)
        logits[:, answers] = torch.tensor(start, dtype=torch.float64).log()
        model.lm_head.weight.copy_(torch.linalg.lstsq(hidden, logits, driver="gelsd").solution.T)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *answers]
    np.testing.assert_allclose(game.policies(model)[PROMPT][:3], start, atol=1e-4)
    return model


def arena_of(models, folder, user, rows=ROWS, **options) -> Arena:
    sampling = Sampling(max_new_tokens=1, batch_size=100, user=user, **options)
    prompts = [Row(index, [{"role": "user", "content": PROMPT}], [], {"place": index}) for index in range(rows)]
    return Arena([str(models[0] / name) for name in STARTS], prompts, folder, sampling)


def test_win_rates_are_those_of_the_game(models, tmp_path):
    """And a second run asks nobody anything."""
    game, asked = models[1], []

    def user(messages):
        asked.append(messages)
        return game.user(messages)

    arena = arena_of(models, tmp_path, user)
    arena.sample()
    result = arena.judge(as_judge(game.judge), "the game")
    timid, bold = (MOODY.distribution(np.tile(start, len(MOODY) // 3)) for start in STARTS.values())
    expected = timid @ MOODY.preferences @ bold
    spread = np.sqrt(timid @ MOODY.preferences**2 @ bold - expected**2)
    assert abs(result.matrix.rates[0, 1] - expected) < 4 * spread / np.sqrt(ROWS) and expected > 0.6
    for name, policy in zip(STARTS, (timid, bold), strict=True):
        records = [json.loads(line) for line in (tmp_path / "answers" / f"{name}.jsonl").open()]
        said = [" ".join(m["content"] for m in record["completion"]) for record in records]
        shares = np.array([said.count(dialogue) / ROWS for dialogue in MOODY.dialogues])
        assert (np.abs(shares - policy) <= 4 * np.sqrt(policy * (1 - policy) / ROWS) + 2 / ROWS).all()
        assert {(record["tokens"], record["ending"], record["ended"]) for record in records} == {(2, "over", True)}
    count = len(asked)
    again = arena_of(models, tmp_path, user)
    again.sample()
    rates = again.judge(as_judge(game.judge), "the game").matrix.rates
    assert len(asked) == count and rates == pytest.approx(result.matrix.rates)


def test_only_what_is_missing_is_played_after_an_end(models, tmp_path):
    game, asked, ended = models[1], [], []

    def user(messages, place):
        asked.append(place)
        if len(asked) == 230 and not ended:  # in the second batch of the first policy
            ended.append(place)
            raise KeyboardInterrupt
        return game.user(messages)

    with pytest.raises(KeyboardInterrupt):
        arena_of(models, tmp_path, user, rows=150).sample()
    arena = arena_of(models, tmp_path, user, rows=150)
    assert [arena.missing(one) for one in arena.contestants] == [50, 150]
    asked.clear()
    arena.sample()
    assert sorted(set(asked[:100])) == list(range(100, 150)) and [arena.missing(o) for o in arena.contestants] == [
        0,
        0,
    ]


def test_dialogues_that_failed_are_counted_and_played_again(models, tmp_path):
    game, well, asked = models[1], [], []

    def user(messages, place):
        asked.append(place)
        if place % 10 == 3 and not well:
            raise OSError("no line")
        return "" if place == 4 and not well else game.user(messages)

    def play():
        arena = arena_of(models, tmp_path, user, rows=20)
        arena.sample()
        result = arena.judge(as_judge(game.judge), "the game")
        return result, Standings.of(result)

    result, standings = play()
    assert standings.failed == {name: {"user": 2, "empty turn": 1} for name in STARTS}
    assert result.matrix.counts[0, 1] == 17 and {line.answers for line in standings.lines} == {17}
    assert any("timid 2 (user), timid 1 (empty turn)" in sentence for sentence in sentences(standings))
    assert standings.to_dict()["dialogues_that_failed"]["bold"] == {"user": 2, "empty turn": 1}
    well.append(True)
    asked.clear()
    result, standings = play()
    assert set(asked) == {3, 4, 13} and standings.failed == {} and result.matrix.counts[0, 1] == 20


def test_a_policy_behind_a_server(write_rows, tmp_path):
    """Each turn is asked with all that was said; a turn that is cut ends the dialogue, and so does the last one."""
    pytest.importorskip("openai")
    file = write_rows([{"prompt": p, "completion": "as ever"} for p in ("one", "two", "cut")], "file.jsonl")

    def answer(handler):
        asked = handler.body["messages"][-1]["content"]
        made = reply({"content": "to cut"}, finish_reason="length") if asked == "cut" else says(f"to {asked}")
        made(handler)

    def user(messages):
        return None if messages[0]["content"] == "two" else f"and {messages[-1]['content']}?"

    with Loopback(lambda question, number: answer) as server:
        sampling = Sampling(max_new_tokens=7, user=user, max_turns=2)
        arena = Arena([f"openai:org/tiny@{server.url}", file], file, tmp_path / "out", sampling)
        arena.sample()
        bodies = [request.body["messages"] for request in server.log]
    records = arena.answers["tiny"].records
    turns = [[m["content"] for m in records[row]["completion"].messages] for row in range(3)]
    assert turns == [["to one", "and to one?", "to and to one?"], ["to two"], ["to cut"]]
    assert [records[row]["ending"] for row in range(3)] == ["max_turns", "over", "unfinished"]
    assert [records[row]["ended"] for row in range(3)] == [True, True, False]
    assert sorted(len(messages) for messages in bodies) == [1, 1, 1, 3]
    texts = arena.questions()[0].completions
    assert texts[1] == "Assistant: as ever" and messages_of(texts[1])[0]["content"] == "as ever"


def test_a_dialogue_that_outgrows_a_server_ends_with_the_turn_before(write_rows, tmp_path):
    """As one that outgrows a model here does. A prompt that is too long by itself is said, as without a user."""
    pytest.importorskip("openai")
    full = status(400, "This model's maximum context length is 9 tokens.", "context_length_exceeded")
    file = write_rows([{"prompt": p, "completion": "as ever"} for p in ("one", "two")], "file.jsonl")

    def arena(server, name):
        sampling = Sampling(max_new_tokens=7, user=lambda messages: "more", max_turns=3)
        return Arena([f"openai:org/tiny@{server.url}", file], file, tmp_path / name, sampling)

    def answer(handler):
        (says("said") if len(handler.body["messages"]) == 1 else full)(handler)

    with Loopback(lambda question, number: answer) as server:
        arena(server, "some").sample()
        records = arena(server, "some").answers["tiny"].records.values()
    assert [([m["content"] for m in r["completion"].messages], r["ending"]) for r in records] == [
        (["said"], "max_length")
    ] * 2
    with Loopback(lambda question, number: full) as server, pytest.raises(SamplingError, match="maximum context"):
        arena(server, "none").sample()


def test_files_and_the_page(write_rows, tmp_path):
    """What an arena has kept plays again; who says what is on the page, and nothing of it is markup."""
    long = [{"role": r, "content": c} for r, c in (("assistant", "ask"), ("user", "</script>"), ("assistant", "so"))]
    rows = [{"prompt": f"p{k}", "row": k, "completion": long, "ending": "over"} for k in range(3)]
    rows[2] |= {"completion": None, "ending": "user"}
    files = [
        write_rows(rows, "long.jsonl"),
        write_rows([{"prompt": f"p{k}", "completion": "brief"} for k in range(3)], "short.jsonl"),
    ]
    arena = Arena(files, write_rows([{"prompt": f"p{k}"} for k in range(3)]), tmp_path / "out")
    arena.sample()
    result = Arena(files, write_rows([{"prompt": f"p{k}"} for k in range(3)]), tmp_path / "out").judge(
        as_judge(own_turns), "turns"
    )
    assert result.matrix.rates[0, 1] == pytest.approx(0.6) and result.matrix.counts[0, 1] == 2
    assert isinstance(result.rows[0].completions[0], Transcript) and result.rows[0].completions[1] == "brief"
    assert result.matrix.lengths[0].tolist() == [len("ask\n\nso"), len("brief")]  # of the policy's own words
    write_files(result, Standings.of(result), arena.contestants, arena.directory)
    page = (tmp_path / "out" / "arena.html").read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["rows"][0]["answers"] == [[["Assistant", "ask"], ["User", "</script>"], ["Assistant", "so"]], "brief"]
    assert page.count("</script>") == 2 and not (tmp_path / "out" / "alpaca_eval").exists()


def test_another_user_is_another_policy(models, tmp_path):
    arena_of(models, tmp_path, models[1].user, rows=2).sample()
    with pytest.raises(UsageError, match="timid is in .* already, with user=DialogueLanguageGame.user: name it other"):
        arena_of(models, tmp_path, "users:other", rows=2)
    with pytest.raises(UsageError, match="with user=DialogueLanguageGame.user, max_turns=4: name it otherwise"):
        Arena([str(models[0] / name) for name in STARTS], [Row(0, "x", [], {})], tmp_path, Sampling(max_new_tokens=1))


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"max_turns": 2}, "max_turns is of dialogues: name a user, or leave it out"),
        ({"user": "a:b", "max_turns": 0}, "max_turns must be at least 1, got 0"),
        ({"user": "initial"}, "the user 'initial' is the start of a training run: name it as local:PATH"),
    ],
)
def test_what_cannot_be(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        Sampling(**options)
