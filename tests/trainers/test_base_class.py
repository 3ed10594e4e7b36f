# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Of OnlineDPOTrainer only the constructor is used, and where TRL has none our own gives the same runs."""

import builtins
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import warnings
from dataclasses import MISSING, fields
from pathlib import Path
from types import SimpleNamespace
from typing import get_type_hints

import pytest
import torch
from helpers import ALGORITHMS, equal, history, lora_config, make_trainer, prompt_dataset, weights
from peft import get_peft_model
from tiny import build_model, build_tokenizer
from transformers import HfArgumentParser

from trl_nash import NashTrainer, compat
from trl_nash.compat import OnlineDPOTrainer
from trl_nash.trainers import online_dpo as own_base


TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_only_the_constructor_is_used(algorithm, lora, tmp_path, monkeypatch):
    """Training, evaluation, saving, the card and a resumed run reach no other function of OnlineDPOTrainer."""

    def forbid(name):
        def raises(*args, **kwargs):
            raise AssertionError(f"OnlineDPOTrainer.{name} was used")

        return property(raises) if name == "beta" else raises

    own = [name for name, value in vars(OnlineDPOTrainer).items() if callable(value) or hasattr(value, "__get__")]
    for name in own:
        if name not in ("__init__", "__doc__"):
            monkeypatch.setattr(OnlineDPOTrainer, name, forbid(name))

    def trainer(folder):
        return make_trainer(
            algorithm,
            folder,
            lora=lora,
            gradient_checkpointing=True,
            extra={"eval_dataset": prompt_dataset(["a", "b c"])},
            max_steps=4,
            eval_strategy="steps",
            eval_steps=2,
            save_strategy="steps",
            save_steps=2,
        )

    whole = trainer(tmp_path)
    whole.train()
    whole.save_model(str(tmp_path / "saved"))
    whole.create_model_card()
    resumed = trainer(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert history(resumed, "loss") == history(whole, "loss")
    assert equal(weights(resumed.model), weights(whole.model))


# What TRL's class keeps as well, and why ours has no use for it.
THEIRS_ALONE = {
    "_beta": "NashTrainer.beta is of the round",
    "generation_config": "of its own sampling; ours is trainer.sampler.config",
    "generation_kwargs": "of its own sampling",
    "num_generations": "always 2; ours is an option",
    "stats": "of its own loop",
    **dict.fromkeys(["image_token", "image_token_id", "vision_start_token_id", "vision_end_token_id"], "of images"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> tuple[dict, dict]:
    """What `both_ways.py` finds with TRL's class, and without `trl.experimental`."""
    pytest.importorskip("trl.experimental.online_dpo")
    folders = [tmp_path_factory.mktemp(name) for name in ("theirs", "own")]
    command = [sys.executable, "-W", "ignore", str(TESTS / "trainers" / "both_ways.py")]
    runs = []
    for folder, first in zip(folders, ([], [str(TESTS / "without_experimental")]), strict=True):
        paths = os.pathsep.join([*first, *filter(None, sys.path)])
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        runs.append(subprocess.Popen([*command, str(folder)], env=os.environ | {"PYTHONPATH": paths}, **options))
    outputs = [run.communicate(timeout=1200)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "\n".join(outputs)
    theirs, own = (torch.load(folder / "found.pt", weights_only=False) for folder in folders)
    assert (theirs["own"], own["own"]) == (False, True)
    return theirs["runs"], own["runs"]


@pytest.mark.parametrize("part", ["whole", "resumed"])
@pytest.mark.parametrize("name", ["full", "ref_model", "lora", "adapted", "qlora", "bf16"])
def test_both_bases_give_the_same_run(name, part, found):
    """
    Logs with losses, gradient norms and evaluations, weights, and the random numbers that would come next: bitwise,
    with gradient checkpointing, also of a run that was resumed in the middle.
    """
    theirs, own = (runs[name][part] for runs in found)
    assert len([entry for entry in own["logs"] if "loss" in entry]) == 4
    assert own["logs"] == theirs["logs"]
    assert own["dtypes"] == theirs["dtypes"]
    assert equal(own["weights"], theirs["weights"])
    assert torch.equal(own["rng"], theirs["rng"])


def test_attributes_of_both_bases(found):
    """A trainer has the same attributes both ways, but for those that only TRL's own loop uses."""
    theirs, own = (set(runs["full"]["whole"]["attributes"]) for runs in found)
    assert own - theirs == set()
    assert theirs - own == set(THEIRS_ALONE)


# ---- Its parts, beside TRL's ----


def test_constructor_has_the_same_arguments():
    """Names, order and defaults."""
    online_dpo = pytest.importorskip("trl.experimental.online_dpo")
    theirs, own = (
        [(p.name, p.default) for p in inspect.signature(constructor.__init__).parameters.values()]
        for constructor in (online_dpo.OnlineDPOTrainer, own_base.OnlineDPOTrainer)
    )
    assert [name for name, _ in own] == [name for name, _ in theirs]
    assert own[2:] == theirs[2:]  # after `self` and `model`


def test_config_has_the_same_fields(tmp_path):
    """Names, order, types, defaults and choices; each has help, and a parser takes it."""
    online_dpo = pytest.importorskip("trl.experimental.online_dpo")

    def facts(config):
        types = get_type_hints(config)  # a parser changes those of fields
        for field in fields(config):
            default = field.default if field.default_factory is MISSING else field.default_factory()
            yield field.name, types[field.name], default, field.metadata.get("choices"), sorted(field.metadata)

    assert list(facts(own_base.OnlineDPOConfig)) == list(facts(online_dpo.OnlineDPOConfig))
    assert own_base.OnlineDPOConfig._VALID_DICT_FIELDS == online_dpo.OnlineDPOConfig._VALID_DICT_FIELDS
    parser = HfArgumentParser(own_base.OnlineDPOConfig)
    assert "--vllm_structured_outputs_regex" in parser.format_help()
    given = ["--output_dir", str(tmp_path), "--bf16", "false", "--use_cpu", "--beta", "0.5"]
    (args,) = parser.parse_args_into_dataclasses(given)
    assert args.beta == 0.5 and args.learning_rate == 5e-7
    with pytest.warns(UserWarning, match="The configuration has `max_new_tokens`"):
        own_base.OnlineDPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True, max_new_tokens=8, max_length=8)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("loaded_in", [None, "4bit", "8bit"])
@pytest.mark.parametrize("adapted", [False, True])
def test_adapters_have_the_dtypes_of_trls_way(adapted, loaded_in, bf16):
    """
    Of quantised models on an accelerator too, which are made of a bf16 model that says it is one: what is trained, in
    which precision and from which numbers, as `trl.experimental.utils.prepare_peft_model` has it.
    """
    utils = pytest.importorskip("trl.experimental.utils")

    def prepared(prepare):
        model = build_model(build_tokenizer()).to(torch.bfloat16)
        model.model.layers[0].float()
        if loaded_in is not None:
            setattr(model, f"is_loaded_in_{loaded_in}", True)
        torch.manual_seed(0)
        model = prepare(get_peft_model(model, lora_config()) if adapted else model, None if adapted else lora_config())
        return {name: (p.dtype, p.requires_grad, p.detach().clone()) for name, p in model.named_parameters()}

    args = SimpleNamespace(bf16=bf16, gradient_checkpointing=False, gradient_checkpointing_kwargs=None)
    theirs = prepared(lambda model, peft_config: utils.prepare_peft_model(model, peft_config, args))
    own = prepared(lambda model, peft_config: own_base.with_adapter(model, peft_config, bf16=bf16))
    assert own.keys() == theirs.keys()
    for name, (dtype, trained, values) in theirs.items():
        assert own[name][:2] == (dtype, trained) and torch.equal(own[name][2], values), name


def test_what_the_constructor_refuses():
    """Sentences that name the argument."""
    model, tokenizer = build_model(build_tokenizer()), build_tokenizer()
    with pytest.raises(ValueError, match="`train_dataset` is required"):
        own_base.OnlineDPOTrainer(model)
    with pytest.raises(TypeError, match="`peft_config` must be a PeftConfig such as LoraConfig, got a dict"):
        own_base.with_adapter(model, {"r": 2}, bf16=False)
    with pytest.raises(ValueError, match="would put a second adapter into it"):
        own_base.with_adapter(get_peft_model(model, lora_config()), lora_config(), bf16=False)
    with pytest.raises(TypeError, match="`processing_class` must be a .* got a str"):
        own_base.tokenizer_of("tokenizer")
    tokenizer.pad_token = None
    assert own_base.tokenizer_of(tokenizer).pad_token == tokenizer.eos_token


@pytest.mark.parametrize("ends, expected", [(None, [1]), (1, [1]), (7, [1, 7]), ([7, 1], [7, 1]), ([7, 9], [1, 7, 9])])
def test_tokens_that_end_a_completion(ends, expected):
    """The tokenizer's and all of the model's, as TRL has them; the model learns the pad token."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    model.generation_config.eos_token_id, model.config.pad_token_id = ends, None
    assert tokenizer.eos_token_id == 1
    assert own_base.agree_on_tokens(model, tokenizer) == expected
    assert model.config.pad_token_id == model.generation_config.pad_token_id == tokenizer.pad_token_id


# ---- The choice ----


def load_compat(monkeypatch, error: Exception | None):
    """`compat` as it would be if TRL's class could not be imported for this reason."""
    if error is not None:
        original = builtins.__import__

        def importing(name, *args, **kwargs):
            if name.startswith("trl.experimental.online_dpo"):
                raise error
            return original(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", importing)
    spec = importlib.util.spec_from_file_location("trl_nash.compat_again", compat.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'trl.experimental'", name="trl.experimental"),
        ModuleNotFoundError("No module named 'trl.experimental.online_dpo'", name="trl.experimental.online_dpo"),
        ImportError("cannot import name 'OnlineDPOTrainer'", name="trl.experimental.online_dpo"),
    ],
    ids=["all experimental", "the module", "the class"],
)
def test_own_base_serves_in_silence_where_trl_has_none(error, monkeypatch):
    """The package, the module or the class is gone: nothing is said, and nothing of TRL is patched."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module = load_compat(monkeypatch, error)
    assert module.OWN_BASE and module.OnlineDPOTrainer is own_base.OnlineDPOTrainer
    assert module.OnlineDPOConfig is own_base.OnlineDPOConfig
    args = SimpleNamespace(use_vllm=True)
    with module.base_construction(args) as insisted_on:
        assert insisted_on == {} and args.use_vllm


@pytest.mark.parametrize(
    "error",
    [
        ImportError(
            "cannot import name 'truncate_right' from 'trl.experimental.utils'", name="trl.experimental.utils"
        ),
        ModuleNotFoundError("No module named 'vllm._C'", name="vllm._C"),
        ImportError("libcudart.so.12: cannot open shared object file"),
    ],
)
def test_own_base_names_the_cause_where_trls_class_is_broken(error, monkeypatch):
    """The class is there and cannot be imported for another reason: that is said, and our own serves."""
    with pytest.warns(UserWarning, match=f"{re.escape(str(error))}.* goes on with its own base"):
        assert load_compat(monkeypatch, error).OWN_BASE


def test_trls_class_is_taken_where_it_is(monkeypatch):
    online_dpo = pytest.importorskip("trl.experimental.online_dpo")
    module = load_compat(monkeypatch, None)
    assert not module.OWN_BASE and module.OnlineDPOTrainer is online_dpo.OnlineDPOTrainer
    assert issubclass(NashTrainer, online_dpo.OnlineDPOTrainer)


def test_no_started_python_has_it_either():
    """Where this process is without `trl.experimental`, those that it starts are, too."""
    if not compat.OWN_BASE:
        pytest.skip("this process has it")
    run = subprocess.run([sys.executable, "-c", "import trl.experimental"], capture_output=True, text=True)
    assert run.returncode == 1 and "No module named 'trl.experimental'" in run.stderr
