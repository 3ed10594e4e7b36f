# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import json

import pytest
from anything import MARKS, TEXTS, VALUES, complaints
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import build_tokenizer

from trl_nash.data.check import check_prompt, check_rows
from trl_nash.data.columns import PROMPT_COLUMNS, as_turn, find_prompt_column, read_prompt
from trl_nash.evaluation.rows import read_rows
from trl_nash.generation.prompts import PromptRenderer


LIMIT = 8
TOKENIZERS = [build_tokenizer(), build_tokenizer(chat=False), build_tokenizer(bos_token="<bos>")]
COLUMNS = (*PROMPT_COLUMNS, "rejected", "system", "history", "tools")
MESSAGES = st.lists(
    st.one_of(
        VALUES,
        st.fixed_dictionaries(
            {
                "role": st.one_of(st.sampled_from(["user", "assistant", "system", "tool"]), VALUES),
                "content": st.one_of(TEXTS, VALUES),
            }
        ),
    ),
    max_size=3,
)
TURNS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": TEXTS}),
    max_size=3,
)
PROMPTS = st.one_of(TEXTS, TURNS, MESSAGES, VALUES)


@given(PROMPTS)
def test_what_is_accepted_is_rendered_within_the_limit(prompt):
    """As `trl-nash` reads prompts, and the trainer checks and renders them."""
    with complaints(ValueError):
        prompt = read_prompt({"prompt": prompt}, "prompt")
        check_prompt(prompt)
        for tokenizer in TOKENIZERS:
            with complaints(ValueError):
                text, cut = PromptRenderer(tokenizer, LIMIT)(prompt)
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                assert len(ids) <= LIMIT and (ids or not cut)


@given(st.dictionaries(st.sampled_from(COLUMNS), PROMPTS, max_size=4), st.booleans(), st.one_of(st.none(), TEXTS))
def test_rows_of_any_columns(row, chat, wanted):
    with complaints(ValueError):
        column = find_prompt_column(row, wanted, "data")
        prompt = read_prompt(row, column, chat=chat)
        check_prompt(prompt)
        check_rows(
            [row | {"prompt": prompt}, row | {"prompt": as_turn(prompt)}], PromptRenderer(TOKENIZERS[0], 8), "x"
        )


@settings(max_examples=20)
@given(
    st.lists(
        st.one_of(st.none(), TEXTS.filter(lambda text: "\ud800" <= max(text, default="") <= "\udfff")), max_size=3
    )
)
def test_datasets(prompts):
    with complaints(ValueError, TypeError):  # the latter of Arrow
        dataset = Dataset.from_dict({"prompt": prompts})
        check_rows(dataset, PromptRenderer(TOKENIZERS[0], LIMIT), "eval_dataset")
        assert all(prompt.strip() for prompt in prompts)


ROWS = st.lists(
    st.fixed_dictionaries(
        {"prompt": PROMPTS},
        optional={
            name: st.one_of(TEXTS, MESSAGES, VALUES)
            for name in ("first", "second", "chosen", "rejected", "completions", "label")
        },
    ),
    max_size=3,
)


@given(
    st.sampled_from([".json", ".jsonl", ".csv", ".parquet"]),
    st.one_of(st.binary(max_size=40), ROWS.map(json.dumps), ROWS.map(lambda rows: "\n".join(map(json.dumps, rows)))),
)
def test_files_of_pairs(tmp_path, suffix, content):
    path = tmp_path / f"pairs{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with complaints(ValueError):
        for row in read_rows(str(path)):
            assert len(row.completions) >= 2 and all(isinstance(text, str) for text in row.completions)
            assert row.label is None or 0 <= row.label <= 1
            json.dumps([row.prompt, row.completions], ensure_ascii=False).encode()


@pytest.mark.parametrize("mark", MARKS)
def test_texts_are_not_rendered(mark):
    """What looks like a template, markup or a colour in a prompt is left as it is."""
    for tokenizer in TOKENIZERS:
        render = PromptRenderer(tokenizer, 64)
        assert PromptRenderer(tokenizer, 64, raw_prompts=True)(f"a {mark} b")[0].endswith(f"a {mark} b")
        if tokenizer.chat_template:
            text, _ = render([{"role": "user", "content": f"a {mark} b"}])
            assert f"user a {mark} b <eos>" in text and render(f"a {mark} b")[0] == text


# What was found.


@pytest.mark.parametrize(
    ("row", "column", "complaint"),
    [
        ({"chosen": None, "rejected": None}, "chosen", "neither text nor"),  # TypeError
        ({"chosen": "x", "rejected": None}, "chosen", "must both be text, or both messages"),
        ({"chosen": ["a"], "rejected": None}, "chosen", "must both be text"),
        ({"chosen": [{"role": "user", "content": "x"}], "rejected": "x"}, "chosen", "must both be"),
        ({"instruction": None, "input": "x"}, "instruction", "neither text nor"),  # was "None\n\nx"
        ({}, "prompt", "neither text nor"),  # KeyError: not every row has what the first has
        ({"prompt": "\ud800"}, "prompt", "half of a surrogate pair"),  # TypeError of the tokenizer, in training
        ({"prompt": [{"role": "user", "content": "\ud800"}]}, "prompt", "half of a surrogate pair"),
        ({"prompt": [{"role": None, "content": "x"}]}, "prompt", "must be text"),  # in training
        ({"prompt": [{"role": "user", "content": 5}]}, "prompt", "must be text"),  # was "5"
        ({"prompt": [{"role": "system", "content": "x"}]}, "prompt", "of the role 'system'"),  # in training
        ({"prompt": [{"role": "user", "content": " "}]}, "prompt", "it is empty"),
    ],
)
def test_found_rows(row, column, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_prompt(row, column)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,  # RecursionError
        b'{"prompt": "a", "first": "x", "second": "y", "label": 1' + b"0" * 400 + b"}",  # OverflowError
        b'{"chosen": 5, "rejected": 5}',  # TypeError
        b'{"chosen": "a", "rejected": 5}',
    ],
)
def test_found_pairs(tmp_path, content):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"pairs\.jsonl.* cannot be"):
        read_rows(str(path))
