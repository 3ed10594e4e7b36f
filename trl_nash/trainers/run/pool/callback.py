# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A pool of a run's own policies, against which evaluations play."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate.utils import gather_object
from transformers import TrainerCallback

from ....algorithms import INITIAL, START, Policy
from ....evaluation.frozen import POOL_FOLDER, START_NAME, write_members
from ....evaluation.pool import WIN_RATE_WORST, PoolGame
from .play import Play


if TYPE_CHECKING:
    from ....evaluation.arena import Standings
    from ...base import NashTrainer

STATE = "pool.json"  # in a checkpoint's folder of a round


class OpponentPoolCallback(TrainerCallback):
    r"""
    Plays the policy against earlier ones of its run in every evaluation.

    The pool holds the start and the policy after every n-th round, as frozen policies: copies of the trained weights
    on the CPU, in checkpoints too, and nothing on the accelerator. In an evaluation the policy answers each prompt of
    the `eval_dataset` once, and the judge compares that with each opponent's answer. An opponent's answers are sampled
    once, and no pair is judged twice, also after a checkpoint is resumed.

    The metrics of an evaluation get `policy/win_rate_worst`, the win rate against the opponent to which the policy
    does worst, with its standard error over prompts (`_se`) and their number (`_n`); `pool/win_rate_start`,
    `pool/win_rate_round_4` and so on; `pool/duality_gap`, that of the best single policy among the pool and the
    current one, 0 if one of them loses to none; and `pool/size`. `policy/win_rate_worst` is .5 as long as there is no
    opponent.

    With `metric_for_best_model="policy/win_rate_worst"` the best checkpoint is the one that is hardest to beat, and
    [`~transformers.EarlyStoppingCallback`] stops when none is any harder. A pool that grows is ever harder to beat, so
    the best policy so far, too, plays every newcomer, and `state.best_metric` is what it has come to.

    `opponent_pool_rounds` of the config does the same as adding this callback.

    Args:
        trainer ([`NashTrainer`]):
            The trainer to which it is added. It must have an `eval_dataset`.
        rounds (`int`, *optional*, defaults to `1`):
            n: the policy joins the pool after every n-th round.

    Raises:
        `ValueError`: If there is no `eval_dataset`, `rounds` is less than 1, or the trainer has a pool already.

    Example:

    ```python
    >>> trainer = COMALTrainer(model, args=args, judge=judge, train_dataset=prompts, eval_dataset=held_out)
    >>> trainer.add_callback(OpponentPoolCallback(trainer, rounds=4))
    ```
    """

    def __init__(self, trainer: "NashTrainer", rounds: int = 1):
        if trainer.eval_dataset is None:
            raise ValueError("An opponent pool plays in evaluations: give the trainer an `eval_dataset`.")
        if not isinstance(rounds, int) or rounds < 1:
            raise ValueError(f"`rounds`, after which a policy joins the pool, must be at least 1, got {rounds!r}.")
        if trainer.opponent_pool is not None:
            raise ValueError("The trainer has an opponent pool: leave `opponent_pool_rounds` or this callback out.")
        self.rounds = rounds
        self.games: dict[str, PoolGame] = {}  # by the prefix of the evaluation
        self._trainer = trainer
        self._members: list[Policy] = [INITIAL]
        self._known: dict[str, str] = {}  # names of policies by their fingerprints
        self._began = False

    # ---- Who is in the pool ----

    @property
    def members(self) -> list[str]:
        """The names of the policies in the pool, the start first."""
        return [_name(policy) for policy in self._members]

    def begin(self, folder: Path | None) -> None:
        """A run begins, or goes on from a checkpoint whose folder of a round is given."""
        self.games, self._members, self._known, self._began = {}, [INITIAL], {}, True
        policies = self._trainer.policies
        if folder is None:
            # Unless the start is another model, or the pool was added to a run that has begun.
            if policies.resolve(START) == INITIAL and self._trainer.state.global_step == 0:
                self._known[self._fingerprint()] = START_NAME
        elif (folder / STATE).is_file():
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
            self._members = [Policy(*policy) for policy in state["members"]]
            self._known = state["known"]
            self.games = {prefix: PoolGame.of(game) for prefix, game in state["games"].items()}
            policies.pinned |= set(self._members)

    def on_step_end(self, args, state, control, **kwargs):
        completed, within = divmod(state.global_step, args.optimizer_steps_per_round)
        if within or completed % self.rounds:
            return
        policy, fingerprint = Policy(completed), self._fingerprint()
        if policy in self._members or self._known.get(fingerprint) in self.members:
            return  # one that has not moved is there already
        self._trainer.policies.pin(policy)
        self._members.append(policy)
        self._known[fingerprint] = _name(policy)

    def on_train_end(self, args, state, control, **kwargs):
        """Writes the pool to `output_dir/pool`, where `trl-nash arena` finds it."""
        trainer, folder = self._trainer, Path(args.output_dir) / POOL_FOLDER
        policies = trainer.policies
        if args.should_save:
            shutil.rmtree(folder / "policies", ignore_errors=True)  # of an earlier run
        trainer.accelerator.wait_for_everyone()
        files = [policy for policy in self._members if policy in policies]
        policies.save(folder / "policies", trainer.accelerator.process_index, files)
        trainer.accelerator.wait_for_everyone()
        if args.should_save:
            start = trainer.started_from if policies.resolve(START) == INITIAL and INITIAL not in files else None
            write_members(folder, {_name(policy): str(policy) for policy in files}, start)

    def _fingerprint(self) -> str:
        found = gather_object([self._trainer.policies.fingerprint()])
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]

    def _name_current(self) -> str:
        """The name of the live policy: that of an earlier one if it is the same."""
        fingerprint = self._fingerprint()
        if fingerprint not in self._known:
            step, steps = self._trainer.state.global_step, self._trainer.args.optimizer_steps_per_round
            name = _name(Policy(step // steps)) if step and step % steps == 0 else f"step_{step}"
            taken = {*self._known.values(), *self.members}
            while name in taken:
                name += "_again"
            self._known[fingerprint] = name
        return self._known[fingerprint]

    # ---- Evaluation ----

    def evaluate(self, batches: Iterable[list[dict]], prefix: str) -> dict[str, float]:
        """
        Plays the live policy against the pool.

        Args:
            batches (`Iterable[list[dict]]`): rows of this process, as an [`EvaluationLoader`] has them.
            prefix (`str`): of the metrics of the evaluation: each has a game of its own.

        Returns:
            `dict[str, float]`: The metrics, without the prefix.
        """
        trainer = self._trainer
        trainer.policies.ensure_initial()
        if not self._began:
            self.begin(None)
        game = self.games.setdefault(prefix, PoolGame())
        play = Play(trainer, game, batches)
        game.current = self._name_current()
        # The last two are there, or the live one.
        policies = dict(zip(self.members, self._members, strict=True)) | dict.fromkeys([game.best, game.current])
        policies.pop(None, None)
        game.keep(policies)
        play.play(policies)
        named = {name for game in self.games.values() for name in (*self.members, game.best, game.current)}
        self._known = {fingerprint: name for fingerprint, name in self._known.items() if name in named}
        self._renew_best(game, prefix)
        return game.metrics(self.members)

    def keep_best(self) -> None:
        """The policy that was evaluated last is the best one so far."""
        for game in self.games.values():
            game.best = game.current

    def _renew_best(self, game: PoolGame, prefix: str) -> None:
        """What the best policy so far has to be beaten by: its worst win rate in the pool as it is now."""
        metric = self._trainer.args.metric_for_best_model or ""
        if f"eval_{metric.removeprefix('eval_')}" != f"{prefix}_{WIN_RATE_WORST}" or game.best is None:
            return
        self._trainer.state.best_metric = game.worst(game.best, self.members).get(
            WIN_RATE_WORST, self._trainer.state.best_metric
        )

    # ---- Files ----

    def save(self, folder: Path) -> None:
        """Writes what is known to a checkpoint's folder of a round, where the frozen policies are, too."""
        if self._trainer.args.should_save:
            state = {
                "members": self._members,
                "known": self._known,
                "games": {prefix: game.state() for prefix, game in self.games.items()},
            }
            (folder / STATE).write_text(json.dumps(state, default=repr), encoding="utf-8")

    def save_report(self) -> "dict[Path, Standings]":
        """
        Writes a page, tables and figures of each evaluation of two prompts or more, in which there were opponents, to
        `output_dir/pool`: what [`trl_nash.evaluation.arena`] writes, and `win_rates-light.svg` and `-dark.svg`.

        Returns:
            `dict[Path, Standings]`: The figures, by their page. None on other processes than the main one.
        """
        from ....evaluation.pool.report import save_report

        trainer, found = self._trainer, {}
        if not trainer.is_world_process_zero():
            return found
        for prefix, game in self.games.items():
            members = [name for name in self.members if name in game.answers]
            folder = Path(trainer.args.output_dir) / POOL_FOLDER / prefix.removeprefix("eval").strip("_")
            steps = trainer.args.optimizer_steps_per_round
            report = save_report(game, members, folder, prefix, trainer.judge.description, trainer.state, steps)
            if report is not None:
                found[report[0]] = report[1]
        return found


def _name(policy: Policy) -> str:
    return START_NAME if policy == INITIAL else str(policy)
