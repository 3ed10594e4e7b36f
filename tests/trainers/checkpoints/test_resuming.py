# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A resumed run is the run that was never stopped."""

import pytest
import torch
from checkpointed import STEPS_A_ROUND, assert_same_run, build, names, steps_of
from datasets import IterableDataset
from helpers import ALGORITHMS, PROMPTS, equal, history, prompt_dataset
from tiny import build_model, build_tokenizer
from transformers import BitsAndBytesConfig, LlamaForCausalLM

from trl_nash.rounds.batch import load_batches


EVALUATED = prompt_dataset(["a", "b c", "h"])


def resume_cases():
    """
    Stops in the middle of a round, between two fits, at a round's end, at the epoch's end, and in the second: every
    algorithm at each of its stops, and by turns with and without adapters. `make slow` has the others.
    """
    for turn, algorithm in enumerate(ALGORITHMS):
        steps = STEPS_A_ROUND.get(algorithm, 2)
        stops = {steps, 2 * steps, 3 * steps}  # ends of rounds 1, 2 (and of the epoch) and 3
        stops |= {1, 2 * steps + 1} if steps > 1 else set()  # in the middle of rounds 1 and 3
        stops |= {2, 2 * steps + 2, 2 * steps + 3} if algorithm == "onpo-two" else set()  # at and in the second fit
        for number, stop in enumerate(sorted(stops)):
            now, later = ("full", "lora") if (turn + number) % 2 else ("lora", "full")
            yield algorithm, now, stop
            yield pytest.param(algorithm, later, stop, marks=pytest.mark.slow)
    for kind in ("trained lora", "pissa", "ref_model"):
        yield from (("comal", kind, 1), ("comal", kind, 5), ("nash-md", kind, 3))


@pytest.mark.parametrize("algorithm, kind, stop", list(resume_cases()))
def test_a_resumed_run_is_the_run_that_was_never_stopped(algorithm, kind, stop, whole_run, tmp_path):
    """From a checkpoint in any place, all later losses, metrics and weights are bitwise those of the whole run."""
    whole, folder = whole_run(algorithm, kind)
    resumed = build(algorithm, tmp_path, kind, save_strategy="no")
    resumed.train(resume_from_checkpoint=str(folder / f"checkpoint-{stop}"))
    assert_same_run(resumed, whole, stop)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_runs_compared_above_move(algorithm, whole_run):
    """The comparison can fail: losses change from step to step, weights move, and the rounds are counted to 4."""
    whole, folder = whole_run(algorithm, "full")
    losses = history(whole, "loss")
    steps = STEPS_A_ROUND.get(algorithm, 2)
    assert len(losses) == 4 * steps and len(set(losses)) > len(losses) // 2
    assert history(whole, "round") == [r for r in (1, 2, 3, 4) for _ in range(steps)]
    assert whole.state.epoch == 2
    assert not equal(whole.model.state_dict(), build_model(build_tokenizer()).state_dict())


@pytest.mark.parametrize("stop", [1, 4, 7])
@pytest.mark.parametrize(
    "options",
    [
        {"preference_label": "sampled"},
        {"restart_each_round": True},
        {"num_generations": 3, "pair_selection": "best_worst"},
        {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1},
        {"steps_per_generation": 1, "num_iterations": 2, "per_device_train_batch_size": 4},
        {"gradient_checkpointing": True, "lora": True},
        {"step_size": [1.0, 0.5, 2.0], "beta": [0.3, 0.1]},
    ],
    ids=str,
)
def test_resuming_under_other_options(options, stop, whole_run, tmp_path):
    """Sampled labels, restarts, pair selection, accumulation, passes, checkpointing and schedules go on as before."""
    whole, folder = whole_run("comal", **options)
    resumed = build("comal", tmp_path, save_strategy="no", **options)
    resumed.train(resume_from_checkpoint=str(folder / f"checkpoint-{stop}"))
    assert_same_run(resumed, whole, stop)


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_resuming_a_run_that_evaluates(stop, whole_run, tmp_path):
    """Evaluation in the middle of rounds samples too, and is repeated after a resume as it was."""
    evaluating = {"eval_strategy": "steps", "eval_steps": 1, "extra": {"eval_dataset": EVALUATED}}
    whole, folder = whole_run("comal", **evaluating)
    resumed = build("comal", tmp_path, save_strategy="no", **evaluating)
    resumed.train(resume_from_checkpoint=str(folder / f"checkpoint-{stop}"))
    assert_same_run(resumed, whole, stop)
    assert history(resumed, "eval_loss") == history(whole, "eval_loss")
    assert history(resumed, "eval_policy/win_rate_reference") == history(whole, "eval_policy/win_rate_reference")


@pytest.mark.parametrize(
    "stop, shuffle, workers",
    [(1, False, 0), (2, False, 0), (4, False, 0), (5, False, 0), (5, True, 0), (6, True, 0), (5, True, 2)],
)
def test_resuming_from_a_stream(stop, shuffle, workers, tmp_path):
    """A stream of 2 rounds is read on from where the run stopped: in a round or at its end, in any pass over it."""
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    reading = {"dataloader_num_workers": workers, "dataloader_persistent_workers": workers > 0}

    def run(folder, **kwargs):
        dataset = IterableDataset.from_generator(lambda: iter(rows))
        dataset = dataset.shuffle(seed=1, buffer_size=8) if shuffle else dataset
        trainer = build(
            "comal", folder, dataset=dataset, max_steps=8, beta=[0.1, 0.2, 0.3], save_steps=stop, **reading
        )
        sampled = []
        collect = trainer.collector.collect
        trainer.collector.collect = lambda rows, *args: (
            sampled.extend(row["prompt"] for row in rows) or collect(rows, *args)
        )
        trainer.train(**kwargs)
        if workers > 0:  # as garbage they would not be told to end, and waited for (5 seconds each)
            trainer.callback_handler.train_dataloader.dataset.rows.loader._iterator = None
        return trainer, sampled

    whole, sampled = run(tmp_path / "whole")
    assert (sampled[:8] == PROMPTS) != shuffle and (sampled[8:16] == sampled[:8]) != shuffle
    checkpoint = tmp_path / "whole" / f"checkpoint-{stop}"
    resumed, rest = run(tmp_path / "resumed", resume_from_checkpoint=str(checkpoint))
    assert rest == sampled[-len(rest) :]
    assert_same_run(resumed, whole, stop)


@pytest.mark.parametrize("iterable", [False, True], ids=["table", "stream"])
def test_resuming_without_skipping(iterable, tmp_path):
    """
    Stopped in the middle of the second round of its epoch and resumed with `ignore_data_skip`, a run ends that round
    with its own batches, and then takes the rows from the beginning of an epoch.
    """

    def run(folder, **options):
        rows = [{"prompt": prompt} for prompt in PROMPTS]
        dataset = IterableDataset.from_generator(lambda: iter(rows)) if iterable else None
        trainer = build("comal", folder, dataset=dataset, max_steps=8, save_steps=3, **options)
        sampled = []
        collect = trainer.collector.collect
        trainer.collector.collect = lambda rows, *args: (
            sampled.append([row["prompt"] for row in rows]) or collect(rows, *args)
        )
        return trainer, sampled

    whole, rounds = run(tmp_path / "whole")
    whole.train()
    resumed, again = run(tmp_path / "resumed", ignore_data_skip=True)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert resumed.state.global_step == 8 and len(rounds) == 4
    assert again == rounds[:2]
    assert steps_of(resumed, 3)[0]["loss"] == steps_of(whole, 3)[0]["loss"]


@pytest.mark.parametrize("stop", [1, 5])
def test_resuming_qlora(stop, tmp_path):
    """Over an NF4 base, a checkpoint holds the adapters alone, and the run goes on as it would have."""
    build_model(build_tokenizer(), hidden_size=64, intermediate_size=64).save_pretrained(tmp_path / "base")
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="float32")

    def run(folder, **kwargs):
        model = LlamaForCausalLM.from_pretrained(tmp_path / "base", quantization_config=nf4)
        trainer = build("comal", folder, model=model, lora=True)
        trainer.train(**kwargs)
        return trainer

    whole = run(tmp_path / "whole")
    checkpoint = tmp_path / "whole" / f"checkpoint-{stop}"
    resumed = run(tmp_path / "resumed", resume_from_checkpoint=str(checkpoint))
    assert_same_run(resumed, whole, stop)
    assert "adapter_model.safetensors" in names(checkpoint) and "model.safetensors" not in names(checkpoint)


def test_a_round_in_the_buffer_is_not_sampled_again(whole_run, tmp_path):
    """Resumed in the middle of round 1 of 4, three rounds are sampled; the buffer is the one that was saved."""
    whole, folder = whole_run("comal", "full")
    checkpoint = folder / "checkpoint-1"
    saved = load_batches(checkpoint / "nash" / "round-00000.safetensors")
    resumed = build("comal", tmp_path)
    sampled, fitted = [], []
    sample, fit = resumed.sample_pairs, resumed.compute_loss
    resumed.sample_pairs = lambda prompts: sampled.append(prompts) or sample(prompts)
    resumed.compute_loss = lambda model, inputs, **kwargs: fitted.append(inputs) or fit(model, inputs, **kwargs)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert len(sampled) == 3 * 2  # in chunks of 2 prompts
    assert len(saved) == 2 and len(fitted) == 7
    for name in ("input_ids", "attention_mask", "labels", "pairs", "preference", "centre_logps"):
        assert torch.equal(getattr(fitted[0], name), getattr(saved[1], name))


def test_resume_true_takes_the_last_checkpoint(tmp_path):
    """`resume_from_checkpoint=True` goes on from the newest checkpoint in `output_dir`."""
    build("ipo", tmp_path, max_steps=3).train()
    trainer = build("ipo", tmp_path, max_steps=5)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 5
    assert [entry["step"] for entry in steps_of(trainer)] == [1, 2, 3, 4, 5]


def test_each_epoch_has_the_order_it_would_have_had(tmp_path):
    """Resumed at the start of epoch 2 of 3, epochs 2 and 3 see the prompts in the order of the whole run."""

    def run(folder, **kwargs):
        trainer = build("ipo", folder, num_train_epochs=3)
        seen = []
        sample = trainer.sample_pairs
        trainer.sample_pairs = lambda prompts: seen.extend(prompts) or sample(prompts)
        trainer.train(**kwargs)
        return seen

    whole = run(tmp_path / "whole")
    assert run(tmp_path / "resumed", resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4")) == whole[8:]
    assert whole[:8] != whole[8:16] != whole[16:] != whole[:8]
