# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints: a resumed run is the run that was never stopped; what is in them, and what is in a saved model."""

import errno
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from datasets import IterableDataset
from helpers import ALGORITHMS, PROMPTS, equal, favours_a, history, lora_config, make_trainer, perturb, prompt_dataset
from huggingface_hub import ModelCard
from peft import get_peft_model
from safetensors import SafetensorError, safe_open
from tiny import build_model, build_tokenizer
from transformers import BitsAndBytesConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainerState

from trl_nash.algorithms import INITIAL, Policy
from trl_nash.policies import FrozenPolicies
from trl_nash.rounds.batch import load_batches
from trl_nash.trainers.run.checkpoint_files import complete_checkpoints


# Two epochs of two rounds of 4 prompts; a round is 2 optimizer steps (4 with two fits, 1 in Nash-MD).
OPTIONS = {"learning_rate": 0.05, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1}
OWN = {
    "ipo": {"steps_per_generation": 2},
    "onpo-one": {"steps_per_generation": 2, "anchor_history": 3},
    "onpo-two": {"steps_per_generation": 2},
    "comal": {"steps_per_generation": 2, "reference_rounds": 2},
    "nash-md": {"gradient_accumulation_steps": 2},
    "nash-ema": {"gradient_accumulation_steps": 2},
}
STEPS_A_ROUND = {"onpo-two": 4, "nash-md": 1, "nash-ema": 1}


def trained_adapter():
    torch.manual_seed(3)
    model = get_peft_model(build_model(build_tokenizer()), lora_config())
    perturb(model, seed=11)
    return model


KINDS = {
    "full": dict,
    "lora": lambda: {"lora": True},
    "trained lora": lambda: {"model": trained_adapter()},
    "pissa": lambda: {"peft_config": lora_config(init_lora_weights="pissa")},
    "ref_model": lambda: {"extra": {"ref_model": build_model(build_tokenizer(), seed=5, num_hidden_layers=1)}},
}


def build(algorithm, folder, kind="full", **options):
    return make_trainer(algorithm, folder, **KINDS[kind](), **OPTIONS | OWN[algorithm] | options)


def steps_of(trainer, after: int = 0) -> list[dict]:
    """The training log behind a step, without what is measured in seconds."""
    return [
        {name: value for name, value in entry.items() if not name.startswith("time/")}
        for entry in trainer.state.log_history
        if "loss" in entry and entry["step"] > after
    ]


def assert_same_run(resumed, whole, after: int) -> None:
    """Every later loss and metric, the weights and the frozen policies are equal, not just close."""
    assert len(steps_of(whole, after)) > 0
    assert steps_of(resumed, after) == steps_of(whole, after)
    assert equal(resumed.model.state_dict(), whole.model.state_dict())
    frozen, expected = resumed.policies._weights, whole.policies._weights
    assert frozen.keys() == expected.keys()
    assert all(equal(frozen[name], expected[name]) for name in expected)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Runs without a stop, which keep a checkpoint of every step; each of them is made once."""
    runs = {}

    def run(algorithm, kind):
        if (algorithm, kind) not in runs:
            folder = tmp_path_factory.mktemp("run")
            trainer = build(algorithm, folder, kind)
            trainer.train()
            runs[algorithm, kind] = trainer, folder
        return runs[algorithm, kind]

    return run


def resume_cases():
    """Stops in the middle of a round, between two fits, at a round's end, at the epoch's end, and in the second."""
    for algorithm in ALGORITHMS:
        steps = STEPS_A_ROUND.get(algorithm, 2)
        stops = {steps, 2 * steps, 3 * steps}  # ends of rounds 1, 2 (and of the epoch) and 3
        stops |= {1, 2 * steps + 1} if steps > 1 else set()  # in the middle of rounds 1 and 3
        stops |= {2, 2 * steps + 2, 2 * steps + 3} if algorithm == "onpo-two" else set()  # at and in the second fit
        for kind in ("full", "lora"):
            yield from ((algorithm, kind, stop) for stop in sorted(stops))
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
def test_resuming_under_other_options(options, stop, tmp_path):
    """Sampled labels, restarts, pair selection, accumulation, passes, checkpointing and schedules go on as before."""
    whole = build("comal", tmp_path / "whole", **options)
    whole.train()
    resumed = build("comal", tmp_path / "resumed", save_strategy="no", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{stop}"))
    assert_same_run(resumed, whole, stop)


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_resuming_a_run_that_evaluates(stop, tmp_path):
    """Evaluation in the middle of rounds samples too, and is repeated after a resume as it was."""

    def run(folder, **kwargs):
        extra = {"eval_dataset": prompt_dataset(["a", "b c", "h"])}
        trainer = build("comal", folder, eval_strategy="steps", eval_steps=1, extra=extra)
        trainer.train(**kwargs)
        return trainer

    whole = run(tmp_path / "whole")
    resumed = run(tmp_path / "resumed", resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{stop}"))
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


# ---- A run that stops by itself ----


def test_resuming_after_the_judge_gave_up(tmp_path):
    """
    ONPO's judge abstains on round 3 (but for equal completions): the run stops with a checkpoint of step 4, whose
    past policies are those of the start of round 3. Resumed with a judge that works, the round begins as it would,
    and the past policies are each round's own.
    """
    broken = False

    def judge(prompts, first, second):
        return [None] * len(first) if broken else favours_a(prompts, first, second)

    snapshots = []  # the live policy at the start of rounds 1, 2, 3 ...

    def run(**kwargs):
        trainer = build("onpo-one", tmp_path, judge=judge, save_steps=100)
        collect = trainer.collector.collect

        def watch(rows, *args):
            nonlocal broken
            now = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
            if not snapshots or not equal(snapshots[-1], now):
                snapshots.append(now)
            broken = trainer.round == 2 and not kwargs
            return collect(rows, *args)

        trainer.collector.collect = watch
        return trainer, lambda: trainer.train(**kwargs)

    trainer, train = run()
    with pytest.raises(RuntimeError, match=r"abstained on \d of the 4 pairs of round 3.*A checkpoint of step 4"):
        train()
    checkpoint = tmp_path / "checkpoint-4"
    assert checkpoint.is_dir()

    trainer, train = run(resume_from_checkpoint=str(checkpoint))
    train()
    assert len(snapshots) == 4
    kept = {INITIAL: 0, Policy(2): 2, Policy(3): 3}  # of the last three in a fifth round's anchor, those there are
    assert set(trainer.policies) == set(kept)
    for policy, index in kept.items():
        assert equal(trainer.policies._weights[policy], snapshots[index])
    assert trainer.state.global_step == 8


# ---- What is in a checkpoint ----


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


FROZEN = {
    "ipo": {"initial"},
    "onpo-one": {"initial", "round_1", "round_2"},
    "onpo-two": {"initial", "round_2_fit_1"},
    "comal": {"initial", "round_2"},
    "nash-md": {"initial"},
    "nash-ema": {"initial", "average"},
}


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_contents_of_a_checkpoint(algorithm, kind, whole_run):
    """
    After round 3, which is number 2: the policies that round 4 looks back to as safetensors (`initial` is adapters off
    under LoRA), the round's buffer in its middle only, and a line of JSON. All files of ours lie in `nash` and none of
    them is a pickle.
    """
    _, folder = whole_run(algorithm, kind)
    steps = STEPS_A_ROUND.get(algorithm, 2)
    frozen = {
        f"policies/{name}-00000.safetensors" for name in FROZEN[algorithm] if (kind, name) != ("lora", "initial")
    }
    checkpoint = folder / f"checkpoint-{3 * steps}"
    assert names(checkpoint / "nash") == frozen | {"round.json"}
    assert json.loads((checkpoint / "nash" / "round.json").read_text())["epoch"] == 1
    if steps > 1:
        assert names(folder / "checkpoint-1" / "nash") >= {"round-00000.safetensors"}
    theirs = names(checkpoint) - {f"nash/{name}" for name in names(checkpoint / "nash")}
    pickles = {name for name in theirs if not name.endswith((".json", ".safetensors", ".md", ".jinja"))}
    assert pickles == {"optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"}  # transformers' own


@pytest.mark.parametrize(
    "algorithm, kind",
    [("onpo-one", "full"), ("onpo-one", "lora"), ("comal", "lora"), ("comal", "trained lora"), ("nash-ema", "full")],
)
def test_a_saved_model_holds_the_policy_alone(algorithm, kind, whole_run, tmp_path):
    """`save_model` writes the live policy: one set of weights, equal to the model's, and no frozen policy."""
    trainer, _ = whole_run(algorithm, kind)
    trainer.save_model(tmp_path)
    assert not any("nash" in name or "policies" in name for name in names(tmp_path))
    (file,) = [name for name in names(tmp_path) if name.endswith(".safetensors")]
    with safe_open(tmp_path / file, "pt") as saved:
        tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
    live = {name.replace(".default", ""): p for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert equal(tensors, live)


@pytest.mark.parametrize("option", ["save_only_model", "foreign"])
def test_a_checkpoint_without_rounds_is_refused(option, tmp_path):
    """A checkpoint of another trainer, or of `save_only_model`, has no rounds: the error says how to go on from it."""
    build("comal", tmp_path, max_steps=1, save_only_model=option == "save_only_model").train()
    checkpoint = tmp_path / "checkpoint-1"
    if option == "foreign":
        shutil.rmtree(checkpoint / "nash")
    with pytest.raises(ValueError, match="has no folder `nash`.*save_only_model.*as the model"):
        build("comal", tmp_path, max_steps=2).train(resume_from_checkpoint=str(checkpoint))


def test_a_checkpoint_of_another_algorithm_is_refused(tmp_path):
    """Its frozen policies mean something else."""
    build("onpo-one", tmp_path, max_steps=1).train()
    with pytest.raises(ValueError, match="was saved by ONPO, and this is COMAL: give its path as the model"):
        build("comal", tmp_path, max_steps=2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


@pytest.mark.parametrize(
    "options, sizes",
    [
        (
            {"steps_per_generation": 4},
            "rounds of 4 prompts, 2 optimizer steps, and these are of 8 prompts, 4",
        ),
        ({"per_device_train_batch_size": 1}, "rounds of 4 prompts, and these are of 2 prompts:"),
        ({"num_iterations": 2}, "rounds of 2 optimizer steps, and these are of 4 optimizer steps:"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stop", [1, 2], ids=["in a round", "between rounds"])
def test_rounds_of_another_size_are_refused(stop, options, sizes, whole_run, tmp_path):
    """Where in the run a step is follows from the size of a round: both sizes are in the sentence."""
    _, folder = whole_run("comal", "full")
    with pytest.raises(ValueError, match=f"checkpoint-{stop} was saved with {sizes}.*rounds that it was saved with"):
        build("comal", tmp_path, **options).train(resume_from_checkpoint=str(folder / f"checkpoint-{stop}"))


def test_a_missing_buffer_is_named(tmp_path):
    """In the middle of a round the buffer of this process is needed."""
    build("comal", tmp_path, max_steps=1).train()
    (tmp_path / "checkpoint-1" / "nash" / "round-00000.safetensors").unlink()
    with pytest.raises(ValueError, match="nash/round-00000.safetensors is missing. Start a new run"):
        build("comal", tmp_path, max_steps=2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_save_total_limit_removes_all_of_a_checkpoint(tmp_path):
    """Frozen policies and rounds go with their checkpoint."""
    build("comal", tmp_path, save_total_limit=2).train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-7", "checkpoint-8"]


def test_saving_at_the_end_of_epochs(tmp_path):
    """`save_strategy="epoch"` keeps checkpoints at the ends of rounds, without a buffer."""
    build("comal", tmp_path, save_strategy="epoch").train()
    folders = sorted(tmp_path.glob("checkpoint-*"))
    assert [folder.name for folder in folders] == ["checkpoint-4", "checkpoint-8"]
    assert not any("round-00000.safetensors" in name for folder in folders for name in names(folder))


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 9)


def copy_of(folder: Path, tmp_path: Path, steps: list[int]) -> Path:
    for step in steps:
        shutil.copytree(folder / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    return tmp_path


DAMAGES = {
    "no state": (lambda folder: (folder / "trainer_state.json").unlink(), "trainer_state.json"),
    "cut state": (lambda folder: cut(folder / "trainer_state.json"), "trainer_state.json"),
    "cut weights": (lambda folder: cut(folder / "model.safetensors"), "model.safetensors is cut"),
    "cut optimizer": (lambda folder: cut(folder / "optimizer.pt"), "optimizer.pt is cut"),
    "cut policy": (
        lambda folder: cut(folder / "nash" / "policies" / "initial-00000.safetensors"),
        "nash/policies/initial-00000.safetensors is cut",
    ),
    **{
        f"no {name}": (lambda folder, name=name: (folder / name).unlink(), f"{name}.* is missing")
        for name in (
            *("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"),
            *("nash/round.json", "nash/policies/initial-00000.safetensors"),
        )
    },
    "empty": (lambda folder: [shutil.rmtree(folder), folder.mkdir()], "trainer_state.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_incomplete_checkpoint_is_never_resumed_from(damage, whole_run, tmp_path, caplog):
    """`True` takes the one before and names what it leaves alone; its path is refused, with the reason."""
    whole, folder = whole_run("comal", "full")
    copy_of(folder, tmp_path, [1, 5, 6])
    harm, reason = DAMAGES[damage]
    harm(tmp_path / "checkpoint-6")
    left = names(tmp_path / "checkpoint-6")
    trainer = build("comal", tmp_path, save_strategy="no")
    with pytest.raises(ValueError, match=rf"checkpoint-6'` is not a complete.*{reason}.*from .*/checkpoint-5\."):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    with caplog.at_level("WARNING"):
        trainer.train(resume_from_checkpoint=True)
    (warning,) = [record.getMessage() for record in caplog.records if "left alone" in record.getMessage()]
    assert "checkpoint-5. Not complete" in warning and re.search(rf"checkpoint-6 .*{reason}", warning)
    assert_same_run(trainer, whole, after=5)
    assert names(tmp_path / "checkpoint-6") == left


def test_no_complete_checkpoint_is_an_error(whole_run, tmp_path):
    """Asked for, a resume does not silently become a new run."""
    copy_of(whole_run("comal", "full")[1], tmp_path, [5])
    cut(tmp_path / "checkpoint-5" / "trainer_state.json")
    with pytest.raises(
        ValueError, match="finds no complete checkpoint.*checkpoint-5 is not complete.*without it"
    ) as error:
        build("comal", tmp_path).train(resume_from_checkpoint=True)
    assert "  " not in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"checkpoint in \S+empty\. Start without it"):
        build("comal", tmp_path / "empty").train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="checkpoint-9'` is not a complete checkpoint: there is no such folder"):
        build("comal", tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-9"))


def test_leftovers_do_not_come_back(whole_run, tmp_path):
    """Written over what another run has left half-written, a checkpoint holds its own policies alone."""
    whole, folder = whole_run("onpo-one", "full")
    copy_of(folder, tmp_path, [1, 2])
    (tmp_path / "checkpoint-2" / "trainer_state.json").unlink()
    policies = tmp_path / "checkpoint-2" / "nash" / "policies"
    (policies / "initial-00000.safetensors").rename(policies / "round_9-00000.safetensors")
    build("onpo-one", tmp_path).train(resume_from_checkpoint=True)
    assert names(policies) == names(folder / "checkpoint-2" / "nash" / "policies")


def test_a_checkpoint_of_this_run_is_not_written_again(tmp_path):
    """A stop at a step that has its checkpoint leaves it alone: a kill in a second writing would take it."""
    trainer = build("comal", tmp_path, save_steps=4, steps_per_generation=4)
    state = tmp_path / "checkpoint-4" / "trainer_state.json"
    sample, times = trainer.sample_pairs, []

    def stop(prompts):
        if trainer.round == 1:
            times.append(state.stat().st_mtime_ns)
            trainer.request_stop("SIGTERM")
        return sample(prompts)

    trainer.sample_pairs = stop
    with pytest.raises(RuntimeError, match="A checkpoint of step 4"):
        trainer.train()
    assert times == [state.stat().st_mtime_ns]


# ---- A full disk ----


@pytest.mark.parametrize("write", range(8))
def test_a_full_disk_keeps_the_last_checkpoint(write, whole_run, tmp_path, monkeypatch):
    """
    Whichever write of the checkpoint of step 6 fails, the run stops with a sentence that names the folder and the
    complete checkpoint, which `save_total_limit=1` has not deleted; resumed, the run is the undisturbed one.
    """
    whole, _ = whole_run("comal", "full")
    trainer = build("comal", tmp_path, save_total_limit=1)
    full = SimpleNamespace(writes=0)

    def limited(function, message):
        def write_or_fail(*args, **kwargs):
            if trainer.state.global_step == 6:
                full.writes += 1
                if full.writes == write + 1:
                    raise message
            return function(*args, **kwargs)

        return write_or_fail

    no_space = OSError(errno.ENOSPC, "No space left on device")
    # How torch.save and safetensors say it.
    torn = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    rust = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    monkeypatch.setattr(torch, "save", limited(torch.save, torn))
    monkeypatch.setattr("safetensors.torch.save_file", limited(safetensors.torch.save_file, rust))
    monkeypatch.setattr(Path, "write_text", limited(Path.write_text, no_space))
    monkeypatch.setattr(TrainerState, "save_to_json", limited(TrainerState.save_to_json, no_space))
    monkeypatch.setattr(trainer, "_save", limited(trainer._save, rust))
    with pytest.raises(RuntimeError, match="checkpoint-6 could not be written .*checkpoint-5 is complete: make space"):
        trainer.train()
    monkeypatch.undo()
    complete, faults = complete_checkpoints(tmp_path)
    assert [path.name for path in complete] == ["checkpoint-5"]
    assert {path.name for path in faults} <= {"checkpoint-6"} and full.writes == write + 1
    resumed = build("comal", tmp_path, save_total_limit=1)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(resumed, whole, after=5)


# ---- Frozen policies on disk ----


def test_a_frozen_policy_is_written_once(tmp_path, monkeypatch):
    """
    Checkpoints of one run share the files of what has not changed: 12 checkpoints, one `initial`, and COMAL's
    reference, which moves at the start of round 4 and is that of rounds 4, 5 and 6, in those before which it is needed
    again: of steps 7 to 10. One of them, copied elsewhere, is whole, and the others' deletion takes nothing.
    """
    options = {"num_train_epochs": 3, "reference_rounds": 3}
    build("comal", tmp_path / "whole", **options).train()
    file = "nash/policies/{}-00000.safetensors"
    inode = {
        name: {
            step: path.stat().st_ino
            for step in range(1, 13)
            if (path := tmp_path / "whole" / f"checkpoint-{step}" / file.format(name)).exists()
        }
        for name in ("initial", "round_3")
    }
    assert len(set(inode["initial"].values())) == 1 and list(inode["initial"]) == list(range(1, 13))
    assert len(set(inode["round_3"].values())) == 1 and list(inode["round_3"]) == [7, 8, 9, 10]
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    build("comal", tmp_path / "copies", **options).train()
    for step in (1, 8, 12):
        for name in names(tmp_path / "whole" / f"checkpoint-{step}" / "nash"):
            first, second = (tmp_path / run / f"checkpoint-{step}" / "nash" / name for run in ("whole", "copies"))
            assert first.read_bytes() == second.read_bytes()


def test_shared_files_outlive_their_first_checkpoint(whole_run, tmp_path):
    """With `save_total_limit=1` files pass from checkpoint to checkpoint; a moving average is written every time."""
    for algorithm in ("comal", "nash-ema"):
        whole, _ = whole_run(algorithm, "full")
        folder = tmp_path / algorithm
        stopped = build(algorithm, folder, save_total_limit=1, extra={"callbacks": [Interrupt(4)]})
        with pytest.raises(KeyboardInterrupt):
            stopped.train()
        resumed = build(algorithm, folder, save_total_limit=1)
        resumed.train(resume_from_checkpoint=True)
        for name, kept in whole.policies._weights.items():
            assert equal(resumed.policies._weights[name], kept)
        (last,) = folder.glob("checkpoint-*")
        expected = whole_run(algorithm, "full")[1] / last.name
        for name in names(last / "nash" / "policies"):
            parts = (path / "nash" / "policies" / name for path in (last, expected))
            assert equal(*(safetensors.torch.load_file(part) for part in parts))


# ---- Another number of processes ----


def say_saved_by(checkpoint: Path, processes: int) -> None:
    file = checkpoint / "nash" / "round.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"processes": processes}))


def test_a_round_in_progress_needs_as_many_processes(whole_run, tmp_path):
    """The samples of a round lie with the ranks that drew them; between rounds any number of processes goes on."""
    whole, folder = whole_run("comal", "full")
    copy_of(folder, tmp_path, [5, 6])
    say_saved_by(tmp_path / "checkpoint-5", 2)
    say_saved_by(tmp_path / "checkpoint-6", 2)
    with pytest.raises(ValueError, match="by 2 processes in the middle of a round.* 1: resume with 2.*multiple of 2"):
        build("comal", tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    resumed = build("comal", tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert_same_run(resumed, whole, after=6)


@pytest.mark.parametrize("saved, now", [(3, 2), (2, 3), (4, 1)])
def test_shards_are_cut_anew(saved, now, tmp_path):
    """FSDP2 gives ranks the rows that `torch.chunk` does; the last may have few, or none."""
    whole = {"matrix": torch.randn(7, 3), "vector": torch.randn(4), "short": torch.randn(2, 5)}

    def shards(processes):
        parts = {key: tensor.chunk(processes) for key, tensor in whole.items()}
        none = {key: tensor[:0] for key, tensor in whole.items()}
        return [
            {key: (parts[key][rank] if rank < len(parts[key]) else none[key]).clone() for key in whole}
            for rank in range(processes)
        ]

    files = [tmp_path / f"initial-{rank:05d}.safetensors" for rank in range(saved)]
    for file, shard in zip(files, shards(saved), strict=True):
        safetensors.torch.save_file(shard, file)
    for rank, expected in enumerate(shards(now)):
        assert equal(FrozenPolicies._rows(files, rank, now), expected)


def test_deepspeed_needs_as_many_processes(whole_run, tmp_path):
    copy_of(whole_run("comal", "full")[1], tmp_path, [6])
    say_saved_by(tmp_path / "checkpoint-6", 2)
    trainer = build("comal", tmp_path)
    trainer.keeper._accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=object()))
    with pytest.raises(ValueError, match="by 2 processes, and DeepSpeed cannot .* 1: resume with 2, or .* the model"):
        trainer.keeper.check(tmp_path / "checkpoint-6")


# ---- Model cards and the hub ----

PAPERS = {
    "ipo": ("Iterative IPO", "iterative-ipo", "2310.12036"),
    "onpo-one": ("ONPO", "onpo", "2502.16852"),
    "onpo-two": ("ONPO", "onpo", "2502.16852"),
    "comal": ("COMAL", "comal", "2410.23223"),
    "nash-md": ("Nash-MD", "nash-md", "2312.00886"),
    "nash-ema": ("Nash-MD", "nash-md", "2312.00886"),
}


def table_of(text: str) -> dict[str, str]:
    """The table of settings in a model card."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {name.strip("`"): value for name, value in rows}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_model_card_names_algorithm_paper_and_settings(algorithm, whole_run):
    """A checkpoint writes a card: tags for the hub, method, paper, citation, and every setting of the config."""
    trainer, folder = whole_run(algorithm, "full")
    name, tag, paper = PAPERS[algorithm]
    card = ModelCard.load(folder / "README.md")
    assert {"trl", "trl-nash", tag} <= set(card.data.tags)
    assert card.data.library_name == "transformers"
    assert f"huggingface.co/papers/{paper}" in card.text and f"arXiv:{paper}" in card.text
    assert name in card.text
    settings = table_of(card.text)
    expected = {"judge": "helpers:favours_a", "num_generations": "2", "learning_rate": "0.05", "max_new_tokens": "5"}
    expected |= {key: str(getattr(trainer.args, key)) for key in ALGORITHMS[algorithm][2] if key != "num_generations"}
    expected |= {key: str(value) for key, value in OWN[algorithm].items()}
    assert expected.items() <= settings.items()
    assert "trl-nash: " in card.text.split("### Framework versions")[1]


def test_the_card_is_written_once_however_often_it_is_saved(whole_run):
    """The card of the last of 8 checkpoints has one table of settings."""
    _, folder = whole_run("comal", "full")
    assert (folder / "README.md").read_text().count("### Settings") == 1


def test_push_to_hub_carries_the_tags(tmp_path, monkeypatch):
    """`push_to_hub` uploads a card with TRL's tags and ours, beside the tags that the user gives."""
    pushed = {}
    trainer = build("comal", tmp_path, hub_model_id="someone/model")

    def upload(folder_path, **kwargs):
        pushed["names"] = names(Path(folder_path))
        pushed["card"] = ModelCard.load(Path(folder_path) / "README.md")

    def init_hf_repo(self, token=None, private=None):
        self.hub_model_id = "someone/model"

    monkeypatch.setattr("transformers.trainer.hf_api", lambda: SimpleNamespace(upload_folder=upload), raising=False)
    monkeypatch.setattr("transformers.trainer.upload_folder", upload, raising=False)  # before it had an API object
    monkeypatch.setattr(Trainer, "init_hf_repo", init_hf_repo)
    trainer.push_to_hub(tags=["mine"], dataset_name="someone/prompts")
    assert {"trl", "trl-nash", "comal", "mine"} <= set(pushed["card"].data.tags)
    assert pushed["card"].data.datasets == ["someone/prompts"] or "someone/prompts" in pushed["card"].text
    assert "model.safetensors" in pushed["names"] and not any("nash/" in name for name in pushed["names"])


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_model_is_tagged(lora, tmp_path):
    """`model.push_to_hub` by hand gets the tags as well."""
    trainer = make_trainer("onpo-one", tmp_path, lora=lora)
    assert {"trl", "trl-nash", "onpo"} <= set(trainer.model.model_tags)


# ---- A run that is interrupted ----


class Interrupt(TrainerCallback):
    """Stops a run as Ctrl-C does, at the end of a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_resuming_after_an_interrupt(whole_run, tmp_path):
    """A run that is killed in step 6 of 8, with checkpoints every 5, goes on from step 5 as if it had not been."""
    whole, _ = whole_run("comal", "full")
    trainer = build("comal", tmp_path, save_steps=5, extra={"callbacks": [Interrupt(6)]})
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    resumed = build("comal", tmp_path, save_steps=5)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(resumed, whole, after=5)
