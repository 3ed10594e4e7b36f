# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from judge_files import PAIRS, complaint, judged
from loopback import KEY, Loopback, fair, ok, preference, status
from scipy import stats
from tiny import build_tokenizer
from transformers import LlamaConfig, LlamaForSequenceClassification

from trl_nash import RandomJudge, load_judge
from trl_nash.cli.main import main
from trl_nash.evaluation.rows import read_rows
from trl_nash.extras import pip_install


def test_pairs_are_what_the_judge_says(tmp_path, write_rows, capsys):
    records, figures = judged(tmp_path, write_rows(PAIRS), "judge_files:biased", "--batch_size", "3")
    assert [(r["prompt"], r["first"], r["second"], r["label"]) for r in records] == [
        (row["prompt"], row["first"], row["second"], row["label"]) for row in PAIRS
    ]
    expected = load_judge("judge_files:biased")(*([row[k] for row in PAIRS] for k in ("prompt", "first", "second")))
    for record, p in zip(records, expected, strict=True):
        assert record["preference"] == (None if math.isnan(p) else pytest.approx(p, abs=1e-15))
        assert record["abstained"] == ("no opinion" if math.isnan(p) else None)

    found = figures["judge"]
    kept = [(p, row) for p, row in zip(expected, PAIRS, strict=True) if p == p]
    p = np.array([p for p, _ in kept])
    assert (found["pairs"], found["judged"], found["abstained"]) == (20, 12, {"no opinion": 8})
    assert found["mean_preference"] == pytest.approx(p.mean())
    assert found["standard_error"] == pytest.approx(stats.sem(p))
    # The bias is .1 for either position, less where a probability is cut off at 1 or 0: never with these letters.
    assert found["orders"] == {"pairs": 12, "position_bias": pytest.approx(0.2), "flip_rate": pytest.approx(0.0)}
    assert found["cost"]["asked"] == 40
    assert found["cost"]["seconds"] > 0
    known = np.array([(p, row["label"]) for p, row in kept if row["label"] is not None])
    assert found["label"]["pairs"] == len(known)
    assert found["label"]["brier"] == pytest.approx(((known[:, 0] - known[:, 1]) ** 2).mean())
    shown = capsys.readouterr().out
    assert "12 of 20" in shown and "abstained: no opinion" in shown and "agrees with the label" in shown


def test_figures_and_page(write_rows, tmp_path):
    judged(tmp_path, write_rows(PAIRS), "judge_files:biased", "--second_judge", "random")
    names = {"judgements.jsonl", "judgements.jsonl.run.json", "judge.json", "preferences.png", "reliability.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {"report.html"}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "position bias" in page and page.count("<figure>") == 2


def test_without_matplotlib_the_rest_is_there(write_rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    judged(tmp_path, write_rows(PAIRS), "random")
    assert pip_install("plots") in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "mean preference" in page and "<figure>" not in page


def test_dialogues(tmp_path, write_rows, capsys):
    """Functions get messages, judges of texts a transcript, which the output has, too."""

    def said(*texts, roles=("assistant", "user")):
        return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]

    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    asks, tells = [*said("For whom?", "My son."), *said("A ball.")], said("A book.")
    opening = [{"role": "user", "content": "A present?"}]
    rows = [
        {"prompt": opening, "first": asks, "second": tells},
        {"prompt": opening, "first": opening + tells, "second": opening + asks},
        {"prompt": "A present?", "first": tells, "second": [call, *said("A book.", roles=["tool"])]},
    ]
    records, _ = judged(tmp_path, write_rows(rows), "judge_files:asked_back", "--second_judge", "judge_files:Longer")
    assert [record["preference"] for record in records] == pytest.approx([0.9, 0.1, 0.5])
    transcript = "Assistant: For whom?\n\nUser: My son.\n\nAssistant: A ball."
    assert [record["first"] for record in records[:2]] == [transcript, "A book."]
    assert records[2]["second"] == 'Assistant: \nCall: {"name": "f", "arguments": {}}\n\nTool: A book.'
    assert [record["second_preference"] for record in records] == [1, 0, 0]  # by the length of what it reads
    assert main(["judge", write_rows(rows), "--judge=random", f"--output={tmp_path / 'judged.parquet'}"]) == 0
    for prompt in (opening, "A present?"):  # and never an answer to something else, as one to this
        wrong = [{"prompt": prompt, "first": [{"role": "user", "content": "Another?"}, *tells], "second": tells}]
        with pytest.raises(ValueError, match="`first` must be the prompt's messages, if any, and an assistant's"):
            read_rows(write_rows(wrong))
    whole = [{"role": "system", "content": "Be brief."}, *opening, *tells]
    (found,) = read_rows(write_rows([{"prompt": "A present?", "first": whole, "second": "x"}]))
    assert found.completions == ["A book.", "x"]
    with pytest.raises(ValueError, match="message 1 of `second` .* has no text but None"):
        read_rows(write_rows([rows[0] | {"second": [*tells, {"role": "user", "content": None}]}]))


def test_without_output_nothing_is_written(write_rows, tmp_path, capsys):
    file = write_rows(PAIRS)
    assert main(["judge", file, "--judge=random"]) == 0
    assert "mean preference" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_second_judge(tmp_path, write_rows):
    records, figures = judged(
        tmp_path, write_rows(PAIRS), "random", "--second_judge", "random", "--second_judge_kwargs", '{"seed": 1}'
    )
    p, q = (np.array([record[f"{prefix}preference"] for record in records]) for prefix in ("", "second_"))
    assert q.tolist() == RandomJudge(seed=1)(*([row[k] for row in PAIRS] for k in ("prompt", "first", "second")))
    found = figures["judge"]["second_judge"]
    assert found["accuracy"] == pytest.approx(((p > 0.5) == (q > 0.5)).mean())
    both_ways = np.concatenate([p, 1 - p]), np.concatenate([q, 1 - q])
    assert found["correlation"] == pytest.approx(stats.pearsonr(*both_ways).statistic)
    assert figures["second_judge"]["mean_preference"] == pytest.approx(q.mean())


def test_other_columns_and_reasons_reach_the_judgements(write_rows, tmp_path):
    records, _ = judged(tmp_path, write_rows(PAIRS), "judge_files:by_note", "--second_judge", "judge_files:Reasons")
    assert [record["preference"] for record in records] == [1.0] * 20
    reasons = ["too long" if "e" in row["first"] + row["second"] else None for row in PAIRS]
    assert [record["second_abstained"] for record in records] == reasons


def test_completions_are_all_compared_and_scored_once(write_rows, tmp_path):
    rows = [{"prompt": "a", "completions": ["b", "c", "d", "e"][: 2 + k % 3]} for k in range(5)]
    tokenizer, folder = build_tokenizer(), tmp_path / "reward"
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), num_labels=1, pad_token_id=tokenizer.pad_token_id, **size)
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kwargs = '{"temperature": 0.01, "device": "cpu"}'
    records, figures = judged(tmp_path, write_rows(rows), f"reward:{folder}", "--judge_kwargs", kwargs)
    assert len(records) == 1 + 3 + 6 + 1 + 3
    reward = load_judge(f"reward:{folder}", temperature=0.01)
    expected = reward(*([record[k] for record in records] for k in ("prompt", "first", "second")))
    assert [record["preference"] for record in records] == pytest.approx(expected, abs=1e-4)
    assert (figures["judge"]["triples"], figures["judge"]["cycle_rate"]) == (1 + 4 + 1, 0.0)


def test_a_reason_may_be_any_text(tmp_path, write_rows, capsys):
    _, figures = judged(tmp_path, write_rows(PAIRS), "judge_files:odd")
    assert figures["judge"]["abstained"] == {"[/b] [red]": 20}
    shown = capsys.readouterr().out
    assert "abstained: [/b] [red]" in shown
    assert "one order asked" not in shown  # both were


def test_coin_flips_are_not_called_evidence(write_rows, capsys):
    rows = [{"prompt": f"{k}", "completions": ["a", "b", "c"]} for k in range(30)]
    assert main(["judge", write_rows(rows), "--judge", "random"]) == 0
    assert "of coin flips, 25 % of the triples are cyclic" in capsys.readouterr().out
    assert main(["judge", write_rows(rows), "--judge", "judge_files:Reasons"]) == 0
    assert "cyclic" not in capsys.readouterr().out


def test_agreement_without_winners_says_so(write_rows, capsys):
    """The other judge gives ties alone: there is a Brier score of its verdicts, and no winner to agree with."""
    argv = ["judge", write_rows(PAIRS), "--judge", "random", "--second_judge", "judge_files:tie"]
    assert main(argv) == 0
    assert "agreement with second judge  no pair has a winner" in " ".join(capsys.readouterr().out.split("   "))


def test_equal_texts_are_a_half_and_count_nowhere(tmp_path, write_rows):
    rows = [{"prompt": "a", "first": "b", "second": "b"}, {"prompt": "a", "first": "b", "second": "cc"}]
    records, figures = judged(tmp_path, write_rows(rows), "judge_files:Reasons")
    assert [record["preference"] for record in records] == [0.5, 0.25]
    assert (figures["judge"]["equal"], figures["judge"]["ties"], figures["judge"]["mean_preference"]) == (1, 0.0, 0.25)


def test_bad_options(write_rows, tmp_path, capsys):
    file = write_rows(PAIRS)
    for argv, expected in (
        ((), "a file of pairs is needed"),
        ((file,), "a judge is needed"),
        ((file, "--jugde", "random"), "unknown option --jugde: did you mean --judge?"),
        ((file, "other", "--judge", "random"), "unexpected argument 'other'"),
        ((file, "--judge", "random", "--judge_kwargs", "{seed: 1}"), "--judge_kwargs must be JSON"),
        ((file, "--judge", "random", "--judge_kwargs", "[1]"), "must be a JSON object"),
        ((file, "--judge", "random", "--second_judge_kwargs", "{}"), "--second_judge: add it"),
        ((file, "--judge", "random", "--batch-size", "0"), "--batch_size must be at least 1"),
        ((file, "--judge", "random", "--batch_size", "x"), "--help` lists the options"),
        ((file, "--judge", "random", "--output", "judged.txt"), "written as .jsonl or .parquet"),
        ((file, "--judge", "random", "--output", file), "is the file of pairs"),
        ((file, "--judge", "random", "--output_dir", file), "Name another directory"),
        ((file, "--judge", "random", "--output", f"{file}/x.jsonl"), "Name another file"),
    ):
        assert expected in complaint(capsys, *argv)


def test_bad_judges(write_rows, tmp_path, capsys):
    file = write_rows(PAIRS)
    assert "did you mean 'random'" in complaint(capsys, file, "--judge", "randon", code=1)
    kwargs = ("--judge", "random", "--judge_kwargs", '{"sed": 1}')
    assert "takes the arguments seed" in complaint(capsys, file, *kwargs, code=1)
    assert main(["judge", file, "--judge", f"reward:{tmp_path / 'none'}"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_costs_of_a_server(tmp_path, write_rows, monkeypatch, capsys):
    """A real server, which refuses one question for good: its pair has no verdict, and the rest is not asked again."""
    monkeypatch.setenv("TRL_NASH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    refused = (PAIRS[2]["first"], PAIRS[2]["second"])
    with Loopback(lambda question, number: status(400) if question == refused else ok) as server:
        argv = (f"openai:tiny@{server.url}", "--judge_kwargs", '{"timeout": 600}', "--price", "3", "5")
        records, figures = judged(tmp_path, write_rows(PAIRS), *argv)
        assert [r["abstained"] for r in records] == [None, None, "server", *[None] * 17]
        for record in records[3:]:
            assert record["preference"] == pytest.approx(fair(record["first"], record["second"]))
        found = figures["judge"]
        assert found["abstained"] == {"server": 1}
        bias = [abs(preference(r["first"], r["second"]) + preference(r["second"], r["first"]) - 1) for r in records]
        assert found["orders"]["position_bias"] == pytest.approx(np.delete(bias, 2).mean())
        cost, sent = found["cost"], len(server.log)
        assert (cost["asked"], cost["cached"], cost["requests"]) == (40, 0, sent)
        assert cost["failed_requests"] == 1 and cost["request_seconds"] > 0
        # The server states 100 tokens of each question and 1 of its answer; the labels have .8 of the probability.
        assert found["modes"] == {"logprobs": 39} and found["label_mass"] == pytest.approx(0.8)
        assert cost["price"] == pytest.approx((sent - 1) * (3 * 100 + 5 * 1) / 1e6)
        assert cost["price_per_question"] == pytest.approx(cost["price"] / 40)
        assert cost["price_per_pair"] == pytest.approx(cost["price"] / 20)
        assert cost["tokens_per_pair"] == pytest.approx(2 * cost["tokens_per_question"])
        printed = capsys.readouterr().out
        lines = ("label mass", "39 logprobs", "tokens a question", "price of a pair", "price in all")
        assert all(line in printed for line in lines)
        capsys.readouterr()
        again = ["judge", write_rows(PAIRS), "--judge", *argv, "--output", str(tmp_path / "again.jsonl")]
        assert main(again) == 0
        assert len(server.requests) == 41 and "from the cache" in capsys.readouterr().out
    for path in (tmp_path / "out").iterdir():
        assert KEY.encode() not in path.read_bytes()


def test_help_is_quick():
    code = (
        "import sys; from trl_nash.cli.main import main\n"
        "try: main(['judge', '--help'])\n"
        "except SystemExit: pass\n"
        "found = {'torch', 'transformers', 'trl', 'numpy', 'rich', 'matplotlib'} & set(sys.modules)\n"
        "assert not found, found\n"
        "import time; assert time.process_time() < 2  # of the processor alone"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, timeout=600, capture_output=True, text=True)
    assert "--second_judge_kwargs" in run.stdout
