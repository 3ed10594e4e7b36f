# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a run says of itself: metrics of rounds and fits, progress, the table of completions, sentences."""

from collections.abc import Callable
from itertools import combinations

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from tqdm.auto import tqdm

from ....generation.prompts import text_of
from ....judges.transcript import own_words
from ....objectives import cycle_rate
from ....rounds.batch import ENDINGS, IGNORED, PairBatch, Samples
from ....rounds.metrics import Metrics
from ....rounds.pairings import All, BestWorst
from ....rounds.rows import count_of
from ...config import WIN_RATE
from ..held_out import HeldOutPrompts
from ..judging import Asked, Judged
from .completions import Verdict, log_verdicts


logger = get_logger("trl_nash")  # speaks on the main process only

BAR_SECONDS = 1.0  # after which a bar is shown, and then again
SHOWN_ANSWERS = 3  # prompts whose answers, the start's and the policy's, are kept of an evaluation


class PartBar(tqdm):
    """A progress bar whose postfix, too, is shown no earlier and no more often than the bar is to be."""

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        super().set_postfix_str(s, refresh=False)
        self.update(0)


class Reporter:
    """
    Collects what is logged.

    Args:
        args ([`NashConfig`]): what is to be shown.
        accelerator ([`~accelerate.Accelerator`]): adds metrics up over ranks.
        mode (`Callable[[], str]`): `"train"` or `"eval"`, each of which has metrics of its own.
        round (`Callable[[], int]`): the round that runs, counted from 0.
        eos_token_ids (`list[int]`): tokens that end a completion; one without was clipped.
        ending (`Callable[[], bool]`): whether the fit that runs is in its second half.
        held_out ([`HeldOutPrompts`], *optional*): which prompts the fit does not train on.

    Attributes:
        answers (`list[Verdict]`): of the last evaluation, on the main process: the policy's first and the start's.
        said (`set[str]`): what this run, before it was resumed too, has said once.
    """

    def __init__(
        self,
        args,
        accelerator: Accelerator,
        mode: Callable[[], str],
        round: Callable[[], int],
        eos_token_ids: list[int],
        ending: Callable[[], bool] = lambda: False,
        held_out: HeldOutPrompts | None = None,
    ):
        self.answers: list[Verdict] = []
        self.said: set[str] = set()
        self._args = args
        self._eos_token_ids = eos_token_ids
        self._accelerator = accelerator
        self._mode = mode
        self._round = round
        self._ending = ending
        self._held_out = held_out
        self._metrics = {"train": Metrics(accelerator, ("log", "round")), "eval": Metrics(accelerator)}
        self._verdicts: list[Verdict] = []
        self._played: list[Verdict] = []
        self._bar: tqdm | None = None  # the last one, which may be closed
        self._flushed_at = 0

    @property
    def metrics(self) -> Metrics:
        return self._metrics[self._mode()]

    def phase(self, name: str):
        """Context that is timed as a phase of a round."""
        return self.metrics.phase(name)

    def bar(self, what: str, total: int, unit: str = "micro-batch") -> tqdm:
        """A progress bar of a part of a round or of an evaluation, shown once that takes a while."""
        self._bar = PartBar(
            total=total,
            desc=f"{f'Round {self._round() + 1}' if self._mode() == 'train' else 'Evaluation'}: {what}",
            unit=unit,
            leave=False,
            delay=BAR_SECONDS,
            mininterval=BAR_SECONDS,
            miniters=0,  # so that what does not advance it, as a token, can still have it shown
            disable=self._args.disable_tqdm or not self._accelerator.is_main_process,
        )
        return self._bar

    def tell_token(self, count: int) -> None:
        """Has the bar tell a token that is sampled, counted from 1 in each call of the engine."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"sampling, token {count}")

    def say_once(self, message: str, name: str | None = None) -> None:
        """Says something about this run, once. What has a name is the same whatever numbers are in it."""
        if (name or message) not in self.said:
            self.said.add(name or message)
            logger.warning(message)

    def record_judged(self, judged: Judged) -> None:
        """Counts verdicts and lengths; keeps pairs to show."""
        count = count_of(judged.rows)
        if not count:
            return
        preference, metrics = judged.preference[:count], self.metrics
        samples, pairs = Samples.together(judged.samples.split()[:count]), judged.pairs[:count]
        self._record_lengths(samples)
        self._record_dialogues(samples)
        self._record_texts(judged.texts[:count], pairs, samples.failed)
        judged_pairs = ~preference.isnan()
        metrics.add("judge/preference", preference.nansum(), judged_pairs.sum())
        lengths = torch.tensor(samples.lengths)
        first, second = (lengths.gather(1, pairs[..., side]) for side in (0, 1))
        decided = judged_pairs & (first != second)
        longer_wins = torch.where(first > second, preference, 1 - preference)
        metrics.add("judge/longer_wins", longer_wins[decided].sum(), decided.sum())
        if isinstance(judged.pairing, All | BestWorst) and self._args.num_generations >= 3:
            self._record_cycles(pairs[0], preference)
        if self._args.log_completions and self._mode() == "train":
            self._verdicts += _verdicts(judged)

    def record_played(self, judged: Judged) -> None:
        """Counts the verdicts on the policy's completions, the first of each pair, against the start's."""
        # Completions of a prompt are no independent sample of prompts: the mean of each prompt is.
        self.metrics.sample(WIN_RATE, judged.preference.nanmean(-1))
        self._played += _verdicts(judged)[: self._most_shown - len(self._played)]

    def record_tallies(self, asked: list[Asked]) -> None:
        """Counts what the judge knows of its verdicts beside the preferences that they make."""
        for tally, abstained, pairs in asked:
            for metric in tally.ratios(abstained, pairs):
                self.metrics.add(*metric)

    def _record_cycles(self, pairs: torch.Tensor, preference: torch.Tensor) -> None:
        """How cyclic the verdicts on all pairs are, which are the same of every prompt."""
        count = self._args.num_generations
        rate = cycle_rate(preference, pairs, count)
        column = {tuple(pair): m for m, pair in enumerate(pairs.tolist())}
        triples = [[column[pair] for pair in combinations(triple, 2)] for triple in combinations(range(count), 3)]
        complete = (~preference.isnan())[:, torch.tensor(triples)].all(-1).sum()
        self.metrics.add("judge/cycle_rate", rate.nan_to_num() * complete, complete)

    def _record_lengths(self, samples: Samples) -> None:
        """Lengths of the completions that are trained on, and how many were cut."""
        count = self._args.num_generations
        own = [ids for completions in samples.completion_ids for ids in completions[:count]]
        clipped = [not ids or ids[-1] not in self._eos_token_ids for ids in own]
        self.metrics.add("completions/mean_length", sum(sum(row[:count]) for row in samples.lengths), len(own))
        self.metrics.add("completions/clipped_ratio", sum(clipped), len(own))

    def _record_dialogues(self, samples: Samples) -> None:
        """How dialogues went: turns, what others have said, and how they ended."""
        if samples.turns is None:
            return
        count = self._args.num_generations
        turns = [messages for own in samples.turns for messages in own[:count]]
        endings = [ending for own in samples.endings for ending in own[:count]]
        others = [len(mask) - sum(mask) for own in samples.masks for mask in own[:count]]
        calls = [len(m.get("tool_calls") or ()) for messages in turns for m in messages]
        spoken = sum(m["role"] == "assistant" for messages in turns for m in messages)
        self.metrics.add("rollouts/turns", spoken, len(turns))
        self.metrics.add("rollouts/other_tokens", sum(others), len(turns))
        self.metrics.add("rollouts/tool_calls", sum(calls), len(turns))
        for name in ("rollouts/max_turns", "rollouts/max_length", "rollouts/unfinished"):
            self.metrics.add(name, endings.count(name.partition("/")[2]), len(endings))
        failed = [ending for ending in endings if ending not in ENDINGS]
        self.metrics.add("rollouts/failed", len(failed), len(endings))
        for reason in failed:
            self.metrics.add(f"rollouts/failed/{reason.replace(' ', '_')}", 1, 0)

    def _record_texts(self, texts: list[list[str]], pairs: torch.Tensor, failed: list[list[bool]]) -> None:
        """
        What nothing can be learned from: pairs of one text twice, and completions without any. Dialogues that failed
        are counted as such.
        """
        count = self._args.num_generations
        same = sum(
            i != j and row[i] == row[j] and not (out[i] or out[j])
            for row, own, out in zip(texts, pairs.tolist(), failed, strict=True)
            for i, j in own
        )
        own = [
            text for row, out in zip(texts, failed, strict=True) for k, text in enumerate(row[:count]) if not out[k]
        ]
        self.metrics.add("completions/equal_pairs", same, pairs[..., 0].numel())
        self.metrics.add("completions/empty_ratio", sum(map(_is_empty, own)), len(own))

    def record_fit(self, margin: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """
        How far margins have come towards their targets, both of shape (B, M); `nan` targets abstain. Pairs have the
        weights that they have in the loss.
        """
        judged = ~target.isnan()
        weights = torch.where(judged, torch.ones_like(target) if weights is None else weights, 0.0)
        target, margin = target.nan_to_num(), torch.where(judged, margin.detach(), 0.0)
        if self._held_out is not None and (held_out := self._held_out.mask(len(margin))) is not None:
            if self._held_out.are_measured:
                self._add_r2("fit/r2_held_out", margin[held_out], target[held_out], weights[held_out])
            margin, target, weights = margin[~held_out], target[~held_out], weights[~held_out]
        count = weights.sum()
        self.metrics.add("fit/margin", (weights * target.sign() * margin).sum(), count)
        self.metrics.add("fit/target", (weights * target.abs()).sum(), count)
        self._add_r2("fit/r2", margin, target, weights)
        if self._ending():
            self._add_r2("fit/r2_end", margin, target, weights)

    def _add_r2(self, name: str, margin: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> None:
        # The targets' mean is 0 by antisymmetry, so R² is taken about 0.
        total = (weights * target.square()).sum()
        self.metrics.add(name, total - (weights * (margin - target).square()).sum(), total)

    def record_loss(self, loss: torch.Tensor) -> None:
        """Counts the loss of a micro-batch of training: to the round, whose steps are not those of a log."""
        self._metrics["train"].add("loss", loss, span="round")

    def record_logp_gap(self, logps: torch.Tensor, batch: PairBatch) -> None:
        """How far the log-probs of tokens, of shape (B * K, T - 1), are from those that the engine gave with them."""
        tokens = (batch.labels[:, 1:] != IGNORED) & ~batch.sampled_logps.isnan()
        gaps = (logps.detach().float() - batch.sampled_logps).abs()[tokens]
        if count := gaps.numel():
            self.metrics.add("sampling/logp_gap", gaps.sum(), count)
            self.metrics.add("sampling/logp_gap_p99", gaps.quantile(0.99) * count, count)

    def start(self, step: int) -> None:
        """A run begins, or goes on, behind so many optimizer steps."""
        self._flushed_at = step
        self._metrics["train"].clear("round")

    def flush(self, step: int) -> dict[str, float]:
        """The training metrics since the last flush, which was some optimizer steps ago."""
        steps, self._flushed_at = step - self._flushed_at, step
        return self._metrics["train"].flush(steps=steps) | {"round": self._round() + 1}

    def flush_round(self) -> dict[str, float]:
        """The training metrics of a round that is over, with the seconds that it took by phase."""
        return self._metrics["train"].flush(span="round") | {"round": self._round() + 1}

    def flush_evaluation(self) -> dict[str, float]:
        """The metrics of an evaluation."""
        return self._metrics["eval"].flush()

    def show_completions(self, name: str, step: int) -> None:
        """Prints and logs the pairs of training that were kept, as table `name`."""
        self._show(self._verdicts[-self._args.num_completions_to_print :], step, name)
        self._verdicts.clear()

    def show_answers(self, name: str, step: int) -> None:
        """Keeps some of an evaluation's answers, and with `log_completions` prints and logs them, as table `name`."""
        if self._args.log_completions:
            self._show(self._played[: self._args.num_completions_to_print], step, name, ("policy", "start"))
        self.answers = self._played[:SHOWN_ANSWERS]
        self._played = []

    @property
    def _most_shown(self) -> int:
        return max(SHOWN_ANSWERS, self._args.num_completions_to_print)

    def _show(self, verdicts: list[Verdict], step: int, name: str, *sides: tuple[str, str]) -> None:
        if verdicts and self._accelerator.is_main_process:
            log_verdicts(verdicts, step, self._args.output_dir, self._args.report_to, name, *sides)


def _is_empty(text: str) -> bool:
    """Whether the policy says nothing: of a dialogue in all its turns, and calls no tool either."""
    calls = any(message.get("tool_calls") for message in getattr(text, "messages", ()))
    return not calls and not own_words(text).strip()


def _verdicts(judged: Judged) -> list[Verdict]:
    """The first pair of each row."""
    rows = zip(judged.rows[: count_of(judged.rows)], judged.texts, judged.pairs[:, 0], judged.preference, strict=False)
    return [
        Verdict(text_of(row["prompt"]), texts[pair[0]], texts[pair[1]], float(verdict[0]))
        for row, texts, pair, verdict in rows
    ]
