# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a script written for OnlineDPOTrainer, or for TRL's removed NashMDTrainer, finds in its place."""

import copy
import inspect
import logging
import math
import textwrap
from dataclasses import dataclass, fields, replace

import pytest
import torch
from datasets import Dataset
from helpers import (
    ALGORITHMS,
    answer_with,
    equal,
    favours_a,
    history,
    lora_config,
    make_config,
    make_trainer,
    prompt_dataset,
    weights,
)
from peft import LoraConfig, get_peft_model
from tiny import build_model, build_tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForSequenceClassification, ProcessorMixin, TrainerCallback

from trl_nash import (
    BasePairwiseJudge,
    COMALConfig,
    COMALTrainer,
    NashConfig,
    NashMDTrainer,
    NashTrainer,
    ONPOConfig,
    ONPOTrainer,
    PairConfig,
)
from trl_nash.algorithms import INITIAL
from trl_nash.compat import OnlineDPOConfig, OnlineDPOTrainer


TRAINERS = [NashTrainer, ONPOTrainer, COMALTrainer, NashMDTrainer]
CPU = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
SMALL = {"max_new_tokens": 5, "max_length": 24, "per_device_train_batch_size": 2, "gradient_checkpointing": False}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def judged(trainer, rows: list[dict]) -> torch.Tensor:
    """What the trainer's judge says of completion 0 against completion 1 for each row."""
    (found,) = trainer.collector.collect(rows)
    return found.preference[:, 0]


# ---- The constructor ----


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_constructor_has_the_arguments_of_online_dpo_and_then_its_own(trainer_class):
    """
    Names and order are OnlineDPOTrainer's, behind which come `judge` and with whom dialogues are held, in the names of
    GRPOTrainer where it has them; whatever has a default there has it here.
    """
    ours = inspect.signature(trainer_class.__init__).parameters
    theirs = inspect.signature(OnlineDPOTrainer.__init__).parameters
    assert list(ours) == [*theirs, "judge", "tools", "rollout_func", "environment_factory", "user"]
    assert all(ours[name].default == parameter.default for name, parameter in theirs.items())


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_constructor_is_typed(trainer_class):
    parameters = list(inspect.signature(trainer_class).parameters.values())
    assert [parameter.name for parameter in parameters if parameter.annotation is inspect.Parameter.empty] == []


@pytest.mark.parametrize(
    "old, new",
    [
        ("tokenizer", "processing_class"),
        ("reward_model", "reward_funcs"),
        ("reward_processing_class", "reward_processing_classes"),
    ],
)
def test_names_of_older_scripts_say_what_they_are_called_now(old, new, tmp_path):
    args = make_config("comal", tmp_path)
    with pytest.raises(TypeError, match=f"`{old}=` is called `{new}=` now"):
        COMALTrainer("model", args=args, train_dataset=prompt_dataset(), **{old: build_tokenizer()})
    with pytest.raises(TypeError, match="unexpected keyword argument 'tokeniser'"):
        COMALTrainer("model", tokeniser=None)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_options_that_a_config_lacks_are_answered_with_the_nearest(algorithm, tmp_path):
    """As on the command line, whatever GRPO calls them."""
    config = ALGORITHMS[algorithm][1]
    meant = {"max_completion_length": ": did you mean max_new_tokens", "learning_rat": ": did you mean learning_rate"}
    for name, hint in {**meant, "qqq": "."}.items():
        with pytest.raises(TypeError, match=f"{config.__name__} has no option `{name}`{hint}"):
            config(output_dir=str(tmp_path), **{name: 64})


def test_a_config_of_ones_own_takes_what_it_says(tmp_path):
    """A subclass may add fields, or a constructor that takes anything; copies are made as of any dataclass."""

    @dataclass
    class Mine(COMALConfig):
        mine: int = 1

    class Any(COMALConfig):
        def __init__(self, **kwargs):
            super().__init__(output_dir=kwargs.pop("folder"), **kwargs)

    made = Mine(output_dir=str(tmp_path), use_cpu=True, bf16=False, mine=2)
    assert replace(made, mine=3).mine == 3 and copy.deepcopy(made) == made
    assert Any(folder=str(tmp_path), use_cpu=True, bf16=False).output_dir == str(tmp_path)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_positional_arguments(algorithm, tmp_path):
    """Called by position, every argument lands where OnlineDPOTrainer has it."""
    tokenizer, model, reference = build_tokenizer(), build_model(build_tokenizer()), build_model(build_tokenizer(), 5)
    train, evaluation = prompt_dataset(), prompt_dataset(["a"])
    callback, args = RecordSteps(), make_config(algorithm, tmp_path, max_steps=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    trainer = ALGORITHMS[algorithm][0](
        *(model, reference, None, args, None, train, evaluation, tokenizer, None, None, None),
        *([callback], (optimizer, schedule), None, favours_a),
    )
    assert trainer.args is args and trainer.processing_class is tokenizer
    assert trainer.model is model and trainer.ref_model is reference
    assert trainer.train_dataset is train and trainer.eval_dataset is evaluation
    assert (trainer.optimizer, trainer.lr_scheduler) == (optimizer, schedule)
    trainer.train()
    assert callback.steps == 1
    assert trainer.judge.function is favours_a


class RecordSteps(TrainerCallback):
    def __init__(self):
        self.steps = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_args_may_be_left_out(trainer_class, tmp_path, monkeypatch):
    """`args=None` gives the algorithm's defaults, a folder named after model and algorithm, and it runs."""
    monkeypatch.chdir(tmp_path)
    build_model(build_tokenizer()).save_pretrained("models/tiny")
    trainer = trainer_class(
        "models/tiny", train_dataset=prompt_dataset(["a"] * 8), processing_class=build_tokenizer(), judge=favours_a
    )
    assert type(trainer.args) is trainer_class.config_class
    assert trainer.args.output_dir == f"tiny-{trainer_class._tag_names[-1]}"
    trainer.args.max_steps, trainer.args.report_to, trainer.args.save_strategy = 1, [], "no"
    trainer.args.dataloader_pin_memory = False
    assert trainer.train().global_step == 1


def test_model_and_tokenizer_from_a_path(tmp_path):
    """A path as model and no `processing_class` load both from there, in fp32, and train."""
    tokenizer = build_tokenizer()
    build_model(tokenizer, seed=3).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    trainer = NashTrainer(
        str(tmp_path / "model"),
        args=make_config("ipo", tmp_path / "out", max_steps=1),
        train_dataset=prompt_dataset(),
        judge=favours_a,
    )
    assert trainer.processing_class.get_vocab() == tokenizer.get_vocab()
    assert equal(weights(trainer.model), weights(build_model(tokenizer, seed=3)))
    assert trainer.model.dtype == torch.float32
    assert trainer.train().global_step == 1


def test_tokenizer_of_a_model_that_was_loaded_from_a_path(tmp_path):
    """A model object without `processing_class` gets the tokenizer from where it was loaded."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    trainer = NashTrainer(
        type(model).from_pretrained(tmp_path / "model"),
        args=make_config("ipo", tmp_path),
        train_dataset=prompt_dataset(),
        judge=favours_a,
    )
    assert trainer.processing_class.get_vocab() == tokenizer.get_vocab()


def test_model_init_kwargs_reach_the_model(tmp_path):
    """`model_init_kwargs` are used for a path, as in TRL, and the config that the user sees keeps them."""
    build_model(build_tokenizer()).save_pretrained(tmp_path / "model")
    args = make_config("ipo", tmp_path, model_init_kwargs={"dtype": "bfloat16", "attn_implementation": "eager"})
    trainer = NashTrainer(
        str(tmp_path / "model"),
        args=args,
        train_dataset=prompt_dataset(),
        processing_class=build_tokenizer(),
        judge=favours_a,
    )
    assert trainer.model.dtype == torch.bfloat16 and trainer.model.config._attn_implementation == "eager"
    assert trainer.args.model_init_kwargs == {"dtype": "bfloat16", "attn_implementation": "eager"}


def test_no_second_model_is_made(tmp_path, monkeypatch):
    """Full fine-tuning builds no copy of the model, so that ZeRO-3, which refuses one, works (trl#2532)."""
    utils = pytest.importorskip("trl.experimental.utils")
    monkeypatch.setattr(utils, "is_deepspeed_zero3_enabled", lambda: True)
    assert make_trainer("ipo", tmp_path).ref_model is None


def test_processing_class_may_be_a_processor(tmp_path):
    """A ProcessorMixin stands for its tokenizer, as in TRL."""

    class Processor(ProcessorMixin):
        attributes = ["tokenizer"]
        tokenizer_class = "PreTrainedTokenizerFast"

        def __call__(self, text=None, **kwargs):
            return self.tokenizer(text, **kwargs)

    tokenizer = build_tokenizer()
    processor = Processor(tokenizer=tokenizer)
    trainer = NashTrainer(
        build_model(tokenizer),
        args=make_config("ipo", tmp_path, max_steps=1),
        train_dataset=prompt_dataset(),
        processing_class=processor,
        judge=favours_a,
    )
    assert trainer._tokenizer is tokenizer and trainer.train().global_step == 1


# ---- Configs ----


def plain_config(output_dir, **options) -> OnlineDPOConfig:
    return OnlineDPOConfig(**{"output_dir": str(output_dir)} | CPU | SMALL | options)


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_online_dpo_config_is_upgraded(trainer_class, tmp_path, caplog):
    """
    Every field of a plain OnlineDPOConfig is carried over but `beta` and `temperature`, which become the algorithm's
    defaults; one message names the two and their old values.
    """
    args = plain_config(
        tmp_path,
        beta=[0.1, 0.2],
        temperature=0.5,
        learning_rate=3e-4,
        max_new_tokens=7,
        gradient_accumulation_steps=2,
        hub_model_id="me/model",
        hub_private_repo=True,
        hub_strategy="end",
        generation_kwargs={"suppress_tokens": [3]},
        lr_scheduler_type="cosine",
        optim="sgd",
        optim_args="momentum=.5",
        logging_steps=0.5,
        reward_weights=[2.0],
        eval_strategy="steps",
        eval_steps=3,
        accelerator_config={"split_batches": False, "even_batches": False},
    )
    with caplog.at_level(logging.WARNING, logger="trl_nash"):
        trainer = trainer_class(
            build_model(build_tokenizer()),
            reward_funcs=lambda completions, **kwargs: [0.0] * len(completions),
            args=args,
            train_dataset=prompt_dataset(),
            eval_dataset=prompt_dataset(["a"]),
            processing_class=build_tokenizer(),
        )
    changed = {f.name for f in fields(args) if getattr(args, f.name) != getattr(trainer.args, f.name)}
    assert changed == {"beta", "temperature"}
    defaults = trainer_class.config_class(output_dir=str(tmp_path), **CPU)
    own = {f.name for f in fields(defaults)} - {f.name for f in fields(args)}
    own -= {"steps_per_generation"}  # follows gradient_accumulation_steps
    for name in sorted(own | changed):
        assert getattr(trainer.args, name) == getattr(defaults, name), name
    assert trainer.args.steps_per_generation == 2
    upgrades = [r.getMessage() for r in caplog.records if "takes the place of your OnlineDPOConfig" in r.getMessage()]
    assert len(upgrades) == 1
    assert "`beta=[0.1, 0.2]` and `temperature=0.5`" in upgrades[0]


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_upgraded_config_trains(trainer_class, tmp_path):
    """OnlineDPOConfig with OnlineDPOTrainer's own keywords trains to `max_steps`."""
    trainer = trainer_class(
        model=build_model(build_tokenizer()),
        reward_funcs=lambda completions, **kwargs: [float(len(text)) for text in completions],
        args=plain_config(tmp_path, max_steps=2, logging_steps=1),
        train_dataset=prompt_dataset(),
        processing_class=build_tokenizer(),
    )
    trainer.train()
    assert len(history(trainer, "loss")) == 2


def test_nash_config_is_taken_by_nash_trainer(tmp_path, caplog):
    """A NashConfig means the same as a PairConfig: everything is kept, `temperature` and K too, without a message."""
    args = NashConfig(output_dir=str(tmp_path), num_generations=3, temperature=0.7, seed=5, **CPU, **SMALL)
    with caplog.at_level(logging.WARNING, logger="trl_nash"):
        trainer = NashTrainer(
            build_model(build_tokenizer()),
            args=args,
            train_dataset=prompt_dataset(),
            processing_class=build_tokenizer(),
            judge=favours_a,
        )
    assert type(trainer.args) is PairConfig
    assert [f.name for f in fields(args) if getattr(args, f.name) != getattr(trainer.args, f.name)] == []
    assert "takes the place" not in caplog.text


@pytest.mark.parametrize(
    "trainer_class, given", [(NashTrainer, PairConfig), (ONPOTrainer, ONPOConfig), (COMALTrainer, COMALConfig)]
)
def test_own_config_is_used_as_it_is(trainer_class, given, tmp_path):
    """The algorithm's own config is not copied."""
    args = given(output_dir=str(tmp_path), **CPU, **SMALL)
    trainer = trainer_class(
        build_model(build_tokenizer()),
        args=args,
        train_dataset=prompt_dataset(),
        processing_class=build_tokenizer(),
        judge=favours_a,
    )
    assert trainer.args is args


# ---- Reward functions ----

ANSWERS = ["a a b <eos>", "b c"]  # two and no words "a"; the first says end of sequence
ROWS = [{"prompt": "c d"}, {"prompt": "e"}]


def count_a(completions, **kwargs):
    return [float(text.split().count("a")) for text in completions]


def count_words(completions, **kwargs):
    return [float(len(text.split())) for text in completions]


@pytest.mark.parametrize(
    "reward_funcs, options, difference",
    [
        (count_a, {}, 2.0),
        ([count_a], {}, 2.0),
        (count_a, {"reward_temperature": 4.0}, 0.5),
        ([count_a, count_words], {}, 2.0 + 1.0),
        ([count_a, count_words], {"reward_weights": [0.5, -2.0]}, 0.5 * 2.0 - 2.0 * 1.0),
        (count_a, {"missing_eos_penalty": 1.5}, 2.0 + 1.5),
    ],
)
@pytest.mark.parametrize("algorithm", ["ipo", "nash-md"])
def test_reward_functions_are_a_bradley_terry_judge(algorithm, reward_funcs, options, difference, tmp_path):
    """P = sigmoid(difference of TRL's weighted sums / reward_temperature), with the penalty for no end of sequence."""
    trainer = make_trainer(algorithm, tmp_path, judge=None, extra={"reward_funcs": reward_funcs}, **options)
    answer_with(trainer, ANSWERS, frozen=ANSWERS)
    if algorithm == "nash-md":  # its pairs are of policy and opponent
        trainer.sample_pairs = lambda prompts: NashTrainer.sample_pairs(trainer, prompts)
    assert judged(trainer, ROWS).tolist() == pytest.approx([sigmoid(difference)] * 2, rel=1e-6)


def test_missing_eos_penalty_ignores_the_prompt(tmp_path):
    """
    The ChatML-like template ends every turn with the end-of-sequence token; only the completion's own counts
    (trl#6805): rewards 0 and 0, the second has no end of sequence, so P = sigmoid(0 - (0 - 1.5)).
    """
    tokenizer = build_tokenizer()
    prompt = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    trainer = make_trainer(
        "ipo",
        tmp_path,
        tokenizer=tokenizer,
        judge=None,
        dataset=prompt_dataset([prompt] * 4),
        extra={"reward_funcs": lambda completions, **kwargs: [0.0] * len(completions)},
        missing_eos_penalty=1.5,
        max_length=30,
    )
    answer_with(trainer, ANSWERS)
    assert tokenizer.eos_token in trainer.sampler.render(prompt)[0]
    assert judged(trainer, [{"prompt": prompt}]).tolist() == pytest.approx([sigmoid(1.5)])


def test_missing_eos_penalty_takes_any_of_the_models_eos_tokens(tmp_path):
    """A completion that ends with an end-of-turn token of the generation config is finished."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    model.generation_config.eos_token_id = [tokenizer.convert_tokens_to_ids("no")]
    trainer = make_trainer(
        "ipo",
        tmp_path,
        model=model,
        tokenizer=tokenizer,
        judge=None,
        extra={"reward_funcs": lambda completions, **kwargs: [0.0] * len(completions)},
        missing_eos_penalty=1.5,
    )
    answer_with(trainer, ["a no", "a yes"])
    assert judged(trainer, ROWS).tolist() == pytest.approx([sigmoid(1.5)] * 2)


REWARD_WORDS = [f"w{n}" for n in range(30)] + "assistant user a b c d e".split()
REWARD_TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"


def build_reward_tokenizer():
    """Another vocabulary than the policy's: more words, other ids, another template."""
    tokenizer = build_tokenizer(words=REWARD_WORDS)
    tokenizer.chat_template = REWARD_TEMPLATE
    return tokenizer


def build_reward_model(seed: int = 0) -> LlamaForSequenceClassification:
    torch.manual_seed(seed)
    tokenizer = build_reward_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForSequenceClassification(config)
    torch.nn.init.normal_(model.score.weight, std=3.0)
    return model


def reward_by_hand(model, text: str) -> float:
    """The logit at the last token of one unpadded text, tokenised with the reward model's vocabulary."""
    ids = build_reward_tokenizer()(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        hidden = model.model(input_ids=ids).last_hidden_state[0, -1]
        return model.score(hidden).item()


@pytest.mark.parametrize("conversational", [False, True])
@pytest.mark.parametrize("given", ["model", "path", "list", "reward_model_path"])
def test_reward_model_reads_its_own_tokens(given, conversational, tmp_path):
    """
    A reward model of another vocabulary scores the text in its own tokens and template (trl#6951: it got the policy's
    ids): P = sigmoid(r(prompt + answer 0) - r(prompt + answer 1)), each r from a plain forward over one text.
    """
    reward_model = build_reward_model()
    reward_model.save_pretrained(tmp_path / "reward")
    build_reward_tokenizer().save_pretrained(tmp_path / "reward")
    extra, options = {}, {}
    if given == "model":
        extra = {"reward_funcs": reward_model, "reward_processing_classes": build_reward_tokenizer()}
    elif given == "list":
        extra = {
            "reward_funcs": [lambda completions, **kwargs: [5.0] * len(completions), reward_model],
            "reward_processing_classes": [None, build_reward_tokenizer()],
        }
        options = {"reward_weights": [3.0, 1.0]}  # a constant reward drops out of the difference
    elif given == "path":
        extra = {"reward_funcs": str(tmp_path / "reward")}
    else:
        options = {"reward_model_path": str(tmp_path / "reward")}
    prompt = [{"role": "user", "content": "c d "}] if conversational else "c d "
    trainer = make_trainer(
        "ipo",
        tmp_path,
        tokenizer=build_tokenizer(chat=conversational),
        judge=None,
        dataset=prompt_dataset([prompt] * 4),
        extra=extra,
        max_length=24,
        **options,
    )
    answer_with(trainer, ["a a b <eos>", "b c"])
    if conversational:
        texts = [f"user c d  assistant {answer} " for answer in ("a a b", "b c")]
    else:
        texts = ["c d a a b", "c d b c"]
    first, second = (reward_by_hand(reward_model, text) for text in texts)
    assert abs(first - second) > 0.1
    assert judged(trainer, [{"prompt": prompt}]).tolist() == pytest.approx([sigmoid(first - second)], abs=1e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_trains_on_a_reward_model(algorithm, tmp_path):
    """A reward model of another vocabulary works in a whole run, and its own weights do not move."""
    reward_model = build_reward_model()
    before = weights(reward_model)
    trainer = make_trainer(
        algorithm,
        tmp_path,
        judge=None,
        extra={"reward_funcs": reward_model, "reward_processing_classes": build_reward_tokenizer()},
        max_steps=2,
    )
    start = weights(trainer.model)
    trainer.train()
    assert equal(weights(reward_model), before)
    assert not equal(weights(trainer.model), start)


def test_reward_function_gets_what_trl_gives_it(tmp_path):
    """Prompts, completions (messages for conversations), completion_ids, the trainer's state and the other columns."""
    seen = []

    def reward(prompts, completions, completion_ids, trainer_state, level, **kwargs):
        seen.append((prompts, completions, completion_ids, trainer_state.global_step, level, sorted(kwargs)))
        return [0.0] * len(prompts)

    prompt = [{"role": "user", "content": "c"}]
    rows = [{"prompt": prompt, "level": 3, "other": "x"}]
    options = {"tokenizer": build_tokenizer(), "dataset": Dataset.from_list(rows * 2), "max_length": 20}
    trainer = make_trainer("ipo", tmp_path, judge=None, extra={"reward_funcs": reward}, **options)
    answer_with(trainer, ANSWERS)
    judged(trainer, rows)
    ids = [trainer._tokenizer(text)["input_ids"] for text in ANSWERS]
    messages = [[{"role": "assistant", "content": text}] for text in ("a a b", "b c")]
    assert seen == [([prompt] * 2, messages, ids, 0, [3, 3], ["other"])]


# ---- Judges of TRL 1.0 - 1.13 ----


class OldRanks(BasePairwiseJudge):
    """Prefers the completion with more words "a"; fails on prompts with the word "e"."""

    def judge(self, prompts, completions, shuffle_order=True):
        assert shuffle_order is False
        ranks = [int(second.count("a") > first.count("a")) for first, second in completions]
        return [-1 if "e" in prompt else rank for prompt, rank in zip(prompts, ranks, strict=True)]


class OldScores(BasePairwiseJudge):
    """A judge like PairRM: 80 % for the completion with more words "a", plus a position bias of 10 %."""

    def judge(self, prompts, completions, shuffle_order=True, return_scores=False, temperature=1.0):
        assert return_scores is True
        return [0.1 + (0.8 if first.count("a") > second.count("a") else 0.0) for first, second in completions]


@pytest.mark.parametrize(
    "judge, expected",
    [
        (OldRanks(), [1.0, math.nan]),  # -1 is a failure, not "the second wins"
        (OldScores(), [0.9, 0.9]),  # (.9 + (1 - .1)) / 2
    ],
)
def test_old_judges(judge, expected, tmp_path):
    """A subclass of the old BasePairwiseJudge gives P(first beats second); a failed verdict abstains."""
    trainer = make_trainer("ipo", tmp_path, judge=judge)
    answer_with(trainer, ANSWERS)
    assert judged(trainer, ROWS).tolist() == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_failures_of_an_old_judge_are_counted_and_not_trained_on(algorithm, tmp_path):
    """With half of the prompts failing, a run goes on, and `judge/abstained` is the share of failures."""
    trainer = make_trainer(
        algorithm,
        tmp_path,
        judge=OldRanks(),
        dataset=prompt_dataset(["a", "e", "b", "e"]),
        max_steps=4,
        max_nan_rate=1.0,
    )
    trainer.train()
    # Equal completions are a tie without being asked, so that a failing prompt may still have a verdict.
    assert 0 < sum(history(trainer, "judge/abstained")) / 4 <= 0.5
    assert all(tensor.isfinite().all() for tensor in trainer.model.state_dict().values())


# ---- Scripts written for TRL's NashMDTrainer ----

SCRIPT = """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.nash_md import NashMDConfig, NashMDTrainer
    from trl.experimental.judges import BasePairwiseJudge

    class PrefersA(BasePairwiseJudge):
        def judge(self, prompts, completions, shuffle_order=True):
            return [int(second.count("a") > first.count("a")) for first, second in completions]

    tokenizer = AutoTokenizer.from_pretrained(policy_path, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(policy_path, dtype="float32")
    ref_model = AutoModelForCausalLM.from_pretrained(policy_path, dtype="float32")
    reward_model = AutoModelForSequenceClassification.from_pretrained(reward_path, num_labels=1)

    training_args = NashMDConfig(
        output_dir=output_dir,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        num_train_epochs=3,
        learning_rate=1e-3,
        warmup_steps=1,
        max_new_tokens=5,
        max_length=24,
        temperature=0.9,
        beta=[0.1, 0.2],
        mixture_coef=[0.5, 0.25],
        missing_eos_penalty=None,
        remove_unused_columns=False,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    trainer = NashMDTrainer(
        model=model,
        {arguments}
        args=training_args,
        train_dataset=Dataset.from_dict({{"prompt": prompts}}),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(training_args.output_dir)
"""
VARIANTS = {
    "judge": "ref_model=None, judge=PrefersA(),",
    "judge and ref_model": "ref_model=ref_model, judge=PrefersA(),",
    "reward model": "reward_funcs=reward_model,",
    "reward model and ref_model": "ref_model=ref_model, reward_funcs=reward_model, judge=None,",
    "adapter": "reward_funcs=reward_model, peft_config=lora,",
    "pre-wrapped": "reward_funcs=reward_model,",
}


def run_old_script(tmp_path, variant: str, prompts):
    """Runs a script as written for TRL 1.13 after changing its import of `trl.experimental` to `trl_nash`."""
    build_model(build_tokenizer()).save_pretrained(tmp_path / "policy")
    build_tokenizer().save_pretrained(tmp_path / "policy")
    build_reward_model().save_pretrained(tmp_path / "reward")
    build_reward_tokenizer().save_pretrained(tmp_path / "reward")
    script = textwrap.dedent(SCRIPT).format(arguments=VARIANTS[variant])
    if variant == "pre-wrapped":
        script = script.replace("model=model,", "model=get_peft_model(model, lora),")
    for module in ("nash_md", "judges"):
        script = script.replace(f"from trl.experimental.{module} import", "from trl_nash import")
    scope = {
        "policy_path": str(tmp_path / "policy"),
        "reward_path": str(tmp_path / "reward"),
        "output_dir": str(tmp_path / "out"),
        "prompts": prompts,
        # The old examples' adapter, with its dropout.
        "lora": LoraConfig(r=4, lora_alpha=32, lora_dropout=0.05, bias="none", task_type="CAUSAL_LM"),
        "get_peft_model": get_peft_model,
    }
    exec(compile(script, "old_script.py", "exec"), scope)
    return scope["trainer"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_old_nash_md_script(variant, tmp_path, monkeypatch):
    """
    It runs to its end: 8 prompts / (2 * 2) = 2 rounds in each of 3 epochs, `mixture_coef` and `beta` follow the epoch
    (the last value repeats), the policy moves and is saved.
    """
    used, original = [], NashMDTrainer.generate

    def generate(trainer, prompts, count, policy=None):
        if policy is not None:
            used.append((policy[INITIAL], trainer.beta))
        return original(trainer, prompts, count, policy)

    monkeypatch.setattr(NashMDTrainer, "generate", generate)
    prompts = ["a", "b c", "c d e", "d", "e f", "f g h", "g", "h a"]
    trainer = run_old_script(tmp_path, variant, prompts)
    assert trainer.state.global_step == 6 and len(history(trainer, "loss")) == 6
    rounds = used[::2]  # two chunks of prompts a round
    assert rounds == used[1::2] == [(0.5, 0.1)] * 2 + [(0.25, 0.2)] * 4
    saved = "adapter_model" if variant in ("adapter", "pre-wrapped") else "model"
    assert (tmp_path / "out" / f"{saved}.safetensors").is_file()


def test_old_nash_md_script_with_conversations(tmp_path):
    """The same script with conversational prompts."""
    prompts = [[{"role": "user", "content": text}] for text in ("a", "b c", "d", "e")]
    assert run_old_script(tmp_path, "judge", prompts).state.global_step == 3


def test_old_completions_callback(tmp_path):
    """TRL's LogCompletionsCallback, which the old example adds for evaluation, runs beside our trainers."""
    from trl import LogCompletionsCallback

    evaluation = prompt_dataset([[{"role": "user", "content": text}] for text in ("a", "b")])
    options = {"tokenizer": build_tokenizer(), "extra": {"eval_dataset": evaluation}}
    trainer = make_trainer("nash-md", tmp_path, **options, max_steps=2, max_length=24)
    generation_config = GenerationConfig(max_new_tokens=2, do_sample=True, pad_token_id=0)
    callback = LogCompletionsCallback(trainer, generation_config, num_prompts=2, freq=1)
    trainer.add_callback(callback)
    assert trainer.train().global_step == 2
    assert len(callback.table) == 2 * 2  # two prompts after each of two steps


def test_dropout_of_an_adapter_is_off(tmp_path):
    """TRL's `disable_dropout` reaches LoRA's dropout too: two forwards of the training policy agree bitwise."""
    trainer = make_trainer("ipo", tmp_path, peft_config=lora_config(lora_dropout=0.5, init_lora_weights=False))
    trainer.model.train()
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(trainer.model(input_ids=ids).logits, trainer.model(input_ids=ids).logits)


# ---- Faults of OnlineDPOTrainer that a drop-in user must not meet ----


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_gradients_are_averaged_over_accumulation_steps(algorithm, tmp_path):
    """On identical micro-batches the gradient norm is the same for accumulation 1, 2 and 4 (stock: 1, 2, 4 times)."""
    norms = []
    for accumulation in (1, 2, 4):
        trainer = make_trainer(
            algorithm,
            tmp_path,
            dataset=prompt_dataset(["c"] * 8),
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            learning_rate=0.0,
        )
        answer_with(trainer, ["a a <eos>", "b c"], frozen=["c d <eos>", "a <eos>"])
        trainer.train()
        norms.append(history(trainer, "grad_norm")[0])
    assert norms[0] > 1e-3
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-5)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_generation_keeps_its_cache_under_gradient_checkpointing(lora, tmp_path):
    """
    With checkpointing on, TRL's default, 5 new tokens of a 3-token prompt take one forward over its first 2 positions
    and five over 1 (without a cache: 3 + 4 + 5 + 6 + 7 positions).
    """
    trainer = make_trainer(
        "ipo",
        tmp_path,
        lora=lora,
        gradient_checkpointing=True,
        generation_kwargs={"eos_token_id": None, "min_new_tokens": 5},
        max_steps=1,
    )
    trainer.train()
    assert trainer.model.is_gradient_checkpointing
    lengths = []
    base = trainer.model.get_base_model() if lora else trainer.model
    hook = base.model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append((kwargs.get("input_ids", args[0] if args else None)).shape[1]),
        with_kwargs=True,
    )
    trainer.model.train()
    trainer.generate(["c d e"], 2)
    hook.remove()
    assert lengths == [2, 1, 1, 1, 1, 1]
    assert trainer.model.is_gradient_checkpointing


@pytest.mark.parametrize("algorithm", ["comal", "nash-md"])
def test_list_valued_beta_works_past_the_first_epoch(algorithm, tmp_path):
    """`beta=[.1, .2]` is .1 in epoch 1 and .2 from epoch 2 on (stock: TypeError, trl#6801)."""
    trainer = make_trainer(
        algorithm, tmp_path, dataset=prompt_dataset(["a", "b"]), beta=[0.1, 0.2], num_train_epochs=3
    )
    used, objective = [], trainer.objective
    trainer.objective = lambda logps, batch: (used.append(trainer.beta), objective(logps, batch))[1]
    trainer.train()
    assert used == [0.1, 0.2, 0.2]
