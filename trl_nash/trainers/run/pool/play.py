# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""An evaluation of a pool: who has no answer yet is sampled, and what was not judged yet is judged."""

import hashlib
import json
from collections.abc import Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from accelerate.utils import gather_object

from ....algorithms import Policy
from ....data.messages import prompt_of
from ....evaluation.pool import PoolGame
from ....evaluation.rows import Row
from ....rounds.batch import Samples
from ....rounds.log import set_random_state
from ....rounds.rows import count_of


if TYPE_CHECKING:
    from ...base import NashTrainer

# What a policy's answers depend on, beside its weights and the prompt.
_SAMPLING = """
    temperature top_p top_k min_p repetition_penalty max_new_tokens max_length generation_kwargs chat_template_kwargs
    strip_thinking raw_prompts max_turns
""".split()


class Share(NamedTuple):
    """Rows of a step of an evaluation, with fillers, and the place of the first one in the dataset."""

    rows: list[dict]
    place: int

    @property
    def own(self) -> dict[int, dict]:
        """The rows that count, by their place."""
        return dict(enumerate(self.rows[: count_of(self.rows)], self.place))


class Play:
    """
    An evaluation of a pool. All processes make the same calls together, and each knows the whole game afterwards.

    Args:
        trainer ([`NashTrainer`]): samples and judges.
        game ([`PoolGame`]): what is known already, and to which the rest is added.
        batches (`Iterable[list[dict]]`): rows of this process, as an [`EvaluationLoader`] has them.
    """

    def __init__(self, trainer: "NashTrainer", game: PoolGame, batches: Iterable[list[dict]]):
        self._trainer, self._game = trainer, game
        rank, place, self._shares = trainer.accelerator.process_index, 0, []
        for rows in batches:
            counts = gather_object([count_of(rows)])
            self._shares.append(Share(rows, place + sum(counts[:rank])))
            place += sum(counts)
        self._begin()

    def _begin(self) -> None:
        trainer = self._trainer
        rows = _gathered({place: row for share in self._shares for place, row in share.own.items()})
        keys = [hashlib.sha256(json.dumps(row, default=repr).encode()).hexdigest()[:16] for row in rows.values()]
        found = [
            Row(place, row["prompt"], [], {key: value for key, value in row.items() if key != "prompt"})
            for place, row in rows.items()
        ]
        source = trainer.sampler.source
        sampling = {name: getattr(trainer.args, name, None) for name in _SAMPLING}
        sampled_by = json.dumps(sampling | ({"dialogues": source.identity} if source else {}), default=repr)
        judged_by = trainer.judge.identity or trainer.judge.description
        if self._game.begin(found, keys, sampled_by, judged_by):
            trainer.reporter.say_once(
                "The prompts, the sampling or the judge of the evaluation are others than they were: the opponent "
                "pool is played anew."
            )

    def play(self, policies: dict[str, Policy | None]) -> None:
        """
        Has every policy answer every prompt, and every pair of answers judged.

        Args:
            policies (`dict[str, Policy | None]`): by their names; `None` is the live one, or one that has answered.
        """
        with self._own_randomness(), torch.no_grad(), self._trainer.compute_loss_context_manager():
            for name, policy in policies.items():
                if name not in self._game.answers:
                    self._sample(name, policy)
            self._judge(list(policies))

    def _sample(self, name: str, policy: Policy | None) -> None:
        """An answer of a policy to each prompt."""
        trainer, found, ends = self._trainer, {}, set(self._trainer.eos_token_ids)
        total = sum(len(share.rows) for share in self._shares)
        with trainer.reporter.phase("generate"), trainer.reporter.bar(f"answers of {name}", total, "prompt") as bar:
            for share in self._shares:
                # Each policy draws with a seed of its own: win rates are those of answers drawn independently.
                seed = hashlib.sha256(f"{trainer.args.seed} {name} {share.place}".encode()).digest()[:4]
                torch.manual_seed(int.from_bytes(seed))
                prompts = [trainer.sampler.prompt_of(row) for row in share.rows]
                prompt_ids, completions = trainer.generate(prompts, 1, policy)
                beside = {name: own for name, own in trainer.sampler.beside.items() if own and name != "logps"}
                texts = trainer.judging.texts(Samples(prompt_ids, completions, **beside))
                for k, place in enumerate(share.own):
                    ((ids,), (text,)) = completions[k], texts[k]
                    found[place] = {"ids": ids, "text": str(text), "ended": bool(ids) and ids[-1] in ends}
                    found[place]["beside"] = {name: own[k][0] for name, own in beside.items()}
                bar.update(len(share.rows))
        self._game.answers[name] = list(_gathered(found).values())

    def _judge(self, names: list[str]) -> None:
        """The judge's verdicts on all pairs of answers on which there is none."""
        trainer, verdicts = self._trainer, []
        total = sum(len(share.own) for share in self._shares)
        with trainer.reporter.phase("judge"), trainer.reporter.bar("the pool is judged", total, "prompt") as bar:
            for share in self._shares:
                by_pairs: dict[tuple, dict[int, dict]] = {}
                for place, row in share.own.items():
                    by_pairs.setdefault(tuple(self._game.missing(names, place)), {})[place] = row
                for pairs, rows in by_pairs.items():
                    verdicts += self._ask(names, list(pairs), rows) if pairs else []
                bar.update(len(share.own))
        for verdict in (verdict for part in gather_object([verdicts]) for verdict in part):
            self._game.add(*verdict)
        failure, trainer.judging.failure = trainer.judging.failure, None
        trainer.stops.if_judge_failed(failure)  # with a checkpoint that has what was judged

    def _ask(self, names: list[str], pairs: list[tuple[int, int]], rows: dict[int, dict]) -> list[tuple]:
        """`(first, second, row, preference)` of pairs of places in `names`; nothing once the judge has failed."""
        trainer, answers = self._trainer, self._game.answers
        there = sorted({place for pair in pairs for place in pair})
        known = [[answers[names[place]][index] for place in there] for index in rows]
        samples = Samples(
            [trainer.sampler.render.ids(prompt_of(row))[0] for row in rows.values()],
            [[answer["ids"] for answer in own] for own in known],
            [(there.index(i), there.index(j)) for i, j in pairs],
            **{name: [[a["beside"][name] for a in own] for own in known] for name in known[0][0].get("beside", {})},
        )
        judged = trainer.judging.verdicts(list(rows.values()), samples)
        if trainer.judging.failure is not None:
            return []
        return [
            (names[i], names[j], index, preference)
            for index, found in zip(rows, judged.preference.tolist(), strict=True)
            for (i, j), preference in zip(pairs, found, strict=True)
        ]

    @contextmanager
    def _own_randomness(self):
        """Within it draws are the pool's own: with and without a pool a run samples the same."""
        state = self._trainer.stops.begin_round()
        try:
            yield
        finally:
            set_random_state(state)


def _gathered(found: dict) -> dict:
    """The entries of all processes, in the order of their keys."""
    merged = {key: value for part in gather_object([found]) for key, value in part.items()}
    return dict(sorted(merged.items()))
