# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import json
import math
import sqlite3

import numpy as np
import pytest
import torch
from anything import NUMBERS, SCALARS, TEXTS, VALUES, complaints
from helpers import make_trainer
from hypothesis import given
from hypothesis import strategies as st

from trl_nash.judges import Abstained, CallableJudge, EnsembleJudge, JudgementStore, PairwiseJudge, RandomJudge
from trl_nash.judges.questions.template import PROMPTS, QuestionTemplate
from trl_nash.rounds.batch import Samples


ANSWERS = st.one_of(
    SCALARS,
    st.floats(0, 1),
    st.builds(np.float32, st.floats(0, 1)),
    st.builds(torch.tensor, st.one_of(st.floats(width=32), st.lists(st.floats(0, 1), max_size=3))),
    st.builds(np.array, st.lists(st.floats(0, 1), max_size=3)),
    st.just(Abstained("too long")),
    st.just(1j),
)
WHOLE = st.one_of(
    st.lists(st.floats(0, 1), min_size=2, max_size=2),
    st.lists(ANSWERS, min_size=2, max_size=2),
    st.lists(ANSWERS, max_size=4),
    st.builds(torch.tensor, st.lists(st.floats(0, 1), max_size=3)),
    st.builds(np.array, st.lists(st.lists(st.floats(0, 1), min_size=2, max_size=2), max_size=3)),
    st.builds(iter, st.lists(ANSWERS, max_size=3)),
    st.sets(st.floats(0, 1), min_size=2, max_size=2),
    st.dictionaries(st.integers(0, 1), st.floats(0, 1), min_size=2, max_size=2),
    ANSWERS,
    VALUES,
)

WEIGHTS = NUMBERS.filter(lambda weight: not abs(weight) > 1e300)


def check(preference) -> None:
    assert all(isinstance(p, float) and (math.isnan(p) or 0 <= p <= 1) for p in preference)


@given(WHOLE, st.booleans())
def test_answers(answer, symmetric):
    """One question in both orders, or two that are symmetric."""
    judge = CallableJudge(lambda prompts, first, second: answer, symmetric=symmetric)
    count = 2 if symmetric else 1
    with complaints(ValueError):
        check(judge(["p", "q"][:count], ["a", "c"][:count], ["b", "d"][:count]))


@given(st.dictionaries(st.tuples(st.sampled_from("ab"), st.sampled_from("ab")), ANSWERS))
def test_opposite_preferences_add_up_to_one(table):
    judge = CallableJudge(
        lambda prompts, first, second: [table.get(pair, 0.5) for pair in zip(first, second, strict=True)]
    )
    with complaints(ValueError):
        there, back = judge(["p", "p"], ["a", "b"], ["b", "a"])
        check([there, back])
        assert math.isnan(there) and math.isnan(back) or there + back == 1


@given(st.lists(st.lists(ANSWERS, min_size=2, max_size=2), max_size=3), st.one_of(st.none(), st.lists(WEIGHTS)), TEXTS)
def test_ensembles(answers, weights, word):
    judges = [CallableJudge(lambda p, a, b, given=given: given, symmetric=True) for given in answers]
    for rule in (word, "mean", "majority"):
        with complaints(ValueError):
            judge = EnsembleJudge(judges, weights=weights, rule=rule)
            check(judge(["p", "q"], ["a", "c"], ["b", "d"]))


@given(VALUES, TEXTS, TEXTS)
def test_questions(prompt, first, second):
    """Texts of any characters are judged, and cached, as any others."""
    for judge in (RandomJudge(), CallableJudge(lambda p, a, b: [0.25] * len(p))):
        there, back = judge([prompt] * 2, [first, second], [second, first])
        assert there + back == 1 and (first != second or there == 0.5)


class Quarter(PairwiseJudge):
    symmetric, identity = True, "quarter"

    def judge(self, prompts, first, second):
        return [0.25] * len(prompts)


@given(VALUES, TEXTS, TEXTS)
def test_the_cache_keeps_any_question(tmp_path, prompt, first, second):
    judge = Quarter()
    judge.cache = JudgementStore(tmp_path / "store.sqlite")
    assert judge([prompt], [first], [second]) == judge([prompt], [first], [second])
    assert judge.tally.take().asked <= 1
    judge.cache.close()


@given(st.one_of(VALUES.map(json.dumps), st.text(st.characters(), max_size=9), st.binary(max_size=4), st.none()))
def test_the_cache_with_anything_in_it(tmp_path, value):
    """What is no probability is asked again; what is no JSON is no cache of ours."""
    judge = Quarter()
    judge.cache = JudgementStore(tmp_path / "store.sqlite")
    judge(["p"], ["a"], ["b"])
    with sqlite3.connect(judge.cache.path) as connection:
        connection.execute("UPDATE judgements SET value = ?", (value,))
    connection.close()
    with complaints(ValueError):
        check(judge(["p"], ["a"], ["b"]))
    judge.cache.close()
    judge.cache.path.unlink()


TOKENS = st.fixed_dictionaries(
    {}, optional={"token": st.one_of(st.sampled_from(["A", "B", " A", ""]), SCALARS), "logprob": SCALARS}
)
POSITIONS = st.lists(
    st.one_of(
        VALUES,
        st.fixed_dictionaries(
            {"token": st.one_of(st.sampled_from(["A", " "]), SCALARS)},
            optional={"top_logprobs": st.one_of(st.lists(st.one_of(TOKENS, VALUES), max_size=3), VALUES)},
        ),
    ),
    max_size=2,
)
CHOICES = st.one_of(
    VALUES,
    st.fixed_dictionaries(
        {},
        optional={
            "message": st.one_of(VALUES, st.fixed_dictionaries({"content": st.one_of(TEXTS, VALUES)})),
            "logprobs": st.one_of(VALUES, st.fixed_dictionaries({"content": st.one_of(POSITIONS, VALUES)})),
        },
    ),
    st.sampled_from(["A", '{"better": "B"}', "[[A]]", "[[A]] [[B]]", "<think>A</think>B"]).map(
        lambda text: {"message": {"content": text}}
    ),
)
TEMPLATES = [QuestionTemplate(path.stem) for path in sorted(PROMPTS.glob("*.jinja"))]


@given(CHOICES)
def test_replies_of_servers(choice):
    for template in TEMPLATES:
        for mode in ("logprobs", "structured", "text") if template.labels else ("text",):
            answer = template.read(choice, mode)
            assert answer is None or isinstance(answer, float) and 0 <= answer <= 1


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return make_trainer("ipo", tmp_path_factory.mktemp("out"), judge=lambda prompts, first, second: None)


@given(answer=WHOLE)
def test_what_a_trainer_makes_of_answers(trainer, answer):
    trainer.judge.function = lambda prompts, first, second: answer
    with complaints(ValueError):
        samples = Samples([[4]], [[[5], [6]]], [(0, 1)])
        preference = trainer.judging.verdicts([{"prompt": "a"}], samples).preference
        assert preference.shape == (1, 1) and preference.dtype == torch.float32
        check(preference.flatten().tolist())


# What was found.


@pytest.mark.parametrize(
    "answer",
    [
        [0.5, 10**400],  # OverflowError
        torch.full((2, 2), 0.5),  # RuntimeError
        [torch.tensor([0.5, 0.5]), 0.5],
        np.array(0.5),  # TypeError
        torch.tensor(0.5),
        {0: 0.25, 1: 0.75},  # its keys were taken for answers
        {0.25, 0.75},  # has no order
        "01",
        b"\x00\x01",  # its bytes were
    ],
)
def test_found_answers(answer):
    with pytest.raises(ValueError, match="returned .*(expected|too large)"):
        CallableJudge(lambda prompts, first, second: answer, symmetric=True)(["p", "q"], ["a", "c"], ["b", "d"])


@pytest.mark.parametrize("value", ["2", "-1", "1e999", '"x"', "[1]", "true", "null"])
def test_found_in_the_cache(tmp_path, value):
    judge = Quarter()
    judge.cache = JudgementStore(tmp_path / "store.sqlite")
    judge(["p"], ["a"], ["b"])
    judge.cache._connection.execute("UPDATE judgements SET value = ?", (value,))
    judge.cache._connection.commit()
    assert judge(["p"], ["a"], ["b"]) == [0.25]
    assert judge.tally.take().asked == 2


@pytest.mark.parametrize("value", ["{", b"\xff", None])
def test_found_in_another_table(tmp_path, value):
    store = JudgementStore(tmp_path / "store.sqlite")
    store.put("key", 0.5)
    store._connection.execute("UPDATE judgements SET value = ?", (value,))
    store._connection.commit()
    with pytest.raises(ValueError, match=r"store\.sqlite cannot be used"):
        store.get_many(["key"])


@pytest.mark.parametrize("path, why", [("\x00", "null byte"), ("/\ud800/x", "surrogates not allowed")])
def test_found_paths_that_are_none(path, why):
    with pytest.raises(ValueError, match=f"The judgement cache .* cannot be used .*{why}"):
        JudgementStore(path).put("key", 0.5)


def test_found_a_path_of_nobody(monkeypatch, tmp_path):
    """A home that nobody has is a folder like any other."""
    monkeypatch.chdir(tmp_path)
    JudgementStore("~nobody-of-this-name/x").put("key", 0.5)
    assert JudgementStore(tmp_path / "~nobody-of-this-name" / "x").get_many(["key"]) == {"key": 0.5}


def test_large_weights_are_weights():
    verdicts = [EnsembleJudge(["random"] * 2, weights=[w, w])(["p"], ["a"], ["b"]) for w in (1.0, 1e308)]
    assert verdicts[0] == verdicts[1]
