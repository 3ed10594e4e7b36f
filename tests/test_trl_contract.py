# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
One test per fact of TRL (and of `transformers.Trainer` beneath it) that `trl_nash.compat` and the trainers rely on.

When TRL moves something, the test that fails here names it. What is experimental in TRL is in
`test_online_dpo_contract.py`.
"""

import functools
import importlib.util
import inspect
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import trl.trainer.utils
from datasets import Dataset
from packaging.requirements import Requirement
from packaging.version import Version
from peft import LoraConfig, get_peft_model
from tiny import build_model, build_tokenizer
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GenerationConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from trl_nash import NashMDConfig, NashTrainer, PairConfig, compat
from trl_nash.compat import OnlineDPOConfig, OnlineDPOTrainer
from trl_nash.trainers.checks.refused import REFUSED


pytestmark = pytest.mark.contract

CPU = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
SHORT = {"max_new_tokens": 4, "max_length": 16, "per_device_train_batch_size": 2, "gradient_checkpointing": False}


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def load_compat_again():
    """Executes `compat.py` once more, as another module, so that its import-time behaviour can be watched."""
    spec = importlib.util.spec_from_file_location("trl_nash.compat_again", compat.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- Versions and imports ----


def test_installed_trl_is_in_the_tested_range():
    """The suite runs against a version that `compat` calls tested."""
    assert Version(compat.TESTED_TRL[0]) <= compat.TRL_VERSION < Version(compat.TESTED_TRL[1])


def test_lower_bounds_are_those_that_pip_knows():
    """What pyproject.toml asks pip for is what `compat` says."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    bounds = {wanted.name: str(wanted.specifier) for wanted in map(Requirement, project["dependencies"])}
    assert bounds["trl"] == f"<2,>={compat.TESTED_TRL[0]}"
    assert bounds["transformers"] == f">={compat.OLDEST_TRANSFORMERS}"


def test_old_transformers_are_an_import_error_with_the_pip_line(monkeypatch):
    """transformers before the lower bound are refused in a sentence that says which work."""
    monkeypatch.setattr("transformers.__version__", "5.5.4")
    with pytest.raises(ImportError, match=r'and this is 5\.5\.4: pip install "transformers>='):
        load_compat_again()


def test_missing_name_in_trl_is_an_import_error_that_says_which_versions_work(monkeypatch):
    """When TRL has moved a name, the ImportError holds that name, the installed version and the pip line."""
    monkeypatch.delattr(trl.trainer.utils, "maybe_gather_lm_head_ctx")
    with pytest.raises(ImportError) as error:
        load_compat_again()
    for part in ("maybe_gather_lm_head_ctx", str(compat.TRL_VERSION), 'pip install "trl>=1.16,<2"'):
        assert part in str(error.value)


def test_missing_trl_is_an_import_error_with_the_pip_line(monkeypatch):
    """Without TRL the ImportError is the pip line, not PackageNotFoundError."""

    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(ImportError, match='trl-nash needs TRL: pip install "trl>=1.16,<2"'):
        load_compat_again()


def test_untested_trl_warns_and_loads(monkeypatch):
    """TRL 1.17, the first version past the tested range, gives one warning, and the import goes on."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.17.0")
    with pytest.warns(UserWarning, match=r"tested with TRL 1\.16 up to \(not including\) 1\.17; this is TRL 1\.17\.0"):
        module = load_compat_again()
    assert module.OnlineDPOTrainer is OnlineDPOTrainer


def test_import_of_experimental_names_does_not_warn(recwarn, monkeypatch):
    """TRL's warning that OnlineDPOTrainer is experimental does not reach our users."""
    monkeypatch.delenv("TRL_EXPERIMENTAL_SILENCE", raising=False)
    load_compat_again()
    assert [w for w in recwarn if "experimental" in str(w.message)] == []


def test_everything_in_compat_all_exists():
    """Each name that `compat` promises is there."""
    assert [name for name in compat.__all__ if not hasattr(compat, name)] == []


# ---- The base trainer and its card ----


def test_constructor_turns_off_dropout_modules_only():
    """`disable_dropout` zeroes `nn.Dropout`; probabilities kept as attributes stay, and we zero those ourselves."""
    module = nn.Sequential(nn.Dropout(0.3))
    module.attention_dropout = 0.2
    compat.disable_dropout_in_model(module)
    assert (module[0].p, module.attention_dropout) == (0, 0.2)


def test_cards_heading_that_our_settings_go_before(tmp_path):
    """The model card has the heading that our table of settings is put before, and lists versions under it."""
    compat.BaseTrainer.create_model_card(nash_trainer(tmp_path), model_name="m")
    assert (tmp_path / "README.md").read_text().count("### Framework versions\n\n- TRL: ") == 1


def test_card_is_made_of_three_class_attributes(tmp_path):
    """`_name`, `_tag_names` and `_paper` are what the base writes into the card."""
    trainer = nash_trainer(tmp_path)
    assert parameters(compat.BaseTrainer.create_model_card) == ["self", "model_name", "dataset_name", "tags"]
    compat.BaseTrainer.create_model_card(trainer, model_name="m")
    text = (tmp_path / "README.md").read_text()
    assert "Iterative IPO" in text and "iterative-ipo" in text and "2310.12036" in text


# ---- Configuration ----


def nash_trainer(output_dir, **options):
    tokenizer = build_tokenizer()
    return NashTrainer(
        model=build_model(tokenizer),
        args=PairConfig(**{"output_dir": str(output_dir)} | CPU | SHORT | {"logging_steps": 1} | options),
        train_dataset=Dataset.from_dict({"prompt": ["a b", "c", "d e f", "g"]}),
        processing_class=tokenizer,
        judge=lambda prompts, first, second: [0.5] * len(prompts),
    )


@pytest.mark.parametrize(
    "name",
    """beta cache_implementation disable_dropout ds3_gather_for_generation generation_kwargs loss_type max_length
    max_new_tokens min_p missing_eos_penalty model_init_kwargs repetition_penalty reward_model_path reward_weights
    temperature top_k top_p trust_remote_code use_vllm vllm_mode vllm_server_base_url accelerator_config
    auto_find_batch_size data_seed gradient_accumulation_steps gradient_checkpointing label_smoothing_factor
    logging_steps max_grad_norm neftune_noise_alpha num_train_epochs output_dir per_device_train_batch_size
    remove_unused_columns report_to save_only_model seed""".split(),
)
def test_config_field(name):
    """The config has the field that we read."""
    assert name in OnlineDPOConfig.__dataclass_fields__


@pytest.mark.parametrize("name, off", [(name, off) for name, (off, _) in REFUSED.items()])
def test_options_that_we_refuse_are_off_by_default(name, off, tmp_path):
    """A config that nobody touched passes: TRL's default of each refused option is the value that we call off."""
    assert getattr(OnlineDPOConfig(output_dir=str(tmp_path), **CPU), name) == off


def test_grpo_counts_completions_and_hands_a_group_the_columns_of_its_row(tmp_path):
    """The grid of language games makes its groups of GRPO so, and calls these settings its defaults."""
    tokenizer, seen = build_tokenizer(), []

    def reward(prompts, completions, group, **columns):
        seen.append(group)
        return [0.0] * len(completions)

    options = {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 2, "max_steps": 2}
    args = compat.GRPOConfig(output_dir=str(tmp_path), gradient_checkpointing=False, **CPU, **options)
    assert (args.beta, args.scale_rewards, args.temperature, args.steps_per_generation) == (0.0, "group", 1.0, 1)
    compat.GRPOTrainer(
        model=build_model(tokenizer),
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": ["a"] * 4, "group": list(range(4))}),
        processing_class=tokenizer,
    ).train()
    assert len(seen) == 2
    assert sorted(seen[0] + seen[1]) == sorted(4 * list(range(4)))
    assert all(groups[:4] == groups[:1] * 4 and groups[4:] == groups[4:5] * 4 for groups in seen)


def test_fields_given_as_json_on_the_command_line():
    """`_VALID_DICT_FIELDS` is the list that we extend."""
    assert "model_init_kwargs" in OnlineDPOConfig._VALID_DICT_FIELDS
    ours = ["chat_template_kwargs", "transformers_continuous_batching_config"]
    assert PairConfig._VALID_DICT_FIELDS == [*OnlineDPOConfig._VALID_DICT_FIELDS, *ours]


def test_warning_about_lengths_that_we_turn_into_an_error(tmp_path):
    """The warning that we silence begins as we expect; the error that replaces it is ours."""
    with pytest.warns(UserWarning, match="The configuration has .max_new_tokens."):
        OnlineDPOConfig(output_dir=str(tmp_path), max_new_tokens=8, max_length=8, **CPU)


def test_defaults_that_trl_gives_its_trainers(tmp_path):
    """Of the config that ours and TRL's extend."""
    args = compat.BaseConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    assert (args.logging_steps, args.gradient_checkpointing) == (10, True)
    assert "lr_scheduler_kwargs" in compat.BaseConfig._VALID_DICT_FIELDS


def test_parser_reads_fields_and_fills_them():
    """Its actions are the fields, and `parse_dict` fills the dataclasses."""
    parser = compat.TrlParser(
        [compat.ScriptArguments, compat.DatasetMixtureConfig, compat.ModelConfig], add_help=False
    )
    actions = {action.dest: action for action in parser._actions}
    assert (
        actions["datasets"].type.__name__ == "DatasetConfig" and actions["use_peft"].type.__name__ == "string_to_bool"
    )
    script, mixture, model = parser.parse_dict({"dataset_name": "d", "model_name_or_path": "m"})
    assert (script.dataset_name, model.model_name_or_path) == ("d", "m")
    assert (script.dataset_train_split, script.dataset_test_split) == ("train", "test")
    assert (script.dataset_config, script.dataset_streaming) == (None, False)
    assert (mixture.datasets, mixture.test_split_size) == ([], None)


# ---- Generation ----


def test_unwrapping_for_generation_turns_gradient_checkpointing_off(model, monkeypatch):
    """
    Within `unwrap_model_for_generation` checkpointing is off, or transformers would drop the KV cache. Behind it, it
    is on again, with its keyword arguments.
    """
    model.gradient_checkpointing_enable()
    enabled = []
    monkeypatch.setattr(model, "gradient_checkpointing_enable", lambda **kwargs: enabled.append(kwargs))
    accelerator = SimpleNamespace(unwrap_model=lambda m: m, state=SimpleNamespace(deepspeed_plugin=None))
    options = {"generation_kwargs": {}, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    with compat.unwrap_model_for_generation(model, accelerator, **options) as unwrapped:
        assert unwrapped is model and not model.is_gradient_checkpointing
    assert enabled == [{"gradient_checkpointing_kwargs": {"use_reentrant": False}}]


# ---- Data and models ----


def test_mixture_of_datasets_has_a_train_split(tmp_path):
    """`get_dataset` concatenates the sources of a mixture, each named as for `load_dataset`."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    source = {"path": "json", "data_files": str(tmp_path / "rows.jsonl")}
    mixture = compat.get_dataset(compat.DatasetMixtureConfig(datasets=[source, source]))
    assert mixture["train"]["prompt"] == ["a", "b", "a", "b"]


def test_names_of_reward_functions():
    """`get_callable_name` names functions and what is bound to them."""
    assert compat.get_callable_name(parameters) == "parameters"
    assert compat.get_callable_name(functools.partial(parameters)) == "parameters"


def test_reference_is_prepared_by_two_arguments():
    """Under DeepSpeed and FSDP a model that is not trained is prepared with model and accelerator."""
    assert parameters(compat.prepare_deepspeed) == parameters(compat.prepare_fsdp) == ["model", "accelerator"]


def test_chat_template_adds_the_generation_prompt(tokenizer):
    """A conversation that ends with the user gets the assistant's header; keyword arguments reach the template."""
    prompt = [{"role": "user", "content": "a b"}]
    rendered = compat.maybe_apply_chat_template({"prompt": prompt}, tokenizer)["prompt"]
    assert rendered == "<|im_start|>user a b <eos> <|im_start|>assistant "
    tokenizer.chat_template = "{{ mood }}"
    assert compat.maybe_apply_chat_template({"prompt": prompt}, tokenizer, mood="calm")["prompt"] == "calm"


def test_chat_template_leaves_strings_alone(tokenizer):
    """A prompt that is a string is returned as it is."""
    assert compat.maybe_apply_chat_template({"prompt": "a b"}, tokenizer)["prompt"] == "a b"


def test_model_is_loaded_in_fp32_on_one_device(tmp_path, model):
    """`create_model_from_path` loads fp32 unless told otherwise, and takes `dtype` as text."""
    model.save_pretrained(tmp_path)
    load = compat.create_model_from_path
    assert load(str(tmp_path), AutoModelForCausalLM).dtype == torch.float32
    assert load(str(tmp_path), AutoModelForCausalLM, dtype="bfloat16", device_map=None).dtype == torch.bfloat16


def test_peft_and_quantisation_of_a_model_config():
    """`ModelConfig` becomes a LoRA config and a bitsandbytes config, or None."""
    assert compat.get_peft_config(compat.ModelConfig()) is None
    assert compat.get_peft_config(compat.ModelConfig(use_peft=True, lora_r=3)).r == 3
    assert compat.get_quantization_config(compat.ModelConfig()) is None
    quantised = compat.get_quantization_config(compat.ModelConfig(load_in_4bit=True))
    assert isinstance(quantised, BitsAndBytesConfig) and quantised.load_in_4bit


# ---- transformers.Trainer ----


@pytest.mark.parametrize(
    "method, expected",
    [
        ("_prepare_for_training", ["self", "max_steps", "train_dataloader", "resume_from_checkpoint"]),
        (
            "_init_training_state",
            ["self", "max_steps", "num_update_steps_per_epoch", "num_train_epochs", "resume_from_checkpoint", "trial"],
        ),
        ("_prepare_inputs", ["self", "inputs"]),
        ("training_step", ["self", "model", "inputs", "num_items_in_batch"]),
        ("compute_loss", ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]),
        ("_get_grad_norm", ["self", "model", "grad_norm"]),
        ("prediction_step", ["self", "model", "inputs", "prediction_loss_only", "ignore_keys"]),
        ("log", ["self", "logs", "start_time"]),
        ("create_scheduler", ["self", "num_training_steps", "optimizer"]),
        ("_save_optimizer_and_scheduler", ["self", "output_dir"]),
        ("_save_rng_state", ["self", "output_dir"]),
        ("_save", ["self", "output_dir", "state_dict"]),
        ("_get_output_dir", ["self", "trial"]),
        ("_track_num_input_tokens", ["self", "inputs"]),
        ("_determine_best_metric", ["self", "metrics", "trial"]),
        ("num_examples", ["self", "dataloader"]),
        ("get_train_dataloader", ["self"]),
    ],
)
def test_signature_of_what_we_override(method, expected):
    """The overridden method has the arguments that our version takes."""
    assert parameters(getattr(Trainer, method)) == expected


def test_signature_of_get_dataloader():
    """`get_eval_dataloader` and `get_test_dataloader` call `_get_dataloader` with the arguments that ours takes."""
    assert parameters(Trainer._get_dataloader)[:4] == ["self", "dataset", "description", "batch_size"]


def test_gradient_checkpointing_begins_with_training(tmp_path):
    """`Trainer` turns checkpointing on when it trains and the cache off when it is built: the base need do neither."""
    model = build_model(build_tokenizer())
    options = {"gradient_checkpointing": True, "max_steps": 1}
    trainer = Trainer(model, TrainingArguments(output_dir=str(tmp_path), **CPU | {"bf16": False} | options))
    assert model.config.use_cache is False and not model.is_gradient_checkpointing
    rows = [{"input_ids": torch.tensor([5, 6]), "labels": torch.tensor([5, 6])}] * 8
    trainer.train_dataset = rows
    trainer.train()
    assert model.is_gradient_checkpointing


def test_inputs_of_an_adapter_can_require_gradients(model):
    """`enable_input_require_grads` reaches through an adapter to the embeddings."""
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    embed = adapted.get_input_embeddings()
    assert not embed(torch.tensor([[5]])).requires_grad
    adapted.enable_input_require_grads()
    assert embed(torch.tensor([[5]])).requires_grad


def test_generation_config_is_resolved_by_the_model(model):
    """`_prepare_generation_config` gives the settings that `generate` goes by: those given, then the model's own."""
    model.generation_config.top_k = 7
    config, _ = model._prepare_generation_config(GenerationConfig(max_new_tokens=3, do_sample=True))
    assert (config.top_k, config.max_new_tokens, config.get_generation_mode().value) == (7, 3, "sample")
    assert {"generation_config", "device"} <= set(parameters(model._get_logits_processor))


def test_evaluation_loop_gets_the_metric_prefix(tmp_path, monkeypatch):
    """`evaluate` calls `evaluation_loop(..., metric_key_prefix=)` and logs the `metrics` of what that returns."""
    trainer = nash_trainer(tmp_path)
    prefixes = []

    def evaluation_loop(dataloader, metric_key_prefix="eval", **kwargs):
        prefixes.append(metric_key_prefix)
        return SimpleNamespace(metrics={f"{metric_key_prefix}_x": 1.0}, num_samples=1)

    monkeypatch.setattr(trainer, "evaluation_loop", evaluation_loop)
    assert trainer.evaluate(trainer.train_dataset, metric_key_prefix="test")["test_x"] == 1.0
    assert prefixes == ["test"] and trainer.state.log_history[-1]["test_x"] == 1.0


def test_hooks_go_past_online_dpo():
    """What OnlineDPOTrainer has a version of its own of is taken from `Trainer`."""
    assert NashTrainer._maybe_log_save_evaluate is Trainer._maybe_log_save_evaluate
    assert not {"training_step", "_save_checkpoint", "_maybe_log_save_evaluate"} & set(vars(compat.BaseTrainer))


def test_save_checkpoint_arguments(tmp_path):
    """`_save_checkpoint(model, trial=None)` can be called at any time and writes checkpoint-<step> and a card."""
    trainer = nash_trainer(tmp_path, max_steps=1)
    trainer.train()
    assert parameters(Trainer._save_checkpoint) == ["self", "model", "trial"]
    trainer._save_checkpoint(trainer.model_wrapped, trial=None)
    assert (tmp_path / "checkpoint-1" / "trainer_state.json").is_file() and (tmp_path / "README.md").is_file()


class OptimizerStep(TrainerCallback):
    def __init__(self, events):
        self.events = events

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.events.append("optimizer")


def test_order_of_a_step(tmp_path):
    """State is restored, `_prepare_for_training` runs, then per step: inputs, loss, grad norm, optimizer, log."""
    events = []

    class Recorder(NashTrainer):
        def _prepare_for_training(self, *args):
            assert self.state.max_steps == 1
            prepared = super()._prepare_for_training(*args)
            events.append("prepare")
            assert len(prepared) == 2 and self.optimizer is not None
            return prepared

        def _prepare_inputs(self, inputs):
            events.append("inputs")
            return super()._prepare_inputs(inputs)

        def compute_loss(self, *args, **kwargs):
            events.append("loss")
            return super().compute_loss(*args, **kwargs)

        def _get_grad_norm(self, *args, **kwargs):
            events.append("grad norm")
            return super()._get_grad_norm(*args, **kwargs)

        def log(self, logs, start_time=None):
            events.append("log" if "loss" in logs else "summary")
            super().log(logs, start_time)

    trainer = nash_trainer(tmp_path, max_steps=1, gradient_accumulation_steps=2)
    trainer.__class__ = Recorder
    trainer.add_callback(OptimizerStep(events))
    trainer.train()
    micro_step = ["inputs", "loss"]
    assert events == ["prepare", *micro_step, *micro_step, "grad norm", "optimizer", "log", "summary"]


def test_state_is_written_after_the_optimizer(tmp_path, monkeypatch):
    """`trainer_state.json` is written last, so that a checkpoint with a state also has our round."""
    seen = []
    trainer = nash_trainer(tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
    original = trainer._save_optimizer_and_scheduler
    monkeypatch.setattr(
        trainer,
        "_save_optimizer_and_scheduler",
        lambda folder: (seen.append((tmp_path / "checkpoint-1" / "trainer_state.json").exists()), original(folder)),
    )
    trainer.train()
    assert seen == [False] and (tmp_path / "checkpoint-1" / "trainer_state.json").exists()


@pytest.mark.parametrize("already_scaled, expected", [(False, 3.0), (True, 12.0)])
def test_trainer_divides_by_the_accumulation_steps(tmp_path, model, already_scaled, expected):
    """With `loss_is_scaled_for_ga = False`, as ours, a loss of 12 counts 12 / 4 over 4 accumulation steps."""

    class Constant(compat.BaseTrainer):
        loss_is_scaled_for_ga = already_scaled

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return 12 * (model.lm_head.weight.sum() + 1 - model.lm_head.weight.sum().detach())

    options = {"use_cpu": True, "report_to": "none", "gradient_accumulation_steps": 4}
    trainer = Constant(model=model, args=TrainingArguments(output_dir=str(tmp_path), **options))
    trainer.current_gradient_accumulation_steps = 4
    assert trainer.training_step(model, {"x": torch.ones(1)}).item() == expected
    assert model.lm_head.weight.grad.unique().tolist() == [expected]
    assert NashTrainer.loss_is_scaled_for_ga is False


# ---- The fused head ----


def test_adapter_on_the_head_is_ignored(model):
    """TRL's fused head reads the base weight of `lm_head` and misses an adapter there: one reason for our own."""
    trl.trainer.utils.add_fused_lm_head(model)
    peft_model = get_peft_model(model, LoraConfig(target_modules=["lm_head"], task_type="CAUSAL_LM"))
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    before = peft_model(input_ids=ids, labels=ids, fused_lm_head=True).log_probs
    with torch.no_grad():
        peft_model.get_output_embeddings().lora_B["default"].weight.copy_(torch.linspace(-1, 1, 21 * 8).view(21, 8))
    assert torch.equal(peft_model(input_ids=ids, labels=ids, fused_lm_head=True).log_probs, before)


# ---- The function that `patch_trl` replaces ----


def test_fused_head_looks_its_function_up_at_every_call(model, monkeypatch):
    """A head that exists already calls what now stands in `trl.trainer.utils`, with nine arguments by position."""
    compat.trainer_utils.add_fused_lm_head(model, temperature=0.7, outputs=("log_probs", "entropy"))
    seen = []

    def apply(*args):
        seen.extend(args)
        rows = torch.zeros(len(args[0]))
        return rows, rows, None, None, None

    monkeypatch.setattr(compat.trainer_utils, "_ChunkedLogProbFunction", SimpleNamespace(apply=apply))
    ids = torch.tensor([[5, 6, 7, 8, 9], [6, 5, 8, 8, 0]])
    labels = torch.tensor([[-100, -100, 7, 8, 9], [-100, -100, -100, 8, -100]])
    assert not model(input_ids=ids, labels=labels, fused_lm_head=True).log_probs.any()
    hidden, weight, bias, targets, temperature, chunk_size, softcap, logit_scale, outputs = seen
    assert hidden.shape == (8, 16) and targets.tolist() == [0, 7, 8, 9, 0, 0, 8, 0]
    assert weight is model.lm_head.weight and bias is None
    assert (temperature, softcap, logit_scale, outputs) == (0.7, None, 1.0, ("log_probs", "entropy"))
    assert chunk_size > 0


def test_arguments_of_the_replaced_function():
    """The function takes these arguments; `patch_trl` refuses to replace one with others."""
    assert parameters(compat.trainer_utils._ChunkedLogProbFunction.forward) == (
        "ctx hidden weight bias targets temperature chunk_size final_logit_softcapping logit_scale outputs".split()
    )


def test_only_the_entropy_and_the_log_probs_have_a_gradient():
    """Of the five results the first two have a gradient, so that `patch_trl` has to give one to the entropy."""
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)
    found = compat.trainer_utils._ChunkedLogProbFunction.apply(hidden, weight, None, torch.arange(3), 1.0, 8)
    assert [x.requires_grad for x in found] == [True, True, False, False, False]


def test_gathering_of_the_head_does_nothing_without_zero3(model):
    """`maybe_gather_lm_head_ctx` takes parameters, None among them, and leaves them alone where they are whole."""
    weight = model.lm_head.weight
    with compat.maybe_gather_lm_head_ctx(weight, None):
        assert model.lm_head.weight is weight and weight.numel() == 21 * 16


# ---- vLLM, through TRL's VLLMGeneration (tests/generation runs it over a fake of vLLM) ----


def test_vllm_generation_takes_these_options():
    """All of them by name; what a round samples with is among them."""
    names = """model accelerator processing_class mode structured_outputs_regex server_base_url server_host server_port
    server_timeout group_port tensor_parallel_size gpu_memory_utilization max_model_length max_num_seqs
    enable_sleep_mode model_impl trust_remote_code repetition_penalty temperature top_p top_k min_p
    max_completion_length logprobs generation_kwargs""".split()
    assert set(names) <= set(parameters(compat.VLLMGeneration.__init__))


def test_vllm_generation_takes_repeated_prompts_and_returns_ids_and_log_probs():
    """`generate(prompts, images, num_generations)` returns prompt ids, completion ids, log-probs and their tokens."""
    assert parameters(compat.VLLMGeneration.generate)[:4] == ["self", "prompts", "images", "num_generations"]
    assert parameters(compat.VLLMGeneration.sync_weights) == ["self"]
    source = inspect.getsource(compat.VLLMGeneration.generate)
    assert source.rstrip().endswith("return prompt_ids, completion_ids, logprobs, logprob_token_ids")
    assert "all_prompts[::num_generations]" in source  # of a server: each prompt once
    assert '"n": 1' in source and "tp_slice = slice(local_rank_in_group * orig_size" in source  # in this process


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_vllm_generation_pushes_what_iter_named_params_yields(mode):
    """
    `sync_weights` pushes what the private `_iter_named_params` of `self.model` yields, which we override for adapters.
    A server is told of names, types and shapes once, and they are kept in `_weight_metadata`.
    """

    class Generation(compat.VLLMGeneration):
        def __init__(self):
            self.mode, self.enable_sleep_mode, self._weight_metadata = mode, False, None
            self.accelerator = SimpleNamespace(is_main_process=True)
            model = SimpleNamespace(load_weights=lambda weights: pushed.extend(weights))
            worker = SimpleNamespace(model_runner=SimpleNamespace(model=model))
            engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=worker))
            self.llm = SimpleNamespace(llm_engine=engine, reset_prefix_cache=lambda: None)
            self.vllm_client = SimpleNamespace(
                update_named_params=lambda metadata, weights: pushed.extend(weights), reset_prefix_cache=lambda: None
            )

        def _iter_named_params(self):
            yield "a", torch.ones(2)

    pushed = []
    generation = Generation()
    generation.sync_weights()
    assert [name for name, _ in pushed] == ["a"]
    assert generation._weight_metadata == (None if mode == "colocate" else [("a", "float32", [2])])


def test_vllm_generation_sleeps_only_if_its_attribute_says_so():
    """`enable_sleep_mode` is asked at each call, so that it can be turned off behind the constructor."""
    for method in (compat.VLLMGeneration.generate, compat.VLLMGeneration.sync_weights):
        assert "self.enable_sleep_mode" in inspect.getsource(method)
    source = inspect.getsource(compat.VLLMGeneration._init_vllm)
    assert "if self.enable_sleep_mode:\n                self.llm.sleep(level=2)" in source  # asleep to begin with
    assert "model=model.name_or_path" in source  # vLLM starts from files


def test_gathering_of_vllm_generation_does_nothing_without_zero3():
    """`_dist.gather_params(parameters)` is a context manager."""
    from trl.distributed import DistributedBackend

    state = SimpleNamespace(deepspeed_plugin=None, fsdp_plugin=None)
    weight = torch.nn.Parameter(torch.ones(2))
    with DistributedBackend(SimpleNamespace(state=state)).gather_params([weight]):
        assert weight.tolist() == [1.0, 1.0] and weight.requires_grad
    assert weight.tolist() == [1.0, 1.0] and weight.requires_grad


def test_importance_sampling_options_are_grpos():
    """Names, modes and the bound of GRPOConfig; its default mode masks, ours truncates."""
    names = [f"vllm_importance_sampling_{name}" for name in ("correction", "mode", "clip_max", "clip_min")]
    theirs, ours = compat.GRPOConfig.__dataclass_fields__, NashMDConfig.__dataclass_fields__
    assert [theirs[name].default for name in names] == [True, "sequence_mask", 3.0, None]
    assert [ours[name].default for name in names] == [True, "sequence_truncate", 3.0, None]
