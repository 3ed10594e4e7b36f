# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
ONPO on dialogues with a tool: sums that a small model gets right only with the calculator.

    python examples/dialogue_tool.py --model Qwen/Qwen3-0.6B

The environment is what `environment_factory` of TRL's GRPOTrainer takes: its public methods are tools. The model's
chat template has to know tools. The judge reads whole dialogues: the right result wins, and of two the one with fewer
calls.
"""

import argparse
import tempfile

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_nash import ONPOConfig, ONPOTrainer


class Calculator:
    """One for each dialogue."""

    def reset(self, **row):
        """Begins a dialogue; a text that it returned would be added to the prompt."""

    def multiply(self, a: int, b: int) -> int:
        """
        Multiplies two numbers.

        Args:
            a: the first number.
            b: the second number.

        Returns:
            Their product.
        """
        return a * b


def right(prompts, first, second, result):
    """P(first ≻ second); each side is a list of messages, of which the calls and their results are some."""

    def points(turns, wanted):
        calls = sum(turn["role"] == "tool" for turn in turns)
        return 10 * (turns[-1]["role"] == "assistant" and str(wanted) in (turns[-1]["content"] or "")) - calls

    found = [(points(a, wanted), points(b, wanted)) for a, b, wanted in zip(first, second, result, strict=True)]
    return [0.5 + 0.45 * ((a > b) - (a < b)) for a, b in found]


right.symmetric = True

parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument("--model", required=True, help="an instruct model that calls tools: name or folder")
parser.add_argument("--rounds", type=int, default=20, help="of 16 sums x 4 dialogues")
parser.add_argument("--max_new_tokens", type=int, default=128, help="of a turn; a call is cut if it is longer")
parser.add_argument("--sums", nargs="+", default=[f"{a}*{b}" for a in (37, 48, 59, 83) for b in (24, 66, 71, 95)])
options = parser.parse_args()
sums = [[int(number) for number in text.split("*")] for text in options.sums]
data = Dataset.from_dict(
    {
        "prompt": [[{"role": "user", "content": f"What is {a} times {b}?"}] for a, b in sums],
        "result": [a * b for a, b in sums],
    }
)
args = ONPOConfig(
    output_dir=tempfile.mkdtemp(),
    max_turns=3,  # of the policy: two calls, and an answer
    max_new_tokens=options.max_new_tokens,
    max_length=1024 + 3 * options.max_new_tokens,
    num_generations=4,
    step_size=1.0,
    per_device_train_batch_size=len(sums),
    max_steps=options.rounds,
    bf16=False,
    use_cpu=True,
    report_to="none",
    save_strategy="no",
    disable_tqdm=True,
    logging_steps=1,
)
trainer = ONPOTrainer(
    AutoModelForCausalLM.from_pretrained(options.model),
    args=args,
    train_dataset=data,
    eval_dataset=data,
    processing_class=AutoTokenizer.from_pretrained(options.model),
    judge=right,
    environment_factory=Calculator,
)
trainer.train()
found = trainer.evaluate()
for answer in trainer.reporter.answers[:4]:
    print(f"\nbefore: {answer.second!r}\nafter:  {answer.first!r}")
rate, error = (found[f"eval_policy/win_rate_reference{end}"] for end in ("", "_se"))
print(f"\n{found['eval_rollouts/tool_calls']:.2f} calls a dialogue; win rate {rate:.2f} ± {1.96 * error:.2f}")
