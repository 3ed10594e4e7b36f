# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Policies against each other on the same prompts: sampled once, judged once, whenever it was stopped."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...judges import PairwiseJudge, as_judge
from ...judges.transcript import Transcript, messages_of
from ...usage import UsageError
from ..asking import judge_rows, judge_settings
from ..judgements import Output, stored
from ..rows import Row
from .answers import Answers, read_completions, read_prompts
from .best_of import verdicts
from .contestants import Contestant, read_contestants
from .result import ArenaResult
from .roster import Roster
from .sampling import Sampling, sampler, user_of


if TYPE_CHECKING:
    from ...generation.dialogue.users import User


Pairs = dict[int, list[tuple[int, int]]]  # places in the roster, by the row of the prompt


class Track(NamedTuple):
    """Answers of a policy: those that play, or further ones, of which the best is chosen."""

    name: str
    contestant: Contestant
    answers: Answers
    plays: bool


class Arena:
    """
    Policies that answer the same prompts, and whose answers are compared. All that is sampled and judged is kept in a
    directory as it comes: what is there already is not asked again, also when policies, prompts or judges are added.

    Args:
        contestants (`Sequence[str]`): each a path or hub id of a model or adapter, a file of completions, or
            `openai:MODEL@URL`; `NAME=SPEC` to name it.
        prompts (`str`, `Path` or `list[Row]`): a file of prompts, or rows without completions.
        directory (`str` or `Path`): where answers, judgements and results are kept.
        sampling ([`Sampling`], *optional*): how models and servers are sampled.
        prompt_column (`str`, *optional*): of the file; by default as in training.
        best_of (`int`, *optional*, defaults to `0`): further answers to each prompt of each policy that is sampled,
            of which the best one is an opponent too.

    Raises:
        `UsageError`: If policies, files or names cannot be used, or fewer than two prompts have two answers.
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
        prompts: str | Path | list[Row],
        directory: str | Path,
        sampling: Sampling | None = None,
        prompt_column: str | None = None,
        best_of: int = 0,
    ):
        if best_of < 0 or best_of == 1:
            raise UsageError(f"best_of must be 2 or more, the answers that the best is chosen from, got {best_of}.")
        self.sampling = sampling or Sampling()
        self.contestants = read_contestants(contestants)
        if best_of and self.sampling.temperature == 0:
            raise UsageError("best_of chooses from further answers, and at temperature 0 all are the same.")
        if best_of and all(one.is_file for one in self.contestants):
            raise UsageError("best_of needs a policy that is sampled: these are files of completions.")
        self.rows = read_prompts(str(prompts), prompt_column) if isinstance(prompts, str | Path) else prompts
        self.directory = Path(directory)
        self._roster = Roster(self.directory)
        self._tracks = [track for one in self.contestants for track in self._tracks_of(one, best_of)]
        self._files = {one.name: read_completions(one.spec, self.rows) for one in self.contestants if one.is_file}
        for contestant in self.contestants:
            self.missing(contestant)
        _check_enough(len(self._pairs()))

    def _tracks_of(self, contestant: Contestant, best_of: int) -> list[Track]:
        folder, name = self.directory / "answers", contestant.file_name
        sampled = {} if contestant.is_file else {"sampling": self.sampling.settings}
        self._roster.enrol(contestant.name, {"kind": contestant.kind, "spec": contestant.spec} | sampled)
        tracks = [Track(contestant.name, contestant, Answers(folder / f"{name}.jsonl"), True)]
        for number in range(1, best_of + 1) if sampled else ():
            answers = Answers(folder / "best_of" / f"{name}-{number}.jsonl")
            tracks.append(Track(f"{contestant.name}#{number}", contestant, answers, False))
            self._roster.enrol(tracks[-1].name, {"kind": "sample", "spec": contestant.spec} | sampled)
        return tracks

    @property
    def answers(self) -> dict[str, Answers]:
        """Of each policy, by its name, the answers that play; also to prompts that are not among these."""
        return {track.name: track.answers for track in self._tracks if track.plays}

    def missing(self, contestant: Contestant) -> int:
        """How many answers of a policy are still to be sampled, or read from its file."""
        if contestant.is_file:
            return len(self._unread(contestant))
        return sum(len(track.answers.missing(self.rows)) for track in self._of(contestant))

    def known(self, contestant: Contestant) -> int:
        """How many answers of a policy to these prompts are there."""
        return sum(len(self.rows) - len(track.answers.missing(self.rows)) for track in self._of(contestant))

    def sample(self, advance: Callable[[str, int], None] = lambda name, count: None) -> None:
        """
        Gets the answers that are missing, of one policy after the other; `advance` is called with a policy's name and
        a number of answers, as they come.

        Raises:
            `UsageError`: If another arena is at work in the directory.
        """
        with self._roster.alone():
            for track in self._tracks:
                track.answers.read()  # another arena may have sampled them by now
            waiting = [contestant for contestant in self.contestants if self.missing(contestant)]
            user = None if all(one.is_file for one in waiting) else user_of(self.sampling)
            for contestant in waiting:
                self._get(contestant, user, advance)

    def _get(self, contestant: Contestant, user: "User | None", advance: Callable[[str, int], None]) -> None:
        if contestant.is_file:
            unread = self._unread(contestant)
            self.answers[contestant.name].append(unread)
            advance(contestant.name, len(unread))
            return
        with sampler(contestant, self.sampling, user) as draw:
            for track in self._of(contestant):
                with closing(draw(track.name, track.answers.missing(self.rows))) as batches:
                    for batch in batches:
                        track.answers.append(batch)
                        advance(contestant.name, len(batch))

    def questions(self) -> list[Row]:
        """
        The prompts with the answers that there are: a place for each policy that the directory knows, in which there
        is `None` if it does not play or has no answer. Prompts with answers of fewer than two policies are left out.
        """
        names, asked = self._roster.names, self._asked
        tracks = {track.name: track for track in self._tracks}
        places = [tracks[name].answers.records if name in tracks else {} for name in names]

        def text(answer: dict[str, Any]) -> str | None:
            completion = answer.get("completion")
            if completion is None or self.sampling.user is None:
                return completion
            return Transcript(messages_of(completion))  # a text from a file is a dialogue of one turn

        rows = [
            replace(row, completions=[text(place.get(row.index, {})) for place in places], asked=asked)
            for row in self.rows
        ]
        playing = self._playing
        return [row for row in rows if sum(row.completions[place] is not None for place in playing) > 1]

    @property
    def _playing(self) -> list[int]:
        """Places of the answers that play, in the order of the policies."""
        return [self._roster.names.index(contestant.name) for contestant in self.contestants]

    @property
    def _asked(self) -> tuple[tuple[int, int], ...]:
        """Places of the pairs that are compared: those that play with each other, the other answers with these."""
        names, playing = self._roster.names, self._playing
        every = [names.index(track.name) for track in self._tracks]
        return tuple(sorted({(min(i, j), max(i, j)) for i in every for j in playing if i != j}))

    def pairs(self) -> int:
        """Pairs of answers that a judge compares when all answers are there."""
        return sum(map(len, self._pairs().values()))

    def _pairs(self) -> Pairs:
        """These pairs, of each prompt."""
        names = self._roster.names
        there = {
            names.index(track.name): {record["row"] for record in self._files[track.contestant.name]}
            if track.contestant.is_file
            else {row.index for row in self.rows}
            for track in self._tracks
        }
        playing = self._playing
        rows = [row.index for row in self.rows if sum(row.index in there[place] for place in playing) > 1]
        return {row: [(i, j) for i, j in self._asked if row in there[i] and row in there[j]] for row in rows}

    def output(self, spec: str, judge: PairwiseJudge, kwargs: dict[str, Any] | None = None) -> Output:
        """The judgements of a judge that are in the directory."""
        settings = {"judge": judge_settings(spec, judge, kwargs or {})}
        return Output(self.judgements(spec, kwargs), settings, "output_dir")

    def judgements(self, spec: str, kwargs: dict[str, Any] | None = None) -> Path:
        """Where the judgements of a judge are kept: another file for another one, or for other arguments."""
        name = re.sub(r"[^\w.+-]+", "-", spec).strip(".-")[:60]
        known = hashlib.sha256(json.dumps([spec, kwargs or {}], sort_keys=True, default=repr).encode()).hexdigest()
        return self.directory / "judgements" / f"{name}-{known[:8]}.parquet"

    def to_judge(self, spec: str, kwargs: dict[str, Any] | None = None) -> tuple[Pairs, float | None]:
        """Those of the pairs that a judge has not compared, and the seconds that one took, if that is known."""
        records, counts = stored(self.judgements(spec, kwargs))
        left = {row: [pair for pair in own if (row, *pair) not in records] for row, own in self._pairs().items()}
        known = counts.get("judge", {})
        return left, known["seconds"] / known["pairs"] if known.get("pairs") else None

    def judge(
        self,
        judge: PairwiseJudge | Callable,
        spec: str | None = None,
        kwargs: dict[str, Any] | None = None,
        *,
        batch_size: int = 128,
        advance: Callable[[int], None] = lambda pairs: None,
    ) -> ArenaResult:
        """
        Has the answers compared that were not compared by this judge yet, in both orders.

        Args:
            judge ([`PairwiseJudge`] or `Callable`): who compares.
            spec (`str`, *optional*): how it is called, by default by itself, and known where it has no `identity`.
            kwargs (`dict`, *optional*): its arguments, if it was called with some.
            batch_size (`int`, *optional*, defaults to `128`): pairs in a call.
            advance (`Callable`, *optional*): is called with the number of pairs after each call.

        Returns:
            [`ArenaResult`]

        Raises:
            `UsageError`: If fewer than two prompts have answers of two policies.
            `JudgeError`: If the judge cannot go on.
        """
        rows, judge = self.questions(), as_judge(judge)
        _check_enough(len(rows))
        spec = spec or judge.description
        with self._roster.alone():
            output = self.output(spec, judge, kwargs)
            judge_rows("judge", judge, rows, output, batch_size, advance)
            output.finish(rows)
        return self._result(spec, rows, output)

    def _result(self, spec: str, rows: list[Row], output: Output) -> ArenaResult:
        names = self._roster.names
        playing = self._playing
        place = {there: here for here, there in enumerate(playing)}
        judged = [output.records[row.index, i, j] for row in rows for i, j in row.pairs]
        both = [record for record in judged if record["first_index"] in place and record["second_index"] in place]
        further = {one.name: [names.index(t.name) for t in self._of(one) if not t.plays] for one in self.contestants}
        return ArenaResult(
            names=tuple(one.name for one in self.contestants),
            judge=spec,
            rows=[replace(row, completions=[row.completions[there] for there in playing], asked=None) for row in rows],
            answers=[self.answers[one.name].to(self.rows) for one in self.contestants],
            records=[record | {key: place[record[key]] for key in ("first_index", "second_index")} for record in both],
            counts=dict(output.counts["judge"]),
            further={
                name: verdicts(judged, [row.index for row in rows], places, playing)
                for name, places in further.items()
                if places
            },
        )

    def _of(self, contestant: Contestant) -> list[Track]:
        return [track for track in self._tracks if track.contestant == contestant]

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


def _check_enough(prompts: int) -> None:
    if prompts < 2:
        raise UsageError(
            f"{'one' if prompts else 'no'} prompt has answers of two policies: figures and their intervals are over "
            "prompts, so compare answers to two or more."
        )
