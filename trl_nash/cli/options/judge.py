# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The options that say who compares the completions."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from ...usage import UsageError
from .typed import shown


@dataclass
class JudgeArguments:
    """
    Who compares the completions.

    Args:
        judge (`list[str | dict[str, Any]]`, *optional*):
            A key of `trl_nash.JUDGES`, `key:target` (`reward:org/model`, `function:package.module:name`) or a dotted
            path `package.module:name`. Several are a mixture. In YAML each may have arguments of its own:
            `judge: [pairrm, {judge: "openai:model@http://host:port/v1", order: random}]`. Exclusive with
            `reward_model_path`. A list of one becomes that one.
        judge_kwargs (`dict[str, Any]` or `str`, *optional*):
            Keyword arguments of the judge, on the command line as JSON. Those of a mixture are `weights` and `rule`.
    """

    judge: list[str] | None = field(
        default=None,
        metadata={
            "help": "Who compares: reward:org/model, pairwise-lm:org/model, gpm:org/model, pairrm, genrm:org/model, "
            "dpo:policy,reference, openai:model@http://host:port/v1, genrm:model@http://host:port/v1, "
            "reward-server:model@http://host:port, hf:org/model, ensemble, package.module:name, random; several are "
            "a mixture (docs/guides/judges.md)."
        },
    )
    judge_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Keyword arguments of the judge, as JSON: '{\"temperature\": 0.5}'; of several judges, those of "
            "their mixture: '{\"weights\": [1, 3]}'."
        },
    )

    def __post_init__(self):
        if self.judge == []:
            raise UsageError("judge is an empty list: name at least one judge.")
        if isinstance(self.judge, list) and len(self.judge) == 1:
            self.judge = self.judge[0]
        for name, judge in zip(self.names, self._judges, strict=True):
            if not isinstance(name, str):
                known = dict.fromkeys(judge, "...") if isinstance(judge, dict) else judge  # arguments may be secret
                raise UsageError(
                    f"judge: {shown(known)} names no judge; write a name, or {{judge: NAME, ...}} with its arguments."
                )
            if re.search(r"://([^/]*@|.*\?)", name):
                raise UsageError(
                    f"judge: the URL in {name.partition('://')[0]}://... holds a password or a query, which would be "
                    "printed; put it into the environment variable of the judge's key, such as OPENAI_API_KEY."
                )
        if isinstance(self.judge_kwargs, str):
            try:
                self.judge_kwargs = json.loads(self.judge_kwargs)
            except (ValueError, RecursionError) as error:  # says where, and not what, which may be secret
                raise UsageError(f"--judge_kwargs must be JSON such as '{{\"temperature\": 0.5}}': {error}.") from None
        if self.judge_kwargs is not None and not isinstance(self.judge_kwargs, dict):
            raise UsageError(
                "--judge_kwargs must be a JSON object such as '{\"temperature\": 0.5}', got a "
                f"{type(self.judge_kwargs).__name__}."
            )

    @property
    def names(self) -> list[str]:
        """The name of each judge, without its arguments."""
        return [judge.get("judge") if isinstance(judge, dict) else judge for judge in self._judges]

    @property
    def _judges(self) -> list[Any]:
        if self.judge is None:
            return []
        return self.judge if isinstance(self.judge, list) else [self.judge]
