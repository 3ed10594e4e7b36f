# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Rounds: sample pairs, have them judged, score them under the frozen policies once, fit the policy to them.

An algorithm is a subclass that says what differs: who samples (`sample_pairs`), around which policies the KL term is
centred (`anchor_weights`), what is minimised (`objective`), and which policies are worth keeping (`on_fit_begin`).
"""

from contextlib import ExitStack
from itertools import combinations
from pathlib import Path

import torch
from accelerate.utils import is_peft_model, set_seed
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer

from ..compat import (
    OnlineDPOTrainer,
    base_construction,
    create_model_from_path,
    unused_reward,
)
from ..judges import RewardJudge, load_judge
from ..kernels.fused_head import add_fused_head
from ..objectives import pair_loss, pair_margin, pair_target
from ..policies import PREVIOUS, FrozenPolicies
from . import checks
from .batch import PairBatch, Samples
from .checkpoints import CheckpointMixin, StopWhenAsked
from .completions import Verdict
from .config import NashConfig, PairConfig, scheduled
from .generation import GenerationMixin
from .metrics import Metrics
from .prompts import PromptRenderer
from .reporting import ReportingMixin
from .restarts import RestartMixin
from .round_log import RoundLog
from .sampler_check import check_sampler
from .sampling import EpochCounter, SamplingMixin
from .scoring import ScoringMixin
from .verification import verify_policy, verify_reference


class NashTrainer(
    SamplingMixin, GenerationMixin, ScoringMixin, ReportingMixin, RestartMixin, CheckpointMixin, OnlineDPOTrainer
):
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
    fits_rounds = False
    # Losses are means over a micro-batch; `Trainer.training_step` divides them by the accumulation steps.
    loss_is_scaled_for_ga = False
    # OnlineDPOTrainer's own versions sum gradients over accumulation steps and log means over padding.
    _maybe_log_save_evaluate = Trainer._maybe_log_save_evaluate

    def __init__(
        self,
        model,
        ref_model=None,
        reward_funcs=None,
        args=None,
        data_collator=None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        reward_processing_classes=None,
        peft_config=None,
        compute_metrics=None,
        callbacks=None,
        optimizers=(None, None),
        preprocess_logits_for_metrics=None,
        judge=None,
    ):
        model_id = model if isinstance(model, str) else getattr(model.config, "_name_or_path", "")
        output_dir = f"{Path(model_id).name or 'model'}-{self._tag_names[-1]}"
        args = checks.upgrade_config(args, self.config_class, output_dir)
        checks.check_arguments(
            args,
            data_collator=data_collator,
            compute_metrics=compute_metrics,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            lr_scheduler=optimizers[1],
        )
        reward_funcs = args.reward_model_path if judge is None and reward_funcs is None else reward_funcs
        checks.check_judge(judge, reward_funcs, args)
        checks.check_dataset(train_dataset, args, "train_dataset")
        for name, dataset in (eval_dataset if isinstance(eval_dataset, dict) else {"": eval_dataset}).items():
            if dataset is not None:
                checks.check_dataset(dataset, args, f"eval_dataset[{name!r}]" if name else "eval_dataset")
        judge = None if judge is None else load_judge(judge, device=args.device)

        if processing_class is None:
            if not model_id:
                raise ValueError("The model was not loaded from a path: pass its tokenizer as `processing_class`.")
            processing_class = AutoTokenizer.from_pretrained(model_id, trust_remote_code=args.trust_remote_code)
        if isinstance(model, str):
            model = self._load_policy(model, args)
        checks.check_model(model, ref_model, peft_config)
        # They give `model(..., labels=, fused_lm_head=True)`: log-probs at the sampling temperature, and no logits.
        head, *reference_heads = [
            add_fused_head(module.get_base_model() if is_peft_model(module) else module, temperature=args.temperature)
            for module in filter(None, (model, ref_model))
        ]
        args.accelerator_config.dispatch_batches = False  # which takes tensors, and ours are lists of rows
        if args.use_liger_kernel:  # whose loss would take the place of our forward
            args.liger_kernel_config = (args.liger_kernel_config or {}) | {"fused_linear_cross_entropy": False}

        with base_construction(args):
            super().__init__(
                model=model,
                ref_model=ref_model,
                reward_funcs=unused_reward,
                args=args,
                data_collator=list,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                peft_config=peft_config,
                callbacks=callbacks,
                optimizers=optimizers,
            )
        checks.check_devices(args)
        checks.check_sharding(self.accelerator, args)
        checks.check_prepared_model(self.model)
        fresh_adapter = verify_policy(
            self.model,
            head,
            self.accelerator,
            adapted=peft_config is not None,
            gather=args.ds3_gather_for_generation,
        )
        for reference_head in reference_heads:
            verify_reference(self.ref_model, reference_head, self.accelerator)
        with self._transformers_settings():
            plain = self.model.get_base_model() if is_peft_model(self.model) else self.model
            self.eos_token_ids = check_sampler(plain, self.generation_config, args)
        # Each rank samples with its own noise; the base has seeded them alike, to build the same model.
        set_seed(args.seed, device_specific=True)

        self.judge = judge or RewardJudge(
            reward_funcs,
            reward_processing_classes=reward_processing_classes,
            reward_weights=args.reward_weights,
            temperature=args.reward_temperature,
            missing_eos_penalty=args.missing_eos_penalty,
            eos_token_ids=self.eos_token_ids,
            model_kwargs={"trust_remote_code": args.trust_remote_code},
            device=self.accelerator.device,
        )
        self.policies = FrozenPolicies(
            live=lambda: self.model_wrapped,
            unwrapped=lambda: self.model,
            ref_model=self.ref_model,
            fresh_adapter=fresh_adapter,
        )
        self.render = PromptRenderer(self._tokenizer, args.max_length - args.max_new_tokens, args.chat_template_kwargs)
        if not self.use_vllm:
            # The base gives up the KV cache with gradient checkpointing, which generation itself turns off.
            self.generation_config.use_cache = self.generation_kwargs["use_cache"] = True
        self.round = self.fit = 0
        self._round_epoch = self._micro_step = self._fits_begun = self._last_logged_step = 0
        self._buffer: list[PairBatch] = []
        self._verdicts: list[Verdict] = []
        self._metrics = {"train": Metrics(self.accelerator), "eval": Metrics(self.accelerator)}
        self._judge_failure: str | None = None  # why the judge cannot go on
        self._stop_reason: str | None = None  # why the run was asked to stop
        self.stopped = False  # whether it did
        self._round_log: RoundLog | None = None
        self._gathering = ExitStack()  # what keeps weights gathered while a round is sampled
        self._progress = tqdm(disable=True)
        self._said: set[str] = set()
        self._epochs = EpochCounter()
        self.add_callback(self._epochs)
        self.add_callback(StopWhenAsked(self))

    @staticmethod
    def _load_policy(path: str, args: NashConfig) -> torch.nn.Module:
        kwargs = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
        if args.world_size > 1:
            kwargs.setdefault("device_map", None)  # "auto" would spread every rank's copy over all devices
        return create_model_from_path(path, AutoModelForCausalLM, **kwargs)

    # ---- What an algorithm overrides ----

    def sample_pairs(self, prompts: list) -> Samples:
        """
        Samples K completions for each of B prompts and says which of them are compared.

        Args:
            prompts (`list`): B prompts as they are in the dataset.

        Returns:
            [`Samples`]: the first K completions of a prompt must come from the policy itself.
        """
        prompt_ids, completion_ids = self.generate(prompts, self.args.num_generations)
        indices = range(self.args.num_generations)
        if self.args.pair_selection == "iid":
            return Samples(prompt_ids, completion_ids, list(zip(indices[::2], indices[1::2], strict=False)))
        return Samples(prompt_ids, completion_ids, list(combinations(indices, 2)))

    def anchor_weights(self) -> dict[str, float]:
        """The KL centre of the fit that begins: `log a = Σ weight * log policy`, over names of frozen policies."""
        return {PREVIOUS: 1.0}

    def objective(self, logps: torch.Tensor, batch: PairBatch) -> torch.Tensor:
        """
        The loss of each prompt: here `mean over pairs of (h - η (P - ½))²`.

        Args:
            logps (`torch.Tensor` of shape `(B * K, T - 1)`): log-probs of the tokens under the policy being trained.
            batch ([`PairBatch`]): the micro-batch, with `anchor_logps`.

        Returns:
            `torch.Tensor` of shape `(B,)`.
        """
        logratio = (logps - batch.anchor_logps).sum(-1).view(len(batch), -1)
        margin = pair_margin(logratio, batch.pairs)
        target = pair_target(batch.preference, self.step_size)
        self._record_fit(margin.detach(), target)
        return pair_loss(margin, target)

    def on_fit_begin(self) -> None:
        """Called when a fit is about to begin (and before its round is sampled), to freeze what later rounds need."""

    @property
    def step_size(self) -> float:
        """η of the round that is being fitted."""
        return scheduled(self.args.step_size, self.round)

    @property
    def beta(self) -> float:
        """τ of the epoch in which the round that is being fitted was sampled."""
        return scheduled(self.args.beta, self._round_epoch)

    # ---- A round ----

    def _prepare_inputs(self, inputs: list[int] | list[dict] | PairBatch) -> PairBatch:
        """The next micro-batch of the round; the first one samples, judges and scores the round."""
        if isinstance(inputs, PairBatch):
            return inputs.to(self.accelerator.device)
        self.round, position = divmod(self._micro_step, self.args.micro_steps_per_round)
        self.fit, step = divmod(position, self.args.steps_per_generation * self.args.num_iterations)
        if position == 0:
            self._round_epoch = self._epochs.epoch
            self.policies.ensure_initial()
            if self.args.restart_each_round and self.round > 0:
                self._forget_optimizer()
        if step == 0:
            fits = self.round * self.args.fits_per_round + self.fit + 1
            if self._fits_begun < fits:  # not so when a run stopped in its first step and is resumed
                self.on_fit_begin()
                self._fits_begun = fits
            if position == 0:
                rows = [self.train_dataset[row] if isinstance(row, int) else row for row in inputs]
                self._buffer = self._sample_round(rows)
            self._buffer = self._score_anchor(self._buffer)
        self._micro_step += 1
        return self._buffer[position % self.args.steps_per_generation].to(self.accelerator.device)

    # ---- A step: `transformers.Trainer`'s own ----

    def training_step(self, model, inputs, num_items_in_batch=None):
        with self._metrics["train"].phase("fit"):
            return Trainer.training_step(self, model, inputs, num_items_in_batch)

    def compute_loss(self, model, inputs: PairBatch, return_outputs=False, num_items_in_batch=None):
        logps = self.score(model, inputs)
        loss = self.objective(logps, inputs).mean()
        self._stop_unless_finite(loss.detach(), "loss", inputs)
        return (loss, {"logps": logps}) if return_outputs else loss

    def _get_grad_norm(self, model, grad_norm=None):
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # With fp16 an overflow is ordinary: the scaler skips the step.
        if grad_norm is not None and self.accelerator.scaler is None:
            self._stop_unless_finite(torch.as_tensor(grad_norm), "gradient norm")
        return grad_norm
