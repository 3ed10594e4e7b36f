# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
One test per fact of TRL (and of `transformers.Trainer` beneath it) that `trl_nash.compat` and the trainers rely on.

When TRL moves something, the test that fails here names it. The last part holds the faults of `OnlineDPOTrainer` that
we replace: a failure there means that TRL has repaired it, and that our replacement may go.
"""

import importlib.util
import inspect
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
import trl.experimental.online_dpo.online_dpo_trainer as online_dpo
import trl.experimental.utils
from datasets import Dataset
from packaging.version import Version
from peft import LoraConfig, get_peft_model
from tiny import build_model, build_tokenizer
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainerCallback, TrainingArguments
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from trl_nash import NashTrainer, PairConfig, compat
from trl_nash.trainers.checks.options import _UNUSED_OPTIONS


pytestmark = pytest.mark.contract

CPU = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
SHORT = {"max_new_tokens": 4, "max_length": 16, "per_device_train_batch_size": 2, "gradient_checkpointing": False}


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def count_words(completions, **kwargs):
    return [float(len(text.split())) for text in completions]


def stock_trainer(
    output_dir, model=None, tokenizer=None, prompts=("a b", "c", "d e f", "g"), peft_config=None, **options
):
    """TRL's own OnlineDPOTrainer over the tiny model."""
    tokenizer = tokenizer or build_tokenizer()
    return OnlineDPOTrainer(
        model=model or build_model(tokenizer),
        reward_funcs=count_words,
        args=OnlineDPOConfig(**{"output_dir": str(output_dir)} | CPU | SHORT | options),
        train_dataset=Dataset.from_dict({"prompt": prompts or ["a b", "c", "d e f", "g"]}),
        eval_dataset=Dataset.from_dict({"prompt": ["a", "b"]}),
        processing_class=tokenizer,
        peft_config=peft_config,
    )


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """One stock trainer for the facts that do not change it."""
    return stock_trainer(tmp_path_factory.mktemp("stock"))


def load_compat_again():
    """Executes `compat.py` once more, as another module, so that its import-time behaviour can be watched."""
    spec = importlib.util.spec_from_file_location("trl_nash_compat_again", compat.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- Versions and imports ----


def test_installed_trl_is_in_the_tested_range():
    """The suite runs against a version that `compat` calls tested."""
    assert Version(compat.TESTED_TRL[0]) <= compat.TRL_VERSION < Version(compat.TESTED_TRL[1])


def test_missing_name_in_trl_is_an_import_error_that_says_which_versions_work(monkeypatch):
    """When TRL has moved a name, the ImportError holds that name, the installed version and the pip line."""
    import trl.trainer.utils

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


# ---- The constructor ----


def test_constructor_arguments_and_their_order():
    """NashTrainer repeats these keywords in this order, which is what makes it a drop-in."""
    assert parameters(OnlineDPOTrainer.__init__) == [
        "self",
        "model",
        "ref_model",
        "reward_funcs",
        "args",
        "data_collator",
        "train_dataset",
        "eval_dataset",
        "processing_class",
        "reward_processing_classes",
        "peft_config",
        "compute_metrics",
        "callbacks",
        "optimizers",
        "preprocess_logits_for_metrics",
    ]


def test_constructor_insists_on_reward_funcs(tmp_path):
    """Without `reward_funcs` the base refuses, which is why it gets a stand-in."""
    tokenizer = build_tokenizer()
    with pytest.raises(ValueError, match="`reward_funcs` must be provided"):
        OnlineDPOTrainer(
            model=build_model(tokenizer),
            args=OnlineDPOConfig(output_dir=str(tmp_path), **CPU),
            train_dataset=Dataset.from_dict({"prompt": ["a"]}),
            processing_class=tokenizer,
        )


def test_constructor_never_calls_a_reward_function(tmp_path):
    """Our stand-in raises when it is called; constructing and training with it never does."""
    with pytest.raises(RuntimeError, match="please report this"):
        compat.unused_reward(prompts=["a"], completions=["b"])
    trainer = nash_trainer(tmp_path, max_steps=1)
    trainer.train()
    assert trainer.reward_funcs == []


def test_reference_copy_is_looked_up_in_the_module(tmp_path, monkeypatch):
    """`create_reference_model` is taken from the trainer's module when the constructor runs, so it can be replaced."""
    made = []
    monkeypatch.setattr(online_dpo, "create_reference_model", lambda model: made.append(model))
    trainer = stock_trainer(tmp_path)
    assert len(made) == 1 and trainer.ref_model is None


def test_no_reference_copy_with_a_peft_config(tmp_path):
    """With `peft_config` the base keeps `ref_model is None`: its reference is the model with adapters off."""
    assert stock_trainer(tmp_path, peft_config=LoraConfig(task_type="CAUSAL_LM")).ref_model is None


def test_base_construction_restores_what_it_replaced():
    """After `base_construction`, also after an error in it, module and arguments are as they were."""
    mine = {
        "gradient_checkpointing": True,
        "model_init_kwargs": {"dtype": "float32"},
        "reward_weights": [1.0, 2.0],
        "use_vllm": True,
    }
    args = SimpleNamespace(**mine)
    original = online_dpo.create_reference_model
    with pytest.raises(KeyError), compat.base_construction(args):
        assert online_dpo.create_reference_model(nn.Linear(1, 1)) is None
        assert not any(vars(args).values())
        raise KeyError
    assert online_dpo.create_reference_model is original
    assert vars(args) == mine


def test_base_refuses_model_init_kwargs_with_a_loaded_model(tmp_path):
    """The base raises for `model_init_kwargs` with a model object, so ours are hidden from it: we load the model."""
    with pytest.raises(ValueError, match="your model is already instantiated"):
        stock_trainer(tmp_path, model_init_kwargs={"dtype": "float32"})


def test_base_refuses_reward_weights_for_other_rewards(tmp_path):
    """The base counts `reward_weights` against its own reward functions, so ours are hidden from it."""
    with pytest.raises(ValueError, match="Number of reward weights"):
        stock_trainer(tmp_path, reward_weights=[1.0, 2.0])


def test_the_base_engine_samples_two_completions(stock):
    """`num_generations` of the base is 2: server mode slices by it, and we repeat prompts by it for vLLM."""
    assert stock.num_generations == 2


def test_tokenizer_is_underscore_tokenizer(stock):
    """`_tokenizer` is the text tokenizer, with a pad token."""
    assert stock._tokenizer is stock.processing_class and stock._tokenizer.pad_token_id is not None


def test_eos_token_ids_lists_the_tokenizers_and_the_models(tmp_path):
    """`eos_token_ids` holds the tokenizer's end of sequence and those of the model's generation config."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    model.generation_config.eos_token_id = [7, 9]
    assert stock_trainer(tmp_path, model=model, tokenizer=tokenizer).eos_token_ids == [tokenizer.eos_token_id, 7, 9]


def test_constructor_turns_off_dropout_modules_only():
    """`disable_dropout` zeroes `nn.Dropout`; probabilities kept as attributes stay, and we zero those ourselves."""
    from trl.trainer.utils import disable_dropout_in_model

    module = nn.Sequential(nn.Dropout(0.3))
    module.attention_dropout = 0.2
    disable_dropout_in_model(module)
    assert (module[0].p, module.attention_dropout) == (0, 0.2)


def test_cards_heading_that_our_settings_go_before(stock):
    """The model card has the heading that our table of settings is put before, and lists versions under it."""
    stock.create_model_card(model_name="m")
    with open(f"{stock.args.output_dir}/README.md") as file:
        assert file.read().count("### Framework versions\n\n- TRL: ") == 1


def test_card_is_made_of_three_class_attributes(tmp_path):
    """`_name`, `_tag_names` and `_paper` are what the base writes into the card."""
    trainer = nash_trainer(tmp_path)
    assert parameters(OnlineDPOTrainer.create_model_card) == ["self", "model_name", "dataset_name", "tags"]
    OnlineDPOTrainer.create_model_card(trainer, model_name="m")
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


@pytest.mark.parametrize("name, off", [(name, off) for name, off, _ in _UNUSED_OPTIONS])
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


# ---- Generation ----


def test_generate_vllm_returns_four_tensors():
    """`_generate_vllm(prompts)` pads what the engine returned into four tensors, in the engine's order of rows."""
    eos, pad = 1, 0
    trainer = SimpleNamespace(
        vllm_mode="colocate",
        _tokenizer=SimpleNamespace(pad_token_id=pad),
        eos_token_ids=[eos],
        generation_config=SimpleNamespace(max_tokens=3),
        accelerator=SimpleNamespace(device=torch.device("cpu")),
        _generate_vllm_colocate=lambda prompts, images: ([[5, eos], [6, 7, 8]], [[9], [9, 9]]),
    )
    assert parameters(OnlineDPOTrainer._generate_vllm) == ["self", "prompts", "images"]
    prompt_ids, prompt_mask, completion_ids, completion_mask = OnlineDPOTrainer._generate_vllm(trainer, ["x", "y"])
    assert prompt_ids.tolist() == [[pad, 9], [9, 9]] and prompt_mask.tolist() == [[0, 1], [1, 1]]
    assert completion_ids.tolist() == [[5, eos, pad], [6, 7, 8]]
    assert completion_mask.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_vllm_server_rows_come_in_blocks():
    """The server answers prompt by prompt; `_generate_vllm_server` returns rows [0, B) and [B, 2B) (trl#5514)."""
    tokenizer = build_tokenizer()

    class Client:
        def generate(self, prompts, n, **sampling):
            return {"completion_ids": [[10 * row + k] for row in range(len(prompts)) for k in range(n)]}

    trainer = SimpleNamespace(
        state=SimpleNamespace(global_step=0),
        _last_loaded_step=0,
        accelerator=SimpleNamespace(is_main_process=True, process_index=0),
        vllm_client=Client(),
        num_generations=2,
        repetition_penalty=1.0,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        min_p=None,
        generation_config=SimpleNamespace(max_tokens=3),
        args=SimpleNamespace(generation_kwargs=None),
        processing_class=tokenizer,
    )
    completion_ids, prompt_ids = OnlineDPOTrainer._generate_vllm_server(trainer, ["a", "b", "c"])
    assert completion_ids == [[0], [10], [20], [1], [11], [21]]
    assert prompt_ids == [tokenizer(text)["input_ids"] for text in "abcabc"]


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


def test_chat_template_adds_the_generation_prompt(tokenizer):
    """A conversation that ends with the user gets the assistant's header; keyword arguments reach the template."""
    prompt = [{"role": "user", "content": "a b"}]
    assert compat.is_conversational({"prompt": prompt}) and not compat.is_conversational({"prompt": "a b"})
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


def test_step_of_the_base_has_the_trainers_arguments():
    """What we bind back to `Trainer` is called with the same arguments by both."""
    name = "_maybe_log_save_evaluate"
    assert parameters(getattr(OnlineDPOTrainer, name)) == parameters(getattr(Trainer, name))
    assert getattr(NashTrainer, name) is getattr(Trainer, name)


def test_save_checkpoint_arguments(tmp_path):
    """`_save_checkpoint(model, trial=None)` can be called at any time and writes checkpoint-<step> and a card."""
    trainer = nash_trainer(tmp_path, max_steps=1)
    trainer.train()
    assert parameters(OnlineDPOTrainer._save_checkpoint) == ["self", "model", "trial"]
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
def test_trainer_divides_by_the_accumulation_steps(tmp_path, already_scaled, expected):
    """With `loss_is_scaled_for_ga = False`, as ours, a loss of 12 counts 12 / 4 over 4 accumulation steps."""

    class Constant(Trainer):
        loss_is_scaled_for_ga = already_scaled

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return 12 * next(model.parameters()).sum()

    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    trainer = Constant(model=model, args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none"))
    trainer.current_gradient_accumulation_steps = 4
    assert trainer.training_step(model, {"x": torch.ones(1)}).item() == expected
    assert model.weight.grad.item() == expected
    assert NashTrainer.loss_is_scaled_for_ga is False


# ---- Faults of OnlineDPOTrainer that we replace: still there ----


@contextmanager
def fixed_samples(trainer, completions: list[list[int]], width: int):
    """Makes the stock trainer "sample" these completions for the prompt "a", padded to `width` tokens."""
    pad = trainer._tokenizer.pad_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in completions])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in completions])
    prompt = torch.full((len(completions), 1), 5)
    trainer._generate = lambda *args: (prompt, torch.ones_like(prompt), ids, mask, None)
    yield trainer
    del trainer._generate


def stock_grad_norm(output_dir, accumulation: int) -> float:
    trainer = stock_trainer(
        output_dir,
        prompts=["a"] * 8,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        logging_steps=1,
        learning_rate=0.0,
    )
    with fixed_samples(trainer, [[6, 7, 1], [8, 1], [9, 1], [6, 6, 6]], width=3):
        trainer.train()
    return trainer.state.log_history[0]["grad_norm"]


def test_fault_accumulation_sums_gradients(tmp_path):
    """On identical micro-batches the stock gradient norm is 1, 2 and 4 times as large for accumulation 1, 2 and 4."""
    norms = [stock_grad_norm(tmp_path / str(n), n) for n in (1, 2, 4)]
    assert norms[0] > 1e-3 and [norm / norms[0] for norm in norms] == pytest.approx([1.0, 2.0, 4.0], rel=1e-4)


def test_fault_no_kv_cache_with_gradient_checkpointing(tmp_path):
    """Gradient checkpointing, TRL's default, gives up the KV cache in generation."""
    assert stock_trainer(tmp_path, gradient_checkpointing=True).generation_config.use_cache is False


def test_fault_evaluation_raises(stock):
    """The stock trainer cannot evaluate (trl#2228)."""
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"):
        stock.evaluate()


def test_fault_padding_counts_in_metrics(tmp_path):
    """The same 4-token completions have another "entropy" when they are padded to 16 tokens."""
    trainer = stock_trainer(tmp_path)
    for width in (4, 16):
        with fixed_samples(trainer, [[6, 7, 8, 1]] * 4, width):
            trainer.training_step(trainer.model, {"prompt": ["a", "a"]})
    narrow, wide = trainer.stats["objective/entropy"]
    assert wide > 1.5 * narrow


def test_fault_list_valued_beta_crashes(tmp_path):
    """A schedule `beta=[.1, .2]` is indexed with the fractional epoch (trl#6801)."""
    trainer = stock_trainer(tmp_path, beta=[0.1, 0.2])
    trainer.state.epoch = 0.5
    with pytest.raises(TypeError):
        _ = trainer.beta


def test_fault_zero3_refuses_the_reference_copy(model, monkeypatch):
    """Under ZeRO-3 `create_reference_model`, which we never call, raises (trl#2532)."""
    monkeypatch.setattr(trl.experimental.utils, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match="not compatible with `create_reference_model"):
        online_dpo.create_reference_model(model)


def test_fault_bf16_by_default(tmp_path, monkeypatch):
    """`bf16` is on by default, which ends a run on hardware without it; our command line chooses instead."""
    assert OnlineDPOConfig(output_dir=str(tmp_path), use_cpu=True).bf16 is True
    monkeypatch.setattr(sys.modules[TrainingArguments.__module__], "is_torch_bf16_gpu_available", lambda: False)
    with pytest.raises(ValueError, match="doesn't support bf16/gpu"):
        OnlineDPOConfig(output_dir=str(tmp_path))


def test_fault_adapter_on_the_head_is_ignored(model):
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
