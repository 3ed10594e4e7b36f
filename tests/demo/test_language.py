# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`trl-nash demo`: the judge against arithmetic, the files it leaves, the sentences it answers with."""

import io
import itertools
import json
import logging
import math
import warnings

import numpy as np
import pytest
from rich.console import Console

from trl_nash.cli import demo
from trl_nash.demo import language
from trl_nash.demo.data import read_examples
from trl_nash.demo.judge import TASTES, length_class, quality, three_raters
from trl_nash.demo.report import progress_bar
from trl_nash.usage import UsageError


SHORT = "Bees make honey."
MEDIUM = "Bees make honey out of the nectar that they find."
LONG = "Bees make honey out of the nectar that they find in flowers, far away from their own hive."
PROMPT = "How do bees make honey?"


@pytest.fixture(autouse=True)
def loud_again():
    """The demo silences logging for its process; a test run goes on."""
    with warnings.catch_warnings():
        yield
    logging.disable(logging.NOTSET)


def test_equally_good_answers_are_preferred_in_a_circle():
    """Short beats medium, medium beats long and long beats short: no reward function describes that."""
    assert [length_class(answer) for answer in (SHORT, MEDIUM, LONG)] == [0, 1, 2]
    first, second = [SHORT, MEDIUM, LONG], [MEDIUM, LONG, SHORT]
    assert len({quality(PROMPT, answer) for answer in first}) == 1
    wins = three_raters([PROMPT] * 3, first, second)
    # Two raters gain a point, the third loses two: (2 σ(1) + σ(-2)) / 3.
    sigmoid = [1 / (1 + math.exp(-x)) for x in (1, 1, -2)]
    assert wins == pytest.approx([sum(sigmoid) / 3] * 3)
    assert wins[0] > 0.5


def test_the_judge_is_symmetric():
    """P(a ≻ b) + P(b ≻ a) = 1, as `three_raters.symmetric` promises."""
    answers = [SHORT, MEDIUM, LONG, "", "bees", "The sky is blue.", "Honey honey honey."]
    pairs = list(itertools.permutations(answers, 2))
    there = three_raters([PROMPT] * len(pairs), [a for a, _ in pairs], [b for _, b in pairs])
    back = three_raters([PROMPT] * len(pairs), [b for _, b in pairs], [a for a, _ in pairs])
    assert np.add(there, back) == pytest.approx(np.ones(len(pairs)))
    assert three_raters.symmetric


def test_quality_rewards_whole_sentences_on_the_question_without_repetition():
    """A point for a sentence, three for the topic, less four times the share of repeated words."""
    assert quality(PROMPT, SHORT) == 4.0
    assert quality(PROMPT, "The sky is blue.") == 1.0
    assert quality(PROMPT, "bees fly") == 3.0
    assert quality(PROMPT, "Honey honey honey honey.") == pytest.approx(4.0 - 4.0 * 3 / 4)
    assert quality(PROMPT, " ...") == 0.0


def test_every_rater_ranks_the_three_lengths():
    """Each taste is a permutation of 0, 1, 2, and together they favour no length."""
    assert all(sorted(taste) == [0, 1, 2] for taste in TASTES.values())
    assert set(map(sum, zip(*TASTES.values(), strict=True))) == {3}


def test_win_rate_is_the_mean_over_all_comparisons():
    """Against a count by hand: 3 of 4 comparisons won, prompt means 1 and 1/2."""

    def judge(prompts, first, second):
        return [float(len(a) > len(b)) for a, b in zip(first, second, strict=True)]

    rate, error = language.win_rate(judge, ["p", "q"], [["aa", "aa"], ["aa", "a"]], [["a", "a"], ["a", "aa"]])
    assert rate == 0.75
    assert error == pytest.approx(np.std([1.0, 0.5], ddof=1) / math.sqrt(2))


def test_embedded_prompts_have_answers_of_every_length():
    """The handful that ships: distinct questions, each with a short, a medium and a long answer."""
    examples = read_examples(None)
    assert len(examples) >= 40
    assert len({example.prompt for example in examples}) == len(examples)
    assert {length_class(answer) for example in examples for answer in example.answers} == {0, 1, 2}


def test_the_demo_leaves_a_model_that_can_be_trained_further(tmp_path, capsys, monkeypatch):
    """Model, tokenizer, card and prompts are saved and load; the table's numbers are those of the comparison."""
    monkeypatch.setattr(language, "WARM_UP_STEPS", 3)
    monkeypatch.setattr(language, "ANSWERS_PER_PROMPT", 2)
    compared = []
    compare = language.compare
    monkeypatch.setattr(language, "compare", lambda *args: compared.append(compare(*args)) or compared[0])

    assert demo.run(["--rounds", "1", "--output_dir", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    # In a file or a log there is no bar, so what takes long says line by line where it is.
    assert printed.startswith("Loading PyTorch") and "next-token training 1/3  loss" in printed and "━" not in printed

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": PROMPT}], tokenize=False)
    assert PROMPT in rendered
    prompts = [json.loads(line)["prompt"] for line in (tmp_path / "out/prompts.jsonl").read_text().splitlines()]
    assert prompts == [example.prompt for example in read_examples(None)]
    card = (tmp_path / "out/README.md").read_text()
    assert "COMAL" in card and "2410.23223" in card and "`reference_rounds` | 6" in card

    first, last = compared[0]
    assert first.kl == 0.0 and len(last.texts) == 2 * len(prompts)
    for number in (f"{first.win_rate:.1%}", f"{last.win_rate:.1%}", f"{last.kl:.2f}"):
        assert number in printed
    assert f"--model_name_or_path {tmp_path / 'out'}" in printed and "--learning_rate 0.0003" in printed


@pytest.mark.parametrize(("terminal", "shown"), [(True, ["━", "8/8"]), (False, ["4/8  now", "8/8  now"])])
def test_a_bar_on_a_terminal_and_lines_elsewhere(terminal, shown):
    console = Console(file=io.StringIO(), force_terminal=terminal)
    with progress_bar(console, "steps", 8, lines=2) as update:
        for done in range(1, 9):
            update(done, "now")
    printed = console.file.getvalue()
    assert all(text in printed for text in shown)
    assert terminal or len(printed.splitlines()) == 2


@pytest.mark.parametrize("purpose", ["Train it further", "Next, a real model"])
def test_what_it_says_to_type_next_is_a_command(purpose, tmp_path):
    """The commands at the end pass the checks that the command line makes before it launches."""
    import shlex

    from trl_nash.cli.training.launching.launch import plan_launch

    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n')  # which the demo leaves
    program, algorithm, *argv = shlex.split(language.next_commands(str(tmp_path))[purpose])
    assert program == "trl-nash"
    plan_launch(algorithm, argv)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot read"),
        ("", "is empty"),
        ('{"prompt": "a"}\n{"question": "b"}\n', "line 2"),
        ('{"prompt": ""}\n', "line 1"),
        ("not json\n", "line 1"),
        ('{"prompt": "a", "answers": "b"}\n', "line 1"),
    ],
)
def test_a_wrong_file_of_prompts_is_named(content, sentence, tmp_path):
    """One sentence that names the file, the line and what is expected, before anything is trained."""
    file = tmp_path / "prompts.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match=sentence) as error:
        demo.run(["--prompts", str(file), "--output_dir", str(tmp_path / "out")])
    assert "JSON Lines" in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("argv", [["--rounds", "0"], ["--round", "3"], ["--rounds", "three"]])
def test_wrong_options_are_answered_with_a_sentence(argv):
    """No traceback and no training for an option that cannot be used."""
    with pytest.raises(UsageError):
        demo.run(argv)


def test_interrupted(monkeypatch, tmp_path, capsys):
    """Ctrl-C ends the demo with one sentence and exit code 130."""

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(language, "run_demo", interrupt)
    assert demo.run(["--output_dir", str(tmp_path)]) == 130
    assert "interrupted" in capsys.readouterr().err
