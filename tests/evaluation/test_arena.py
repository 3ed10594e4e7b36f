# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The arena: its answers against the models' own `generate`, its win rates against the judge, and what is kept."""

import json
import multiprocessing
import os
import signal
import weakref
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import build_model, build_tokenizer

from trl_nash.evaluation import WinRateMatrix
from trl_nash.evaluation.arena import Arena, Sampling, Standings, read_contestants
from trl_nash.evaluation.arena import loaded as loaded_module
from trl_nash.evaluation.arena.report import sentences, write_files
from trl_nash.evaluation.scores import exploitability
from trl_nash.judges import Abstained, PairwiseJudge, as_judge
from trl_nash.trainers import loading
from trl_nash.usage import UsageError


PROMPTS = [f"{a} {b}" for a, b in permutations("abcd", 2)]
GREEDY = Sampling(temperature=0, max_new_tokens=8, batch_size=5)
SHORT = Sampling(max_new_tokens=6, batch_size=5)


class ByLength(PairwiseJudge):
    """Prefers the longer text, more surely in the first place; writes down what it was asked."""

    def __init__(self, log=None, dies_after: int | None = None):
        self.log, self.dies_after = log, dies_after

    def judge(self, prompts, first, second):
        verdicts = [1 / (1 + np.exp(-0.1 - (len(a) - len(b)) / 8)) for a, b in zip(first, second, strict=True)]
        if self.log is not None:
            with open(self.log, "a") as file:
                file.writelines(json.dumps(question) + "\n" for question in zip(prompts, first, second, strict=True))
            if self.dies_after is not None and len(self.log.read_text().splitlines()) > self.dies_after:
                os.kill(os.getpid(), signal.SIGKILL)
        return verdicts


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Three models and an adapter of the first."""
    folder, tokenizer = tmp_path_factory.mktemp("models"), build_tokenizer()
    for name, seed in {"one": 0, "two": 1, "three": 2}.items():
        build_model(tokenizer, seed=seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    torch.manual_seed(0)
    config = LoraConfig(target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    adapted = get_peft_model(build_model(tokenizer), config)
    adapted.peft_config["default"].base_model_name_or_path = str(folder / "one")
    adapted.save_pretrained(folder / "adapter")
    return folder


@pytest.fixture
def prompts(write_rows):
    return write_rows([{"prompt": prompt, "uid": f"q{index}"} for index, prompt in enumerate(PROMPTS)])


def completions(write_rows, name: str, texts: list[str], prompts: list[str] = PROMPTS) -> str:
    rows = [{"prompt": prompt, "completion": text} for prompt, text in zip(prompts, texts, strict=False)]
    return write_rows(rows, f"{name}.jsonl")


def of_lengths(write_rows, **lengths: int) -> list[str]:
    """Files of completions of so many letters."""
    return [completions(write_rows, name, [name[0] * count] * len(PROMPTS)) for name, count in lengths.items()]


def few_resamples(result) -> WinRateMatrix:
    """The matrix with cheaper intervals."""
    return WinRateMatrix.from_judgements(result.names, result.records, resamples=50)


def test_answers_are_those_of_the_models(models, prompts, tmp_path):
    """One by one without padding, by `generate` itself; of an adapter with it on its model."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    arena = Arena([str(models / "one"), str(models / "adapter")], prompts, tmp_path / "out", GREEDY)
    arena.sample()
    tokenizer, base = (
        AutoTokenizer.from_pretrained(models / "one"),
        AutoModelForCausalLM.from_pretrained(models / "one"),
    )
    for name in ("one", "adapter"):
        model = PeftModel.from_pretrained(base, models / "adapter") if name == "adapter" else base
        for row, record in arena.answers[name].records.items():
            turns = [{"role": "user", "content": PROMPTS[row]}]
            ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")["input_ids"]
            tokens = model.generate(ids, do_sample=False, max_new_tokens=8)[0, ids.size(1) :]
            assert record["completion"] == tokenizer.decode(tokens, skip_special_tokens=True)
            assert record["ended"] == (tokens[-1] == tokenizer.eos_token_id) and record["tokens"] == len(tokens)
    texts = [[r["completion"] for r in arena.answers[name].records.values()] for name in ("one", "adapter")]
    assert texts[0] != texts[1]


def test_policies_are_drawn_independently_and_again(models, prompts, write_rows, tmp_path):
    """The same model by two names answers otherwise, or win rates would be those of coupled draws."""

    (other,) = of_lengths(write_rows, other=3)

    def answers(folder: str, name: str) -> list[str]:
        arena = Arena([f"{name}={models / 'one'}", other], prompts, tmp_path / folder, SHORT)
        arena.sample()
        return [record["completion"] for record in arena.answers[name].records.values()]

    state = torch.get_rng_state()
    first = answers("a", "x")
    assert torch.equal(torch.get_rng_state(), state)
    assert answers("b", "x") == first != answers("c", "y")


def test_win_rates_are_means_of_what_the_judge_says(models, prompts, tmp_path):
    judge = ByLength()
    arena = Arena([str(models / name) for name in ("one", "two", "three")], prompts, tmp_path / "out", SHORT)
    arena.sample()
    result = arena.judge(judge)
    texts = [[arena.answers[name].records[row]["completion"] for row in range(len(PROMPTS))] for name in result.names]
    for i, j in combinations(range(3), 2):
        assert result.matrix.rates[i, j] == pytest.approx(np.mean(judge(PROMPTS, texts[i], texts[j])))
    assert result.matrix.counts.min() == len(PROMPTS)
    standings = Standings.of(result, few_resamples(result))
    best = standings.lines[0]
    others = np.delete(result.matrix.rates[result.names.index(best.name)], result.names.index(best.name))
    assert best.win_rate.value == pytest.approx(others.mean()) and best.win_rate.low <= best.win_rate.value
    assert best.characters == pytest.approx(np.mean([len(text) for text in texts[result.names.index(best.name)]]))
    assert sum(line.weight.value for line in standings.lines) == pytest.approx(1)
    losses = dict(zip(result.names, exploitability(result.matrix.rates), strict=True))
    assert {line.name: line.exploitability.value for line in standings.lines} == pytest.approx(losses)
    json.dumps(standings.to_dict(), allow_nan=False)


def test_a_second_run_asks_for_the_rest_only(models, prompts, write_rows, tmp_path):
    """Further policies, prompts and judges; and policies that do not play any more are kept."""
    log, specs, out = tmp_path / "log", [str(models / "one"), str(models / "two")], tmp_path / "out"

    def play(specs, prompts=prompts, judge="by length"):
        arena, sampled = Arena(specs, prompts, out, SHORT), []
        arena.sample(lambda name, count: sampled.extend([name] * count))
        log.write_text("")
        arena.judge(ByLength(log), judge)
        return sampled, [tuple(json.loads(line)) for line in log.read_text().splitlines()]

    sampled, asked = play(specs)
    assert len(sampled) == 24 and len(asked) == len(set(asked))
    assert play(specs) == ([], [])
    sampled, _ = play([*specs, str(models / "three")])
    assert sampled == ["three"] * 12
    kept = (out / "answers" / "three.jsonl").read_bytes()
    rows = [{"prompt": prompt, "uid": f"q{index}"} for index, prompt in enumerate(PROMPTS)]
    longer = write_rows([*rows, {"prompt": "no one", "uid": "new"}], "longer.jsonl")
    sampled, again = play(specs[::-1], longer)
    assert sorted(sampled) == ["one", "two"] and {prompt for prompt, *_ in again} == {"no one"}
    assert (out / "answers" / "three.jsonl").read_bytes() == kept
    assert play([*specs, str(models / "three")]) == ([], [])
    sampled, other = play(specs, judge="another")
    assert sampled == [] and sorted(other) == sorted(asked)


def test_one_model_is_in_memory_at_a_time(models, prompts, tmp_path, monkeypatch):
    loaded, alive, load = [], [], loading.load_policy

    def watched(*arguments):
        alive.append(sum(model() is not None for model in loaded))
        model = load(*arguments)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(loaded_module, "load_policy", watched)
    specs = [str(models / name) for name in ("one", "adapter", "two")]
    Arena(specs, prompts, tmp_path / "out", SHORT, best_of=2).sample()
    assert alive == [0, 0, 0] and not any(model() for model in loaded)


def test_the_best_of_further_answers(models, prompts, write_rows, tmp_path):
    """Two models have them and the file has not: what is asked, what is chosen, and that all of it is kept."""
    specs = [str(models / "one"), str(models / "two"), *of_lengths(write_rows, file=9)]
    log, out = tmp_path / "log", tmp_path / "out"
    arena = Arena(specs, prompts, out, SHORT, best_of=2)
    arena.sample()
    judge, rows = ByLength(log), len(PROMPTS)
    result = arena.judge(judge, "by length")
    assert sum(len(row.pairs) for row in arena.questions()) == arena.pairs() == rows * (3 + 2 * 2 * 3)
    assert sorted(result.further) == ["one", "two"] and result.matrix.names == ("one", "two", "file")
    files = [(out / "answers" / "best_of" / f"one-{k}.jsonl").read_text().splitlines() for k in (1, 2)]
    samples = [[json.loads(line)["completion"] for line in lines] for lines in files]
    texts = [[row.completions[place] for row in result.rows] for place in range(3)]
    expected = [[judge(PROMPTS, sample, text) for text in texts] for sample in samples]
    np.testing.assert_allclose(result.further["one"], np.transpose(expected, (2, 0, 1)))
    lines = Standings.of(result, few_resamples(result)).lines
    assert all(line.best_of.value >= line.exploitability.value for line in lines)
    assert all(line.best_of.low <= line.best_of.value <= line.best_of.high for line in lines)
    log.write_text("")
    again = Arena(specs, prompts, out, SHORT, best_of=2)
    assert [again.missing(contestant) for contestant in again.contestants] == [0, 0, 0]
    again.judge(judge, "by length")
    assert log.read_text() == ""
    assert Arena(specs, prompts, out, SHORT).judge(judge, "by length").further == {} and log.read_text() == ""
    part = completions(write_rows, "part", ["xx"] * 4)  # of the other prompts none has answers of two policies
    log.write_text("")
    holes = Arena([specs[0], part], prompts, out, SHORT, best_of=2)
    holes.sample()
    holes = holes.judge(judge, "by length")
    assert len(log.read_text().splitlines()) == 2 * 4 * 3 and holes.further["one"].shape == (4, 2, 2)
    assert not np.isnan([line.best_of.value for line in Standings.of(holes, few_resamples(holes)).lines]).any()
    with pytest.raises(UsageError, match="best_of must be 2 or more, .* got 1"):
        Arena(specs, prompts, out, SHORT, best_of=1)
    with pytest.raises(UsageError, match="best_of chooses from further answers, and at temperature 0"):
        Arena(specs, prompts, out, GREEDY, best_of=4)
    with pytest.raises(UsageError, match="best_of needs a policy that is sampled"):
        Arena([specs[-1], part], prompts, out, SHORT, best_of=2)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_goes_on_after_any_kill(models, prompts, tmp_path):
    """Two processes are killed, one that samples and one whose judge is at work: nothing on disk is asked again."""
    specs, log, out = [str(models / "one"), str(models / "two")], tmp_path / "log", tmp_path / "out"

    def killed_while_sampling():
        calls, real = [], loaded_module.answer_record

        def record(*arguments):
            calls.append(arguments)
            if len(calls) == 18:  # in the second batch of the second policy
                with (out / "answers" / "two.jsonl").open("a") as file:  # as a kill while it is written leaves it
                    file.write('{"row": 5, "prom')
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        loaded_module.answer_record = record
        Arena(specs, prompts, out, SHORT).sample()

    def killed_while_judging():
        arena = Arena(specs, prompts, out, SHORT)
        arena.sample()
        arena.judge(ByLength(log, dies_after=10), "by length", batch_size=2)

    for work in (killed_while_sampling, killed_while_judging):
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        if work is killed_while_sampling:
            kept = {name: (out / "answers" / f"{name}.jsonl").read_text() for name in ("one", "two")}
            assert [text.count("\n") for text in kept.values()] == [12, 5]
    asked = log.read_text().splitlines()
    arena = Arena(specs, prompts, out, SHORT)
    assert [arena.missing(contestant) for contestant in arena.contestants] == [0, 0]
    result = arena.judge(ByLength(log), "by length", batch_size=2)
    for name, text in kept.items():
        whole = (out / "answers" / f"{name}.jsonl").read_text()
        assert whole.startswith(text[: text.rfind("\n") + 1]) and whole.count("\n") == 12
        assert sorted(arena.answers[name].records) == list(range(12))
    again = log.read_text().splitlines()[len(asked) :]
    lost = set(again) & set(asked)  # the answers to these questions were not there yet when the process was killed
    assert len(lost) <= 4 and len(set(again) | set(asked)) == 2 * sum(len(row.pairs) for row in result.rows)
    unkilled = Arena(specs, prompts, tmp_path / "unkilled", SHORT)
    unkilled.sample()
    assert unkilled.judge(ByLength(), "by length").matrix.rates == pytest.approx(result.matrix.rates)


def test_two_at_a_time(write_rows, prompts, tmp_path):
    """The second one would give places to its policies that the first one's have, or write over its judgements."""
    out, specs = tmp_path / "out", of_lengths(write_rows, a=2, b=3, c=4)
    first, again, second = (Arena(some, prompts, out) for some in (specs[:2], specs[:2], specs[1:]))
    refused = []

    def judge(prompts, one, other):
        if not refused:
            with pytest.raises(UsageError, match=r"another arena is at work in .*out: wait for it") as error:
                again.judge(as_judge(judge))
            refused.append(error)
        return [float(len(a) > len(b)) for a, b in zip(one, other, strict=True)]

    first.sample()
    again.sample()
    assert len((out / "answers" / "a.jsonl").read_text().splitlines()) == len(PROMPTS)
    with pytest.raises(UsageError, match=r"another arena has begun in .*out: start this one again"):
        second.sample()
    assert first.judge(as_judge(judge)).matrix.rates[1, 0] == 1 and refused
    second = Arena(specs, prompts, out)
    second.sample()
    assert second.judge(as_judge(judge)).matrix.names == ("a", "b", "c")


def test_completions_from_files(write_rows, tmp_path):
    """AlpacaEval's columns, messages for texts, a prompt that is asked twice, other orders, and prompts without."""
    prompts = write_rows([{"instruction": prompt} for prompt in (*PROMPTS, PROMPTS[0])])
    alpaca = tmp_path / "alpaca.json"
    rows = [{"instruction": prompt, "output": prompt * 2, "generator": "x"} for prompt in reversed(PROMPTS)]
    alpaca.write_text(json.dumps([*rows, {"instruction": PROMPTS[0], "output": "second"}]))
    turns = [{"prompt": [{"role": "user", "content": p}], "completion": p[0]} for p in (*PROMPTS[:4], "another")]
    arena = Arena([str(alpaca), write_rows(turns, "part.jsonl")], prompts, tmp_path / "out")
    arena.sample()
    assert {row: r["completion"] for row, r in arena.answers["alpaca"].records.items()} == {
        **{row: prompt * 2 for row, prompt in enumerate(PROMPTS)},
        12: "second",
    }
    assert sorted(arena.answers["part"].records) == [0, 1, 2, 3]
    assert arena.judge(ByLength()).matrix.counts[0, 1] == 4 == arena.pairs()


@pytest.mark.parametrize(
    "specs, message",
    [
        (["a"], "needs two policies or more, got 1"),
        (["run/a", "other/a"], "two policies have the same name, 'a': name them yourself, as in second=other/a"),
        (["x=a", "X=b"], "same name, 'x' and 'X'"),
        (["a", "b="], "names no policy"),
    ],
)
def test_names_that_cannot_be(specs, message):
    with pytest.raises(UsageError, match=message):
        read_contestants(specs)


def test_names_of_policies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1").mkdir()
    specs = ["org/model", "runs/lr=2/last", "lr=1", "openai:Qwen/Q3@http://h:1/v1", "me=openai:Q3", "a.JSONL.gz"]
    found = [tuple(contestant) for contestant in read_contestants(specs)]
    assert found == [
        ("model", "model", "org/model"),
        ("last", "model", "runs/lr=2/last"),
        ("lr=1", "model", "lr=1"),
        ("Q3", "server", "Qwen/Q3@http://h:1/v1"),
        ("me", "server", "Q3"),
        ("a", "file", "a.JSONL.gz"),
    ]


def test_files_that_cannot_be_used(write_rows, prompts, tmp_path):
    out = tmp_path / "out"
    good, other = of_lengths(write_rows, good=3), completions(write_rows, "other", ["x"] * 3, ["p", "q", "r"])
    with pytest.raises(UsageError, match=r"completions of other prompts: none of its 3 rows is one of these"):
        Arena([*good, other], prompts, out)
    with pytest.raises(UsageError, match="has no completions: a column completion, output or response"):
        Arena([*good, write_rows([{"prompt": "a b", "answer": "x"}], "none.jsonl")], prompts, out)
    with pytest.raises(
        ValueError, match=r"row 0 \(from 0\) cannot be used: `output` is neither text nor a list of messages but None"
    ):
        Arena([*good, write_rows([{"prompt": "a b", "output": None}], "null.jsonl")], prompts, out)
    assert not out.exists()


def test_a_name_keeps_what_it_stands_for(models, write_rows, prompts, tmp_path):
    out, (file,) = tmp_path / "out", of_lengths(write_rows, file=3)
    Arena([str(models / "one"), file], prompts, out, SHORT).sample()
    with pytest.raises(UsageError, match=r"one is in .* already, with max_new_tokens=6: name it otherwise"):
        Arena([str(models / "one"), file], prompts, out, Sampling(max_new_tokens=7))
    with pytest.raises(UsageError, match=r"one is in .* already, with .*one: name it otherwise, as in again="):
        Arena([f"one={models / 'two'}", file], prompts, out, SHORT)
    completions(write_rows, "file", ["changed"] * 12)
    with pytest.raises(UsageError, match=r"file.jsonl has another completion of prompt 0"):
        Arena([str(models / "one"), file], prompts, out, SHORT)
    of_lengths(write_rows, file=3)
    changed = write_rows([{"prompt": prompt} for prompt in PROMPTS[::-1]], "changed.jsonl")
    with pytest.raises(UsageError, match=r"Prompt 0 \(from 0\) is not what it was"):
        Arena([str(models / "one"), file], changed, out, SHORT)


class NeverOnC(PairwiseJudge):
    symmetric = True

    def judge(self, prompts, first, second):
        return [Abstained("refused") if "c" in a + b else float(len(a) > len(b)) for a, b in zip(first, second)]  # noqa: B905


def test_a_judge_that_abstains_on_a_policy_altogether(write_rows, prompts, tmp_path):
    arena = Arena(of_lengths(write_rows, a=2, b=3, c=4), prompts, tmp_path / "out")
    arena.sample()
    result = arena.judge(NeverOnC())
    assert result.matrix.holes == [("a", "c"), ("b", "c")]
    standings = Standings.of(result, few_resamples(result))
    assert [line.name for line in standings.lines] == ["b", "a", "c"] and standings.left_out == ["c"]
    last = standings.lines[-1]
    assert all(
        np.isnan(x) for x in (last.win_rate.value, last.weight.value, last.exploitability.value, last.elo.value)
    )
    assert [line.weight.value for line in standings.lines[:2]] == [1.0, 0.0]
    assert standings.to_dict()["policies"][2]["win_rate"] == {"value": None, "low": None, "high": None}


class Group(PairwiseJudge):
    """Sees all answers to a prompt at once, and there is no `None` among them."""

    def judge(self, prompts, first, second):
        raise AssertionError("it compares")

    def compare(self, prompts, completions, pairs, *, columns=None, completion_ids=None, trainer_state=None):
        lengths = np.array([[len(text) for text in texts] for texts in completions])
        return np.stack([0.5 + 0.5 * np.sign(lengths[:, i] - lengths[:, j]) for i, j in pairs], 1)


def test_a_judge_of_groups_sees_the_answers_that_there_are(write_rows, prompts, tmp_path):
    specs = of_lengths(write_rows, a=2, b=4, c=3)
    completions(write_rows, "b", ["bbbb"] * 4)  # and of the other prompts none
    arena = Arena(specs, prompts, tmp_path / "out")
    arena.sample()
    matrix = arena.judge(Group()).matrix
    assert matrix.counts[np.triu_indices(3, 1)].tolist() == [4, 12, 4]
    np.testing.assert_array_equal(matrix.rates, [[0.5, 0, 0], [1, 0.5, 1], [1, 0, 0.5]])


def test_a_judge_that_never_has_an_opinion(write_rows, prompts, tmp_path):
    arena = Arena(of_lengths(write_rows, a=2, b=3), prompts, tmp_path / "out")
    arena.sample()
    result = arena.judge(as_judge(lambda prompts, first, second: [None] * len(prompts)))
    standings = Standings.of(result)
    assert standings.left_out == ["a", "b"] and np.isnan([line.win_rate.value for line in standings.lines]).all()
    never, left_out = sentences(standings)  # and nothing of intervals, of which there are none
    assert never.startswith("Never compared, because an answer or a verdict is missing") and "a, b" in left_out
    write_files(result, standings, arena.contestants, arena.directory)


def test_no_prompt_with_two_answers(write_rows, prompts, tmp_path):
    first = completions(write_rows, "first", ["x"] * 3)
    second = completions(write_rows, "second", ["y"] * 3, PROMPTS[3:6])
    with pytest.raises(UsageError, match="no prompt has answers of two policies"):
        Arena([first, second], prompts, tmp_path / "out")
    second = completions(write_rows, "second", ["y"] * 3, PROMPTS[2:5])
    with pytest.raises(UsageError, match="one prompt has answers of two policies"):
        Arena([first, second], prompts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fewer_prompts_than_before(write_rows, tmp_path):
    """Figures are of the prompts that are asked for, also where the directory has answers to others."""
    texts = ["x", "xx", *["x" * 100] * (len(PROMPTS) - 2)]
    specs = [completions(write_rows, name, [text + "y" * (name == "b") for text in texts]) for name in "ab"]
    every, some = (write_rows([{"prompt": p} for p in PROMPTS[:n]], f"{n}.jsonl") for n in (12, 2))
    for file in (every, some):
        arena = Arena(specs, file, tmp_path / "out")
        arena.sample()
    first, second = Standings.of(arena.judge(ByLength())).lines
    assert (first.answers, first.characters, second.characters) == (2, 2.5, 1.5)
