# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Every inherited option works or is refused; none silently does nothing.

The three tables below name all fields of TrainingArguments and OnlineDPOConfig. A field that a new version brings is
in none of them, and fails a test until somebody has looked at it.
"""

import math
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from helpers import CountingJudge, history, make_trainer, prompt_dataset, weights
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from trl_nash.compat import OnlineDPOConfig
from trl_nash.trainers.checks.options import check_parallelism
from trl_nash.trainers.run.stops import Stopped


# ---- Options that are refused: a value, what the run is told, and what the value needs beside it ----

NO_PREDICTIONS = "evaluation samples, and keeps no logits and labels. Leave it at"
REFUSED = {
    "loss_type": ("ipo", "choose another trainer class"),
    "remove_unused_columns": (True, "prompts are columns"),
    "neftune_noise_alpha": (5.0, "noise in the policy"),
    "label_smoothing_factor": (0.1, "soft labels come from the judge"),
    "auto_find_batch_size": (True, "set `per_device_train_batch_size`"),
    "disable_dropout": (False, "dropout makes the policy differ"),
    "train_sampling_strategy": ("group_by_length", "an iterable dataset keeps its order. Leave it at 'random'"),
    "length_column_name": ("size", "rows are not grouped by length"),
    "label_names": (["labels"], "labels are the sampled completions"),
    "include_for_metrics": (["loss"], NO_PREDICTIONS),
    "batch_eval_metrics": (True, NO_PREDICTIONS),
    "eval_use_gather_object": (True, NO_PREDICTIONS),
    "bf16_full_eval": (True, "evaluation would cast the policy for good"),
    "fp16_full_eval": (True, "evaluation would cast the policy for good"),
    "enable_jit_checkpoint": (True, "`trainer.request_stop` ends a run with a checkpoint"),
}

# ---- Options that change nothing here, and why that is what they ask for ----

WITHOUT_EFFECT = {
    "average_tokens_across_devices": "a loss is a mean over prompts, of which every process has the same number",
    "logging_nan_inf_filter": "a run stops at the first loss that is not finite",
    "prediction_loss_only": "there is nothing else to return",
    "eval_do_concat_batches": "concerns predictions, and there are none",
    "eval_accumulation_steps": "concerns predictions, and there are none",
    "dataloader_drop_last": "what fills no round is always left out of training; an evaluation has all its prompts",
    "dataloader_pin_memory": "rows are no tensors",
    "do_train": "for scripts: transformers does not read it",
    "do_eval": "for scripts: transformers does not read it",
    "do_predict": "for scripts: transformers does not read it",
    "resume_from_checkpoint": "for scripts, `trl-nash` among them: `train` has an argument of this name",
    "local_rank": "set by the launcher",
    **dict.fromkeys(
        """vllm_model_impl vllm_structured_outputs_regex vllm_gpu_memory_utilization vllm_mode vllm_server_base_url
        vllm_server_host vllm_server_port vllm_server_timeout vllm_group_port vllm_tensor_parallel_size
        vllm_enable_sleep_mode""".split(),
        "belong to `use_vllm`; with it TRL's VLLMGeneration is built with them (tests/generation/test_vllm.py)",
    ),
}

# ---- Options that work, and where that is tested ----

HERE = "below"
WORKS = {
    # Of the run
    "output_dir": "checkpoints/test_contents.py",
    "per_device_train_batch_size": "test_rounds.py",
    "gradient_accumulation_steps": "test_rounds.py",
    "num_train_epochs": "test_rounds.py",
    "max_steps": "test_rounds.py",
    "seed": "checkpoints/test_resuming.py",
    "data_seed": HERE,
    "full_determinism": HERE,
    "use_cpu": "all tests",
    # Of the optimizer, which transformers makes
    **dict.fromkeys(
        """learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps optim weight_decay adam_beta1 adam_beta2
        adam_epsilon max_grad_norm""".split(),
        HERE,
    ),
    **dict.fromkeys(["optim_args", "optim_target_modules"], "test_optimizers.py"),
    # Of precision and memory
    "bf16": "test_precision.py, tests/scale",
    "fp16": "tests/scale",
    "tf32": "a switch of torch's, which TrainingArguments turn",
    "torch_empty_cache_steps": HERE,
    "use_cache": HERE,
    **dict.fromkeys(
        """gradient_checkpointing gradient_checkpointing_kwargs activation_checkpointing
        activation_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode""".split(),
        HERE,
    ),
    **dict.fromkeys(["use_liger_kernel", "liger_kernel_config"], "verified with the policy"),
    # Of logs, which transformers writes
    **dict.fromkeys(["logging_strategy", "logging_steps", "logging_first_step"], HERE),
    **dict.fromkeys(["include_num_input_tokens_seen", "skip_memory_metrics", "debug", "disable_tqdm"], HERE),
    **dict.fromkeys(
        """log_on_each_node log_level log_level_replica report_to run_name project trackio_space_id trackio_bucket_id
        trackio_static_space_id""".split(),
        "transformers' loggers and callbacks, which get what `log` gets",
    ),
    # Of evaluation
    **dict.fromkeys(["eval_strategy", "eval_steps", "eval_delay", "eval_on_start"], HERE),
    "per_device_eval_batch_size": HERE,
    **dict.fromkeys(["load_best_model_at_end", "metric_for_best_model", "greater_is_better"], "test_quality.py"),
    # Of checkpoints
    **dict.fromkeys(["save_strategy", "save_steps", "save_total_limit"], "checkpoints/test_contents.py"),
    "ignore_data_skip": "checkpoints/test_resuming.py",
    "save_only_model": "test_save_only_model.py",
    "save_on_each_node": "transformers' `should_save`, which what is saved of rounds follows",
    "restore_callback_states_from_checkpoint": HERE,
    **dict.fromkeys(
        """push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision""".split(),
        "transformers pushes the folders that it saves; the token stays out of them (tests/fuzz/test_hygiene.py)",
    ),
    # Of rows
    **dict.fromkeys(
        """dataloader_num_workers dataloader_prefetch_factor dataloader_persistent_workers
        dataloader_multiprocessing_context dataloader_in_order""".split(),
        "tests/rounds/test_rows.py",
    ),
    # Of processes
    "accelerator_config": HERE,
    "parallelism_config": HERE,
    **dict.fromkeys(
        ["ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph"], HERE
    ),
    **dict.fromkeys(["ddp_backend", "ddp_timeout"], "transformers starts the group of processes with them"),
    **dict.fromkeys(["fsdp", "fsdp_config", "deepspeed", "ds3_gather_for_generation"], "tests/scale"),
    # Of OnlineDPOConfig
    **dict.fromkeys(["max_new_tokens", "max_length", "temperature", "cache_implementation"], HERE),
    **dict.fromkeys(["top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs"], HERE),
    **dict.fromkeys(["reward_model_path", "reward_weights", "missing_eos_penalty"], "test_dropin.py"),
    "beta": "test_exactness.py",
    "use_vllm": "tests/generation/test_vllm.py",
    "model_init_kwargs": "test_precision.py",
    "trust_remote_code": "test_dropin.py",
}


def test_every_field_is_in_one_table():
    """And none in two, or in none of the installed libraries' classes."""
    known = {field.name for config in (TrainingArguments, OnlineDPOConfig) for field in fields(config)}
    tables = [set(REFUSED), set(WITHOUT_EFFECT), set(WORKS)]
    listed = set.union(*tables)
    assert known - listed == set(), "fields that nobody has looked at"
    assert listed - known == set(), "fields that are no more"
    assert sum(map(len, tables)) == len(listed), "fields in two tables"


# ---- Refused ----


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    """When the trainer is built, with the option, its value and what to do instead."""
    value, reason = REFUSED[name]
    with pytest.raises(ValueError, match=f"^`{name}=.*` cannot apply here: .*{reason}"):
        make_trainer("ipo", tmp_path, **{name: value})


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"optim_target_modules": ["attn"]}, "`optim_target_modules` does nothing with `optim='adamw_torch"),
        ({"optim_args": "eps=1e-6"}, "`optim_args` does nothing with `optim='adamw_torch_fused'`: leave it out"),
        ({"optim": "lomo", "restart_each_round": True}, "`optim='lomo'` steps within the backward pass"),
        ({"accelerator_config": {"dispatch_batches": True}}, "`dispatch_batches=True` in `accelerator_config`"),
        (
            {"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 2}}},
            "`num_steps` .* would change the rounds: set `gradient_accumulation_steps`",
        ),
        (
            {"model_init_kwargs": {"dtype": "float32"}},
            "`model_init_kwargs` and `merge_adapter` load a `model` that is a path",
        ),
    ],
)
def test_refused_together(options, reason, tmp_path):
    """Options that work alone, and not with what is beside them."""
    with pytest.raises(ValueError, match=reason):
        make_trainer("ipo", tmp_path, **options)


def test_constrained_sampling_is_biased(tmp_path, caplog):
    for options in ({}, {"vllm_structured_outputs_regex": "a+"}):
        with pytest.raises(OSError):  # of the model, which is looked for after the options
            make_trainer("ipo", tmp_path, model="does/not/exist", use_vllm=True, **options)
        warned = "`vllm_structured_outputs_regex`: the pairs come from another policy" in caplog.text
        assert warned == bool(options)


@pytest.mark.parametrize("size", ["tp_size", "cp_size", "sp_size"])
def test_what_splits_layers_or_sequences_is_refused(size):
    """`parallelism_config`, or what the launcher says in its place; data parallelism alone is what there is anyway."""
    sizes = {"tp_size": 1, "cp_size": 1, "sp_size": 1}
    check_parallelism(SimpleNamespace(parallelism_config=None))
    check_parallelism(SimpleNamespace(parallelism_config=SimpleNamespace(**sizes)))
    with pytest.raises(ValueError, match="leave `parallelism_config` at None"):
        check_parallelism(SimpleNamespace(parallelism_config=SimpleNamespace(**sizes | {size: 2})))


# ---- Without effect, or with the same result ----


def run(tmp_path, algorithm="onpo-one", **options):
    """A short run with an evaluation behind it."""
    extra = {"eval_dataset": prompt_dataset(["c", "d e", "f"])}
    trainer = make_trainer(algorithm, tmp_path, extra=extra, **{"max_steps": 2, "num_iterations": 2} | options)
    trainer.train()
    trainer.evaluate()
    return trainer


def trained(tmp_path, **options):
    trainer = make_trainer("ipo", tmp_path, **options)
    trainer.train()
    return trainer


def assert_same_run(trainer, other):
    for name in ("loss", "eval_loss", "eval_policy/win_rate_reference", "completions/mean_length"):
        assert history(trainer, name) == pytest.approx(history(other, name), rel=1e-5)
    for first, second in zip(trainer.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def plain_runs(tmp_path_factory):
    """Runs without options, by (lora,)."""
    return {lora: run(tmp_path_factory.mktemp("plain"), lora=lora) for lora in (False, True)}


SAME_RUN = [
    {
        "average_tokens_across_devices": False,
        "logging_nan_inf_filter": True,
        "prediction_loss_only": True,
        "eval_do_concat_batches": False,
        "eval_accumulation_steps": 1,
        "dataloader_drop_last": True,
        "do_train": True,
        "do_eval": True,
        "do_predict": True,
        "vllm_mode": "server",
    },
    {"use_cache": True},
    {"cache_implementation": "static"},
    {"full_determinism": True},
    {"debug": "underflow_overflow"},
    {"gradient_checkpointing": True},
    {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"every_n_layers": 2}},
    {"accelerator_config": {"even_batches": False, "use_seedable_sampler": False, "non_blocking": True}},
]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("options", SAME_RUN, ids=lambda options: " ".join(options)[:60])
def test_same_run(options, lora, plain_runs, tmp_path):
    """What costs or saves memory and time, or has no meaning here, changes no loss and no weight."""
    try:
        trainer = run(tmp_path, lora=lora, **options)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same_run(trainer, plain_runs[lora])


def test_compiled(tmp_path):
    """`torch_compile` wraps the model, and changes no number."""
    options = {"torch_compile": True, "torch_compile_backend": "eager", "torch_compile_mode": "default"}
    plain, compiled = (trained(tmp_path, max_steps=2, **given) for given in ({}, options))
    assert isinstance(compiled.model_wrapped, torch._dynamo.OptimizedModule)
    assert_same_run(plain, compiled)


# ---- Works ----


def test_optimizer_and_schedule(tmp_path):
    """What transformers' optimizer and schedule are asked for is what they do."""
    trainer = make_trainer(
        "ipo",
        tmp_path,
        learning_rate=3e-3,
        lr_scheduler_type="cosine",
        lr_scheduler_kwargs={"num_cycles": 1.0},
        warmup_steps=1,
        optim="adamw_torch",
        weight_decay=0.1,
        adam_beta1=0.8,
        adam_beta2=0.95,
        adam_epsilon=1e-6,
        max_steps=5,
    )
    trainer.train()
    group = trainer.optimizer.param_groups[0]
    assert (group["weight_decay"], group["betas"], group["eps"]) == (0.1, (0.8, 0.95), 1e-6)
    rates = [0.0] + [3e-3 * (1 + math.cos(2 * math.pi * k / 4)) / 2 for k in range(4)]
    assert history(trainer, "learning_rate") == pytest.approx(rates)


def test_gradients_are_clipped(tmp_path):
    """A step of SGD with rate 1 is as long as `max_grad_norm`, which the gradient exceeds by far."""
    options = {"optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant"}
    trainer = make_trainer("ipo", tmp_path, max_grad_norm=1e-3, max_steps=1, **options)
    start = weights(trainer.model)
    trainer.train()
    assert history(trainer, "grad_norm")[0] > 1
    moved = [(weight - start[name]).square().sum() for name, weight in weights(trainer.model).items()]
    assert sum(moved).sqrt().item() == pytest.approx(1e-3, rel=1e-3)


def test_sampling_options(tmp_path):
    """They reach the generation's configuration, and what is in `generation_kwargs` goes before."""
    given = {"temperature": 0.7, "top_p": 0.9, "top_k": 3, "min_p": 0.01, "repetition_penalty": 1.1}
    options = {**given, "max_new_tokens": 4, "cache_implementation": "static"}
    trainer = make_trainer("ipo", tmp_path, max_length=10, generation_kwargs={"top_k": 5}, **options)
    for name, value in (options | {"top_k": 5}).items():
        assert getattr(trainer.sampler.config, name) == value, name
    assert trainer.sampler.render.limit == 6  # max_length - max_new_tokens


def asked_prompts(tmp_path, **options) -> list[str]:
    judge = CountingJudge()
    trainer = make_trainer("ipo", tmp_path, judge=judge, dataset=prompt_dataset("abcdefgh"), max_steps=4, **options)
    trainer.generate = lambda prompts, count, policy=None: ([[5]] * len(prompts), [[[6, 1], [7, 1]]] * len(prompts))
    trainer.train()
    return [prompt for call in judge.calls for prompt in call["prompts"]]


def test_seed_of_the_data(tmp_path):
    """`data_seed` alone decides the order of the prompts."""
    first = asked_prompts(tmp_path, data_seed=1, seed=1)
    assert len(first) == 8
    assert first == asked_prompts(tmp_path, data_seed=1, seed=2) != asked_prompts(tmp_path, data_seed=2, seed=1)


@pytest.mark.parametrize(
    "options, logged",
    [
        ({"logging_steps": 2}, [2, 4]),
        ({"logging_steps": 2, "logging_first_step": True}, [1, 2, 4]),
        ({"logging_strategy": "epoch"}, [2, 4]),
        ({"logging_strategy": "no"}, []),
    ],
)
def test_logs(options, logged, tmp_path):
    """Two steps an epoch. Metrics of rounds are in the same logs as the loss."""
    trainer = make_trainer("ipo", tmp_path, dataset=prompt_dataset(["a", "b", "c", "d"]), max_steps=4, **options)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in entries] == logged
    assert all("judge/preference" in entry for entry in entries)


@pytest.mark.parametrize("mode", ["all", "non_padding", True])
def test_tokens_seen_are_those_of_the_micro_batches(mode, tmp_path):
    """Prompts and completions of every pass, with or without their padding."""
    trainer = make_trainer(
        "ipo",
        tmp_path,
        include_num_input_tokens_seen=mode,
        gradient_accumulation_steps=2,
        num_iterations=2,
        max_steps=3,
    )
    seen, compute_loss = [], trainer.compute_loss

    def counted(model, batch, **kwargs):
        seen.append(batch.attention_mask.sum().item() if mode == "non_padding" else batch.input_ids.numel())
        return compute_loss(model, batch, **kwargs)

    trainer.compute_loss = counted
    trainer.train()
    assert len(seen) == 6 and trainer.state.num_input_tokens_seen == sum(seen) > 0
    assert history(trainer, "num_input_tokens_seen")[:3] == [sum(seen[: 2 * step]) for step in (1, 2, 3)]


def test_memory_is_measured(tmp_path):
    trainer = make_trainer("ipo", tmp_path, skip_memory_metrics=False, max_steps=1)
    assert "train_mem_cpu_alloc_delta" in trainer.train().metrics


def test_the_cache_of_the_device_is_emptied(tmp_path, monkeypatch):
    """In every second step."""
    emptied = []
    monkeypatch.setattr("transformers.trainer.clear_device_cache", lambda: emptied.append(trainer.state.global_step))
    trainer = make_trainer("ipo", tmp_path, torch_empty_cache_steps=2, max_steps=4)
    trainer.train()
    assert emptied == [0, 2]


@pytest.mark.parametrize("disable_tqdm", [False, True])
def test_bars(disable_tqdm, tmp_path, capsys, monkeypatch):
    """A bar of the run, and one of each part of a round that takes a while."""
    monkeypatch.setattr("trl_nash.trainers.run.reports.reporter.BAR_SECONDS", 0)
    trainer = make_trainer("ipo", tmp_path, disable_tqdm=disable_tqdm, steps_per_generation=2, max_steps=2)
    trainer.train()
    assert ("Round 1: sampling and judging" in capsys.readouterr().err) == (not disable_tqdm)


def test_evaluations(tmp_path):
    """At the start, and at every second step from the third on; so many prompts at a time."""
    trainer = make_trainer(
        "ipo",
        tmp_path,
        extra={"eval_dataset": prompt_dataset(["c", "d e", "f"])},
        eval_strategy="steps",
        eval_steps=2,
        eval_delay=3,
        eval_on_start=True,
        per_device_eval_batch_size=2,
        max_steps=4,
    )
    sizes, prediction_step = [], trainer.prediction_step
    trainer.prediction_step = lambda model, rows, *args, **kwargs: (
        sizes.append(len(rows)) or prediction_step(model, rows, *args, **kwargs)
    )
    trainer.train()
    evaluated = [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert evaluated == [0, 4] and sizes == [2, 1] * 2


def test_callbacks_come_back_from_a_checkpoint(tmp_path):
    """A run that was asked to stop goes on when it is resumed, with the state of the user's callbacks."""
    options = {"restore_callback_states_from_checkpoint": True, "max_steps": 4, "save_strategy": "steps"}
    options |= {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "policy/win_rate_reference"}

    class Stop(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 1:
                trainer.request_stop("enough")

    def build(*callbacks):
        patience = EarlyStoppingCallback(early_stopping_patience=100)
        extra = {"eval_dataset": prompt_dataset(["c"]), "callbacks": [patience, *callbacks]}
        return make_trainer("ipo", tmp_path, extra=extra, **options), patience

    trainer, patience = build(Stop())
    patience.early_stopping_patience_counter = 7
    with pytest.raises(Stopped):
        trainer.train()
    resumed, _ = build()
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    (restored,) = [c for c in resumed.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]
    assert restored is not patience and restored.early_stopping_patience == 100


def test_options_of_ddp(tmp_path):
    """They reach accelerate, which wraps the model with them."""
    given = {"bucket_cap_mb": 7, "find_unused_parameters": True, "broadcast_buffers": False, "static_graph": True}
    trainer = make_trainer("ipo", tmp_path, **{f"ddp_{name}": value for name, value in given.items()})
    for name, value in given.items():
        assert getattr(trainer.accelerator.ddp_handler, name) == value, name


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_checkpointing_survives_generation(lora, tmp_path):
    """
    With `every_n_layers=2` the first of two layers, and only that, is computed again in the backward pass, in the
    steps after a generation as in any other, and with the arguments that were given.
    """
    kwargs = {"every_n_layers": 2, "use_reentrant": False, "preserve_rng_state": False}
    options = {"activation_checkpointing": True, "activation_checkpointing_kwargs": kwargs}
    trainer = make_trainer("ipo", tmp_path, lora=lora, max_steps=3, **options)
    layers = trainer.model.get_base_model().model.layers if lora else trainer.model.model.layers
    counts, before = [0, 0], []
    for index, layer in enumerate(layers):
        forward = layer.mlp.forward

        def counted(*args, index=index, forward=forward, **kwargs):
            counts[index] += torch.is_grad_enabled()
            return forward(*args, **kwargs)

        layer.mlp.forward = counted
    sample = trainer.sample_pairs
    trainer.sample_pairs = lambda prompts: before.append(counts[:]) or sample(prompts)
    trainer.train()
    assert before == [[0, 0], [2, 1], [4, 2]] and counts == [6, 3]
    assert [layer.gradient_checkpointing for layer in layers] == [True, False]
    assert layers[0]._gradient_checkpointing_func.keywords == {"use_reentrant": False, "preserve_rng_state": False}
