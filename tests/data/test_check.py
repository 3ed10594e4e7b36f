# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Every row is rendered when a trainer is built, as the policy will read it."""

import json

import pytest
from datasets import Dataset, IterableDataset
from helpers import favours_a, make_trainer, prompt_dataset
from tiny import build_tokenizer

from trl_nash.data.check import check_rows
from trl_nash.data.messages import prompt_of
from trl_nash.generation.prompts import PromptRenderer


USER = {"role": "user", "content": "a b"}
SYSTEM = {"role": "system", "content": "c"}
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] "
    "+ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# Of the chat templates in use: what a turn, a system message and an answer look like, and what is written of tools.
CHATML = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}{% endfor %}<|im_end|>\n{% elif "
    "messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not "
    "enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LLAMA_2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] + "
    "' [/INST]' }}{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TEMPLATES = {"gemma": GEMMA, "chatml": CHATML, "llama 2": LLAMA_2, "llama 3": LLAMA_3, "zephyr": ZEPHYR}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"a": "int", "b": "int"}}}


def renderer(template: str | None, **options) -> PromptRenderer:
    tokenizer = build_tokenizer(bos_token="<bos>")
    tokenizer.chat_template = template
    return PromptRenderer(tokenizer, 64, **options)


# ---- What a string is ----


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_string_is_one_turn_of_the_user(name):
    render = renderer(TEMPLATES[name])
    assert render.text("a b") == render.text([USER])
    assert renderer(TEMPLATES[name], raw_prompts=True).text("a b") == "a b"
    assert renderer(None).text("a b") == "a b"


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_has_the_markup_is_not_wrapped_again(name):
    """With its opening of the answer or without, with and without a system message, an earlier answer and BOS."""
    render = renderer(TEMPLATES[name])
    dialogues = [[USER], [USER, {"role": "assistant", "content": "d"}, {"role": "user", "content": "e"}]]
    dialogues += [[SYSTEM, USER]] if name in ("chatml", "llama 3", "zephyr") else []
    for turns in dialogues:
        for opened in (True, False):
            text = render.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=opened)
            for given in (text, text.removeprefix("<bos>"), text.rstrip()):
                assert render.is_rendered(given) and render.text(given) == given
    # What only speaks of it is a question like others.
    for text in ("a", "What does <|im_start|>user mean?", "[INST]", "Write </s> or <end_of_turn>", "<|assistant|>"):
        assert not render.is_rendered(text) and render.text(text) == render.text([{"role": "user", "content": text}])


def test_thinking_that_the_template_opens_is_no_part_of_the_markup():
    text = renderer(CHATML).text("a")
    assert renderer(CHATML, chat_template_kwargs={"enable_thinking": False}).is_rendered(text)


def test_dialogue_text_is_turns():
    render = renderer(CHATML)
    turns = [USER, {"role": "assistant", "content": "d"}, {"role": "user", "content": "e"}]
    assert render.text("\n\nHuman: a b\n\nAssistant: d\n\nHuman: e\n\nAssistant:") == render.text(turns)
    assert renderer(None).text("\n\nHuman: a b\n\nAssistant:") == "\n\nHuman: a b\n\nAssistant:"


def test_empty_keys_of_a_table_are_not_rendered():
    """Templates ask whether a message has the key, as Llama 3.1's does."""
    template = "{% for m in messages %}{{ 'calls' if 'tool_calls' in m else m['content'] }}{% endfor %}"
    assert renderer(template).text([{**USER, "tool_calls": None}]) == "a b"


# ---- Tools ----


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL]), [json.dumps(TOOL)]])
def test_tools_are_rendered(tools):
    """As objects, with what a table adds to them, or as JSON."""
    if isinstance(tools[0], dict):
        other = {"type": "function", "function": {"name": "of", "parameters": {"c": "int"}}}
        tools = Dataset.from_dict({"tools": [[*tools, other]]})[0]["tools"][:1]
        assert tools[0]["function"]["parameters"]["c"] is None
    render = renderer(CHATML)
    text = render.text(prompt_of({"prompt": "a", "tools": tools}))
    assert json.dumps(TOOL) in text and text == render.text(
        prompt_of({"prompt": [{**USER, "content": "a"}], "tools": tools})
    )
    for none in (None, [], "", "[]"):
        assert render.text(prompt_of({"prompt": "a", "tools": none})) == render.text("a")


def test_the_policy_sees_a_rows_tools(tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{% for tool in tools %}{{ tool['name'] }} {% endfor %}{{ messages[0]['content'] }}"
    rows = prompt_dataset(["a", "a"], tools=[[{"name": "d e"}]] * 2)
    trainer = make_trainer("ipo", tmp_path, tokenizer=tokenizer, dataset=rows, max_steps=1)
    trainer.train()
    batch = trainer.batches[0]
    prompts = {
        tokenizer.decode(row[keep & (labels == -100)])
        for row, labels, keep in zip(batch.input_ids, batch.labels, batch.attention_mask.bool(), strict=True)
    }
    assert prompts == {"d e a"}


def test_a_template_without_tools_is_said(tmp_path, caplog):
    rows = prompt_dataset(["a", "b"], tools=[[TOOL], None])
    make_trainer("ipo", tmp_path, tokenizer=build_tokenizer(), dataset=rows)
    assert (
        "`train_dataset` has a column `tools`, and the tokenizer's chat template shows the model none" in caplog.text
    )


@pytest.mark.parametrize("tools", [["hammer"], "hammer", '{"a": 1}'])
def test_tools_of_another_kind(tools, tmp_path):
    rows = [{"prompt": "a"}, {"prompt": "b", "tools": tools}]
    with pytest.raises(ValueError, match=r"row 1 of `train_dataset` is 'b': `tools` are a list of JSON schemas"):
        make_trainer("ipo", tmp_path, tokenizer=build_tokenizer(), dataset=rows)


# ---- Every row, before the first is sampled ----


def gemma():
    tokenizer = build_tokenizer(bos_token="<bos>")
    tokenizer.chat_template = GEMMA
    return tokenizer


@pytest.mark.parametrize("kind", ["table", "list", "evaluation"])
def test_a_row_that_the_template_refuses(kind, tmp_path):
    """When the trainer is built, with the row's number, its beginning, and what the template says."""
    prompts = [[USER]] * 13 + [[SYSTEM, USER]]
    rows = [{"prompt": prompt} for prompt in prompts]
    options = {"dataset": rows if kind == "list" else prompt_dataset(prompts)}
    if kind == "evaluation":
        options = {
            "dataset": prompt_dataset(prompts[:13]),
            "extra": {"eval_dataset": {"hard": prompt_dataset(prompts)}},
        }
    name = r"eval_dataset\['hard'\]" if kind == "evaluation" else "train_dataset"
    reason = r"the chat template refuses it \(System role not supported\)\. Filter such rows out"
    with pytest.raises(ValueError, match=rf"The prompt in row 13 of `{name}` is \[\{{.*'c'.*{reason}"):
        make_trainer("ipo", tmp_path, tokenizer=gemma(), **options)


def test_a_row_of_a_stream_that_the_template_refuses(tmp_path):
    """When it comes."""
    stream = IterableDataset.from_generator(lambda: ({"prompt": p} for p in [[USER], [SYSTEM, USER]]))
    trainer = make_trainer("ipo", tmp_path, tokenizer=gemma(), dataset=stream, max_steps=1)
    with pytest.raises(ValueError, match=r"the row \{.*the chat template refuses it \(System role not supported\)"):
        trainer.train()


@pytest.mark.parametrize(
    "prompt, reason",
    [
        ([{"role": "user", "content": None}], r"the content of its message 0 \(user\) is null"),
        ([{"role": "system", "content": None}, USER], r"the content of its message 0 \(system\) is null"),
        ([USER, SYSTEM], "its last message is of the role 'system', which nobody answers"),
    ],
)
def test_null_contents_and_last_roles(prompt, reason, tmp_path):
    with pytest.raises(ValueError, match=rf"row 1 of `train_dataset` is .*{reason}"):
        make_trainer("ipo", tmp_path, tokenizer=build_tokenizer(), dataset=prompt_dataset([[USER], prompt]))


def test_whatever_a_template_raises_is_a_sentence():
    template = "{{ messages[0]['content'] + messages[0]['missing'] }}"
    with pytest.raises(ValueError, match=r"row 0 of `data` .* the chat template refuses it \("):
        check_rows(prompt_dataset([[USER]]), renderer(template), "data")


def test_what_has_markup_is_said_once(tmp_path, caplog):
    prompts = ["a", "<|im_start|>user b <eos> <|im_start|>assistant ", "c", "<|im_start|>user d <eos> "]
    make_trainer("ipo", tmp_path, tokenizer=build_tokenizer(), dataset=prompt_dataset(prompts), judge=favours_a)
    (said,) = [record.message for record in caplog.records if "markup" in record.message]
    assert said.partition("] ")[2].startswith(
        "2 of 4 prompts of `train_dataset`, the first in row 1, have the markup of the tokenizer's"
    )


def test_a_table_is_rendered_once_for_a_renderer(monkeypatch):
    """A second trainer on it, or the trainer behind a command, does not read it again; another template does."""
    calls, text = [], PromptRenderer.text
    monkeypatch.setattr(PromptRenderer, "text", lambda self, prompt: calls.append(prompt) or text(self, prompt))
    rows = prompt_dataset(["a b c", "d e f"])
    for template, count in ((CHATML, 2), (CHATML, 2), (LLAMA_3, 4)):
        check_rows(rows, renderer(template), "data")
        assert len(calls) == count
