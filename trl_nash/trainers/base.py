# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Rounds: sample pairs, have them judged, score them under the frozen policies once, fit the policy to them.

An algorithm is a config that says what a round fits (`trl_nash.algorithms`), and a trainer that says what is different
from pairs and least squares, if anything is: who samples (`sample_pairs`), what is minimised (`objective`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin, TrainerCallback

from ..algorithms import AVERAGE, Fit, Past, Policy, named, needed
from ..compat import OnlineDPOConfig, base_construction
from ..judges import PairwiseJudge
from ..objectives import pair_loss, pair_margin, pair_target
from ..rounds.batch import PairBatch, Samples
from ..rounds.schedule import Place
from .checks.renamed import renamed
from .config import NashConfig
from .pair_config import PairConfig
from .run.assembly import assemble
from .run.construction import prepare, verify
from .run.dialogues import Dialogues
from .run.evaluation import EvaluationHooks
from .run.scorer import measured_kls


if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

Rows = Dataset | IterableDataset
RewardFunc = str | PreTrainedModel | Callable[..., list[float | None]]


class NashTrainer(EvaluationHooks):
    r"""
    Iterative IPO, mirror descent on a general preference: the baseline of every comparison, and the base of the
    others.

    Each round samples pairs from the policy `π_t` and fits, from [IPO](https://huggingface.co/papers/2310.12036),

    `π_{t+1} = argmin_π E ( log π(y)/π(y') - log π_t(y)/π_t(y') - η (P(y ≻ y') - ½) )²`

    whose solution is the mirror-descent step `π_{t+1} ∝ π_t exp(η P(· ≻ π_t))`. On cyclic preferences it spirals away
    from the equilibrium; [`ONPOTrainer`] and [`COMALTrainer`] do not.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            The policy: a causal language model, a PEFT model, or the path or hub id of one.
        ref_model ([`~transformers.PreTrainedModel`], *optional*):
            Reference policy. Left out, it is the initial policy, and costs no second model.
        reward_funcs (callable, `str`, [`~transformers.PreTrainedModel`] or a `list` of them, *optional*):
            Reward functions as in TRL. They become a Bradley-Terry judge ([`RewardJudge`]).
        args ([`NashConfig`], *optional*):
            The algorithm's config. A plain `OnlineDPOConfig` is upgraded.
        train_dataset, eval_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Rows with a `"prompt"`: text, or a list of messages. Other columns reach the judge by name.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The policy's tokenizer. Left out, it is loaded from where the model came from.
        reward_processing_classes ([`~transformers.PreTrainedTokenizerBase`] or a `list`, *optional*):
            Tokenizers of the reward models. Left out, each is loaded from where its model came from.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapter to train instead of the whole model.
        callbacks, optimizers:
            As in [`~transformers.Trainer`].
        data_collator, compute_metrics, preprocess_logits_for_metrics:
            Taken in OnlineDPOTrainer's order and refused: rounds have no use for them.
        judge ([`PairwiseJudge`], callable or `str`, *optional*):
            Who says how often one completion beats another: a judge, any callable
            `(prompts, first, second) -> list of probabilities`, or a name that [`load_judge`] understands.
        tools (`list[Callable]`, *optional*):
            Functions that the policy may call, as in [`~trl.GRPOTrainer`]: a completion is then a dialogue with them.
        rollout_func (`Callable`, *optional*):
            `(prompts, trainer) -> dict` that plays whole dialogues, as in [`~trl.GRPOTrainer`].
        environment_factory (`Callable` or `dict[str, Callable]`, *optional*):
            Makes environments whose methods are tools, as in [`~trl.GRPOTrainer`].
        user (`str`, callable or [`~transformers.PreTrainedModel`], *optional*):
            Who answers the policy in a dialogue: a callable `(messages) -> str | None`, a model, or a name such as
            `"openai:MODEL@URL"` or `"initial"`. See the guide to dialogues.
    """

    _tag_names = ["trl", "trl-nash", "iterative-ipo"]
    _name = "Iterative IPO"
    _paper = {
        "title": "A General Theoretical Paradigm to Understand Learning from Human Preferences",
        "id": "2310.12036",
        "citation": """\
@article{azar2023general,
    title  = {{A General Theoretical Paradigm to Understand Learning from Human Preferences}},
    author = {Mohammad Gheshlaghi Azar and Mark Rowland and Bilal Piot and Daniel Guo and Daniele Calandriello and
              Michal Valko and R{\\'e}mi Munos},
    year   = 2023,
    eprint = {arXiv:2310.12036}
}""",
    }
    config_class: type[NashConfig] = PairConfig
    # Whether the method's theory assumes that a round is fitted, not just stepped on.
    assumes_fitted_rounds = False

    @renamed(
        reward_model="reward_funcs", tokenizer="processing_class", reward_processing_class="reward_processing_classes"
    )
    def __init__(
        self,
        model: "str | PreTrainedModel | PeftModel",
        ref_model: PreTrainedModel | None = None,
        reward_funcs: RewardFunc | list[RewardFunc] | None = None,
        args: OnlineDPOConfig | None = None,
        data_collator: None = None,
        train_dataset: Rows | None = None,
        eval_dataset: Rows | dict[str, Rows] | None = None,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        reward_processing_classes: PreTrainedTokenizerBase | list[PreTrainedTokenizerBase | None] | None = None,
        peft_config: "PeftConfig | None" = None,
        compute_metrics: None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LRScheduler | None] = (None, None),
        preprocess_logits_for_metrics: None = None,
        judge: PairwiseJudge | Callable[..., list[float]] | str | None = None,
        tools: list[Callable] | None = None,
        rollout_func: Callable | None = None,
        environment_factory: Callable | dict[str, Callable] | None = None,
        user: "str | Callable[..., str | None] | PreTrainedModel | None" = None,
    ) -> None:
        dialogues = Dialogues(user, tools, rollout_func, environment_factory)
        parts = prepare(
            type(self),
            model=model,
            ref_model=ref_model,
            reward_funcs=reward_funcs,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            reward_processing_classes=reward_processing_classes,
            peft_config=peft_config,
            compute_metrics=compute_metrics,
            lr_scheduler=optimizers[1],
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            judge=judge,
            dialogues=dialogues,
        )
        with base_construction(parts.args) as insisted_on:
            super().__init__(**parts.base, callbacks=callbacks, optimizers=optimizers, **insisted_on)
        fresh_adapter = verify(self, parts)
        self._micro_step, self.place, self.past = 0, Place(0, 0, 0, 0), self.args.past(0)
        self.batches: list[PairBatch] = []
        assemble(self, fresh_adapter, dialogues)

    # ---- What an algorithm is ----

    def fits(self, past: Past) -> list[Fit]:
        """What a round fits: the config's algorithm, with its settings."""
        return self.args.fits_of(past)

    def sample_pairs(self, prompts: list) -> Samples:
        """
        Samples K completions for each of B prompts, and says which of them are compared if that is not up to the run's
        `pairing`.

        Args:
            prompts (`list`): B prompts as they are in the dataset.

        Returns:
            [`Samples`]: the first K completions of a prompt are trained on. Here they come from the policy that the
            fit draws its pairs from.
        """
        prompt_ids, completion_ids = self.generate(prompts, self.args.num_generations, self.opponent)
        return Samples(prompt_ids, completion_ids, **self.sampler.beside)

    def objective(self, logps: torch.Tensor, batch: PairBatch) -> torch.Tensor:
        """
        The loss of each prompt: here `mean over pairs of w (h - η (P - ½))²`, w being 1 but for some pairings.

        Args:
            logps (`torch.Tensor` of shape `(B * K, T - 1)`): log-probs of the tokens under the policy being trained.
            batch ([`PairBatch`]): the micro-batch, with `centre_logps`.

        Returns:
            `torch.Tensor` of shape `(B,)`.
        """
        logratio = (logps - batch.centre_logps).sum(-1).view(len(batch), -1)
        margin = pair_margin(logratio, batch.pairs)
        target = pair_target(batch.preference, self.fit.step_size)
        self.reporter.record_fit(margin, target, batch.weights)
        return pair_loss(margin, target, batch.weights)

    # ---- Where the run is ----

    @property
    def round(self) -> int:
        """The round that is being fitted, counted from 0."""
        return self.place.round

    @property
    def fit(self) -> Fit:
        """The regression of the round that is being fitted."""
        return self.fits(self.past)[self.place.fit]

    @property
    def beta(self) -> float:
        """τ of the epoch in which the round that is being fitted was sampled."""
        return self.args.beta_of(self.past)

    @property
    def live(self) -> Policy:
        """What the live policy is where a fit begins."""
        return Policy(self.round, self.place.fit)

    @property
    def opponent(self) -> Policy | dict[Policy, float] | None:
        """Who samples the fit's pairs: `None` for the live policy, a frozen one, or a mixture with the live one."""
        pairs_from = (self.fit.pairs_from or {}).items()
        others = {p: weight for p, weight in pairs_from if p != self.live and self.policies.knows(p)}
        return next(iter(others)) if list(others.values()) == [1.0] else others or None

    @property
    def trains_on_policy(self) -> bool:
        """Whether the completions that the fit trains on are the live policy's own."""
        return self.opponent is None

    # ---- A round: sample, judge, score, fit ----

    def _prepare_inputs(self, inputs: list[dict] | PairBatch) -> PairBatch:
        """The next micro-batch of the round. Where a fit begins, the round's rows are `inputs`."""
        if isinstance(inputs, PairBatch):
            return inputs.to(self.accelerator.device)
        self.place = self.args.schedule.place(self._micro_step)
        if self.place.begins_fit:
            self._begin_fit(inputs)
        self._micro_step += 1
        return self.batches[self.place.step].to(self.accelerator.device)

    def _begin_fit(self, rows: list[dict]) -> None:
        if self.place.begins_round:
            self.past = self.args.past(self.round, self.epochs.epoch)
            self._begin_round()
        if self.place.fit == 0 or self.fit.pairs_from is not None:
            # Sample and judge, chunk by chunk: the next one while a judge that waits has this one. (By what stands
            # behind the round's number samples are known again after a kill.)
            self.batches = self.collector.round(rows, self.round, self.live, self._name, self.policies.fingerprint())
        # Score, once; the policy itself is scored by the fit's own forward.
        measured = measured_kls(self.past, self.place, self.trains_on_policy)
        self.batches = self.scorer.centre(self.fit, self.batches, self.live, self.args.schedule.first_steps, measured)
        # Freeze what later fits name, before the first step changes it.
        self.policies.keep(needed(self.fits, self.past, self.place.fit), self.live)

    def compute_loss(self, model, inputs: PairBatch, return_outputs=False, num_items_in_batch=None):
        logps = self.score(model, inputs)
        batch = self._completed(inputs, logps)
        if self.trains_on_policy and batch.sampled_logps is not None and self.args.schedule.is_as_sampled(self.place):
            self.reporter.record_logp_gap(logps, batch)
        losses = self.objective(logps, batch)
        loss = self.held_out.mean(losses)
        if self.model.training:
            self.stops.watch(loss, batch)
            self.reporter.record_loss(loss)
        return (loss, {"logps": logps, "losses": losses}) if return_outputs else loss

    # ---- What they are made of ----

    def generate(self, prompts: list, count: int, policy: Policy | dict[Policy, float] | None = None):
        """`count` completions of each prompt: see [`Sampler.generate`]."""
        return self.sampler.generate(prompts, count, policy)

    def score(self, model: torch.nn.Module, batch: PairBatch) -> torch.Tensor:
        """
        Token log-probs of the completions at the sampling temperature, 0 elsewhere.

        The wrapped model's own forward is called, so that DDP, ZeRO and FSDP see it.

        Returns:
            `torch.Tensor` of shape `(B * K, T - 1)`.
        """
        return model(**batch.inputs, fused_lm_head=True).log_probs

    def _begin_round(self) -> None:
        self.policies.ensure_initial()
        if self.args.restart_each_round and self.round > 0:
            self.forget_optimizer()
        if AVERAGE in named(self.fits(self.past)):
            self.policies.average(self.round, self.args.ema_decay)

    def _completed(self, batch: PairBatch, logps: torch.Tensor) -> PairBatch:
        """The micro-batch with its whole centre, which later passes find in the round."""
        completed = self.scorer.complete(batch, logps)
        if completed is not batch and self.model.training and self.args.num_iterations > 1:
            self.batches[self.place.step] = completed.to(torch.device("cpu"))
        return completed
