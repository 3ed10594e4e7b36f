# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Run by `test_evaluation.py` as two gloo processes: trains, evaluates, and writes what each rank saw to a file."""

import hashlib
import json
import math
import sys
from pathlib import Path

import torch
from accelerate.utils import gather_object
from datasets import IterableDataset
from helpers import favours_a, make_trainer, prompt_dataset, weights

import trl_nash.trainers.run.reports.reporter as reporter
from trl_nash import OpponentPoolCallback
from trl_nash.algorithms import INITIAL
from trl_nash.rounds.rows import count_of


ASKED: list[tuple[str, str]] = []  # on this rank


def unsure(prompts, first, second):
    """Has no opinion where the first letters of both are the same."""
    ASKED.extend(zip(first, second, strict=True))
    verdicts = favours_a(prompts, first, second)
    return [math.nan if a[:1] == b[:1] else p for p, a, b in zip(verdicts, first, second, strict=True)]


unsure.symmetric = True


def numbers(values: torch.Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.flatten().tolist()]


def digest(model: torch.nn.Module) -> str:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in weights(model).values())).hexdigest()


def main(folder: Path) -> None:
    trainer = make_trainer(
        "ipo",
        folder / "out",
        judge=unsure,
        dataset=prompt_dataset(["c"] * 16),
        extra={"eval_dataset": prompt_dataset("cdefghabcde")},
        max_nan_rate=1.0,
        max_steps=3,
        learning_rate=3e-2,
        log_completions=True,
        per_device_eval_batch_size=2,
        # The ranks' rounds differ in how many pairs are judged, so that a mean of means would be another number.
        num_generations=3,
    )
    seen = {
        "train": [],
        "eval": [],
        "losses": [],
        "wins": [],
        "calls": [],
        "start": digest(trainer.model),
        "tables": False,
    }
    collect, verdicts, compute_loss = trainer.collector.collect, trainer.judging.verdicts, trainer.compute_loss

    def mode() -> str:
        return "train" if trainer.model.training else "eval"

    def scores(policy, batches):
        values = trainer.scorer.under(policy, batches, is_live=policy == trainer.live)
        return torch.cat([value.sum(-1) for value in values])

    def keep_samples(rows, *args):
        (judged,) = collect(rows, *args)
        completions, preference, count = judged.samples.completion_ids, judged.preference, count_of(rows)
        batches = trainer.collector.micro_batches(judged)
        kl = (scores(trainer.live, batches) - scores(INITIAL, batches)).tolist()
        seen["calls"].append(len(rows))
        seen[mode()].append(
            {
                "prompts": [row["prompt"] for row in rows[:count]],
                "completions": [ids for group in completions[:count] for ids in group],
                "preferences": numbers(preference[:count]),
                "uncounted": numbers(preference[count:]),
                "losses": [],
                "kl": kl[: 3 * count],
                "texts": [
                    trainer._tokenizer.decode(ids, skip_special_tokens=True)
                    for group in completions[:count]
                    for ids in group
                ],
            }
        )
        yield judged

    def keep_loss(model, inputs, *args, **kwargs):
        loss = compute_loss(model, inputs, *args, **kwargs)
        if mode() == "train":
            seen["losses"].append(loss.item())
        else:
            part = seen["eval"][-1]
            part["losses"] = (part["losses"] + loss[1]["losses"].tolist())[: len(part["prompts"])]
        return loss

    def keep_wins(rows, samples, *args):
        judged = verdicts(rows, samples, *args)
        if samples.pairs is not None:
            seen["wins"] += [numbers(row) for row in judged.preference]
        return judged

    def keep_table(*args, **kwargs):
        seen["tables"] = True

    trainer.collector.collect, trainer.judging.verdicts = keep_samples, keep_wins
    trainer.compute_loss = keep_loss
    reporter.log_verdicts = keep_table

    trainer.train()
    seen["asked"] = list(ASKED)
    seen["weights"] = digest(trainer.model)
    wrapped = type(trainer.model_wrapped).__name__
    trained = [entry for entry in trainer.state.log_history if "loss" in entry]
    metrics = trainer.evaluate()
    evaluated = [{name.removeprefix("eval_"): value for name, value in metrics.items()}]
    rounds = {mode: list(seen[mode]) for mode in ("train", "eval")}
    wins = list(seen["wins"])
    stream = IterableDataset.from_generator(lambda: ({"prompt": prompt} for prompt in "abcde"))
    trainer.evaluate(stream)
    seen["streamed"] = [prompt for part in seen["eval"][len(rounds["eval"]) :] for prompt in part["prompts"]]
    ASKED.clear()
    pool = OpponentPoolCallback(trainer)
    played = [pool.evaluate(trainer.get_eval_dataloader(), "eval") for _ in range(2)]  # the second one asks nothing
    pool_seen = {"metrics": played, "game": pool.games["eval"].state(), "asked": list(ASKED)}

    ranks = gather_object([seen | rounds | {"wins": wins, "pool": pool_seen}])
    if trainer.accelerator.is_main_process:
        result = {
            "processes": trainer.accelerator.num_processes,
            "wrapped": wrapped,
            "eos": trainer._tokenizer.eos_token_id,
            "train": trained,
            "eval": evaluated,
            "ranks": ranks,
        }
        (folder / "result.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
