# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a resumed run says: which run it goes on with, what is different now, and nothing twice."""

import json
import logging
import shutil

import pytest
from datasets import IterableDataset
from helpers import PROMPTS, equal, lora_config, make_trainer, prompt_dataset, weights
from huggingface_hub import ModelCard

from trl_nash.trainers.run.checkpoints.files import find_checkpoint


OPTIONS = {"steps_per_generation": 2, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}


@pytest.fixture(scope="module", params=["full", "lora"])
def finished(request, tmp_path_factory):
    """The folder of a run of two rounds, its weights, and how it was built."""
    folder = tmp_path_factory.mktemp(request.param)
    trainer = make_trainer("comal", folder, lora=request.param == "lora", **OPTIONS)
    trainer.train()
    assert any("Optimizer steps a round: 2" in message for message in trainer.reporter.said)
    return folder, weights(trainer.model), {"lora": request.param == "lora"}


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, logger="trl_nash")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "trl_nash"]


@pytest.mark.parametrize("how", ["latest", True, "folder", "checkpoint", "stream"])
def test_a_finished_run_is_not_trained_further(how, finished, said):
    folder, whole, kind = finished
    resume = {"folder": str(folder), "checkpoint": folder / "checkpoint-4"}.get(how, how)
    stream = {"dataset": IterableDataset.from_generator(lambda: ({"prompt": prompt} for prompt in PROMPTS))}
    trainer = make_trainer("comal", folder, **OPTIONS, **kind, **stream if how == "stream" else {})
    output = trainer.train(resume_from_checkpoint=True if how == "stream" else resume)
    assert output.global_step == 4 and trainer.was_finished
    assert equal(weights(trainer.model), whole)
    assert any("is finished: checkpoint-4 is of step 4, and it has 4." in message for message in said())
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}


def test_what_has_changed_is_named(finished, tmp_path, said):
    """Settings by which the run becomes another one, with both values; where logs go is none of them."""
    folder, _, kind = finished
    changed = {"warmup_steps": 3, "beta": 0.25, "max_steps": 3, "logging_steps": 3, "log_completions": True}
    rows = prompt_dataset(PROMPTS * 2)
    trainer = make_trainer("comal", tmp_path, dataset=rows, **OPTIONS | changed | kind)
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert trainer.state.global_step == 3 and not trainer.was_finished
    (message,) = [message for message in said() if "other settings" in message]
    assert (
        "warmup_steps: 0 before, 3 now" in message
        and "max_steps: 4 before, 3 now" in message
        and "training prompts: 8 before, 16 now" in message
    )
    assert "beta: 0.333" in message and "0.25 now" in message
    assert message.count(" before, ") == 4


def test_the_same_settings_are_not_mentioned(finished, tmp_path, said):
    folder, _, kind = finished
    make_trainer("comal", tmp_path, **OPTIONS, **kind).train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert not any("other settings" in message for message in said())


@pytest.mark.parametrize("finished", ["lora"], indirect=True)
def test_another_adapter_is_refused(finished, tmp_path):
    folder, _, _ = finished
    for options in ({"r": 4}, {"target_modules": ["v_proj"]}):
        trainer = make_trainer("comal", tmp_path, peft_config=lora_config(**options), **OPTIONS)
        with pytest.raises(ValueError, match="its own adapter, .*(lora_r: 2 before, 4 now|q_proj, v_proj before)"):
            trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"))


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "adam_beta2"])
def test_what_the_state_of_the_optimizer_would_override_is_refused(name, finished, tmp_path):
    """Measured with transformers alone: set anew, the rate of a resumed run stays the old one, without a word."""
    folder, _, kind = finished
    trainer = make_trainer("comal", tmp_path, **OPTIONS | kind | {name: 0.125})
    with pytest.raises(ValueError, match=f"its own optimizer, which goes on as it is \\({name}: .* before, 0.125 now"):
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"))


def test_advice_is_not_given_again(finished, tmp_path, said):
    """What was said before the checkpoint, such as of rounds of two steps; unless it may have been heeded."""
    folder, _, kind = finished

    def advised():
        return [message for message in said() if "Optimizer steps a round" in message]

    longer = OPTIONS | kind | {"max_steps": 6}
    resumed = make_trainer("comal", tmp_path, **longer)
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    assert advised() == []
    state = json.loads((folder / "checkpoint-4" / "nash" / "round.json").read_text())
    assert set(state["said"]) <= resumed.reporter.said
    changed = longer | {"max_new_tokens": 6}
    make_trainer("comal", tmp_path, **changed).train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    assert len(advised()) == 1


def test_a_folder_of_a_run_is_its_last_checkpoint(finished, tmp_path):
    folder, *_ = finished
    shutil.copytree(folder / "checkpoint-2", tmp_path / "run" / "checkpoint-2")
    for resume in (True, "true", "Latest", str(tmp_path / "run"), tmp_path / "run"):
        assert find_checkpoint(resume, tmp_path / "run").checkpoint == tmp_path / "run" / "checkpoint-2"
    for resume in (None, False, "false", ""):
        assert find_checkpoint(resume, tmp_path / "run") is None
    # Renamed, a checkpoint is one still.
    (tmp_path / "run" / "checkpoint-2").rename(tmp_path / "good")
    found = find_checkpoint(str(tmp_path / "good"), tmp_path)
    assert found.checkpoint == tmp_path / "good" and found.others == ""


def test_the_card_has_the_settings_that_there_are(finished):
    folder, _, kind = finished
    table = ModelCard.load(folder / "checkpoint-4" / "README.md").text.partition("### Settings")[2]
    assert "| `learning_rate` | 0.01 |" in table and "| `lr_scheduler_type` | linear |" in table
    assert "| None |" not in table
    assert ("| `lora_r` | 2 |" in table) == kind["lora"]
    assert ("| `lora_target_modules` | q_proj, v_proj |" in table) == kind["lora"]
