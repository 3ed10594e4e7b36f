# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""One training run on the real model, and what is read from it while it trains and at its end."""

import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback

from .judges import CLASSES, JUDGES, opening
from .methods import METHODS
from .model import fast_dtype, precision


SYSTEM = ""  # the default one is longer than most prompts
# Tokens of an answer, answers to each of the 16 prompts of a round, rounds, and passes over each. In the cycle the
# first letter decides: a second token would only be another place where a fit can put a margin.
TOKENS = {"cycle": 1, "majority": 24, "one-rater": 24}
ANSWERS = {"cycle": 8, "majority": 4, "one-rater": 4}
ROUNDS = {"cycle": 30, "majority": 8, "one-rater": 8}
PASSES = {"cycle": 3, "majority": 2, "one-rater": 2}
# Of whole texts little of a step reaches prompts that a round did not have, so steps must be large. Of single tokens
# a third of it does, and a step that is too large turns in a circle: ONPO's limit there is a third of COMAL's.
STEP_SIZE = {"cycle": 6.0, "majority": 24.0, "one-rater": 24.0}
OWN_STEP_SIZE = {("cycle", "onpo"): 2.0, ("cycle", "onpo-two-fits"): 2.0}


def options_of(judge: str, method: str, step_size: float | None = None) -> dict:
    """What a method is told for a judge, if with another step size than the usual one."""
    return METHODS[method].options(step_size or OWN_STEP_SIZE.get((judge, method), STEP_SIZE[judge]))


def messages(prompt: str) -> list[dict]:
    """A prompt as the model is asked."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]


class Reader:
    """The model's answers to prompts, and the exact probabilities of how they begin."""

    def __init__(self, tokenizer, prompts: list[str], batch: int = 16):
        self.tokenizer, self.prompts, self.batch = tokenizer, prompts, batch
        letters = [tokenizer.decode([token]) for token in range(len(tokenizer))]
        letters[tokenizer.eos_token_id] = ""
        self.classes = torch.tensor([opening(letter) for letter in letters])

    def inputs(self, prompts: list[str]):
        rendered = [
            self.tokenizer.apply_chat_template(messages(prompt), add_generation_prompt=True, tokenize=False)
            for prompt in prompts
        ]
        return self.tokenizer(
            rendered, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        )

    @torch.no_grad()
    def shares(self, model) -> np.ndarray:
        """Probability of each class of answers, exactly, of shape (prompts, classes)."""
        found = []
        for begin in range(0, len(self.prompts), self.batch):
            inputs = self.inputs(self.prompts[begin : begin + self.batch])
            with precision():
                logits = model(**inputs, logits_to_keep=1).logits[:, -1]
            first = logits.float().softmax(-1)[:, : len(self.classes)]
            found.append(torch.stack([first[:, self.classes == k].sum(1) for k in range(len(CLASSES))], 1))
        return torch.cat(found).numpy()

    @torch.no_grad()
    def answers(self, model, count: int, tokens: int, seed: int = 0) -> list[list[str]]:
        """Sampled answers, `count` to each prompt."""
        torch.manual_seed(seed)
        texts = []
        for begin in range(0, len(self.prompts), self.batch):
            inputs = self.inputs(self.prompts[begin : begin + self.batch])
            with precision():
                ids = model.generate(
                    **inputs,
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    max_new_tokens=tokens,
                    num_return_sequences=count,
                    pad_token_id=self.tokenizer.pad_token_id,
                )
            texts += self.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [texts[row : row + count] for row in range(0, len(texts), count)]


class Watch(TrainerCallback):
    """Takes a reading before training and after each round: seconds, judged pairs, what was sampled, exact shares."""

    def __init__(self, judge, every: int, reader: Reader | None, bar: tqdm):
        self.judge, self.every, self.reader, self.bar = judge, every, reader, bar
        self.asked: dict[str, dict[str, None]] = {}
        self.pairs, self.readings, self.began = 0, [], time.monotonic()
        self.reading = 0.0  # seconds that reading has taken

    def __call__(self, prompts, first, second):
        """The judge, remembered: it is the one place through which every trainer's answers come."""
        self.pairs += len(prompts)
        for prompt, *answers in zip(prompts, first, second, strict=True):
            self.asked.setdefault(prompt[-1]["content"], {}).update(dict.fromkeys(answers))
        return self.judge(prompts, first, second)

    symmetric = True

    def on_train_begin(self, args, state, control, model, **kwargs):
        self.began = time.monotonic()
        self._read(model)

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step % self.every == 0:
            self._read(model)
            self.bar.update()

    def _read(self, model) -> None:
        began = time.monotonic()
        found = {"pairs": self.pairs, "seconds": round(began - self.began - self.reading, 1)}
        if self.reader is None:
            found["answers"] = {prompt: list(answers) for prompt, answers in self.asked.items()}
        else:
            was = model.training
            model.eval()
            found["shares"] = np.round(self.reader.shares(model), 5).tolist()
            model.train(was)
        self.readings.append(found)
        self.asked = {}
        self.reading += time.monotonic() - began


def play(
    model: Path,
    train: list[str],
    held_out: list[str],
    *,
    judge: str,
    method: str,
    learning_rate: float,
    passes: int,
    seed: int,
    rounds: int,
    num_generations: int,
    step_size: float | None = None,
    lr_scheduler_type: str = "constant_with_warmup",
    folder: Path,
) -> dict:
    """Trains; returns its readings, its own log, and answers to prompts that it was not trained on."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokens = TOKENS[judge]
    reader = Reader(tokenizer, held_out)
    bar = tqdm(total=rounds, desc=f"{judge} {method}", unit="round", disable=None)  # only for somebody who looks
    watch = Watch(JUDGES[judge], 1, Reader(tokenizer, train) if judge == "cycle" else None, bar)
    trainer, watch.every = METHODS[method].build(
        watch,
        options=options_of(judge, method, step_size),
        passes=passes,
        tokens=tokens,
        answers=num_generations,
        model=str(model),
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": [messages(prompt) for prompt in train]}),
        settings={
            "output_dir": str(folder),
            "learning_rate": learning_rate,
            "lr_scheduler_type": lr_scheduler_type,
            "seed": seed,
            "rounds": rounds,
        },
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watch)
    trainer.train()
    bar.close()
    network = trainer.model.eval()
    answers = reader.answers(network, 2, tokens, seed)
    kept = ("fit/r2", "fit/r2_end", "fit/margin", "fit/target", "judge/cycle_rate", "completions/mean_length", "kl")
    return {
        "judge": judge,
        "method": method,
        "learning_rate": learning_rate,
        "passes": passes,
        "seed": seed,
        "num_generations": num_generations,
        "dtype": str(fast_dtype()).removeprefix("torch."),
        "readings": watch.readings,
        "kl": kl_from_start(network, reader, answers),
        "answers": answers,
        "log": [
            {name: value for name, value in row.items() if name in kept or name.startswith(("time/", "policy/"))}
            for row in trainer.state.log_history
            if "loss" in row
        ],
    }


@torch.no_grad()
def kl_from_start(model, reader: Reader, answers: list[list[str]]) -> float:
    """
    E[log π(y) - log π_start(y)] over answers that π gave: adapters on and off, in nats. Of the texts alone: that one
    ends, which is one more token, does not count.
    """
    pairs = [(prompt, y) for prompt, some in zip(reader.prompts, answers, strict=True) for y in some]
    total = 0.0
    for begin in range(0, len(pairs), 16):
        prompts, said = zip(*pairs[begin : begin + 16], strict=True)
        own = _logps(model, reader, list(prompts), list(said))
        with model.disable_adapter():
            total += float((own - _logps(model, reader, list(prompts), list(said))).sum())
    return total / len(pairs)


def _logps(model, reader: Reader, prompts: list[str], said: list[str]) -> torch.Tensor:
    """Log-probability of each text, of shape (texts,)."""
    asked = reader.inputs(prompts)
    answer = reader.tokenizer(said, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
    ids, mask = (torch.cat([asked[name], answer[name]], 1) for name in ("input_ids", "attention_mask"))
    with precision():
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=answer["input_ids"].shape[1] + 1).logits
    logps = logits[:, :-1].float().log_softmax(-1).gather(-1, answer["input_ids"][..., None])[..., 0]
    return (logps * answer["attention_mask"]).sum(1)


def start(model: Path, prompts: list[str], tokens: int, count: int) -> list[list[str]]:
    """What the untrained model answers."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=fast_dtype()).eval()
    return Reader(AutoTokenizer.from_pretrained(model), prompts).answers(network, count, tokens)
