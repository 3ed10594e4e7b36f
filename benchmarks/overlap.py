# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What it is worth to sample while the judge is asked: a round whose judge needs as long as the sampling.

The judge is a server on the loopback interface, a process of its own that thinks about each chunk for as long as a
chunk takes to sample (measured beforehand). The round is sampled and judged with the judge beside the sampling, and
with the same judge one after the other; both give the same completions and verdicts.

    python -m benchmarks.overlap --output benchmarks/results/overlap.json
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import ROOT
from benchmarks.measuring import machine


sys.path.insert(0, str(ROOT / "tests"))

from tiny import build_tokenizer  # noqa: E402

from trl_nash import NashTrainer, PairConfig  # noqa: E402
from trl_nash.judges.servers.openai_api import OpenAIJudge  # noqa: E402


SIZES = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "num_attention_heads": 8}
CHUNK = 8  # prompts; with two completions each, a chunk is 16 questions, which are asked at once


def build(folder: str, judge, chunks: int, tokens: int) -> NashTrainer:
    tokenizer = build_tokenizer()
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **SIZES))
    prompts = [" ".join("abcdefgh"[(i + j) % 8] for j in range(8)) for i in range(CHUNK * chunks)]
    args = PairConfig(
        output_dir=folder,
        per_device_train_batch_size=CHUNK,
        steps_per_generation=chunks,
        per_device_generation_batch_size=CHUNK,
        max_new_tokens=tokens,
        max_length=tokens + 16,
        generation_kwargs={"min_new_tokens": tokens},
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        gradient_checkpointing=False,
        max_steps=1,
    )
    return NashTrainer(
        model=model,
        args=args,
        judge=judge,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
    )


def round_of(trainer: NashTrainer, waits: bool | None) -> tuple[float, list]:
    """Seconds of a round, from the same random numbers; without a judge if `waits` is left out."""
    rows = list(trainer.train_dataset)
    trainer.judge.waits = bool(waits)
    torch.manual_seed(0)
    start = time.perf_counter()
    if waits is None:
        for first in range(0, len(rows), CHUNK):
            trainer.sample_pairs([row["prompt"] for row in rows[first : first + CHUNK]])
        return time.perf_counter() - start, []
    judged = [(part.samples.completion_ids, part.preference.tolist()) for part in trainer.collector.collect(rows)]
    return time.perf_counter() - start, judged


def measure(chunks: int, tokens: int, repeats: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(folder, lambda prompts, first, second: [0.5] * len(prompts), chunks, tokens)
        trainer.model.eval()
        round_of(trainer, None)
        latency = statistics.median(round_of(trainer, None)[0] for _ in range(repeats)) / chunks
        command = [sys.executable, ROOT / "tests" / "judges" / "loopback.py", "--port", "0", "--latency", str(latency)]
        with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True) as server:
            try:
                url = server.stdout.readline().split()[-1]
                judge = OpenAIJudge("loopback", base_url=url, cache=None, concurrency=2 * CHUNK)
                trainer.judge = trainer.judging.judge = judge
                times: dict[str, list[float]] = {"sampling": [], "one after the other": [], "beside": []}
                for _ in range(repeats):  # side by side, so that other work on the machine meets all of them
                    times["sampling"].append(round_of(trainer, None)[0])
                    seconds, alone = round_of(trainer, False)
                    times["one after the other"].append(seconds)
                    seconds, beside = round_of(trainer, True)
                    times["beside"].append(seconds)
                    if beside != alone:
                        raise RuntimeError("The two ways have given other completions or verdicts.")
            finally:
                server.terminate()
    seconds = {name: statistics.median(values) for name, values in times.items()}
    judging = latency * chunks
    longer = max(seconds["sampling"], judging)
    return {
        "chunks": chunks,
        "tokens": tokens,
        "repeats": repeats,
        "seconds": seconds | {"judging": judging},
        "of the longer": {name: seconds[name] / longer for name in ("one after the other", "beside")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(options.chunks, options.tokens, options.repeats)
    for name, share in result["of the longer"].items():
        print(f"a round, {name}: {share:.2f} times the longer of sampling and judging")
    if options.output:
        options.output.write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
