# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Options that would do nothing, as they are typed."""

import importlib.util
import re

import pytest
from datasets import Dataset

from trl_nash.cli.options.reading import read_options
from trl_nash.cli.options.table import LAUNCHER, options_of
from trl_nash.cli.options.typed import ALGORITHMS
from trl_nash.cli.options.unused import NEEDS, NEVER, NOTHING
from trl_nash.trainers.checks.refused import REFUSED
from trl_nash.usage import UsageError


MODEL, DATA, JUDGE = ["--model_name_or_path=m"], ["--dataset_name=d"], ["--judge=random"]
REWARD = ["--reward_model_path=r"]
VLLM, SERVER = ["--use_vllm"], ["--use_vllm", "--vllm_mode=server"]
VALUES = {  # where 1 is none
    "vllm_mode": "colocate",
    "vllm_importance_sampling_mode": "token_mask",
    "bnb_4bit_quant_type": "nf4",
    "dataloader_multiprocessing_context": "fork",
    "ignore_data_skip": "True",
    "transformers_continuous_batching_config": "{}",
    "vllm_importance_sampling_correction": "True",
    "ema_decay": "0.5",
    "fits": "one",
}
ON_POLICY = ("ema_decay", "vllm_importance")
# What makes an option do something: those of a row of the table need all the same.
USED = [
    ("lora_r lora_alpha lora_target_modules lora_target_parameters lora_modules_to_save", ["--use_peft"]),
    ("lora_task_type use_rslora use_dora", ["--use_peft"]),
    ("bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage", ["--load_in_4bit", "--use_peft"]),
    ("vllm_mode vllm_structured_outputs_regex", VLLM),
    ("vllm_gpu_memory_utilization vllm_tensor_parallel_size vllm_enable_sleep_mode vllm_model_impl", VLLM),
    ("vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout vllm_group_port", SERVER),
    ("vllm_importance_sampling_correction vllm_importance_sampling_mode", VLLM),
    ("vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min", VLLM),
    ("transformers_continuous_batching_config", ["--use_transformers_continuous_batching"]),
    ("num_completions_to_print", ["--log_completions"]),
    ("ema_decay", ["--opponent=ema"]),
    ("activation_checkpointing_kwargs", ["--activation_checkpointing"]),
    ("liger_kernel_config", ["--use_liger_kernel"]),
    ("eval_steps", ["--eval_strategy=steps"]),
    ("eval_delay", ["--eval_strategy=epoch"]),
    ("metric_for_best_model greater_is_better", ["--load_best_model_at_end"]),
    ("ignore_data_skip restore_callback_states_from_checkpoint", ["--resume_from_checkpoint=run"]),
    ("hub_token hub_model_id hub_always_push hub_revision hub_private_repo", ["--push_to_hub"]),
    ("dataloader_prefetch_factor dataloader_persistent_workers", ["--dataloader_num_workers=1"]),
    ("dataloader_multiprocessing_context", ["--dataloader_num_workers=1"]),
]
# The other way round: what makes an option useless, which is fine without that, or with what stands before it.
USELESS = [
    ("anchor_history", "onpo", "2", [], ["--fits=two"], "with --fits two"),
    ("mixture_coef", "nash-md", "0.5", [], ["--opponent=ema"], "with --opponent ema"),
    ("cache_implementation", "onpo", "static", [], VLLM, "with --use_vllm"),
    ("vllm_server_port", "onpo", "1", SERVER, ["--vllm_server_base_url=u"], "beside --vllm_server_base_url"),
    ("vllm_tensor_parallel_size", "onpo", "1", VLLM, ["--vllm_mode=server"], "with --vllm_mode server"),
    ("vllm_server_host", "onpo", "h", SERVER, ["--vllm_mode=colocate"], "with --vllm_mode colocate"),
    ("warmup_steps", "onpo", "1", [], ["--lr_scheduler_type=constant"], "with this --lr_scheduler_type"),
    ("adam_beta1", "onpo", "0.8", [], ["--optim=sgd"], "with this --optim"),
    ("adam_epsilon", "onpo", "1e-7", ["--optim=adamw_torch"], ["--optim=lion_32bit"], "with this --optim"),
    ("optim_args", "onpo", "momentum=.5", ["--optim=sgd"], ["--optim=adamw_torch"], "with this --optim"),
    ("optim_target_modules", "onpo", "attn", ["--optim=galore_adamw"], ["--optim=adamw_torch"], "with this --optim"),
    ("num_train_epochs", "onpo", "2", [], ["--max_steps=4"], "beside --max_steps"),
    ("logging_steps", "onpo", "1", [], ["--logging_strategy=epoch"], "without --logging_strategy steps"),
    ("save_steps", "onpo", "1", [], ["--save_strategy=epoch"], "without --save_strategy steps"),
    ("save_total_limit", "onpo", "1", [], ["--save_strategy=no"], "with --save_strategy no"),
    ("dataset_test_split", "onpo", "s", [], ["--test_split_size=2"], "beside --test_split_size"),
    ("dataset_config", "onpo", "c", [], ["--dataset_name=a.jsonl"], "as the dataset is a file"),
    (
        "gradient_checkpointing_kwargs",
        "onpo",
        "{}",
        [],
        ["--gradient_checkpointing=False"],
        "without --gradient_checkpointing",
    ),
]


@pytest.fixture(autouse=True)
def packages(monkeypatch):
    """vLLM and Liger count as installed: only their presence is looked up."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: name if name in ("vllm", "liger_kernel") else find_spec(name)
    )


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """Prompts, and a run that one can go on with, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n')
    for name, text in (("trainer_state.json", "{}"), ("nash/round.json", '{"files": []}')):
        file = tmp_path / "run" / "checkpoint-1" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def read(*argv: str, algorithm: str = "onpo", base=(*MODEL, *DATA, *JUDGE)):
    return read_options(algorithm, [*base, *argv])


@pytest.mark.parametrize("names, others", USED, ids=lambda value: str(value)[:40])
def test_what_needs_another_option(names, others):
    for name in names.split():
        algorithm = "nash-md" if name.startswith(ON_POLICY) else "onpo"
        typed = f"--{name}={VALUES.get(name, 1)}"
        assert name in read(typed, *others, algorithm=algorithm).given
        with pytest.raises(UsageError, match=f"^--{name} does nothing without .*: leave it out"):
            read(typed, algorithm=algorithm)


@pytest.mark.parametrize("name, algorithm, value, fine, useless, why", USELESS, ids=lambda value: str(value)[:40])
def test_what_another_option_makes_useless(name, algorithm, value, fine, useless, why):
    assert name in read(f"--{name}={value}", *fine, algorithm=algorithm).given
    with pytest.raises(UsageError, match=f"^--{name} does nothing {re.escape(why)}: leave it out"):
        read(f"--{name}={value}", *fine, *useless, algorithm=algorithm)


@pytest.mark.parametrize("name", ["reward_temperature", "missing_eos_penalty", "reward_weights"])
def test_options_of_rewards_do_nothing_with_a_judge(name):
    assert name in read(f"--{name}=1", base=[*MODEL, *DATA, *REWARD]).given
    with pytest.raises(UsageError, match=f"^--{name} does nothing with --judge: .* or give the judge its own options"):
        read(f"--{name}=1")


def test_options_of_one_dataset_do_nothing_beside_several(tmp_path):
    (tmp_path / "run.yaml").write_text("datasets: [{path: a.jsonl}]\n")
    several = [*MODEL, *JUDGE, f"--config={tmp_path / 'run.yaml'}"]
    assert "streaming" in read("--streaming", base=several).given
    for name in ("dataset_name", "dataset_train_split", "dataset_test_split", "dataset_streaming", "dataset_config"):
        with pytest.raises(UsageError, match=f"^--{name} does nothing beside a `datasets` section"):
            read(f"--{name}=1", base=several)
    with pytest.raises(UsageError, match="^--streaming does nothing without a `datasets` section"):
        read("--streaming")


def test_what_depends_on_files(tmp_path):
    Dataset.from_dict({"prompt": ["a"]}).save_to_disk(tmp_path / "saved")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    assert read(f"--dataset_name={tmp_path / 'rows.jsonl'}", "--dataset_streaming")  # rows are read as they are needed
    with pytest.raises(UsageError, match="^--dataset_streaming does nothing on a folder that `save_to_disk` wrote"):
        read(f"--dataset_name={tmp_path / 'saved'}", "--dataset_streaming")
    with pytest.raises(UsageError, match="^--model_revision does nothing as the model is a folder"):
        read(f"--model_name_or_path={tmp_path}", "--model_revision=main")


def test_trackers_options():
    for name, tracker in (("run_name", "tracker"), ("project", "--report_to trackio")):
        with pytest.raises(UsageError, match=f"^--{name} does nothing without a? ?{tracker}"):
            read(f"--{name}=x")


@pytest.mark.parametrize("name", NOTHING)
def test_what_never_does_anything(name):
    with pytest.raises(UsageError, match=f"^--{name} does nothing here: {re.escape(NOTHING[name])}. Leave it out.$"):
        read(f"--{name}=1")
    if name == "do_train":
        with pytest.raises(UsageError, match="a training command trains"):
            read("--do_train", "False")
    if name == "lora_dropout":
        assert read("--use_peft", "--lora_dropout=0")  # which is what is done


def test_what_is_always_refused_is_refused_before_anything_starts():
    with pytest.raises(UsageError, match="^`loss_type='ipo'` cannot apply here: the loss is the algorithm"):
        read("--loss_type", "ipo")


def test_false_and_null_ask_for_nothing(tmp_path):
    (tmp_path / "run.yaml").write_text("use_dora: false\nlora_target_modules: null\n")
    assert read(f"--config={tmp_path / 'run.yaml'}", "--vllm_enable_sleep_mode=False")


def test_options_of_a_file_count_as_given(tmp_path):
    (tmp_path / "run.yaml").write_text("lora_r: 16\n")
    with pytest.raises(UsageError, match="^--lora_r does nothing without --use_peft"):
        read(f"--config={tmp_path / 'run.yaml'}")


def test_a_length_that_is_typed_takes_the_place_of_the_files(tmp_path):
    """A short run of a recipe; the other way round transformers would go by the file."""
    (tmp_path / "epochs.yaml").write_text("num_train_epochs: 2\n")
    assert read(f"--config={tmp_path / 'epochs.yaml'}", "--max_steps=4").arguments.max_steps == 4
    (tmp_path / "steps.yaml").write_text("max_steps: 4\n")
    with pytest.raises(UsageError, match="^--num_train_epochs does nothing beside --max_steps: .* choose one of them"):
        read(f"--config={tmp_path / 'steps.yaml'}", "--num_train_epochs=2")
    assert read(f"--config={tmp_path / 'steps.yaml'}", "--num_train_epochs=2", "--max_steps=-1")


def test_the_tables_name_options_that_there_are():
    known = {option.dest for algorithm in ALGORITHMS for option in options_of(algorithm)}
    named = {name for needs in NEEDS for name in needs.names.split()}
    assert named | NEVER <= known
    assert NOTHING.keys() & REFUSED.keys() == set()
    assert "num_processes" in {option.dest for option in options_of(LAUNCHER)}


def test_what_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"^--use_vllm: vllm is not installed: pip install .*\[vllm\]"):
        read("--use_vllm")
