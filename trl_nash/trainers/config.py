# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What every Nash trainer can be told. An algorithm's own options are beside the algorithm."""

import warnings
from dataclasses import dataclass, field
from typing import ClassVar

from ..algorithms import Fit, Past
from ..compat import OnlineDPOConfig
from ..rounds.held_out import HeldOut
from ..rounds.pairings import Pairing, pairing_of
from ..rounds.schedule import Schedule
from .checks.precision import best_precision
from .checks.renamed import NamedOptions
from .checks.round_size import steps_of_round
from .checks.values import as_list, check_values, collapse, scheduled


WIN_RATE = "policy/win_rate_reference"  # of the policy against the start of the run, in an evaluation


@dataclass
class NashConfig(NamedOptions, OnlineDPOConfig):
    r"""
    Options that all Nash trainers share, on top of [`~trl.experimental.online_dpo.OnlineDPOConfig`].

    A *round* samples `steps_per_generation` micro-batches of prompts, has the completions judged and scored under the
    frozen policies, and makes `num_iterations` passes over them. The default round is one optimizer step: online
    learning, as OnlineDPOTrainer does it. The published results use rounds of thousands of prompts.

    Parameters:
        num_generations (`int`, *optional*, defaults to `2`):
            K, completions per prompt. `K * per_device_train_batch_size` rows go through the model in a micro-step.
        steps_per_generation (`int`, *optional*):
            Micro-steps in a pass over a round. Defaults to `gradient_accumulation_steps`.
        generation_batch_size (`int`, *optional*):
            Prompts in a round over all processes, as another way to set `steps_per_generation`.
        num_iterations (`int`, *optional*, defaults to `1`):
            Passes over a round.
        fit_held_out (`float`, *optional*, defaults to `0.0`):
            Share of a round's prompts, less than 1, that its fit does not train on. How well their margins follow all
            the same is `fit/r2_held_out`. For the methods that have a fit: not Nash-MD and Nash Prox.
        per_device_generation_batch_size (`int`, *optional*):
            Prompts per call of the generation engine and of the judge. Defaults to `per_device_train_batch_size`.
        use_transformers_continuous_batching (`bool`, *optional*, defaults to `False`):
            Whether to sample with transformers' continuous batching, in which a completion that has ended makes room
            for the next one at once. It pays where lengths differ and `per_device_generation_batch_size` is large.
        transformers_continuous_batching_config (`dict`, *optional*):
            Keyword arguments for [`~transformers.generation.ContinuousBatchingConfig`].
        beta (`float` or `list[float]`, *optional*, defaults to `0.0`):
            τ, the KL coefficient of the regularised game, indexed by epoch at the start of a round (the last one
            repeats). Algorithms that solve the original game have none and refuse any other value than 0.
        temperature (`float`, *optional*, defaults to `1.0`):
            Sampling temperature. The policy is *defined* at this temperature: log-probs are those of logits / T.
        restart_each_round (`bool`, *optional*, defaults to `False`):
            Whether each round starts with a fresh optimizer and its own learning-rate schedule, as one training script
            per round does.
        reward_temperature (`float`, *optional*, defaults to `1.0`):
            Scale of rewards in `P(y ≻ y') = sigmoid((r - r') / reward_temperature)` when `reward_funcs` are given.
        max_nan_rate (`float`, *optional*, defaults to `0.5`):
            The run saves a checkpoint and stops when the judge abstains on more than this share of a round's pairs.
        opponent_pool_rounds (`int`, *optional*):
            Rounds after which a policy joins the opponents of evaluations: see [`OpponentPoolCallback`].
        strip_thinking (`bool`, *optional*, defaults to `False`):
            Whether thinking is removed from completions before they are judged: everything up to the last
            `</think>`, also where the chat template opens it. A completion that ends in its thinking is an empty
            answer.
        chat_template_kwargs (`dict`, *optional*):
            Passed to the chat template when prompts are rendered, e.g. `{"enable_thinking": false}`.
        raw_prompts (`bool`, *optional*, defaults to `False`):
            Whether a prompt that is a string is the text that the model goes on from. Otherwise it is one turn of the
            user where the tokenizer has a chat template.
        max_turns (`int`, *optional*):
            The policy's turns in a dialogue with a `user`, `tools` or an environment, 4 if left out. `max_new_tokens`
            is of a turn, and `max_length` of the whole dialogue.
        merge_adapter (`bool`, *optional*, defaults to `False`):
            For a `model` that is the path of an adapter: whether the adapter becomes part of its base model, and all
            weights, or a new adapter (`peft_config`), are trained. Otherwise the adapter itself is trained further.
        log_completions (`bool`, *optional*, defaults to `False`):
            Whether a table of prompt, two completions and verdict is printed and logged every `logging_steps`.
        num_completions_to_print (`int`, *optional*, defaults to `4`):
            Rows of that table.
        logging_nan_inf_filter (`bool`, *optional*, defaults to `False`):
            Whether losses that are not finite are left out of the log: a run stops at the first one anyway.
        bf16, fp16 (`bool`, *optional*):
            Without either the hardware decides: bf16 on accelerators that have it, fp16 on older GPUs, fp32 elsewhere.
    """

    _VALID_DICT_FIELDS = OnlineDPOConfig._VALID_DICT_FIELDS + [
        "chat_template_kwargs",
        "transformers_continuous_batching_config",
    ]
    # Whether the algorithm solves the game with a KL term, so that `beta` means something to it.
    regularized: ClassVar[bool] = False
    # Rounds after which the reference moves. In the methods whose reference does, this is an option.
    reference_rounds: ClassVar[int | None] = None
    # A method without these options uses every pair with its soft preference; PairConfig makes them fields.
    pair_selection: ClassVar[str] = "all"
    pairs_per_prompt: ClassVar[int | None] = None
    preference_label: ClassVar[str] = "soft"

    num_generations: int = field(default=2, metadata={"help": "K, completions per prompt."})
    steps_per_generation: int | None = field(
        default=None,
        metadata={"help": "Micro-steps in a pass over a round. Defaults to `gradient_accumulation_steps`."},
    )
    generation_batch_size: int | None = field(
        default=None,
        metadata={"help": "Prompts in a round over all processes (another way to set `steps_per_generation`)."},
    )
    num_iterations: int = field(default=1, metadata={"help": "Passes over a round."})
    fit_held_out: float = field(
        default=0.0,
        metadata={"help": "Share of a round's prompts that its fit does not train on, to log `fit/r2_held_out`."},
    )
    per_device_generation_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Prompts per call of the generation engine and of the judge. Defaults to "
            "`per_device_train_batch_size`."
        },
    )
    use_transformers_continuous_batching: bool = field(
        default=False, metadata={"help": "Sample with transformers' continuous batching (transformers>=5.10)."}
    )
    transformers_continuous_batching_config: dict | str | None = field(
        default=None,
        metadata={"help": "Keyword arguments for `transformers.generation.ContinuousBatchingConfig`."},
    )
    beta: list[float] = field(
        default_factory=lambda: [0.0],
        metadata={"help": "KL coefficient of the regularised game (tau in the papers), indexed by epoch."},
    )
    temperature: float = field(
        default=1.0,
        metadata={"help": "Sampling temperature; the policy is defined at it (log-probs of logits / T)."},
    )
    restart_each_round: bool = field(
        default=False, metadata={"help": "Fresh optimizer and learning-rate schedule in every round."}
    )
    reward_temperature: float = field(
        default=1.0, metadata={"help": "Scale of rewards when reward functions serve as the judge."}
    )
    max_nan_rate: float = field(
        default=0.5, metadata={"help": "Stop when the judge abstains on more than this share of a round."}
    )
    opponent_pool_rounds: int | None = field(
        default=None, metadata={"help": "Have evaluations play the start and the policy of every n-th round, too."}
    )
    strip_thinking: bool = field(
        default=False, metadata={"help": "Remove thinking (up to the last </think>) from completions before judging."}
    )
    chat_template_kwargs: dict | str | None = field(
        default=None, metadata={"help": "Keyword arguments for the chat template of the prompts."}
    )
    raw_prompts: bool = field(
        default=False,
        metadata={
            "help": "Feed string prompts to the model as they are, instead of making each one a user turn when the "
            "tokenizer has a chat template."
        },
    )
    max_turns: int | None = field(
        default=None, metadata={"help": "The policy's turns in a dialogue with a user or tools (4 if left out)."}
    )
    merge_adapter: bool = field(
        default=False,
        metadata={
            "help": "Where the model is an adapter: merge it into its base model first, and train all weights or a "
            "new adapter, instead of training it further."
        },
    )
    log_completions: bool = field(
        default=False, metadata={"help": "Print and log prompts, completions and verdicts every `logging_steps`."}
    )
    num_completions_to_print: int = field(default=4, metadata={"help": "Rows of the table of completions."})

    # The filter would wait for the device in every micro-step.
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Leave losses that are not finite out of the log; a run stops at one anyway."}
    )

    def __post_init__(self):
        watched = self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
        if watched or self.load_best_model_at_end or self.save_strategy == "best":
            self._resolve_metric()
        if self.bf16 is None and not self.fp16:  # where TRL would take bf16, which is an error without the hardware
            chosen = best_precision(self.use_cpu)
            self.bf16, self.fp16 = chosen == "bf16", chosen == "fp16"
        with warnings.catch_warnings():
            # Prompts are cut before generation here, so they cannot vanish in the forward pass as TRL warns.
            warnings.filterwarnings("ignore", message="The configuration has .max_new_tokens.")
            # It is TRL's default, under the name that TRL knows.
            warnings.filterwarnings("ignore", ".gradient_checkpointing. is deprecated", FutureWarning)
            super().__post_init__()
        if watched:  # by a scheduler, which cannot know in which direction a metric is better
            mode = "max" if self.greater_is_better else "min"
            self.lr_scheduler_kwargs = {"mode": mode, **(self.lr_scheduler_kwargs or {})}
        self._resolve_dtype()
        self.beta = collapse(self.beta)
        check_values(self)
        if not self.regularized and any(as_list(self.beta)):
            raise ValueError(
                f"`beta={self.beta}` has no meaning in {type(self).__name__}: the method has no KL coefficient. Leave "
                "it out; COMALConfig and NashMDConfig have one."
            )
        self.steps_per_generation = steps_of_round(self)

    def _resolve_metric(self) -> None:
        """Quality is a win rate: the loss is small wherever the judge hardly prefers anything."""
        if self.metric_for_best_model is None:
            if self.greater_is_better is False:
                raise ValueError(
                    f"`greater_is_better=False` without `metric_for_best_model` would choose the lowest {WIN_RATE}: "
                    "name the metric, or leave it out."
                )
            self.metric_for_best_model = WIN_RATE

    def _resolve_dtype(self) -> None:
        kwargs = dict(self.model_init_kwargs or {})
        if "torch_dtype" in kwargs:  # its name before transformers 5
            if "dtype" in kwargs:
                raise ValueError("`model_init_kwargs` has both `dtype` and its old name `torch_dtype`: leave one out.")
            self.model_init_kwargs = {"dtype": kwargs.pop("torch_dtype"), **kwargs}

    def beta_of(self, past: Past) -> float:
        """τ of a round."""
        return scheduled(self.beta, past.epoch)

    @property
    def prompts_per_round(self) -> int:
        """Prompts in a round over all processes."""
        return self.per_device_train_batch_size * self.world_size * self.steps_per_generation

    @property
    def generation_chunk(self) -> int:
        """Prompts in a call of the generation engine and of the judge."""
        return self.per_device_generation_batch_size or self.per_device_train_batch_size

    def past(self, round: int, epoch: int = 0) -> Past:
        """What a round, sampled in an epoch, looks back to."""
        return Past(round, self.reference_rounds, epoch)

    def fits_of(self, past: Past) -> list[Fit]:
        """The method, with these settings: the regressions of a round."""
        raise NotImplementedError(f"{type(self).__name__} has no algorithm: use the config of one.")

    @property
    def pairing(self) -> Pairing:
        """Which of a prompt's completions are compared."""
        return pairing_of(self.pair_selection, self.pairs_per_prompt)

    @property
    def schedule(self) -> Schedule:
        """What a round consists of."""
        fits = len(self.fits_of(self.past(0)))
        return Schedule(self.steps_per_generation, self.num_iterations, fits, self.gradient_accumulation_steps)

    @property
    def held_out(self) -> HeldOut:
        """Which prompts of a round its fits do not train on."""
        seed = self.seed if self.data_seed is None else self.data_seed
        return HeldOut(self.fit_held_out, self.per_device_train_batch_size, self.world_size, self.schedule, seed)

    @property
    def samplings(self) -> tuple[int, ...]:
        """The micro-steps of a round at which its rows are sampled from."""
        fits = self.fits_of(self.past(0))
        steps = self.schedule.micro_steps_per_fit
        return tuple(steps * index for index, fit in enumerate(fits) if index == 0 or fit.pairs_from is not None)

    @property
    def micro_steps_per_round(self) -> int:
        """Micro-steps from one round to the next."""
        return self.schedule.micro_steps_per_round

    @property
    def optimizer_steps_per_round(self) -> int:
        """Optimizer steps from one round to the next."""
        return self.micro_steps_per_round // self.gradient_accumulation_steps
