# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What the options say of the judge."""

import argparse
import json
import re

from ..cli.plan.options import number_of
from ..usage import UsageError
from .run import LOCAL_JUDGES, REMOTE_JUDGES


_SIZE = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?[BbMm])(?![A-Za-z0-9])")  # 0.6B in a model's name


def judge_of(options: argparse.Namespace) -> tuple[str | None, int]:
    """The key of the judge, `None` without one, and in how many orders it is asked. What is assumed is noted."""
    specs = [spec for spec in options.judge or [] if spec]
    if options.reward_model_path:
        specs = [f"reward:{options.reward_model_path}"]
    names = [spec.get("judge") if isinstance(spec, dict) else spec for spec in specs]
    if len(names) > 1:
        options.notes.append(f"judge calls are those of each of the {len(names)} judges")
    kwargs = options.judge_kwargs or {}
    if isinstance(kwargs, str):
        try:
            kwargs = json.loads(kwargs)
        except ValueError as error:
            raise UsageError(f"--judge_kwargs must be JSON: {error} in {kwargs!r}.") from None
    orders = 1 if isinstance(kwargs, dict) and kwargs.get("order") in ("random", "fixed") else 2
    if not names:
        options.notes.append("no --judge: calls are those of one that sees each pair in both orders, and take no time")
        return None, orders
    key = str(names[0]).partition(":")[0]
    if key == "none":
        return None, orders
    if key in LOCAL_JUDGES and not options.judge_parameters:
        if size := _SIZE.findall(str(names[0])):
            options.judge_parameters = number_of(size[-1])
            options.notes.append(f"the judge {names[0]} has {size[-1]} parameters, by its name (--judge_parameters)")
        else:
            options.notes.append(
                f"the judge {names[0]} takes neither memory nor time: give --judge_parameters, which its name does not"
            )
    if key not in (*LOCAL_JUDGES, *REMOTE_JUDGES) and not options.judge_parameters:
        options.notes.append(f"the judge {names[0]} takes no time, which is not known")
    return key, orders
