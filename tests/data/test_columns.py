# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a row's prompt is, in the shapes in which data sets of the field are published."""

import pytest

from trl_nash.data.columns import as_turn, find_prompt_column, read_prompt


USER = {"role": "user", "content": "a b"}
ASSISTANT = {"role": "assistant", "content": "c"}
HH = "\n\nHuman: What are cats?\n\nAssistant: Animals.\n\nHuman: Why?\n\nAssistant:"
HH_TURNS = [
    {"role": "user", "content": "What are cats?"},
    {"role": "assistant", "content": "Animals."},
    {"role": "user", "content": "Why?"},
]
SYSTEM = {"role": "system", "content": "Be brief."}
QUESTION = {"role": "user", "content": "What is 2 + 2?"}
ANSWERS = {"chosen": "The answer is 4.", "rejected": "The answer is 5."}


def answered(*turns, content="x"):
    return [*turns, {"role": "assistant", "content": content}]


# Rows with the columns of the published data sets, and texts of the same form.
PUBLISHED = {
    "HuggingFaceH4/ultrafeedback_binarized": (
        {
            "prompt": "What is 2 + 2?",
            "prompt_id": "f0e3",
            "chosen": answered(QUESTION, content="4"),
            "rejected": answered(QUESTION, content="5"),
            "messages": answered(QUESTION, content="4"),
            "score_chosen": 8.0,
            "score_rejected": 6.0,
        },
        "prompt",
        "What is 2 + 2?",
    ),
    "argilla/ultrafeedback-binarized-preferences-cleaned": (
        {
            "source": "evol_instruct",
            "prompt": "What is 2 + 2?",
            "chosen": answered(QUESTION, content="4"),
            "chosen-rating": 5.0,
            "chosen-model": "gpt-4",
            "rejected": answered(QUESTION, content="5"),
            "rejected-rating": 2.0,
            "rejected-model": "alpaca-7b",
        },
        "prompt",
        "What is 2 + 2?",
    ),
    "trl-lib/ultrafeedback_binarized": (
        {"chosen": answered(QUESTION), "rejected": answered(QUESTION, content="y"), "score_chosen": 8.0},
        "chosen",
        [QUESTION],
    ),
    "Anthropic/hh-rlhf": ({"chosen": f"{HH} I do.", "rejected": f"{HH} I am."}, "chosen", HH_TURNS),
    "berkeley-nest/Nectar": (
        {
            "prompt": "\n\nHuman: What are cats?\n\nAssistant: ",
            "answers": [{"answer": "x", "model": "gpt-4", "rank": 1.0}],
            "turns": 1,
            "num_responses": 7,
            "source": ["lmsys-chat-1m"],
            "good_natured": True,
        },
        "prompt",
        HH_TURNS[:1],
    ),
    "Intel/orca_dpo_pairs": (
        {"system": "Be brief.", "question": "What is 2 + 2?", **ANSWERS},
        "question",
        [SYSTEM, QUESTION],
    ),
    "argilla/distilabel-intel-orca-dpo-pairs": (
        {"system": "", "input": "What is 2 + 2?", **ANSWERS, "generations": ["x", "y"]},
        "input",
        "What is 2 + 2?",
    ),
    "Open-Orca/OpenOrca": (
        {"id": "niv.1", "system_prompt": "Be brief.", "question": "What is 2 + 2?", "response": "4"},
        "question",
        [SYSTEM, QUESTION],
    ),
    "LLaMA-Factory's dpo in alpaca format": (
        {"instruction": "Add these.", "input": "2 and 2", **ANSWERS},
        "instruction",
        "Add these.\n\n2 and 2",
    ),
    "LLaMA-Factory's alpaca format with history": (
        {
            "instruction": "Why?",
            "input": "",
            "output": "x",
            "system": "Be brief.",
            "history": [["What are cats?", "Animals."]],
        },
        "instruction",
        [SYSTEM, *HH_TURNS],
    ),
    "LLaMA-Factory's dpo_en_demo": (
        {
            "conversations": [{"from": "human", "value": "What is 2 + 2?"}],
            "chosen": {"from": "gpt", "value": "The answer is 4."},
            "rejected": {"from": "gpt", "value": "The answer is 5."},
        },
        "conversations",
        [QUESTION],
    ),
    "anon8231489123/ShareGPT_Vicuna_unfiltered": (
        {
            "id": "QWJhYvA_0",
            "conversations": [
                {"from": "human", "value": "What are cats?"},
                {"from": "gpt", "value": "Animals."},
                {"from": "human", "value": "Why?"},
                {"from": "gpt", "value": "They move."},
            ],
        },
        "conversations",
        HH_TURNS,
    ),
    "ShareGPT with system and tools": (
        {
            "conversations": [
                {"from": "human", "value": "What is 2 + 2?"},
                {"from": "function_call", "value": "add(2, 2)"},
                {"from": "observation", "value": "4"},
                {"from": "gpt", "value": "Four."},
            ],
            "system": "Be brief.",
            "tools": "[]",
        },
        "conversations",
        [
            SYSTEM,
            QUESTION,
            {"role": "assistant", "content": "add(2, 2)"},
            {"role": "tool", "content": "4"},
        ],
    ),
    "lmsys/lmsys-chat-1m": (
        {"conversation_id": "1", "model": "vicuna-13b", "conversation": answered(QUESTION), "turn": 1},
        "conversation",
        [QUESTION],
    ),
    "tatsu-lab/alpaca": (
        {"instruction": "Add these.", "input": "", "output": "4", "text": "Below is an instruction ..."},
        "instruction",
        "Add these.",
    ),
    "OpenAssistant's trees": (
        {"messages": [{"role": "prompter", "text": "What is 2 + 2?"}, {"role": "assistant", "text": "4"}]},
        "messages",
        [QUESTION],
    ),
    "trl-lib/tldr": (
        {"prompt": "SUBREDDIT: r/cats\n\nPOST: They sleep.\n\nTL;DR:", "completion": " Cats sleep."},
        "prompt",
        "SUBREDDIT: r/cats\n\nPOST: They sleep.\n\nTL;DR:",
    ),
    "nvidia/HelpSteer": (
        {"prompt": "What is 2 + 2?", "response": "4", "helpfulness": 4, "verbosity": 1},
        "prompt",
        "What is 2 + 2?",
    ),
    "google/IFEval": (
        {
            "key": 1000,
            "prompt": "What is 2 + 2? Use no commas.",
            "instruction_id_list": ["punctuation:no_comma"],
            "kwargs": [{"num_words": None}],
        },
        "prompt",
        "What is 2 + 2? Use no commas.",
    ),
    "lvwerra/stack-exchange-paired": (
        {"qid": 1, "question": "What is 2 + 2?", "response_j": "4", "response_k": "5"},
        "question",
        "What is 2 + 2?",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes(name):
    row, column, prompt = PUBLISHED[name]
    assert find_prompt_column(row, None, name) == column
    assert read_prompt(row, column) == prompt


@pytest.mark.parametrize(
    ("row", "column", "prompt"),
    [
        ({"prompt": "a", "messages": [USER]}, "prompt", "a"),
        ({"prompt": None, "messages": [USER]}, "messages", [USER]),
        ({"context_messages": [USER], "messages": [ASSISTANT]}, "context_messages", [USER]),
        ({"messages": [USER, ASSISTANT, ASSISTANT]}, "messages", [USER]),
        ({"messages": [USER, ASSISTANT, USER]}, "messages", [USER, ASSISTANT, USER]),
        ({"messages": [USER], "system": "Be brief."}, "messages", [SYSTEM, USER]),
        ({"messages": [SYSTEM, USER], "system": "Not this."}, "messages", [SYSTEM, USER]),
        ({"chosen": [USER, ASSISTANT], "rejected": [USER, {**ASSISTANT, "content": "d"}]}, "chosen", [USER]),
        # Messages that share nothing are answers alone.
        ({"question": "a", "chosen": [ASSISTANT], "rejected": [{**ASSISTANT, "content": "d"}]}, "question", "a"),
        ({"question": "b", "chosen": [USER, ASSISTANT], "rejected": [USER]}, "chosen", [USER]),
        ({"question": "b", "chosen": f"{HH} x", "rejected": f"{HH} y"}, "chosen", HH_TURNS),
        # Both open with a word: the dialogue is shared up to the answer, and no further.
        ({"chosen": f"{HH} I do", "rejected": f"{HH} I am"}, "chosen", HH_TURNS),
        ({"chosen": "why a yes", "rejected": "why a no"}, "chosen", "why a"),
        ({"question": "", "input": "a"}, "input", "a"),
        ({"prompt": [USER, ASSISTANT]}, "prompt", [USER, ASSISTANT]),  # a beginning to be continued
        ({"prompt": [{"role": "user", "content": [{"type": "text", "text": "a "}, {"text": "b"}]}]}, "prompt", [USER]),
        # What a table adds to messages that have no such key.
        ({"prompt": [{**USER, "tool_calls": None, "name": None}]}, "prompt", [USER]),
        ({"prompt": "Human: is a word"}, "prompt", "Human: is a word"),
        ({"prompt": "Say this:\n\nHuman: a\n\nAssistant: b"}, "prompt", "Say this:\n\nHuman: a\n\nAssistant: b"),
    ],
)
def test_which_column_and_what_of_it(row, column, prompt):
    assert find_prompt_column(row, None, "data") == column
    assert read_prompt(row, column) == prompt
    assert as_turn(prompt) == ([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)


def test_a_model_without_a_chat_template_reads_text():
    """Of a dialogue in text and a system message beside a question there is the text."""
    assert read_prompt({"chosen": f"{HH} x", "rejected": f"{HH} y"}, "chosen", chat=False) == HH
    row = {"system": "Be brief.", "question": "Why?", "history": [["a", "b"]]}
    assert read_prompt(row, "question", chat=False) == "Be brief.\n\na\n\nb\n\nWhy?"


def test_the_named_column_is_taken():
    assert find_prompt_column({"prompt": "a", "query": "b"}, "query", "data") == "query"


@pytest.mark.parametrize(
    ("row", "wanted", "complaint"),
    [
        (
            {"text": "a", "chosen": "b"},
            None,
            "data has no prompt column among .* it has 'text', 'chosen'. Name the one",
        ),
        ({"query": "a"}, "qery", "data has no such column: did you mean query?"),
        ({"query": "a"}, "xyz", "data has no such column: it has 'query'."),
    ],
)
def test_no_prompt_column(row, wanted, complaint):
    with pytest.raises(ValueError, match=complaint):
        find_prompt_column(row, wanted, "data")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("", "it is empty"),
        (" \n", "it is empty"),
        ([], "it is empty"),
        ([ASSISTANT], "it is empty"),
        ([{"role": "user", "content": ""}], "it is empty"),
        (None, "neither text nor a list of messages but None"),
        ([{"speaker": "human", "said": "a"}], 'its messages need a "role" and a "content"'),
        ([{"role": "user", "content": None}], "the content of its message 0 .user. is null"),
        ([{"role": "system", "content": None}, USER], "the content of its message 0 .system. is null"),
        ([{"role": "user", "content": [{"type": "image"}]}], "a part of type 'image' that is no text"),
    ],
)
def test_prompts_that_cannot_be_used(value, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_prompt({"messages": value}, "messages")


def test_a_call_of_a_tool_needs_no_content():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add"}}]}
    turns = [USER, call, {"role": "tool", "content": "4"}]
    assert read_prompt({"messages": turns}, "messages") == turns


def test_dialogues_that_share_no_turn():
    row = {"chosen": "\n\nHuman: a\n\nAssistant: x", "rejected": "\n\nHuman: b\n\nAssistant: y"}
    with pytest.raises(ValueError, match="it is empty"):
        read_prompt(row, "chosen")
