# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Runs whose result must not depend on how they are distributed.

Sampling differs between ranks by construction, so each run trains on *recorded* completions, which depend on the
prompt and the round only, and on a judge that is a function of the texts. The whole round has as many prompts however
many processes share it, and losses are means over prompts: losses, metrics and final weights must agree.
"""

import ctypes
import random
import re
import zlib
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from helpers import ALGORITHMS, favours_a, make_trainer, prompt_dataset
from tiny import build_model, build_tokenizer
from torch.distributed.tensor import DTensor
from transformers import AutoTokenizer, BitsAndBytesConfig, LlamaConfig, LlamaForSequenceClassification
from transformers.integrations import is_deepspeed_zero3_enabled

from trl_nash.judges.base import JudgeError
from trl_nash.kernels.fused_head import FusedHead


ROUND = 8  # prompts over all processes
ROUNDS = 4  # two epochs of two rounds
PROMPTS = [f"{first} {second}" for first in "abcd" for second in "efgh"]

TUNINGS = ("full", "lora", "qlora")
CONTINUOUS = {
    "use_transformers_continuous_batching": True,
    "transformers_continuous_batching_config": {"num_blocks": 8, "page_size": 8, "max_batch_tokens": 16},
}
# name -> (name in `helpers.ALGORITHMS`, options)
METHODS = {
    # The reference moves after two rounds: in the fourth it is neither the initial nor the live policy.
    "comal": ("comal", {"reference_rounds": 2, "num_iterations": 2}),
    # A history of two, so that the fit has the policy of the round before in its centre and forgets what is older.
    "onpo-one": ("onpo-one", {"anchor_history": 2, "num_iterations": 2}),
    "onpo-two": ("onpo-two", {}),
    "nash-md": ("nash-md", {}),
    # The average of past policies is changed in place in every round.
    "nash-ema": ("nash-ema", {}),
    "continuous": ("ipo", CONTINUOUS),
}
# Judged by a reward model that the trainer loads while the policy is to be sharded.
REWARD = "full/reward"
# Whose judge gives up in the second round: the run saves a checkpoint in the middle of sampling.
STOP = "full/stop"
# Trains a model whose weights take more memory than what is computed with them, and records the peak.
MEMORY = "full/memory"
CELLS = [f"{tuning}/{method}" for tuning in TUNINGS for method in METHODS]

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float32"}

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc


def recorded_completions(prompt: str, round_: int, count: int, tokens: list[int], eos: int) -> list[list[int]]:
    """`count` completions of one to five tokens, some of which end by themselves."""
    draw = random.Random(f"{prompt}|{round_}")
    rows = [draw.choices(tokens, k=draw.randint(1, 5)) for _ in range(count)]
    return [[*row[:-1], eos] if draw.random() < 0.5 else row for row in rows]


@contextmanager
def counted_gathering():
    """Yields a list that grows whenever DeepSpeed gathers weights."""
    count = []
    if not is_deepspeed_zero3_enabled():
        yield count
        return
    import deepspeed

    enter = deepspeed.zero.GatheredParameters.__enter__

    def counting(self):
        count.append(self)
        return enter(self)

    with patch.object(deepspeed.zero.GatheredParameters, "__enter__", counting):
        yield count


def save_models(folder: str) -> None:
    """Writes the policy of all cells, its tokenizer, a reward model, and a policy of 17 million weights."""
    tokenizer = build_tokenizer(chat=False)
    policy = build_model(tokenizer)
    labels = {"num_labels": 1, "id2label": None, "label2id": None}
    reward = LlamaForSequenceClassification(LlamaConfig(**policy.config.to_dict() | labels))
    with torch.no_grad():
        reward.score.weight.mul_(100)
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 16}
    large = build_model(tokenizer, **sizes)
    for model, name in ((policy, ""), (reward, "/reward"), (large, "/large")):
        model.save_pretrained(folder + name)
        tokenizer.save_pretrained(folder + name)


def recorded(trainer_class: type) -> type:
    """The trainer, which samples as it always does, keeps what it sampled and trains on recorded completions."""

    class Recorded(trainer_class):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.sampled: dict[str, list] = {}
            self.losses: list[float] = []
            self.gathered: list[int] = []  # how often ZeRO-3's weights were gathered to sample a round
            self.reads_prompts_once: list[bool] = []  # whether the model did, in each training step
            self.frozen: set[str] = set()  # the policies that there were when a round was sampled
            sample_round = self.collector.round

            def counted_round(*args):
                with counted_gathering() as count:
                    batches = sample_round(*args)
                self.gathered.append(len(count))
                return batches

            self.collector.round = counted_round

        def sample_pairs(self, prompts):
            self.frozen |= set(map(str, self.policies))
            # Seeded by the prompt, so that all backends draw the same from the same policy.
            torch.manual_seed(zlib.crc32(f"{prompts}{self.round}".encode()))
            samples = super().sample_pairs(prompts)
            self.sampled |= {
                f"{self.round}|{p}": rows for p, rows in zip(prompts, samples.completion_ids, strict=True)
            }
            words = self._tokenizer.convert_tokens_to_ids(list("abcdefgh"))
            completions = [
                recorded_completions(p, self.round, len(rows), words, self._tokenizer.eos_token_id)
                for p, rows in zip(prompts, samples.completion_ids, strict=True)
            ]
            return replace(samples, completion_ids=completions)

        def compute_loss(self, model, inputs, *args, **kwargs):
            with patch.object(FusedHead, "_from_hidden", autospec=True, side_effect=FusedHead._from_hidden) as rows:
                loss = super().compute_loss(model, inputs, *args, **kwargs)
            if self.model.training:
                self.losses.append(loss.item())
                self.reads_prompts_once.append(not rows.called)
            return loss

    return Recorded


class Exhausted:
    """A judge that answers so many `calls`."""

    symmetric = True

    def __init__(self, calls: int):
        self.calls = calls

    def __call__(self, prompts, first, second):
        self.calls -= 1
        if self.calls < 0:
            raise JudgeError("The judge is out of money.")
        return favours_a(prompts, first, second)


def build(cell: str, model_folder: str, output_dir: Path, processes: int = 1, **options):
    """The trainer of a cell, as a user would build it: from the path of a model."""
    tuning, method = cell.split("/")
    algorithm, own = METHODS.get(method, ("ipo", {}))
    judged = {
        REWARD: {"judge": None, "extra": {"reward_funcs": f"{model_folder}/reward"}},
        STOP: {"judge": Exhausted(calls=ROUND // processes)},
    }.get(cell, {})
    if tuning == "qlora":
        options["model_init_kwargs"] = {"quantization_config": BitsAndBytesConfig(**NF4)}
    return make_trainer(
        algorithm,
        output_dir,
        model=f"{model_folder}/large" if cell == MEMORY else model_folder,
        tokenizer=AutoTokenizer.from_pretrained(model_folder),
        dataset=prompt_dataset(PROMPTS),
        lora=tuning != "full",
        trainer_class=recorded(ALGORITHMS[algorithm][0]),
        **judged,
        **{
            "per_device_train_batch_size": ROUND // 2 // processes,
            "gradient_accumulation_steps": 2,
            "per_device_generation_batch_size": 1,
            "num_train_epochs": ROUNDS * ROUND // len(PROMPTS),
            # Above the rounding errors of gradients, which Adam would otherwise blow up to whole steps.
            "adam_epsilon": 1e-4,
        }
        | own
        | options,
    )


def whole_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The trainable weights, put together from what the ranks hold."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if any(hasattr(p, "ds_id") for p in parameters.values()):
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(parameters.values())):
            return {name: p.detach().clone() for name, p in parameters.items()}
    return {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone() for name, p in parameters.items()
    }


def run(trainer) -> dict:
    """
    Trains, and returns what must not depend on the backend: `losses` of the optimizer steps, `metrics`, `sampled`
    tokens (all of this rank only), how often a round `gathered` and whole `weights`, with how far they have `moved`;
    and what an `evaluation` of 5 prompts says, of which two ranks cannot have the same number.
    """
    start = whole_weights(trainer.model)
    trainer.train()
    end = whole_weights(trainer.model)
    accumulated = torch.tensor(trainer.losses).view(-1, trainer.args.gradient_accumulation_steps).mean(-1)
    kept = ("policy/", "fit/", "judge/", "grad_norm", "completions/")
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    sampled = dict(trainer.sampled)
    # All but the win rate, whose opponents are sampled as they always are.
    kept_of_evaluation = ("eval_loss", "eval_policy/kl", "eval_fit/", "eval_judge/", "eval_completions/clipped")
    evaluation = trainer.evaluate(prompt_dataset(PROMPTS[:5]))
    return {
        "losses": accumulated.tolist(),
        "metrics": [{k: v for k, v in entry.items() if k.startswith(kept)} for entry in logs],
        "evaluation": {k: v for k, v in evaluation.items() if k.startswith(kept_of_evaluation)},
        "sampled": sampled,
        "gathered": trainer.gathered,
        "weights": end,
        "moved": max((end[name] - start[name]).abs().max().item() for name in end),
    }


def measure(cell: str, *where) -> tuple:
    """Builds a trainer and trains it; and the most memory in bytes that this took of the process meanwhile."""
    status = Path("/proc/self/status")

    def kilobytes(name: str) -> int:
        return int(re.search(rf"{name}:\s+(\d+) kB", status.read_text())[1])

    # From now on tensors have pages of their own, which go back to the system with them, ...
    for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        ctypes.CDLL(None).mallopt(option, 2**16)
    Path("/proc/self/clear_refs").write_text("5")  # ... and the peak is that of what follows.
    before = kilobytes("VmRSS")
    trainer = build(cell, *where)
    trainer.train()
    return trainer, {"peak": 1024 * (kilobytes("VmHWM") - before)}
