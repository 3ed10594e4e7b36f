# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Policies against each other on the same prompts: sampled once, judged once, whenever it was stopped."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ...judges.base import PairwiseJudge
from ...usage import UsageError
from ..asking import judge_rows, judge_settings
from ..judgements import Output, stored
from ..matrix import WinRateMatrix
from ..rows import Row
from .answers import Answers, read_completions, read_prompts
from .contestants import Contestant, read_contestants
from .sampling import Sampling, sample


@dataclass(frozen=True)
class ArenaResult:
    """
    What came of an arena.

    Args:
        names (`tuple[str, ...]`): of the N policies.
        judge (`str`): how the judge was called.
        rows (`list[Row]`): the prompts, each with N answers, `None` where a policy has none.
        answers (`list[dict[int, dict]]`): of each policy its records, as [`Answers`] has them.
        records (`list[dict]`): the judgements, as [`Output`] has them; indices are those of `names`.
        counts (`dict[str, float]`): what was counted of the judge in all runs.
    """

    names: tuple[str, ...]
    judge: str
    rows: list[Row]
    answers: list[dict[int, dict[str, Any]]]
    records: list[dict[str, Any]]
    counts: dict[str, float]

    @cached_property
    def matrix(self) -> WinRateMatrix:
        """Win rates of the policies, in the order of `names`."""
        return WinRateMatrix.from_judgements(self.names, self.records)


class Arena:
    """
    Policies that answer the same prompts, and whose answers are compared. All that is sampled and judged is kept in a
    directory as it comes: what is there already is not asked again, also when policies, prompts or judges are added.

    Args:
        contestants (`Sequence[str]`):
            Each a path or hub id of a model or adapter, a file of completions, or `openai:MODEL@URL`; `NAME=SPEC` to
            name it.
        prompts (`str` or `list[Row]`):
            A file of prompts, or rows without completions.
        directory (`str` or `Path`):
            Where answers, judgements and results are kept.
        sampling ([`Sampling`], *optional*):
            How models and servers are sampled.
        prompt_column (`str`, *optional*):
            Of the file; by default as in training.

    Raises:
        `UsageError`: If the policies or files cannot be used, or the directory has other answers of one of the names.
        `ValueError`: If a row cannot be used.

    Example:

    ```python
    >>> arena = Arena(["start=Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5-0.5B-COMAL"], "prompts.jsonl", "arena")
    >>> arena.sample()
    >>> result = arena.judge(load_judge("reward:Skywork/Skywork-Reward-V2-Qwen3-0.6B"))
    >>> result.matrix.rates
    ```
    """

    def __init__(
        self,
        contestants: Sequence[str],
        prompts: str | list[Row],
        directory: str | Path,
        sampling: Sampling | None = None,
        prompt_column: str | None = None,
    ):
        self.contestants = read_contestants(contestants)
        self.rows = read_prompts(prompts, prompt_column) if isinstance(prompts, str) else prompts
        self.directory = Path(directory)
        self.sampling = sampling or Sampling()
        self._roster = self._read_roster()
        folder = self.directory / "answers"
        self.answers = {one.name: Answers(folder / f"{one.file_name}.jsonl") for one in self.contestants}
        self._files = {one.name: read_completions(one.spec, self.rows) for one in self.contestants if _is_file(one)}
        for contestant in self.contestants:
            self._check(contestant)

    def missing(self, contestant: Contestant) -> int:
        """How many prompts a policy is still to be asked, or to be read from its file."""
        if _is_file(contestant):
            return len(self._unread(contestant))
        return len(self.answers[contestant.name].missing(self.rows))

    def sample(self, advance: Callable[[str, int], None] = lambda name, count: None) -> None:
        """
        Gets the answers that are missing, of one policy after the other.

        Args:
            advance (`Callable`, *optional*): is called with a policy's name and a number of answers, as they come.
        """
        self._write_roster()
        for contestant in self.contestants:
            answers = self.answers[contestant.name]
            if _is_file(contestant):
                batches = [unread] if (unread := self._unread(contestant)) else []
                _take(batches, answers, contestant, advance)
            elif todo := answers.missing(self.rows):
                with closing(sample(contestant, todo, self.sampling)) as batches:  # a model is freed, however it ends
                    _take(batches, answers, contestant, advance)

    def questions(self) -> list[Row]:
        """
        The prompts with the answers that there are: a place for each policy that the directory knows, in which there
        is `None` if it does not play or has no answer. Prompts with fewer than two answers are left out.
        """
        places = [self.answers[name].records if name in self.answers else {} for name in self._roster]

        def texts(index: int) -> list[str | None]:
            return [place[index]["completion"] if index in place else None for place in places]

        rows = [replace(row, completions=texts(row.index)) for row in self.rows]
        return [row for row in rows if row.pairs]

    def pairs(self) -> int:
        """Pairs of answers that a judge compares when all answers are there."""
        everywhere = {row.index for row in self.rows}
        there = [
            {record["row"] for record in self._files[one.name]} if _is_file(one) else everywhere
            for one in self.contestants
        ]
        counts = [sum(index in rows for rows in there) for index in everywhere]
        return sum(count * (count - 1) // 2 for count in counts)

    def output(self, spec: str, judge: PairwiseJudge, kwargs: dict[str, Any] | None = None) -> Output:
        """The judgements of a judge that are in the directory."""
        return Output(self.judgements(spec, kwargs), {"judge": judge_settings(spec, judge, kwargs or {})})

    def judgements(self, spec: str, kwargs: dict[str, Any] | None = None) -> Path:
        """Where the judgements of a judge are kept: another file for another one, or for other arguments."""
        name = re.sub(r"[^\w.+-]+", "-", spec).strip(".-")[:60]
        known = hashlib.sha256(json.dumps([spec, kwargs or {}], sort_keys=True, default=repr).encode()).hexdigest()
        return self.directory / "judgements" / f"{name}-{known[:8]}.parquet"

    def judged(self, spec: str, kwargs: dict[str, Any] | None = None) -> tuple[int, float | None]:
        """How many pairs of these policies a judge has compared, and the seconds that one took, if that is known."""
        roster = list(self._roster)
        playing = {roster.index(one.name) for one in self.contestants}
        records, counts = stored(self.judgements(spec, kwargs))
        count = sum({i, j} <= playing and row < len(self.rows) for row, i, j in records)
        known = counts.get("judge", {})
        return count, known["seconds"] / known["pairs"] if known.get("pairs") else None

    def judge(
        self,
        judge: PairwiseJudge,
        spec: str | None = None,
        kwargs: dict[str, Any] | None = None,
        *,
        batch_size: int = 128,
        advance: Callable[[int], None] = lambda pairs: None,
    ) -> ArenaResult:
        """
        Has the answers compared that were not compared by this judge yet, in both orders.

        Args:
            judge ([`PairwiseJudge`]): who compares.
            spec (`str`, *optional*): how it is called; by default what it says of itself.
            kwargs (`dict`, *optional*): its arguments, if it was called with some.
            batch_size (`int`, *optional*, defaults to `128`): pairs in a call.
            advance (`Callable`, *optional*): is called with the number of pairs after each call.

        Returns:
            [`ArenaResult`]

        Raises:
            `UsageError`: If no prompt has two answers.
            `JudgeError`: If the judge cannot go on.
        """
        rows = self.questions()
        if not rows:
            raise UsageError("no prompt has answers of two policies: there is nothing to compare.")
        spec = spec or judge.description
        output = self.output(spec, judge, kwargs)
        todo = [row for row in rows if output.missing(row, "judge")]
        judge_rows({"judge": judge}, todo, output, batch_size, advance)
        output.finish(rows)
        return self._result(spec, rows, output)

    def _result(self, spec: str, rows: list[Row], output: Output) -> ArenaResult:
        roster = list(self._roster)
        places = {roster.index(one.name): index for index, one in enumerate(self.contestants)}
        records = [output.records[row.index, i, j] for row in rows for i, j in row.pairs]
        records = [
            record | {"first_index": places[record["first_index"]], "second_index": places[record["second_index"]]}
            for record in records
        ]
        playing = sorted(places, key=places.__getitem__)
        return ArenaResult(
            names=tuple(one.name for one in self.contestants),
            judge=spec,
            rows=[replace(row, completions=[row.completions[place] for place in playing]) for row in rows],
            answers=[self.answers[one.name].records for one in self.contestants],
            records=records,
            counts=dict(output.counts["judge"]),
        )

    # ---- Who has played in this directory ----

    def _read_roster(self) -> dict[str, dict[str, Any]]:
        """Every policy that has played here, in the order in which it came: its place in the judgements."""
        file = self.directory / "policies.json"
        try:
            roster = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        except ValueError:
            raise UsageError(f"{file} is damaged: name another output_dir.") from None
        for contestant in self.contestants:
            roster.setdefault(contestant.name, self._description(contestant))
        return roster

    def _description(self, contestant: Contestant) -> dict[str, Any]:
        sampled = {} if _is_file(contestant) else {"sampling": self.sampling.settings}
        return {"kind": contestant.kind, "spec": contestant.spec} | sampled

    def _write_roster(self) -> None:
        file = self.directory / "policies.json"
        temporary = file.with_name(f"{file.name}.tmp")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._roster, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            temporary.replace(file)
        except OSError as error:
            raise UsageError(f"{self.directory}: {error.strerror}. Name another output_dir.") from None

    def _check(self, contestant: Contestant) -> None:
        """Refuses a name that has stood for something else in this directory."""
        then, now = self._roster[contestant.name], self._description(contestant)
        if then != now:
            before, after = then.get("sampling", {}), now.get("sampling", {})
            other = [f"{key}={value}" for key, value in before.items() if after.get(key) != value]
            what = ", ".join(other) if _same(then, now) else then["spec"]
            raise UsageError(
                f"{contestant.name} is in {self.directory} already, with {what}: name it otherwise, as in "
                f"again={contestant.spec}, or name another output_dir."
            )
        self.missing(contestant)

    def _unread(self, contestant: Contestant) -> list[dict[str, Any]]:
        """The completions of a file that are not among its answers yet."""
        known = self.answers[contestant.name].records
        for record in self._files[contestant.name]:
            if known.get(record["row"], record)["completion"] != record["completion"]:
                raise UsageError(
                    f"{contestant.spec} has another completion of prompt {record['row']} (from 0) than when it was "
                    f"read into {self.directory}: name it otherwise, as in again={contestant.spec}."
                )
        return [record for record in self._files[contestant.name] if record["row"] not in known]


def _is_file(contestant: Contestant) -> bool:
    return contestant.kind == "file"


def _same(then: dict[str, Any], now: dict[str, Any]) -> bool:
    return (then["kind"], then["spec"]) == (now["kind"], now["spec"])


def _take(batches, answers: Answers, contestant: Contestant, advance: Callable[[str, int], None]) -> None:
    for batch in batches:
        answers.append(batch)
        advance(contestant.name, len(batch))
