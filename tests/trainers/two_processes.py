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

import trl_nash.trainers.reporting as reporting
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
    scores: dict[str, torch.Tensor] = {}
    sample_and_judge, score_under = trainer._sample_and_judge, trainer._score_under
    compute_loss, judge = trainer.compute_loss, trainer._judge

    def keep_samples(rows):
        samples, preference = sample_and_judge(rows)
        count = count_of(rows)
        seen["calls"].append(len(rows))
        seen[trainer._mode].append(
            {
                "prompts": [row["prompt"] for row in rows[:count]],
                "completions": [ids for group in samples.completion_ids[:count] for ids in group],
                "preferences": numbers(preference[:count]),
                "uncounted": numbers(preference[count:]),
                "losses": [],
                "texts": [
                    trainer._tokenizer.decode(ids, skip_special_tokens=True)
                    for group in samples.completion_ids[:count]
                    for ids in group
                ],
            }
        )
        return samples, preference

    def keep_scores(name, batches):
        values = score_under(name, batches)
        scores[name] = torch.cat([value.sum(-1) for value in values])
        if {"previous", "initial"} <= scores.keys():
            part = seen[trainer._mode][-1]
            part["kl"] = (scores["previous"] - scores["initial"]).tolist()[: len(part["completions"])]
            scores.clear()
        return values

    def keep_loss(model, inputs, *args, **kwargs):
        loss = compute_loss(model, inputs, *args, **kwargs)
        if trainer._mode == "train":
            seen["losses"].append(loss.item())
        else:
            part = seen["eval"][-1]
            part["losses"] = (part["losses"] + loss[1]["losses"].tolist())[: len(part["prompts"])]
        return loss

    def keep_wins(rows, completion_ids, pairs, **kwargs):
        preference = judge(rows, completion_ids, pairs, **kwargs)
        if pairs[0] == (0, 3):
            seen["wins"] += numbers(preference)
        return preference

    def keep_table(*args, **kwargs):
        seen["tables"] = True

    trainer._sample_and_judge, trainer._score_under = keep_samples, keep_scores
    trainer.compute_loss, trainer._judge = keep_loss, keep_wins
    reporting.log_verdicts = keep_table

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

    ranks = gather_object([seen | rounds | {"wins": wins}])
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
