# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Generative judges. Verdicts are those that the authors' parsers find in answers of their models; sampled votes are
compared with the probabilities of the model's own forward.
"""

import json
import math

import pytest
import torch
from loopback import Loopback, status
from tiny_judges import build_judge_model, build_llama3_tokenizer
from waiting import PATIENCE

from trl_nash.judges import load_judge
from trl_nash.judges.local.genrm import GenRMJudge
from trl_nash.judges.questions.families import FAMILIES, family_of
from trl_nash.judges.questions.template import QuestionTemplate
from trl_nash.judges.servers import pace


# Answers of each family's models in the form that its authors read, and what they read in them.
ANSWERS = {
    "rm-r1": [("<think>[[B]] at first</think>Both.\n<answer>[[A]]</answer>", 1.0), ("[[A]] or [[B]]", None)],
    "rm-r1-instruct": [("<type>Chat</type><eval>..</eval>\n<answer>[[B]]</answer>", 0.0)],
    "nemotron-genrm": [
        ('<think>x</think>{"score_1": 4, "score_2": 2, "ranking": 1}', 1.0),
        ('{"score_1": "2", "score_2": "3", "ranking": "4"}', 0.4),
        ("[The Begin of Ranking Score]\n\\boxed{6} \n[The End of Ranking Score]", 0.0),
    ],
    "selene": [("**Reasoning:** A is short.\n\n**Result:** B", 0.0), ("**Result:** A", 1.0)],
    "prometheus": [("Both try. So the overall verdict is [RESULT] A", 1.0), ("Feedback. [RESULT] B", 0.0)],
    "compass-judger": [("B", 0.0), ("A", 1.0), ("Of course!", None)],
    "skywork-critic": [("[[A]]", 1.0), ("[[B]]", 0.0)],
    "con-j": [
        ('{"原因": "回答1中的-1是错误的。回答2准确地描述了sigmoid函数的输出范围是0到1。",\n "更好的回答": 2}', 0.0),
        ('```json\n{"原因": "好", "更好的回答": 1}\n```', 1.0),
    ],
    "judgelrm": [("<answer> 9 </answer><answer> 8 </answer>", 1.0), ("<answer>8</answer><answer>8</answer>", 0.5)],
    "deepseek-grm": [("Analysis: a.\nScores: \\boxed{3, 8}", 0.0), ("Scores: \\boxed{8,3}", 1.0)],
}
NAMES = {
    "gaotang/RM-R1-DeepSeek-Distilled-Qwen-7B": "rm-r1",
    "gaotang/RM-R1-Qwen2.5-Instruct-7B": "rm-r1-instruct",
    "nvidia/Qwen3-Nemotron-235B-A22B-GenRM": "nemotron-genrm",
    "AtlaAI/Selene-1-Mini-Llama-3.1-8B": "selene",
    "prometheus-eval/prometheus-7b-v2.0": "prometheus",
    "opencompass/CompassJudger-1-7B-Instruct": "compass-judger",
    "Skywork/Skywork-Critic-Llama-3.1-8B": "skywork-critic",
    "ZiyiYe/Con-J-Qwen2-7B": "con-j",
    "nuojohnchen/JudgeLRM-7B": "judgelrm",
    "BBQGOD/DeepSeek-GRM-16B": "deepseek-grm",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(pace, "BACKOFF", 0.001)


@pytest.mark.parametrize("family", FAMILIES)
def test_verdicts_of_each_family(family):
    question = QuestionTemplate(family)
    for text, expected in ANSWERS[family]:
        read = question.read({"message": {"content": text}}, "text")
        assert read is None if expected is None else read == pytest.approx(expected), text


@pytest.mark.parametrize("family", FAMILIES)
def test_questions_of_each_family(family):
    messages = QuestionTemplate(family).render("probe0", "probe1", "probe2", mode="text")
    whole = json.dumps(messages, ensure_ascii=False)
    assert whole.index("probe0") < whole.index("probe1") < whole.index("probe2")
    roles = [message["role"] for message in messages]
    assert roles[-2:] == ["response_1", "response_2"] if family == "nemotron-genrm" else roles[-1] == "user"


def test_families_by_name():
    assert {name: family_of(name) for name in NAMES} == NAMES and set(NAMES.values()) == set(FAMILIES)
    with pytest.raises(ValueError, match="did you mean prometheus"):
        family_of("x", "promethus")
    with pytest.raises(ValueError, match="tells no family: pass `family`"):
        load_judge("genrm:Qwen/Qwen3-8B")


@pytest.fixture(scope="module")
def tiny():
    """A model that says A or B and stops; how often it says A is read off its own forward."""
    tokenizer = build_llama3_tokenizer()
    model = build_judge_model(tokenizer)
    labels = tokenizer.convert_tokens_to_ids(["A", "B"])
    end = tokenizer.eos_token_id
    model.generation_config.update(
        eos_token_id=end,
        forced_eos_token_id=end,
        begin_suppress_tokens=[end],
        suppress_tokens=[i for i in range(len(tokenizer)) if i not in (*labels, end)],
    )
    return model.eval(), tokenizer, labels


def build(tiny, **kwargs) -> GenRMJudge:
    options = {"family": "compass-judger", "max_tokens": 2, "order": "fixed"} | kwargs
    return GenRMJudge(tiny[0], tokenizer=tiny[1], **options)


PAIRS = ["a b c", "d e f g h", "i"], ["one two", "red", "a"], ["b", "green blue four", "c d e f g h i j"]


def test_votes_are_a_sample_of_the_models_own_probabilities(tiny):
    model, tokenizer, labels = tiny
    votes = 400
    judge = build(tiny, votes=votes, temperature=2.0, tokens_per_batch=10**6)
    state = torch.get_rng_state()
    shares = judge(*PAIRS)
    assert torch.equal(state, torch.get_rng_state())
    assert shares == build(tiny, votes=votes, temperature=2.0, tokens_per_batch=10**6)(*PAIRS)
    for share, row in zip(shares, zip(*PAIRS, strict=True), strict=True):
        ids = tokenizer(judge.render(*row), add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1, labels] / 2
        p = logits.softmax(-1)[0].item()
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / votes)
        assert 0.05 < p < 0.95


def test_one_vote_is_the_most_likely_answer_and_both_orders_are_asked(tiny):
    model, tokenizer, labels = tiny
    judge = build(tiny, order="both")
    answers = []
    for prompt, a, b in zip(*PAIRS, strict=True):
        both = []
        for x, y in ((a, b), (b, a)):
            ids = tokenizer(judge.render(prompt, x, y), add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                both.append(float(model(torch.tensor([ids])).logits[0, -1, labels].argmax() == 0))
        answers.append((both[0] + 1 - both[1]) / 2)
    assert judge(*PAIRS) == answers


def test_an_answer_that_does_not_end_is_no_verdict(tiny, monkeypatch):
    monkeypatch.setattr(tiny[0].generation_config, "forced_eos_token_id", None)
    judge = build(tiny, max_tokens=1)
    (answer,) = judge(["a"], ["b"], ["c"])
    assert answer.reason == "cut"


def test_arguments_that_cannot_be(tiny):
    for kwargs, message in [
        ({"votes": 0}, "`votes` is a number"),
        ({"votes": 2, "temperature": 0.0}, "must be positive for several votes"),
        ({"prompt": "pair"}, "not both"),
        ({"max_tokens": 4096}, "leaves no room"),
    ]:
        with pytest.raises(ValueError, match=message):
            build(tiny, **kwargs)


def answering(*texts: str, one_at_a_time: bool = False):
    """A server that gives these answers in turn, as many as it is asked for."""
    state = {"given": 0}

    def behave(handler):
        count = handler.body.get("n", 1)
        if one_at_a_time and count > 1:
            return status(400, "n must be at most 1")(handler)
        choices = []
        for _ in range(count):
            text = texts[state["given"] % len(texts)]
            state["given"] += 1
            choices.append({"message": {"role": "assistant", "content": text}, "finish_reason": "stop"})
        usage = {"prompt_tokens": 10, "completion_tokens": 5 * count}
        handler.send(json.dumps({"choices": choices, "usage": usage}).encode())

    return lambda question, number: behave


@pytest.mark.parametrize("one_at_a_time", [False, True])
def test_votes_of_a_server(one_at_a_time):
    """Three of four say the second; one of them says nothing that can be read in the first place."""
    script = answering("[[B]]", "[[B]]", "hm", "[[A]]", one_at_a_time=one_at_a_time)
    with Loopback(script) as server:
        judge = load_judge(
            f"genrm:gaotang/RM-R1-Qwen2.5-Instruct-7B@{server.url}",
            votes=4,
            order="fixed",
            cache=None,
            timeout=PATIENCE,
            max_retries=0,
        )
        (p,) = judge(["x"], ["a"], ["b"])
    assert p == pytest.approx(1 / 3)
    body = server.log[0].body
    assert body["n"] == 4 and body["temperature"] == 1.0 and body["max_tokens"] == 8192
    assert len(server.log) == (5 if one_at_a_time else 1) and judge.usage["completion_tokens"] == 20


def test_roles_of_nemotron_reach_the_server():
    with Loopback(answering('{"score_1": 1, "score_2": 5, "ranking": 5}')) as server:
        judge = load_judge(
            f"genrm:nvidia/Qwen3-Nemotron-235B-A22B-GenRM@{server.url}", cache=None, timeout=PATIENCE, order="fixed"
        )
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
        prompt = [*turns, {"role": "user", "content": "z"}]
        assert judge([prompt], ["a"], ["b"]) == pytest.approx([0.2])
    roles = [message["role"] for message in server.log[0].body["messages"]]
    assert roles == ["user", "assistant", "user", "response_1", "response_2"]
    assert [message["content"] for message in server.log[0].body["messages"]] == ["x", "y", "z", "a", "b"]


def test_a_chat_template_without_the_roles_is_refused(tiny):
    model, tokenizer, _ = tiny
    plain = build_llama3_tokenizer(
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
    )
    with pytest.raises(ValueError, match="does not write messages of the roles response_1, response_2"):
        GenRMJudge(model, tokenizer=plain, family="nemotron-genrm", max_tokens=8)
    GenRMJudge(model, tokenizer=tokenizer, family="nemotron-genrm", max_tokens=8)


@pytest.mark.network
@pytest.mark.parametrize("name", NAMES)
def test_published_models(name):
    judge = load_judge(f"genrm:{name}", votes=4, device="cuda", model_kwargs={"dtype": "bfloat16"})
    (p,) = judge(["What is the capital of France?"], ["It is Paris."], ["It is Rome."])
    assert p > 0.5
