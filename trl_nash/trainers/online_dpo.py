# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
The base of our trainers where TRL has no OnlineDPOTrainer: what we use of its constructor, on those parts of TRL that
are not experimental. Nothing is sampled, rewarded, trained or logged here. `trl_nash.compat` chooses.
"""

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import set_seed
from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import is_peft_available

from ..compat import BaseConfig, BaseTrainer, disable_dropout_in_model, prepare_deepspeed, prepare_fsdp
from ..extras import pip_install
from ..policies import is_peft_model


# Options that are attributes of the trainer, too.
_SHOWN = "max_length temperature top_p top_k min_p repetition_penalty".split()
_SHOWN += ["vllm_model_impl", "vllm_gpu_memory_utilization", "vllm_tensor_parallel_size"]


@dataclass
class OnlineDPOConfig(BaseConfig):
    """The options of TRL's OnlineDPOConfig, with its defaults. What each is for is in the field's help."""

    _VALID_DICT_FIELDS = BaseConfig._VALID_DICT_FIELDS + ["model_init_kwargs"]

    learning_rate: float = field(default=5e-7, metadata={"help": "Learning rate of AdamW at the start."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Drop the columns that the model's forward does not take."}
    )

    reward_model_path: str | None = field(default=None, metadata={"help": "Reward model: a path or hub id."})
    max_new_tokens: int = field(default=64, metadata={"help": "Longest completion, in tokens."})
    max_length: int = field(default=512, metadata={"help": "Longest prompt and completion together, in tokens."})
    temperature: float = field(default=0.9, metadata={"help": "Sampling temperature."})
    top_p: float = field(
        default=1.0, metadata={"help": "Sample from the likeliest tokens of this probability together; 1 is all."}
    )
    top_k: int = field(default=0, metadata={"help": "Sample from this many likeliest tokens; 0 is all."})
    min_p: float | None = field(
        default=None,
        metadata={"help": "Sample from tokens that are at least this share of the likeliest one's probability."},
    )
    repetition_penalty: float = field(
        default=1.0, metadata={"help": "Above 1, tokens that were there before become less likely; 1 is none."}
    )
    generation_kwargs: dict | None = field(
        default=None, metadata={"help": "Further options of transformers' or vLLM's sampling; they go first."}
    )
    cache_implementation: str | None = field(
        default=None, metadata={"help": "Kind of cache that transformers' generation uses."}
    )
    missing_eos_penalty: float | None = field(
        default=None, metadata={"help": "Taken off the reward of a completion without an end; positive."}
    )
    beta: list[float] = field(
        default_factory=lambda: [0.1],
        metadata={"help": "Strength of the pull to the reference; a list goes by epoch, and its last one repeats."},
    )
    loss_type: str = field(default="sigmoid", metadata={"help": "Loss.", "choices": ["sigmoid", "ipo"]})
    disable_dropout: bool = field(default=True, metadata={"help": "Turn dropout off in the model."})
    use_vllm: bool = field(default=False, metadata={"help": "Sample with vLLM, which must be installed."})
    vllm_model_impl: str = field(
        default="vllm", metadata={"help": "Whose model code vLLM runs: `vllm` or `transformers`."}
    )
    vllm_structured_outputs_regex: str | None = field(
        default=None, metadata={"help": "Regular expression that vLLM's completions must match."}
    )
    vllm_gpu_memory_utilization: float | None = field(
        default=0.55, metadata={"help": "Share of a GPU's memory for a colocated engine."}
    )
    vllm_mode: str = field(
        default="colocate",
        metadata={"help": "`colocate` runs vLLM in the training processes, `server` asks `vllm serve`."},
    )
    vllm_server_base_url: str | None = field(
        default=None, metadata={"help": "URL of the server, in place of host and port."}
    )
    vllm_server_host: str = field(default="0.0.0.0", metadata={"help": "Host of the server."})
    vllm_server_port: int = field(default=8000, metadata={"help": "Port of the server."})
    vllm_server_timeout: float = field(
        default=240.0, metadata={"help": "Seconds to wait for the server to come up before giving up."}
    )
    vllm_group_port: int = field(default=51216, metadata={"help": "Port over which weights go to the server."})
    vllm_tensor_parallel_size: int = field(
        default=1, metadata={"help": "GPUs that share one colocated copy of the model."}
    )
    vllm_enable_sleep_mode: bool = field(
        default=False, metadata={"help": "Give the memory of a colocated engine back while the policy is fitted."}
    )
    ds3_gather_for_generation: bool = field(
        default=True,
        metadata={"help": "Under ZeRO-3, gather the weights to sample: faster, where they fit on one device."},
    )
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Keyword arguments of `from_pretrained` for a model that is a path."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run Python code that comes with a model or tokenizer."}
    )
    reward_weights: list[float] | None = field(
        default=None, metadata={"help": "Weight of each reward function; equal if left out."}
    )

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.beta, list) and len(self.beta) == 1:
            (self.beta,) = self.beta
        if self.max_new_tokens >= self.max_length:
            warnings.warn(
                f"The configuration has `max_new_tokens` ({self.max_new_tokens}) >= `max_length` ({self.max_length}): "
                "no token of a prompt is left."
            )


class OnlineDPOTrainer(BaseTrainer):
    """
    Model, adapter, tokenizer and reference, made ready for [`~transformers.Trainer`] as OnlineDPOTrainer does it.

    The arguments are OnlineDPOTrainer's, in its order. `model` is loaded already; of `reward_funcs` and
    `reward_processing_classes` [`NashTrainer`] makes a judge.
    """

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
    ):
        if train_dataset is None:
            raise ValueError("`train_dataset` is required: pass a dataset with a column 'prompt'.")
        set_seed(args.seed)  # for the adapter's weights
        if peft_config is not None or is_peft_model(model):
            model = with_adapter(model, peft_config, bf16=args.bf16)
        if args.disable_dropout:
            for module in filter(None, (model, ref_model)):
                disable_dropout_in_model(module)
        self._tokenizer = tokenizer_of(processing_class)
        self.eos_token_ids = agree_on_tokens(model, self._tokenizer)
        for name in _SHOWN:
            setattr(self, name, getattr(args, name))
        self.is_encoder_decoder, self.is_vision_model = False, False  # both are refused
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        if hasattr(self.model, "add_model_tags"):
            self.model.add_model_tags(self._tag_names)
        self.ref_model = None if ref_model is None else self._frozen(ref_model)

    def _frozen(self, model: torch.nn.Module) -> torch.nn.Module:
        """A model that is not trained, on the devices of the one that is."""
        model.eval()
        if self.is_deepspeed_enabled:
            return prepare_deepspeed(model, self.accelerator)
        if self.is_fsdp_enabled:
            return prepare_fsdp(model, self.accelerator)
        return self.accelerator.prepare_model(model, evaluation_mode=True)


def with_adapter(model: torch.nn.Module, peft_config, *, bf16: bool) -> torch.nn.Module:
    """
    The model with an adapter to train, or the PEFT model that it is already, with the precisions of QLoRA.

    Raises:
        ImportError: Without PEFT.
        TypeError: If `peft_config` is something else.
        ValueError: If `peft_config` is given for a model that has an adapter.
    """
    if not is_peft_available():
        raise ImportError(f"`peft_config` needs PEFT: {pip_install('peft')}")
    from peft import PeftConfig, get_peft_model

    if not isinstance(peft_config, PeftConfig | None):
        raise TypeError(f"`peft_config` must be a PeftConfig such as LoraConfig, got a {type(peft_config).__name__}.")
    adapted = is_peft_model(model)
    if adapted and peft_config is not None:
        raise ValueError(
            "`model` is a PEFT model and a `peft_config` would put a second adapter into it: leave the config out, or "
            "merge the first (`merge_and_unload`)."
        )
    # 4-bit weights that are on no accelerator yet are to be sharded. Dtypes stay as they are then: FSDP wants one.
    in_4bit = getattr(model, "is_loaded_in_4bit", False)
    packed = next((p for p in model.parameters() if type(p).__name__ == "Params4bit"), None) if in_4bit else None
    to_be_sharded = packed is not None and packed.device.type in ("cpu", "meta")
    if not adapted:
        model = get_peft_model(model, peft_config, autocast_adapter_dtype=not to_be_sharded)
    if bf16 and in_4bit and not to_be_sharded:
        for parameter in model.parameters():
            if parameter.dtype == torch.float32:
                parameter.data = parameter.data.to(torch.bfloat16)
    return model


def tokenizer_of(processing_class) -> PreTrainedTokenizerBase:
    """
    The tokenizer, with a pad token.

    Raises:
        TypeError: If it is neither a tokenizer nor a processor.
    """
    tokenizer = processing_class.tokenizer if isinstance(processing_class, ProcessorMixin) else processing_class
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(
            f"`processing_class` must be a PreTrainedTokenizerBase or a ProcessorMixin, got a "
            f"{type(processing_class).__name__}."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def agree_on_tokens(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Gives the model the tokenizer's pad token. Returns the tokens that end a completion for one of the two."""
    model.config.get_text_config().pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    ends = model.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else ends or []
    return ends if tokenizer.eos_token_id in ends else [tokenizer.eos_token_id, *ends]
