# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Bad input gets a sentence that names the argument, its value and the fix; bad luck stops a run without losing it."""

import logging
import math
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, IterableDataset
from helpers import (
    ALGORITHMS,
    PAIR_ALGORITHMS,
    equal,
    favours_a,
    history,
    lora_config,
    make_config,
    make_trainer,
    prompt_dataset,
    weights,
)
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from tiny import build_model, build_tokenizer
from transformers import LlamaConfig, LlamaForSequenceClassification, T5Config, T5ForConditionalGeneration

from trl_nash import COMALConfig, NashTrainer, ONPOConfig, RandomJudge
from trl_nash.trainers.checks.arguments import check_devices
from trl_nash.trainers.comal import minimum_reference_rounds


NOWHERE = "does/not/exist"  # loading it is an OSError, so a ValueError came before


def build_unloaded(output_dir, algorithm="ipo", **arguments):
    """Builds a trainer whose model does not exist: what raises a ValueError here is refused before a model loads."""
    options = {key: arguments.pop(key) for key in list(arguments) if key in OPTIONS_OF_CONFIG}
    defaults = {"train_dataset": prompt_dataset(), "processing_class": build_tokenizer()}
    if "judge" not in arguments and "reward_funcs" not in arguments:
        defaults["judge"] = favours_a
    args = make_config(algorithm, output_dir, **options)
    return ALGORITHMS[algorithm][0](NOWHERE, args=args, **defaults | arguments)


OPTIONS_OF_CONFIG = {
    *("loss_type", "remove_unused_columns", "neftune_noise_alpha", "label_smoothing_factor", "auto_find_batch_size"),
    *("disable_dropout", "generation_kwargs", "missing_eos_penalty", "reward_weights", "reward_model_path"),
    *("steps_per_generation", "per_device_train_batch_size", "gradient_accumulation_steps", "temperature"),
    "accelerator_config",
}


def test_the_model_that_does_not_exist_is_looked_for_last(tmp_path):
    """Without any fault the missing model is the error, so the tests below do show the order."""
    with pytest.raises(OSError, match="does/not/exist"):
        build_unloaded(tmp_path)


# ---- Options that cannot apply ----


@pytest.mark.parametrize("algorithm", ["ipo", "nash-md"])
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"loss_type": "ipo"}, r"`loss_type='ipo'` cannot apply here: the loss is the algorithm: .* at 'sigmoid'"),
        ({"remove_unused_columns": True}, "`remove_unused_columns=True` cannot apply here: .* Leave it at False"),
        ({"neftune_noise_alpha": 5.0}, "`neftune_noise_alpha=5.0` cannot apply here: .* Leave it at None"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor=0.1` cannot apply here: soft labels"),
        ({"auto_find_batch_size": True}, "`auto_find_batch_size=True` cannot .* `per_device_train_batch_size`"),
        ({"disable_dropout": False}, "`disable_dropout=False` cannot apply here: dropout makes the policy differ"),
        ({"data_collator": lambda rows: rows}, "`data_collator` cannot apply here: transform the rows .* `map`"),
        ({"compute_metrics": lambda p: {}}, "`compute_metrics` cannot apply here: evaluation reports preference"),
        ({"preprocess_logits_for_metrics": lambda x, y: x}, "`preprocess_logits_for_metrics` cannot apply here"),
        ({"generation_kwargs": {"num_beams": 4}}, "Pairs are sampled: remove `num_beams`"),
        ({"generation_kwargs": {"do_sample": False}}, "Pairs are sampled: remove .*`do_sample`"),
        ({"generation_kwargs": {"temperature": 0.5}}, "Set `temperature` itself, not in `generation_kwargs`"),
        ({"judge": None}, "Who says which completion is better. Pass `judge=` or `reward_funcs=`"),
        ({"judge": favours_a, "reward_funcs": len}, "Pass either `judge` or `reward_funcs`"),
        (
            {"missing_eos_penalty": 1.0},
            "`missing_eos_penalty` belongs to `reward_funcs`; with `judge` it",
        ),
        ({"reward_weights": [1.0]}, "`reward_weights` belongs to `reward_funcs`"),
        ({"reward_model_path": "x"}, "`reward_model_path` belongs to `reward_funcs`"),
        ({"judge": "rewardd:org/model"}, "Unknown judge 'rewardd:org/model', did you mean 'reward'"),
        ({"judge": "no_such_package:judge"}, "Unknown judge 'no_such_package:judge'.*No module named"),
        ({"judge": []}, "`judges` is a list of judges, with at least one"),
        ({"judge": [favours_a, "rewardd"]}, "Unknown judge 'rewardd', did you mean 'reward'"),
    ],
)
def test_options_that_cannot_apply_are_refused_before_the_model_loads(arguments, message, algorithm, tmp_path):
    """Each is a ValueError that names the option, its value and what to do; none is ignored."""
    with pytest.raises(ValueError, match=message):
        build_unloaded(tmp_path, algorithm, **arguments)


@pytest.mark.parametrize("judge", [3, favours_a.__class__, object()])
def test_what_is_no_judge_is_a_type_error(judge, tmp_path):
    """A number, a class or any object that cannot be called is a TypeError before the model loads."""
    with pytest.raises(TypeError, match="judge|class"):
        build_unloaded(tmp_path, judge=judge)


@pytest.mark.parametrize(
    "given, expected", [(ONPOConfig, "comal"), (COMALConfig, "onpo-one"), (ONPOConfig, "nash-md")]
)
def test_config_of_another_algorithm_is_a_type_error(given, expected, tmp_path):
    """COMALTrainer refuses an ONPOConfig, before the model loads, and says which config it takes."""
    trainer_class, config_class, _ = ALGORITHMS[expected]
    args = given(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    with pytest.raises(TypeError, match=f"`args` must be a {config_class.__name__} .* got a {given.__name__}"):
        trainer_class(NOWHERE, args=args, train_dataset=prompt_dataset(), judge=favours_a)


def test_reward_model_whose_tokenizer_is_unknown(tmp_path):
    """A reward model that came from nowhere needs `reward_processing_classes`."""
    config = LlamaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, num_labels=1)
    with pytest.raises(ValueError, match="its tokenizer is unknown; pass it as .* as `reward_processing_classes`"):
        make_trainer("ipo", tmp_path, judge=None, extra={"reward_funcs": LlamaForSequenceClassification(config)})


@pytest.mark.parametrize(
    "extra, options, message",
    [
        (
            {"reward_funcs": [len, len]},
            {"reward_weights": [1.0]},
            "`reward_weights` has 1 entries for 2",
        ),
        ({"reward_funcs": []}, {}, "`reward_funcs` is an empty list"),
        ({"reward_funcs": len}, {"missing_eos_penalty": -1.0}, "`missing_eos_penalty` .* must be positive, got -1"),
    ],
)
def test_rewards_that_do_not_fit_together(extra, options, message, tmp_path):
    """Lengths and signs of the reward options are checked when the trainer is built."""
    with pytest.raises(ValueError, match=message):
        make_trainer("ipo", tmp_path, judge=None, extra=extra, **options)


def test_tokenizer_of_a_model_from_nowhere(tmp_path):
    """A model that was built from a config and no `processing_class`: the sentence says to pass the tokenizer."""
    with pytest.raises(ValueError, match="`processing_class`"):
        NashTrainer(
            build_model(build_tokenizer()),
            args=make_config("ipo", tmp_path),
            train_dataset=prompt_dataset(),
            judge=favours_a,
        )


# ---- Models ----


def test_encoder_decoders_are_refused(tmp_path):
    """T5 has no next-token distribution over prompt and completion."""
    model = T5ForConditionalGeneration(T5Config(vocab_size=21, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(ValueError, match="Encoder-decoder models are not supported: pass a causal language model"):
        make_trainer("ipo", tmp_path, model=model)


def test_vision_language_models_are_refused(tmp_path):
    """A model whose config has a vision part is refused, image columns or not."""
    model = build_model(build_tokenizer())
    model.config.vision_config = {"hidden_size": 8}
    with pytest.raises(ValueError, match="Vision-language models are not supported: pass a text-only"):
        make_trainer("ipo", tmp_path, model=model)


def test_image_columns_are_refused(tmp_path):
    """An image column is refused before the model loads, in either dataset."""
    images = prompt_dataset(["a"] * 4, image=[0] * 4)
    for name in ("train_dataset", "eval_dataset"):
        with pytest.raises(ValueError, match=f"`{name}` has an image column: .* Remove it with `remove_columns`"):
            build_unloaded(tmp_path, **{name: images})


def test_reference_that_is_the_model_is_refused(tmp_path):
    """The same object as model and reference would move with the policy."""
    model = build_model(build_tokenizer())
    with pytest.raises(ValueError, match="`ref_model` is the same object as `model`: leave it out"):
        make_trainer("ipo", tmp_path, model=model, extra={"ref_model": model})


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig])
def test_prompt_learning_is_refused(config, tmp_path):
    """Virtual tokens shift the positions that are scored."""
    with pytest.raises(ValueError, match="Prompt-learning adapters shift .* use LoRA"):
        make_trainer("ipo", tmp_path, peft_config=config(task_type="CAUSAL_LM", num_virtual_tokens=2))


def test_frozen_adapter_is_refused(tmp_path):
    """A PEFT model loaded for inference has nothing to train."""
    tokenizer = build_tokenizer()
    model = get_peft_model(build_model(tokenizer), lora_config())
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="Nothing in the model is trainable.*is_trainable=True"):
        make_trainer("ipo", tmp_path, model=model, tokenizer=tokenizer)


def test_data_parallel_is_refused(tmp_path, monkeypatch):
    """Two GPUs in one process would mean nn.DataParallel: the sentence says how to launch."""
    with pytest.raises(ValueError, match=r"2 GPUs are visible to one process.*`accelerate launch`.*CUDA_VISIBLE_DEV"):
        check_devices(SimpleNamespace(n_gpu=2))
    check_devices(SimpleNamespace(n_gpu=1))
    called = []
    monkeypatch.setattr("trl_nash.trainers.checks.arguments.check_devices", called.append)
    trainer = make_trainer("ipo", tmp_path)
    assert called == [trainer.args]


def test_functional_dropout_is_off(tmp_path):
    """Dropout that is no module (attention_dropout) is zeroed: two forwards of the training policy agree bitwise."""
    model = build_model(build_tokenizer(), attention_dropout=0.5)
    trainer = make_trainer("ipo", tmp_path, model=model)
    trainer.model.train()
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(trainer.model(input_ids=ids).logits, trainer.model(input_ids=ids).logits)


# ---- Config values ----


@pytest.mark.parametrize(
    "algorithm, options, message",
    [
        ("ipo", {"num_generations": 1}, "`num_generations` must be at least 2, got 1"),
        ("ipo", {"num_iterations": 0}, "`num_iterations` must be at least 1, got 0"),
        ("ipo", {"steps_per_generation": 0}, "`steps_per_generation` must be at least 1, got 0"),
        ("ipo", {"max_nan_rate": 1.5}, "`max_nan_rate` must be between 0 and 1, got 1.5"),
        ("ipo", {"temperature": 0.0}, "`temperature` must be positive, got 0"),
        ("ipo", {"reward_temperature": -1.0}, "`reward_temperature` must be positive, got -1"),
        ("ipo", {"beta": 0.1}, "`beta=0.1` has no meaning in PairConfig: .* COMALConfig and NashMDConfig have one"),
        ("onpo-one", {"beta": [0.0, 0.1]}, "`beta=.0.0, 0.1.` has no meaning in ONPOConfig"),
        ("ipo", {"max_length": 5, "max_new_tokens": 5}, r"`max_length` \(5\) .* must exceed `max_new_tokens` \(5\)"),
        (
            "ipo",
            {"preference_label": "hard"},
            "`preference_label` must be one of 'soft', .* got 'hard'",
        ),
        (
            "ipo",
            {"pair_selection": "best"},
            "`pair_selection` must be one of 'all', 'iid', 'random', 'circular', 'swiss', 'elimination', "
            "'tournament', 'best_worst', 'active', got 'best'",
        ),
        ("ipo", {"step_size": -1.0}, "`step_size` must be at least 0, got -1"),
        ("ipo", {"step_size": []}, "`step_size` is an empty list: give at least one number"),
        ("ipo", {"step_size": ["x"]}, "`step_size` must be at least 0, got 'x'"),
        ("ipo", {"generation_batch_size": 3}, r"`generation_batch_size` \(3\) must be a multiple of .* = 2"),
        ("ipo", {"generation_batch_size": 1}, r"`generation_batch_size` \(1\) must be a multiple"),
        (
            "ipo",
            {"generation_batch_size": 4, "steps_per_generation": 3},
            "means 2 micro-steps .* Set only one",
        ),
        (
            "ipo",
            {"steps_per_generation": 3, "gradient_accumulation_steps": 2},
            r"`steps_per_generation \* num_iterations` \(3 \* 1\) must be a multiple of `gradient_acc.*\(2\)",
        ),
        ("comal", {"step_size": 10.0, "beta": 0.2}, r"`step_size \* beta` .* cannot exceed 1, got 10 \* 0.2 = 2"),
        ("comal", {"step_size": [1.0, 10.0], "beta": 0.2}, r"cannot exceed 1, got 10 \* 0.2 = 2"),
        ("comal", {"reference_rounds": 0}, "`reference_rounds` must be at least 1, got 0"),
        ("onpo-one", {"fits": "three"}, "`fits` must be one of 'one', 'two', got 'three'"),
        ("onpo-one", {"anchor_history": 1}, "`anchor_history` must be at least 2, got 1"),
        ("nash-md", {"mixture_coef": 1.5}, "`mixture_coef` must be between 0 and 1, got 1.5"),
        ("nash-md", {"mixture_coef": [0.5, -0.1]}, "`mixture_coef` must be between 0 and 1, got -0.1"),
        ("nash-ema", {"ema_decay": 2.0}, "`ema_decay` must be between 0 and 1, got 2"),
        ("nash-ema", {"opponent": "self"}, "`opponent` must be one of 'mixture', 'ema', got 'self'"),
        ("nash-md", {"beta": -0.1}, "`beta` must be at least 0, got -0.1"),
        ("nash-md", {"num_iterations": 2}, "A policy gradient is on-policy: a round must be one optimizer step"),
        ("nash-md", {"steps_per_generation": 2}, "A policy gradient is on-policy"),
    ],
)
def test_config_values_out_of_range(algorithm, options, message, tmp_path):
    """A value out of its range is a ValueError when the config is built, with the value and the range."""
    with pytest.raises(ValueError, match=message):
        make_config(algorithm, tmp_path, **options)


# ---- Datasets ----


@pytest.mark.parametrize(
    "dataset, message",
    [
        (Dataset.from_dict({"prompt": []}), "`train_dataset` is empty"),
        (Dataset.from_dict({"text": ["a"]}), r"`train_dataset` has no column 'prompt', only 'text'\. Rename"),
        (Dataset.from_dict({}), "`train_dataset` has no column 'prompt', only no columns at all"),
        (prompt_dataset(["a", "", "b"]), "The prompt in row 1 of `train_dataset` is '': .* not empty"),
        (prompt_dataset(["a", "  \n"]), "The prompt in row 1 of `train_dataset`"),
        (prompt_dataset([None, "a"]), "The prompt in row 0 of `train_dataset` is None"),
        (
            prompt_dataset([3, 4]),
            "The prompt in row 0 of `train_dataset` is 3: a prompt is a text or a list",
        ),
        (prompt_dataset([[{"role": "user", "content": ""}]] * 2), "The prompt in row 0 of `train_dataset`"),
        (prompt_dataset([[{"role": "user", "content": "a"}], []]), r"The prompt in row 1 of `train_dataset` is \[\]"),
        (prompt_dataset(["a"]), "`train_dataset` has 1 prompts, fewer than a round of 2"),
    ],
)
def test_datasets_that_cannot_be_trained_on(dataset, message, tmp_path):
    """A bad dataset is refused before the model loads; a bad row is named by its number."""
    with pytest.raises(ValueError, match=message):
        build_unloaded(tmp_path, train_dataset=dataset)


def test_dataset_smaller_than_a_round_counts_the_round(tmp_path):
    """2 prompts a micro-step x 5 micro-steps are a round of 10; 8 prompts are fewer."""
    with pytest.raises(ValueError, match="has 8 prompts, fewer than a round of 10 .* or add prompts"):
        build_unloaded(tmp_path, steps_per_generation=5)


def test_list_smaller_than_a_round(tmp_path):
    """A list of rows is counted as a table is."""
    with pytest.raises(ValueError, match="has 3 prompts, fewer than a round of 4"):
        build_unloaded(tmp_path, steps_per_generation=2, train_dataset=[{"prompt": "a"}] * 3)
    with pytest.raises(ValueError, match="`train_dataset` is empty"):
        build_unloaded(tmp_path, train_dataset=[])


def test_split_batches_are_refused(tmp_path):
    """It would make the batch of one process that of all."""
    with pytest.raises(ValueError, match="`split_batches=True` in `accelerator_config` .* Leave it at False"):
        build_unloaded(tmp_path, accelerator_config={"split_batches": True})


@pytest.mark.parametrize("rows", [0, 3])
def test_stream_smaller_than_a_round(rows, tmp_path):
    """A stream that ends before a round of 4 is full is an error, not a training of 0 steps."""
    stream = IterableDataset.from_generator(lambda: ({"prompt": "a"} for _ in range(rows)))
    trainer = make_trainer("ipo", tmp_path, dataset=stream, max_steps=2, steps_per_generation=2)
    with pytest.raises(ValueError, match="`train_dataset` ended before .* round of 4 prompts"):
        trainer.train()


def test_train_dataset_is_required(tmp_path):
    """No dataset is a sentence too."""
    with pytest.raises(ValueError, match="`train_dataset` is required"):
        NashTrainer(
            build_model(build_tokenizer()),
            args=make_config("ipo", tmp_path),
            processing_class=build_tokenizer(),
            judge=favours_a,
        )


@pytest.mark.parametrize("row", [{"prompt": ""}, {"text": "a"}, {"prompt": []}])
def test_bad_row_of_a_stream(row, tmp_path):
    """A stream's rows are checked when they come."""
    stream = IterableDataset.from_generator(lambda: (row for _ in range(8)))
    with pytest.raises(ValueError, match="The prompt in the row .* a prompt is a text or a list of messages"):
        make_trainer("ipo", tmp_path, dataset=stream, max_steps=1).train()


@pytest.mark.parametrize("evaluation", [{"easy": prompt_dataset([""])}, prompt_dataset([""])])
def test_eval_datasets_are_checked(evaluation, tmp_path):
    """Evaluation sets are checked with the training set, each under its name; one prompt is enough there."""
    name = r"eval_dataset\['easy'\]" if isinstance(evaluation, dict) else "eval_dataset"
    with pytest.raises(ValueError, match=f"The prompt in row 0 of `{name}`"):
        build_unloaded(tmp_path, eval_dataset=evaluation)
    with pytest.raises(OSError, match="does/not/exist"):
        build_unloaded(tmp_path, eval_dataset=prompt_dataset(["a"]))


# ---- Judges that misbehave ----


@pytest.mark.parametrize(
    "verdicts, message",
    [
        (lambda n: [0.5] * (n + 1), r"returned \d+ values; expected \d+, one for each row"),
        (lambda n: [], r"returned 0 values; expected \d+"),
        (lambda n: [1.5] * n, "returned 1.5; expected the probability, from 0 to 1, .* use `RewardJudge`"),
        (lambda n: [-0.1] * n, "returned -0.1; expected the probability"),
        (lambda n: ["A"] * n, r"returned 'A' \(str\); expected numbers, or nan for no opinion"),
        (lambda n: 0.5, r"returned 0.5; expected a list of \d+ numbers"),
        (lambda n: None, r"returned None; expected a list of \d+ numbers"),
        (lambda n: [math.inf] * n, "returned inf; expected the probability"),
    ],
)
@pytest.mark.parametrize("algorithm", ["ipo", "nash-md"])
def test_judges_answers_are_checked(algorithm, verdicts, message, tmp_path):
    """A wrong answer is a ValueError with the judge's name, what came and what is expected."""

    def strange_judge(prompts, first, second):
        return verdicts(len(prompts))

    with pytest.raises(ValueError, match=f"strange_judge {message}"):
        make_trainer(algorithm, tmp_path, judge=strange_judge, max_steps=1).train()


@pytest.mark.parametrize(
    "rewards, message",
    [
        (lambda n: [0.0] * (n - 1), r"returned \d+ values; expected \d+"),
        (lambda n: ["good"] * n, r"returned 'good' \(str\)"),
    ],
)
def test_rewards_are_checked(rewards, message, tmp_path):
    """So are the answers of a reward function."""

    def strange_reward(completions, **kwargs):
        return rewards(len(completions))

    with pytest.raises(ValueError, match=f"The reward function strange_reward {message}"):
        make_trainer("ipo", tmp_path, judge=None, extra={"reward_funcs": strange_reward}, max_steps=1).train()


def silent_on(*words):
    """A judge that abstains on prompts with one of these words."""

    def judge(prompts, first, second):
        verdicts = RandomJudge()(prompts, first, second)
        return [math.nan if set(words) & set(p.split()) else v for p, v in zip(prompts, verdicts, strict=True)]

    judge.symmetric = True
    return judge


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_silence_on_a_whole_micro_batch_goes_on(algorithm, lora, tmp_path):
    """
    Of 2 micro-batches a step the judge says nothing on one, here: of the prompts "c", on which it abstains, and "d".
    With one prompt a micro-batch, a step's other half is trained on, abstentions are counted, weights stay finite.
    """
    trainer = make_trainer(
        algorithm,
        tmp_path,
        judge=silent_on("c"),
        lora=lora,
        dataset=prompt_dataset(["c", "d"]),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        max_steps=4,
        max_new_tokens=4,
    )
    silent = []  # by round
    micro_batches = trainer.collector.micro_batches
    trainer.collector.micro_batches = lambda judged, *labels: (
        silent.append(judged.preference.isnan().float().mean().item()) or micro_batches(judged, *labels)
    )
    start = weights(trainer.model)
    trainer.train()
    assert trainer.state.global_step == 4
    assert max(silent) > 0.2  # the rest are pairs of equal completions, a tie without being asked
    assert history(trainer, "judge/abstained") == pytest.approx(silent)
    assert all(math.isfinite(value) for value in history(trainer, "loss") + history(trainer, "grad_norm"))
    assert all(tensor.isfinite().all() for tensor in weights(trainer.model).values())
    assert not equal(weights(trainer.model), start)


def never(prompts, first, second):
    """A judge without any opinion."""
    return [math.nan] * len(prompts)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_silent_round_moves_nothing(algorithm, tmp_path):
    """
    A round without a verdict has no gradient: with `max_nan_rate=1` the run goes on, and plain SGD leaves the weights
    where they are, bitwise. (Ties of equal completions have margin 0, target 0; Nash-MD's KL term is 0 in round 1.)
    """
    trainer = make_trainer(algorithm, tmp_path, judge=never, max_nan_rate=1.0, max_steps=1, optim="sgd")
    start = weights(trainer.model)
    trainer.train()
    assert history(trainer, "judge/abstained")[0] > 0.4
    assert history(trainer, "grad_norm") == [0.0]
    assert equal(weights(trainer.model), start)


@pytest.mark.parametrize("silent, goes_on", [(["c"], True), (["c", "d"], False)])
def test_more_than_half_of_a_round_stops(silent, goes_on, tmp_path):
    """`max_nan_rate=.5`: half of a round abstained goes on, three quarters stop."""
    rows = {1: ["c", "a"], 2: ["c", "d", "c", "a"]}[len(silent)]
    trainer = make_trainer(
        "ipo",
        tmp_path,
        judge=silent_on(*silent),
        dataset=prompt_dataset(rows),
        per_device_train_batch_size=len(rows),
        max_steps=1,
    )
    trainer.generate = distinct_answers(trainer)
    if goes_on:
        assert trainer.train().global_step == 1
        return
    said = r"^3 of the 4 pairs of round 1 have no verdict, more than .* \(0.5\) allows: the judge abstained on 3\. See"
    with pytest.raises(RuntimeError, match=said):
        trainer.train()


def distinct_answers(trainer):
    """Every prompt is answered with "a" and "b", so that no pair is a tie."""
    encode = trainer._tokenizer
    answers = [encode(text)["input_ids"] for text in ("a <eos>", "b <eos>")]

    def generate(prompts, count, policy=None):
        return [encode(prompt)["input_ids"] for prompt in prompts], [answers] * len(prompts)

    return generate


@pytest.mark.parametrize("rounds_before, lora", [(0, False), (2, True)])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_judge_that_falls_silent_stops_the_run_and_loses_nothing(algorithm, rounds_before, lora, tmp_path):
    """
    The round in which the judge says nothing ends the run with a checkpoint of the step before it, from which a run
    with a better judge goes on to `max_steps`, with finite weights and the log of all its rounds.
    """
    steps = rounds_before * (2 if algorithm == "onpo-two" else 1)  # two fits a round
    options = {"max_steps": steps + 2, "lora": lora, "max_nan_rate": 0.25}  # half of the pairs of Nash-MD are ties
    trainer = make_trainer(algorithm, tmp_path, **options)
    sample_pairs, rounds = trainer.sample_pairs, []

    def count_rounds(prompts):
        rounds.append(prompts)
        if len(rounds) > rounds_before:
            trainer.judge.function = never
        return sample_pairs(prompts)

    trainer.sample_pairs = count_rounds
    trainer.generate = distinct_answers(trainer)
    message = f"of round {rounds_before + 1} have no verdict, .* A checkpoint of step {steps} is in "
    with pytest.raises(RuntimeError, match=message) as error:
        trainer.train()
    assert "See why, then resume" in str(error.value)
    checkpoint = tmp_path / f"checkpoint-{steps}"
    stopped_at = weights(trainer.model)

    resumed = make_trainer(algorithm, tmp_path, **options)
    started_at = []
    fit = resumed.objective

    def objective(logps, batch):
        started_at.append(weights(resumed.model))
        return fit(logps, batch)

    resumed.objective = objective
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert equal(started_at[0], stopped_at)
    assert resumed.state.global_step == steps + 2
    assert len(history(resumed, "loss")) == steps + 2
    assert all(tensor.isfinite().all() for tensor in weights(resumed.model).values())


# ---- Numbers that are not finite ----


@pytest.mark.parametrize("algorithm", PAIR_ALGORITHMS)
def test_loss_that_overflows_stops_before_the_step(algorithm, tmp_path):
    """
    With step_size = 1e30 the squared residual overflows fp32. The run stops with step, round and the batch's prompts;
    the weights are the ones from before the step, and nothing is saved that could be taken for a good checkpoint.
    """
    trainer = make_trainer(
        algorithm, tmp_path, step_size=1e30, dataset=prompt_dataset(["c d", "e"]), max_steps=3, **beta_of(algorithm)
    )
    trainer.generate = distinct_answers(trainer)
    start = weights(trainer.model)
    with pytest.raises(RuntimeError) as error:
        trainer.train()
    message = str(error.value)
    assert message.startswith("The loss is inf at step 0 (round 1). Prompts of the batch: [")
    assert "'c d'" in message and "'e'" in message
    assert "Lower `learning_rate` or `step_size`" in message and "none was saved of this step" in message
    assert equal(weights(trainer.model), start)
    assert not list(tmp_path.glob("checkpoint-*"))


def beta_of(algorithm):
    return {"beta": 0.0} if algorithm == "comal" else {}


def saved_weights(checkpoint):
    return load_file(checkpoint / "model.safetensors")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("algorithm", ["ipo", "nash-md"])
def test_loss_that_is_not_finite_later_on(algorithm, value, tmp_path):
    """
    At step 2 of a run that keeps one checkpoint, that of step 2 stays alone: it holds the finite weights of before the
    step, and is what `resume_from_checkpoint=True` finds and goes on from.
    """
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    trainer = make_trainer(algorithm, tmp_path, **options)
    objective = trainer.objective
    trainer.objective = lambda logps, batch: (
        objective(logps, batch) + (value if trainer.state.global_step == 2 else 0.0)
    )
    with pytest.raises(RuntimeError, match=rf"The loss is {value} at step 2 \(round 3\)\. Prompts of the batch: "):
        trainer.train()
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-2"
    assert equal(saved_weights(checkpoint), weights(trainer.model))
    assert all(tensor.isfinite().all() for tensor in saved_weights(checkpoint).values())
    resumed = make_trainer(algorithm, tmp_path, **options)
    steps = []
    objective = resumed.objective
    resumed.objective = lambda logps, batch: steps.append(resumed.state.global_step) or objective(logps, batch)
    assert resumed.train(resume_from_checkpoint=True).global_step == 4
    assert steps == [2, 3]


def test_a_loss_of_evaluation_that_is_not_finite_is_no_loss_of_a_step(tmp_path):
    """It is logged as what it is, and the run goes on; nothing of an evaluation is kept for the step after it."""
    evaluation = {"extra": {"eval_dataset": prompt_dataset(["a", "b"])}, "eval_strategy": "steps", "eval_steps": 1}
    trainer = make_trainer("ipo", tmp_path, max_steps=3, **evaluation)
    objective = trainer.objective
    trainer.objective = lambda logps, batch: objective(logps, batch) + (0.0 if trainer.model.training else math.nan)
    assert trainer.train().global_step == 3
    assert len(history(trainer, "eval_loss")) == 3 and all(map(math.isnan, history(trainer, "eval_loss")))
    assert trainer.stops._losses == []


def test_gradient_that_is_not_finite(tmp_path):
    """A finite loss with a nan gradient (the square root at 0) stops before it reaches the weights."""
    trainer = make_trainer("ipo", tmp_path, max_steps=3, save_strategy="steps", save_steps=1, save_total_limit=1)
    objective = trainer.objective

    def rooted(logps, batch):
        root = (logps * 0.0).sum().abs().sqrt()  # 0, with the derivative 0 * inf
        return objective(logps, batch) + (root if trainer.state.global_step == 1 else 0.0)

    trainer.objective = rooted
    with pytest.raises(RuntimeError, match=r"The gradient norm is nan at step 1 \(round 2\)\. Lower `learning_rate`"):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    assert equal(saved_weights(tmp_path / "checkpoint-1"), weights(trainer.model))
    assert all(tensor.isfinite().all() for tensor in weights(trainer.model).values())


@pytest.mark.parametrize("algorithm", ["ipo", "nash-md"])
def test_policy_that_has_diverged(algorithm, tmp_path):
    """After a step of 1e30 nothing can be sampled; that is a sentence with step and round, not torch's."""
    trainer = make_trainer(algorithm, tmp_path, learning_rate=1e30, lr_scheduler_type="constant", max_steps=3)
    with pytest.raises(RuntimeError, match=r"diverged: .*step 1 \(round 2\).*`learning_rate`"):
        trainer.train()


# ---- Warnings ----


def messages(caplog, part: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if part in record.getMessage()]


@pytest.mark.parametrize("rho, needed", [(1.0, 2), (0.5, 3), (1 / 3, 5), (0.1, 19), (0.02, 95)])
def test_minimum_reference_rounds(rho, needed):
    """The smallest K with 1 - (1-ρ)^{2K} > 2ρK (1-ρ)^{K-1}, worked out here by trying every K."""
    by_hand = next(k for k in range(1, 500) if 1 - (1 - rho) ** (2 * k) > 2 * rho * k * (1 - rho) ** (k - 1))
    assert minimum_reference_rounds(rho) == by_hand


def test_comal_warns_of_too_few_reference_rounds(tmp_path, caplog):
    """With ρ = 10 * .01 = .1 and 4 rounds the warning holds both, the minimum and the better 2/ρ = 20."""
    with caplog.at_level(logging.WARNING, logger="trl_nash"):
        make_config("comal", tmp_path, step_size=10.0, beta=0.01, reference_rounds=4)
    needed = minimum_reference_rounds(0.1)
    (message,) = messages(caplog, "reference_rounds")
    assert "`reference_rounds=4` is too few for step_size * beta = 0.1: " in message
    assert f"Use at least {needed} (better 20)." in message
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="trl_nash"):
        make_config("comal", tmp_path, step_size=10.0, beta=0.01, reference_rounds=needed)
    assert messages(caplog, "reference_rounds") == []


@pytest.mark.parametrize(
    "options, named",
    [
        ({"top_p": 0.9}, "top_p=0.9"),
        ({"top_k": 5}, "top_k=5"),
        ({"min_p": 0.1}, "min_p=0.1"),
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2"),
        ({"generation_kwargs": {"top_p": 0.8}}, "top_p=0.8"),
        ({"top_p": 0.9, "top_k": 5}, "top_k=5, top_p=0.9"),
    ],
)
def test_biased_sampling_warns_once(options, named, tmp_path, caplog):
    """Sampling from another policy than the loss's is one warning per trainer, which names options and bias."""
    with caplog.at_level(logging.WARNING, logger="trl_nash"):
        make_trainer("ipo", tmp_path, max_steps=2, **options).train()
    (message,) = messages(caplog, "the pairs come from another policy")
    assert f"Sampling with {named}: " in message and "is biased" in message


def test_unbiased_sampling_does_not_warn(tmp_path, caplog):
    """Nor do the defaults, or the neutral values written out."""
    with caplog.at_level(logging.WARNING, logger="trl_nash"):
        make_trainer("ipo", tmp_path, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0)
        make_trainer("ipo", tmp_path)
    assert messages(caplog, "another policy") == []


@pytest.mark.parametrize(
    "algorithm, passes, warned",
    [
        ("onpo-one", 1, True),
        ("onpo-one", 9, True),
        ("onpo-one", 10, False),
        ("onpo-two", 4, True),  # two fits of 4 steps
        ("onpo-two", 5, False),
        ("comal", 9, True),
        ("comal", 10, False),
        ("ipo", 1, False),
        ("nash-md", 1, False),
        ("nash-ema", 1, False),
    ],
)
def test_short_rounds_warn_once(algorithm, passes, warned, tmp_path, caplog):
    """ONPO and COMAL, whose theory fits each round, warn once below 10 optimizer steps a round; the others never."""
    dataset = prompt_dataset(["a"] * 20)
    trainer = make_trainer(algorithm, tmp_path, dataset=dataset, num_iterations=passes, max_steps=1)
    with caplog.at_level(logging.WARNING, logger="trl_nash"):
        trainer.train()
        trainer.train()
    said = messages(caplog, "assume rounds that are fitted")
    assert len(said) == warned
    if warned:
        assert f"Optimizer steps a round: {trainer.args.optimizer_steps_per_round}." in said[0]
        assert "10 optimizer steps or more" in said[0]


def test_prompt_that_is_cut_is_said_once_and_counted(tmp_path, caplog):
    """Half of the prompts are longer than max_length - max_new_tokens = 8 - 5; that is no error."""
    dataset = prompt_dataset(["a b c d", "a"] * 4)
    trainer = make_trainer("ipo", tmp_path, dataset=dataset, max_length=8, per_device_train_batch_size=8, max_steps=2)
    with caplog.at_level(logging.WARNING, logger="trl_nash"):
        trainer.train()
    assert len(messages(caplog, "Some prompts are longer than max_length - max_new_tokens = 3 tokens")) == 1
    assert history(trainer, "prompts/cut_ratio") == [0.5, 0.5]


def test_a_scheduler_of_ones_own_cannot_be_restarted(tmp_path):
    """`restart_each_round` with a given scheduler would restart the optimizer only: it is refused instead."""
    model = build_model(build_tokenizer())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    with pytest.raises(ValueError, match="restart_each_round"):
        make_trainer(
            "comal", tmp_path, model=model, extra={"optimizers": (optimizer, scheduler)}, restart_each_round=True
        )


def test_a_judge_whose_column_is_missing_is_refused_before_the_model_is_loaded(tmp_path):
    def judge(prompts, first, second, topic):
        return [0.5] * len(first)

    with pytest.raises(ValueError, match="^The judge judge asks for the column 'topic', which `train_dataset` lacks"):
        build_unloaded(tmp_path, judge=judge)
    with pytest.raises(OSError):  # of the model, which is looked for after that
        build_unloaded(
            tmp_path, judge=judge, train_dataset=prompt_dataset().add_column("topic", ["t"] * len(prompt_dataset()))
        )
