# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Generative judges that people run, as data. How each is asked and read stands in `prompts/FAMILY.jinja`: the frame, the
roles, the tags and the form of the verdict are its authors', the instructions are in our words.
"""

import re
from typing import NamedTuple

from ...usage import did_you_mean


class Family(NamedTuple):
    """
    A family of generative judges.

    Attributes:
        names (`tuple[str, ...]`): what is in the names of its models, in lower case.
        checked (`str`): what its format was checked against.
        max_tokens (`int`): most tokens of an answer.
        temperature (`float`), top_p (`float`): how several votes are sampled.
    """

    names: tuple[str, ...]
    checked: str
    max_tokens: int = 2048
    temperature: float = 1.0
    top_p: float = 1.0


FAMILIES = {
    "rm-r1": Family(
        ("rm-r1-deepseek",),
        "rewardbench/generative.py of RM-R1's repository",
        max_tokens=8192,
        temperature=0.6,
        top_p=0.95,
    ),
    "rm-r1-instruct": Family(("rm-r1",), "rewardbench/generative.py of RM-R1's repository", max_tokens=8192),
    "nemotron-genrm": Family(
        ("nemotron.*genrm",),
        "code of others that asks it: roles, fields and the boxed ranking",
        max_tokens=16384,
        temperature=0.6,
        top_p=0.95,
    ),
    "selene": Family(("selene",), "prompt-templates/pairwise.yaml of Selene Mini's repository"),
    "prometheus": Family(("prometheus",), "prompts.py and parser.py of prometheus-eval"),
    "compass-judger": Family(("compassjudger",), "the README of CompassJudger's repository", max_tokens=16),
    "skywork-critic": Family(
        ("skywork-critic",),
        "its model card's prompt, as ReasonGenRM quotes it",
        max_tokens=2048,
    ),
    "con-j": Family(("con-j",), "its model card, and the parser in RM-R1's repository"),
    "judgelrm": Family(("judgelrm",), "judgelrm.py and its parser in JudgeLRM's repository"),
    "deepseek-grm": Family(
        ("deepseek-grm",),
        "its model card's prompt, as others quote it",
        temperature=0.5,
    ),
}


def family_of(model: str, family: str | None = None) -> str:
    """
    The key in `FAMILIES` of a model, by its name if `family` does not say.

    Raises:
        `ValueError`: If there is no such family, or the name tells none.
    """
    if family is not None:
        if family not in FAMILIES:
            hint = did_you_mean(family, FAMILIES) or f": there are {', '.join(FAMILIES)}."
            raise ValueError(f"There is no family {family!r} of generative judges{hint}")
        return family
    known = [key for key, entry in FAMILIES.items() if any(re.search(name, model.lower()) for name in entry.names)]
    if not known:
        raise ValueError(
            f"The name of the generative judge {model!r} tells no family: pass `family`, one of "
            f"{', '.join(FAMILIES)}, or a `prompt` of your own. Plain instruct models are `pairwise-lm:` or `openai:`."
        )
    return known[0]
