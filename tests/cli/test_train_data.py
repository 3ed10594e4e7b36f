# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a training command makes of data and adapters as people have them, from its options to what it trains."""

import gzip
import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import build_model, build_tokenizer
from transformers import AutoModelForCausalLM

from trl_nash.cli.training import train


ANSWERS = {"chosen": "yes a b", "rejected": "yes a c"}


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """A judge of the user's, `their_judge:judge`, and what it was asked."""
    seen = []
    (tmp_path / "their_judge.py").write_text(
        "seen = []\n"
        "def judge(prompts, first, second):\n"
        "    seen.extend(prompts)\n"
        "    return [float(a > b) for a, b in zip(first, second)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "their_judge", raising=False)
    import their_judge

    monkeypatch.setattr(their_judge, "seen", seen)
    return seen


def run(model: str, data: str, *options: str) -> int:
    values = {
        "model_name_or_path": model,
        "dataset_name": data,
        "output_dir": "out",
        "judge": "their_judge:judge",
        "max_steps": "1",
        "max_new_tokens": "4",
        "max_length": "64",
        "per_device_train_batch_size": "2",
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": "True",
        "learning_rate": "0.1",
        "step_size": "1",
        "beta": "0.1",
    }
    return train.main(["comal", *(f"--{name}={value}" for name, value in values.items()), *options])


# ---- Which text is trained on ----


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"instruction": "a", "input": "b", **ANSWERS}, ["user a b"]),
        ({"system": "h", "question": "a", **ANSWERS}, ["system h", "user a"]),
        ({"system": "h", "input": "a", **ANSWERS}, ["system h", "user a"]),
        ({"prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"}, ["user a", "assistant b", "user c"]),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}, ["user a"]),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, ["user a"]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, ["user a"]),
        ({"prompt": "<|im_start|>user a <eos> <|im_start|>assistant "}, ["user a"]),
    ],
)
def test_the_plan_shows_the_prompt_that_is_trained_on(row, turns, model_dir, write_rows, asked, capsys):
    """Never the words that two answers share; and the judge is asked about the same turns."""
    assert run(model_dir, write_rows([row] * 2)) == 0
    rendered = "".join(f"<|im_start|>{turn} <eos> " for turn in turns) + "<|im_start|>assistant "
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  first"))
    assert " ".join(json.loads(line.split(maxsplit=1)[1]).split()) == " ".join(rendered.split())
    if isinstance(asked[0], list):
        assert [f"{turn['role']} {' '.join(turn['content'].split())}" for turn in asked[0]] == turns
    else:
        assert asked[0] == row["prompt"]


def test_tools_reach_the_policy(model_dir, write_rows, asked, capsys):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{% for tool in tools %}{{ tool['name'] }} {% endfor %}" + tokenizer.chat_template
    tokenizer.save_pretrained(model_dir)
    rows = [{"messages": [{"role": "user", "content": "a"}], "tools": json.dumps([{"name": "d e"}])}] * 2
    assert run(model_dir, write_rows(rows), "--dry_run") == 0
    assert 'first    "d e <|im_start|>user a <eos>' in capsys.readouterr().out


@pytest.mark.parametrize("name", ["my prompts.jsonl.gz", "P.JSONL.GZ"])
def test_a_packed_file_with_a_strange_name(name, model_dir, tmp_path, asked):
    (tmp_path / name).write_bytes(gzip.compress(b'{"prompt": "a"}\n{"prompt": "b"}\n'))
    assert run(model_dir, name) == 0
    assert {prompt[0]["content"] for prompt in asked} == {"a", "b"}


def test_a_prompt_a_line(model_dir, tmp_path, asked):
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbfa b\n\nc\r\n")
    assert run(model_dir, "prompts.txt") == 0
    assert {prompt[0]["content"] for prompt in asked} == {"a b", "c"}


def test_a_file_of_no_known_format(model_dir, tmp_path, capsys, asked):
    (tmp_path / "prompts.docx").write_text("a")
    assert run(model_dir, "prompts.docx") == 2  # before torch
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "trl-nash comal" in line]
    assert "prompts.docx ends in no format that is read: .jsonl, .json" in line and "hub" not in line


@pytest.mark.parametrize("extra", [[], ["--dry_run"], ["--test_split_size=0.5"]])
def test_a_row_that_the_template_refuses(extra, model_dir, write_rows, capsys, asked):
    """Before anything is loaded, in a dry run too; by its number in the file, also where rows are shuffled."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + tokenizer.chat_template
    )
    tokenizer.save_pretrained(model_dir)
    rows = [{"system": "", "question": "a"}] * 13 + [{"system": "c", "question": "d"}]
    file = write_rows(rows)
    assert run(model_dir, file, *extra) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"trl-nash comal: The prompt in row 13 of `{file}` is [{{'") and "'c'" in line
    assert "the chat template refuses it (System role not supported)" in line
    assert asked == []


def test_a_null_content_names_its_row(model_dir, write_rows, capsys, asked):
    rows = [{"messages": [{"role": "user", "content": content}]} for content in ("a", "b", None)]
    assert run(model_dir, write_rows(rows)) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert (
        "the prompt of row 2 (column 'messages') cannot be used: the content of its message 0 (user) is null" in line
    )


def test_raw_prompts(model_dir, write_rows, asked, capsys):
    assert run(model_dir, write_rows([{"prompt": "a b"}] * 2), "--raw_prompts") == 0
    assert 'first    "a b"' in capsys.readouterr().out and set(asked) == {"a b"}


# ---- Adapters ----

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture
def adapter_dir(tmp_path, model_dir) -> str:
    """An adapter of `model_dir` that was trained, without a tokenizer of its own."""
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir), config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(tmp_path / "sft")
    return str(tmp_path / "sft")


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


def started_from(monkeypatch) -> list:
    """The logits of the policy and of its reference at the start of each run from now on."""
    from trl_nash import COMALTrainer

    found, begin = [], COMALTrainer._begin_round

    def begin_round(self):
        begin(self)
        if self.round == 0:
            from trl_nash.algorithms import INITIAL

            with self.policies.active(INITIAL) as reference:
                found.append((logits(self.model), logits(reference)))
            self.model.train()

    monkeypatch.setattr(COMALTrainer, "_begin_round", begin_round)
    return found


@pytest.fixture
def loaded(model_dir, adapter_dir):
    """The logits of the base model, and of the base model with its adapter."""
    base = AutoModelForCausalLM.from_pretrained(model_dir)
    plain = logits(base)
    adapted = logits(PeftModel.from_pretrained(base, adapter_dir))
    assert (plain - adapted).abs().max() > 0.1
    return plain, adapted


@pytest.mark.parametrize("extra", [[], ["--use_peft"]])
def test_an_adapter_is_trained_further(extra, adapter_dir, loaded, prompts_file, asked, capsys, monkeypatch, tmp_path):
    """The policy and its reference start from the adapter, not from its base; only the adapter moves, and is saved."""
    found = started_from(monkeypatch)
    assert run(adapter_dir, prompts_file, "--max_steps=3", *extra) == 0
    assert f"({'adapter of rank 2 on'} {tmp_path / 'model'}, trained further)" in capsys.readouterr().out
    ((policy, reference),) = found
    torch.testing.assert_close(policy, loaded[1])
    torch.testing.assert_close(reference, loaded[1])
    base = AutoModelForCausalLM.from_pretrained(str(tmp_path / "model"))
    trained = logits(PeftModel.from_pretrained(base, tmp_path / "out"))
    assert (trained - loaded[1]).abs().max() > 1e-3
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert "fine-tuned version of `sft`" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_an_adapter_is_merged(lora, adapter_dir, loaded, prompts_file, asked, capsys, monkeypatch, tmp_path):
    """Then all weights are trained, or a new adapter is, whose rank is the command's."""
    found = started_from(monkeypatch)
    extra = ["--use_peft", "--lora_r=3"] if lora else []
    assert run(adapter_dir, prompts_file, "--merge_adapter", *extra) == 0
    weights = "LoRA of rank 3" if lora else "all weights"
    assert f"adapter of rank 2 merged into {tmp_path / 'model'}, then {weights}" in capsys.readouterr().out
    for start in found[0]:
        torch.testing.assert_close(start, loaded[1], atol=1e-4, rtol=1e-4)
    assert (tmp_path / "out" / ("adapter_model.safetensors" if lora else "model.safetensors")).is_file()


def test_options_that_would_drop_an_adapter(adapter_dir, model_dir, prompts_file, asked, capsys):
    assert run(adapter_dir, prompts_file, "--use_peft", "--lora_r=64") == 2
    assert "--lora_r 64 is of a new adapter, and the one in" in capsys.readouterr().err
    assert run(adapter_dir, prompts_file, "--use_peft", "--lora_r=2", "--dry_run") == 0  # as it is
    assert run(model_dir, prompts_file, "--merge_adapter") == 1
    assert "`merge_adapter` does nothing" in capsys.readouterr().err


@pytest.mark.parametrize("merge", [False, True])
def test_an_adapter_in_python(merge, adapter_dir, loaded, asked, monkeypatch, tmp_path):
    """`model="ADAPTER_DIR"`, with the tokenizer of its base model; a second adapter on it is refused."""
    from datasets import Dataset

    from trl_nash import COMALConfig, COMALTrainer

    found = started_from(monkeypatch)
    options = {"max_steps": 1, "max_new_tokens": 4, "max_length": 32, "per_device_train_batch_size": 2}
    options |= {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no"}
    args = COMALConfig(output_dir=str(tmp_path / "out"), merge_adapter=merge, **options)
    rows = Dataset.from_dict({"prompt": ["a", "b"]})
    make = {"model": adapter_dir, "args": args, "train_dataset": rows, "judge": lambda p, a, b: [0.7] * len(a)}
    trainer = COMALTrainer(**make)
    trainer.train()
    assert isinstance(trainer.model, PeftModel) is not merge
    torch.testing.assert_close(found[0][1], loaded[1], atol=1e-4, rtol=1e-4)
    if not merge:
        with pytest.raises(ValueError, match="is an adapter, which is trained further: leave `peft_config` out"):
            COMALTrainer(**make, peft_config=LoraConfig(r=2, task_type="CAUSAL_LM"))
        model = build_model(build_tokenizer())
        with pytest.raises(ValueError, match="`model_init_kwargs` and `merge_adapter` load a `model` that is a path"):
            args = COMALConfig(output_dir="", merge_adapter=True, **options)
            COMALTrainer(**make | {"model": model, "args": args, "processing_class": build_tokenizer()})
