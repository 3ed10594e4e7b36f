# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""vLLM, in this process or on a server, through TRL's `VLLMGeneration`: tokens in, tokens and their log-probs out."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedTokenizerBase

from ..compat import VLLMGeneration
from ..policies import adapts_tied_embeddings, fingerprint, has_adapters_off, is_peft_model, merged_weights
from ..rounds.log import random_state, set_random_state


logger = get_logger("trl_nash")  # speaks on the main process only


class VLLMEngine:
    """
    Samples from whatever weights were pushed to vLLM last, and knows which these are.

    Args:
        args ([`NashConfig`]): the `vllm_*` options, and how to sample.
        accelerator ([`~accelerate.Accelerator`]): of the ranks, all of which call every method together.
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]): the policy, without a wrapper.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): the policy's.
        eos_token_ids (`list[int]`): tokens that end a completion.

    Raises:
        `ImportError`: if vLLM is not installed.
        `ValueError`: if vLLM cannot be given these weights.
    """

    def __init__(
        self,
        args,
        accelerator: Accelerator,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        eos_token_ids: list[int],
    ):
        check_weights(model, args.vllm_mode)
        colocate = args.vllm_mode == "colocate"
        processes = args.vllm_tensor_parallel_size if colocate else 1
        state = random_state()
        self._vllm = PushedWeights(
            model=model,
            accelerator=accelerator,
            processing_class=tokenizer,
            mode=args.vllm_mode,
            structured_outputs_regex=args.vllm_structured_outputs_regex,
            server_base_url=args.vllm_server_base_url,
            server_host=args.vllm_server_host,
            server_port=args.vllm_server_port,
            server_timeout=args.vllm_server_timeout,
            group_port=args.vllm_group_port,
            tensor_parallel_size=args.vllm_tensor_parallel_size,
            gpu_memory_utilization=args.vllm_gpu_memory_utilization,
            max_model_length=args.max_length,
            max_num_seqs=args.generation_chunk * args.num_generations * processes,
            enable_sleep_mode=args.vllm_enable_sleep_mode,
            model_impl=args.vllm_model_impl,
            trust_remote_code=args.trust_remote_code,
            repetition_penalty=args.repetition_penalty,
            temperature=args.temperature,
            top_p=args.top_p,
            top_k=args.top_k or 0,
            min_p=args.min_p,
            max_completion_length=args.max_new_tokens,
            logprobs=0,  # of the tokens that were sampled, and no others
            # A completion ends where transformers ends it, whatever the files of the model say.
            generation_kwargs=(args.generation_kwargs or {}) | {"ignore_eos": True, "stop_token_ids": eos_token_ids},
        )
        # vLLM seeds the generators of the process, each rank alike.
        set_random_state(state)
        if processes > 1 and torch.cuda.is_available():
            # The ranks of a group sample the same rows, by torch's generator.
            torch.cuda.manual_seed(args.seed + accelerator.process_index // processes)
        # TRL would have it sleep after every call, and push weights at each: here it sleeps after a round.
        self._sleeps, self._vllm.enable_sleep_mode = colocate and args.vllm_enable_sleep_mode, False
        self._asleep = self._sleeps
        self._accelerator = accelerator
        self._pushed: tuple | None = None
        self._within = 0
        if not colocate and accelerator.is_main_process:
            check_server(self._vllm.vllm_client.get_server_info())

    @property
    def engine(self) -> VLLMGeneration:
        """TRL's."""
        return self._vllm

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Within it, and within others like it, the engine keeps its memory and what was pushed, if it may sleep."""
        self._within += 1
        try:
            yield
        finally:
            self._within -= 1
            if self._within == 0 and self._sleeps and not self._asleep:
                self._vllm.llm.sleep(level=2)  # which forgets the weights
                self._asleep, self._pushed = True, None

    @torch.no_grad()
    def push(self, model: nn.Module) -> None:
        """Gives the engine the weights of a model, adapters merged, unless it has just these."""
        model = self._accelerator.unwrap_model(model)
        has = (id(model), has_adapters_off(model), fingerprint(model))
        if not any(gather_object([has != self._pushed])):  # a rank sees its own part of the weights
            return
        self._pushed, asleep = None, self._asleep
        if asleep:
            clear_device_cache()
            self._asleep = False
            self._vllm.llm.wake_up(tags=["weights"])
        self._vllm.use(model)
        self._vllm.sync_weights()
        if asleep:
            self._vllm.llm.wake_up(tags=["kv_cache"])
        self._pushed = has

    def generate(self, prompt_ids: list[list[int]], count: int) -> tuple[list[list[int]], list[list[float]]]:
        """
        Samples `count` completions for each prompt; all ranks have as many prompts.

        Args:
            prompt_ids (`list[list[int]]`): tokens of B prompts.
            count (`int`): K.

        Returns:
            B * K completions, those of a prompt one after the other, and the log-probs of their tokens under what was
            sampled from, in nats, `nan` where vLLM has none.
        """
        # A server is asked for K completions of each prompt. In this process vLLM gets each prompt K times: what it
        # makes of a request for K, too, and with tensor parallelism the only one that TRL shares out rightly.
        rows = [ids for ids in prompt_ids for _ in range(count)]
        _, completion_ids, logprobs, _ = self._vllm.generate(rows, None, count)
        values = [[math.nan if token[0] is None else token[0] for token in row] for row in logprobs]
        return [list(row) for row in completion_ids], values


class PushedWeights(VLLMGeneration):
    """TRL's engine, which is given one model after the other, and merges adapters without touching the base model."""

    def use(self, model: nn.Module) -> None:
        """The model whose weights the next `sync_weights` pushes."""
        if model is not self.model:
            self.model, self._weight_metadata = model, None  # what a server is told of them before they come

    def _iter_named_params(self):
        model = self.model
        if not is_peft_model(model):
            yield from super()._iter_named_params()
            return
        # An adapter needs the whole of its layer.
        shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
        with self._dist.gather_params(list(model.parameters())):
            for module in shards:
                module.unshard()
            try:
                yield from merged_weights(model)
            finally:
                for module in shards:
                    module.reshard()


def check_weights(model: nn.Module, mode: str) -> None:
    """Refuses models that vLLM cannot be given."""
    if mode == "colocate" and not model.name_or_path:
        raise ValueError(
            "With `vllm_mode='colocate'` vLLM reads the model's files before it gets the policy's weights, and this "
            "model has none: load it with `from_pretrained`, or pass its path as `model`."
        )
    if getattr(model, "hf_quantizer", None) is not None:
        raise ValueError(
            "vLLM would be given weights that are packed for this quantisation, and read them wrongly: load the model "
            "in bfloat16, or leave `use_vllm` out."
        )
    if is_peft_model(model) and adapts_tied_embeddings(model):
        raise ValueError(
            "The adapter changes embeddings or output head, which are one weight in this model, and vLLM would give "
            "both what belongs to one: adapt other layers, or leave `use_vllm` out."
        )


def check_server(info: dict) -> None:
    """Warns of a server whose log-probs are not those of what it samples from."""
    mode = info["model_config"]["logprobs_mode"]
    if mode != "processed_logprobs":
        logger.warning(
            "The vLLM server runs with `--logprobs-mode %s`: what it says of its samples is not comparable with the "
            "policy (sampling/logp_gap, `vllm_importance_sampling_correction`). Restart it with `--logprobs-mode "
            "processed_logprobs`.",
            mode,
        )
