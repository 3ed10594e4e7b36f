# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""COMAL from nothing to a saved model in two minutes, without a GPU, a hub or a key."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .data import Example
from .report import Policy, print_answers, print_comparison, progress_bar, show_training, waiting


if TYPE_CHECKING:
    from ..trainers.comal import COMALTrainer

JUDGE = "trl_nash.demo.judge:three_raters"
# A round is 48 prompts x 4 answers, fitted in 12 optimizer steps; after 6 rounds the reference moves.
PROMPTS_PER_ROUND = 48
STEPS_PER_ROUND = 12
REFERENCE_ROUNDS = 6
LEARNING_RATE = 3e-4  # of a model this small; the default would hardly move it
ROUNDS_BETWEEN_EVALUATIONS = 3
WARM_UP_STEPS = 400
ANSWERS_PER_PROMPT = 16  # of each policy, in the final comparison


def run_demo(examples: list[Example], *, rounds: int, seed: int, output_dir: str) -> None:
    """Makes a model of the examples, trains it, shows it beside the one that it started from, and saves it."""
    from rich.console import Console

    start = time.monotonic()
    console = Console(highlight=False)
    with waiting(console, "Loading PyTorch, transformers and TRL ..."):
        import torch
        from transformers import set_seed

        from ..trainers import comal  # noqa: F401
        from .model import build_model, build_tokenizer, warm_up

    torch.set_num_threads(1)  # as fast for a model this small, and ten times as fast on a busy machine
    training, held_out = split(examples)
    set_seed(seed)
    tokenizer = build_tokenizer(training)
    model = build_model(tokenizer)
    console.print(
        f"\n[bold]1. A model of its own[/bold]: a Llama of {model.num_parameters() / 1e6:.1f} million weights, warmed "
        f"up on {len(training):,} prompts"
    )
    with progress_bar(console, "next-token training", WARM_UP_STEPS) as update:
        warm_up(model, tokenizer, training, WARM_UP_STEPS, on_step=lambda done, loss: update(done, f"loss {loss:.2f}"))

    trainer = build_trainer(model, tokenizer, training, held_out, rounds=rounds, seed=seed, output_dir=output_dir)
    console.print(
        f"\n[bold]2. COMAL[/bold]: {rounds} rounds of {PROMPTS_PER_ROUND} prompts x "
        f"{trainer.args.num_generations} answers, each pair judged by three raters; the reference moves every "
        f"{REFERENCE_ROUNDS} rounds"
    )
    with progress_bar(console, "optimizer steps", trainer.args.max_steps, lines=0) as update:  # the table has lines
        watch = show_training(trainer, console, update, STEPS_PER_ROUND)
        trainer.train()
        trainer.remove_callback(watch)

    console.print("\n[bold]3. The first policy and the last[/bold]")
    with waiting(console, "Sampling from both ..."):
        first, last = compare(trainer, held_out)
    print_comparison(console, held_out, first, last, unseen=held_out is not training)
    print_answers(console, held_out, first, last)
    save(trainer, training, output_dir)
    console.print(f"\nSaved in {output_dir} after {time.monotonic() - start:.0f} s.", soft_wrap=True)
    for purpose, command in next_commands(output_dir).items():
        console.print(f"[bold]{purpose}[/bold]: {command}", soft_wrap=True)


def split(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    """Prompts to train on, at least a round of them, and prompts to compare on: others, if there are enough."""
    if len(examples) >= 2 * PROMPTS_PER_ROUND:
        return examples[:-PROMPTS_PER_ROUND], examples[-PROMPTS_PER_ROUND:]
    return examples, examples


def build_trainer(model, tokenizer, training, held_out, *, rounds: int, seed: int, output_dir: str) -> "COMALTrainer":
    """The real trainer, on the CPU. A short list of prompts is repeated until it fills a round."""
    from datasets import Dataset
    from transformers import PrinterCallback

    from ..trainers.comal import COMALConfig, COMALTrainer
    from .model import MAX_NEW_TOKENS, MAX_PROMPT_TOKENS

    def dataset(examples: list[Example]) -> Dataset:
        return Dataset.from_list([{"prompt": [{"role": "user", "content": e.prompt}]} for e in examples])

    args = COMALConfig(
        output_dir=output_dir,
        reference_rounds=REFERENCE_ROUNDS,
        num_generations=4,
        max_new_tokens=MAX_NEW_TOKENS,
        max_length=MAX_PROMPT_TOKENS + MAX_NEW_TOKENS,
        per_device_train_batch_size=16,
        generation_batch_size=PROMPTS_PER_ROUND,
        per_device_generation_batch_size=PROMPTS_PER_ROUND,
        num_iterations=4,
        max_steps=rounds * STEPS_PER_ROUND,
        learning_rate=LEARNING_RATE,
        eval_strategy="steps",
        eval_steps=ROUNDS_BETWEEN_EVALUATIONS * STEPS_PER_ROUND,
        eval_on_start=True,
        per_device_eval_batch_size=PROMPTS_PER_ROUND,
        logging_steps=STEPS_PER_ROUND,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        seed=seed,
    )
    trainer = COMALTrainer(
        model=model,
        judge=JUDGE,
        args=args,
        train_dataset=dataset(training * -(-PROMPTS_PER_ROUND // len(training))),
        eval_dataset=dataset(held_out),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def compare(trainer: "COMALTrainer", examples: list[Example]) -> tuple[Policy, Policy]:
    """
    Samples afresh from the first policy and the last, and has both judged against answers of the first.

    Args:
        trainer ([`COMALTrainer`]): after training.
        examples (`list[Example]`): the prompts.

    Returns:
        The first policy, whose win rate can only differ from one half by chance, and the last.
    """
    from ..algorithms import INITIAL

    kl = trainer.evaluate()["eval_policy/kl_reference"]
    prompts = [[{"role": "user", "content": example.prompt}] for example in examples]
    answers = []
    for policy in (INITIAL, INITIAL, None):
        _, completions = trainer.generate(prompts, ANSWERS_PER_PROMPT, policy=policy)
        answers.append([[trainer.judging.decode(ids) for ids in row] for row in completions])
    opponent, first, last = answers
    return (
        Policy(first, *win_rate(trainer.judge, prompts, first, opponent), 0.0),
        Policy(last, *win_rate(trainer.judge, prompts, last, opponent), kl),
    )


def win_rate(judge, prompts: list, own: list[list[str]], opponent: list[list[str]]) -> tuple[float, float]:
    """
    How often the judge prefers `own[i][k]` to `opponent[i][k]`.

    Args:
        judge ([`PairwiseJudge`]): who compares.
        prompts (`list`): B prompts.
        own (`list[list[str]]`): B lists of N answers.
        opponent (`list[list[str]]`): B lists of N answers.

    Returns:
        `tuple[float, float]`: The mean over B * N comparisons, and its standard error over prompts, whose answers are
        judged alike; `nan` for a single prompt.
    """
    rows = zip(prompts, own, opponent, strict=True)
    flat = [(prompt, a, b) for prompt, *both in rows for a, b in zip(*both, strict=True)]
    wins = np.reshape(judge(*map(list, zip(*flat, strict=True))), (len(prompts), -1))
    error = wins.mean(axis=1).std(ddof=1) / len(prompts) ** 0.5 if len(prompts) > 1 else float("nan")
    return float(wins.mean()), float(error)


def save(trainer: "COMALTrainer", examples: list[Example], output_dir: str) -> None:
    """Saves model, tokenizer, model card, and the prompts, so that a training command can go on from there."""
    trainer.save_model(output_dir)
    trainer.create_model_card(model_name=Path(output_dir).name)
    lines = (json.dumps({"prompt": example.prompt}, ensure_ascii=False) for example in examples)
    (Path(output_dir) / "prompts.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def next_commands(output_dir: str) -> dict[str, str]:
    """What to type next, by what it is for."""
    return {
        "Train it further": f"trl-nash comal --model_name_or_path {output_dir} "
        f"--dataset_name {Path(output_dir) / 'prompts.jsonl'} --judge {JUDGE} --learning_rate {LEARNING_RATE:g} "
        f"--output_dir {output_dir}-2",
        "Train others on a game with a known equilibrium": "trl-nash demo --game comal-cycle",
        "Next, a real model": "trl-nash comal --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct "
        "--dataset_name trl-lib/ultrafeedback-prompt --judge reward:Skywork/Skywork-Reward-V2-Qwen3-0.6B "
        "--output_dir Qwen2.5-0.5B-COMAL",
    }
