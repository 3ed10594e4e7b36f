# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
COMAL with LoRA on dialogues of a small instruct model, on a CPU in minutes: the policy should ask back.

    python examples/dialogue_user.py --model HuggingFaceTB/SmolLM2-135M-Instruct

The user has a goal and tells it only if asked. The judge reads whole dialogues: it is better to have been told, and to
come back to what was told. The win rate is on openings that were not trained on, against the model as it was.
"""

import argparse
import tempfile
from itertools import product

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_nash import COMALConfig, COMALTrainer


# A model of this size seldom asks unless it is shown how.
SHOWN = [
    {"role": "system", "content": "Ask one short question before you give advice. Use at most one sentence."},
    {"role": "user", "content": "I need a new coat."},
    {"role": "assistant", "content": "Where will you wear it?"},
    {"role": "user", "content": "In the mountains."},
    {"role": "assistant", "content": "Take a warm one with a hood."},
]
GOALS = {
    "my sister, who gardens": "garden",
    "my father, who cooks": "cook",
    "a friend who likes music": "music",
    "my son, who plays football": "football",
}
OPENINGS = ["Suggest a present.", "I need a gift idea.", "What should I buy?", "Recommend a book."]
HELD_OUT = ["I am looking for a present.", "What would be a nice surprise?", "Which book should I give?", "Any ideas?"]
HELD_OUT += ["Name a small gift.", "Help me choose a present.", "What could I bring?", "Suggest something to read."]


def user(messages, goal):
    """Tells the goal when asked, once. Who is not asked has nothing more to say."""
    told = any(goal in message["content"] for message in messages)
    return f"It is for {goal}." if "?" in messages[-1]["content"] and not told else None


def points(turns, word):
    """One if the user was asked, and one more if what he told comes back in the answer."""
    told = [place for place, turn in enumerate(turns) if turn["role"] == "user"]
    return len(told) + (bool(told) and word in turns[-1]["content"].lower())


def listens(prompts, first, second, goal):
    """P(first ≻ second); each side is a list of messages."""
    rows = zip(goal, first, second, strict=True)
    return [0.5 + 0.2 * (points(a, GOALS[g]) - points(b, GOALS[g])) for g, a, b in rows]


listens.symmetric = True


def data(openings):
    rows = list(product(openings, GOALS))
    prompts = [[*SHOWN, {"role": "user", "content": opening}] for opening, _ in rows]
    return Dataset.from_dict({"prompt": prompts, "goal": [goal for _, goal in rows]})


parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument("--model", required=True, help="an instruct model: name or folder")
parser.add_argument("--rounds", type=int, default=10, help="of 8 prompts x 4 dialogues")
parser.add_argument("--max_length", type=int, default=192, help="tokens of a whole dialogue")
options = parser.parse_args()
args = COMALConfig(
    output_dir=tempfile.mkdtemp(),
    max_turns=2,  # of the policy
    max_new_tokens=24,  # of a turn; a dialogue whose turn is cut ends there
    max_length=options.max_length,
    num_generations=4,
    step_size=4.0,
    beta=0.05,
    per_device_train_batch_size=4,
    steps_per_generation=2,
    num_iterations=2,
    max_steps=4 * options.rounds,
    learning_rate=2e-4,
    lr_scheduler_type="constant",
    logging_steps=4,
    per_device_generation_batch_size=16,
    per_device_eval_batch_size=16,
    bf16=True,
    gradient_checkpointing=False,
    use_cpu=True,
    report_to="none",
    save_strategy="no",
    disable_tqdm=True,
)
trainer = COMALTrainer(
    AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16),
    args=args,
    train_dataset=data(OPENINGS),
    eval_dataset=data(HELD_OUT),
    processing_class=AutoTokenizer.from_pretrained(options.model),
    judge=listens,
    user=user,
    peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
)
trainer.train()
found = trainer.evaluate()
for answer in trainer.reporter.answers:
    print(f"\nbefore: {answer.second!r}\nafter:  {answer.first!r}")
rate, error = (found[f"eval_policy/win_rate_reference{end}"] for end in ("", "_se"))
print(
    f"\n{found['eval_rollouts/turns']:.2f} turns; win rate against the start {rate:.2f} ± {1.96 * error:.2f} "
    f"(95 %, n = {found['eval_policy/win_rate_reference_n']:.0f})"
)
