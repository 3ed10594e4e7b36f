# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Which columns a judge cannot judge without."""

import pytest
from datasets import Dataset

from trl_nash import EnsembleJudge, LengthDebiasedJudge, OpenAIJudge, PairwiseJudge, RandomJudge, RewardJudge
from trl_nash.judges import as_judge
from trl_nash.judges.questions.template import PROMPTS
from trl_nash.trainers.checks.ahead import check_columns


def about(prompts, first, second, topic, *, style, tone="plain", **others):
    return [0.5] * len(first)


def reward(prompts, completions, trainer_state, level, **others):
    return [0.0] * len(completions)


class Own(PairwiseJudge):
    def judge(self, prompts, first, second, source):
        return [0.5] * len(first)


@pytest.mark.parametrize(
    "judge, columns",
    [
        (about, {"topic", "style"}),
        (Own(), {"source"}),
        (RandomJudge(), set()),
        (RewardJudge(reward), {"level"}),
        (LengthDebiasedJudge(about, 1.0), {"topic", "style"}),
        (EnsembleJudge([about, Own(), RandomJudge()]), {"topic", "style", "source"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_columns(judge, columns):
    judge = as_judge(judge)
    assert judge.needs == columns
    data = {"prompt": ["a"], "other": ["b"]}
    whole = Dataset.from_dict(data | {name: ["c"] for name in columns})
    check_columns(judge, whole, {"test": whole})
    for name in columns:
        lacking = whole.remove_columns(name)
        with pytest.raises(ValueError, match=rf"asks for the column '{name}', which `train_dataset` lacks: there are"):
            check_columns(judge, lacking, None)
        with pytest.raises(ValueError, match=r"which `eval_dataset\['test'\]` lacks"):
            check_columns(judge, whole, {"test": lacking})


def test_the_columns_of_a_question(tmp_path):
    (tmp_path / "question.jinja").write_text((PROMPTS / "pair.jinja").read_text() + "{{ rubric }}")
    assert OpenAIJudge("m", base_url="http://localhost:1/v1", prompt=str(tmp_path / "question.jinja")).needs == {
        "rubric"
    }
    assert OpenAIJudge("m", base_url="http://localhost:1/v1").needs == set()
