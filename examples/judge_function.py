# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
A judge of your own is a function: it says how often each first completion beats the second one, from 0 to 1.

    python examples/judge_function.py
    python examples/onpo.py --judge examples.judge_function:on_topic_and_short ...
"""


def on_topic_and_short(prompts, first, second):
    """Prefers the completion that shares more words with the prompt; of two alike, the shorter one, a little."""
    preferences = []
    for prompt, a, b in zip(prompts, first, second, strict=True):
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        words = set(text.lower().split())
        shared_a, shared_b = (len(words & set(completion.lower().split())) for completion in (a, b))
        if not a.strip() and not b.strip():
            preferences.append(float("nan"))  # no opinion: the pair is left out and counted
        elif shared_a != shared_b:
            preferences.append(float(shared_a > shared_b))
        else:
            preferences.append(0.5 + 0.1 * ((len(a) < len(b)) - (len(a) > len(b))))
    return preferences


on_topic_and_short.symmetric = True  # the order does not matter to it, so one order is asked instead of both


if __name__ == "__main__":
    from trl_nash import load_judge

    judge = load_judge(on_topic_and_short)
    print(judge(["Name a colour."] * 2, ["A colour is blue.", "Blue."], ["Blue.", "It is green."]))
