# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Completions from a policy, live or frozen: through transformers, its continuous batching, or vLLM."""

import logging
import math
from contextlib import ExitStack, contextmanager

import torch
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from transformers import GenerationConfig

from ..compat import unwrap_model_for_generation
from ..policies import is_sharded
from ..rounds.batch import until_eos


class GenerationMixin:
    """Generates on top of OnlineDPOTrainer's own two engines. Part of [`NashTrainer`]."""

    _whole: torch.nn.Module | None = None  # the sharded model that is gathered at the moment

    def generate(self, prompts: list, count: int, policy: str | None = None) -> tuple[list, list]:
        """
        Samples `count` completions for each prompt.

        Args:
            prompts (`list`): prompts as they are in the dataset.
            count (`int`): completions per prompt.
            policy (`str`, *optional*):
                Name of a frozen policy to sample from, never through vLLM. All processes ask for it together.

        Returns:
            The prompts' token lists, and for each prompt its completions' token lists.
        """
        texts, cut = zip(*map(self.render, prompts), strict=True)
        if any(cut):
            self._say_once(
                f"Some prompts are longer than max_length - max_new_tokens = {self.render.limit} tokens and were cut "
                "from the left (metric prompts/cut_ratio)."
            )
        prompt_ids = [self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        with ExitStack() as stack:
            model = self.model_wrapped
            if policy is not None:
                self._gathering.close()  # weights are exchanged in shards
                model = stack.enter_context(self.policies.active(policy))
            if self.args.use_transformers_continuous_batching:
                completions = self._generate_continuously(model, [ids for ids in prompt_ids for _ in range(count)])
                return prompt_ids, [completions[b * count : (b + 1) * count] for b in range(len(prompts))]
            # The base samples two completions for each prompt that it is given.
            repeats = math.ceil(count / 2)
            if count % 2:
                self._say_once(
                    f"Completions are sampled in twos: of {2 * repeats} per prompt, {count} are used.", logging.INFO
                )
            if self.use_vllm and policy is None:
                # vLLM tokenises by itself, and adds BOS where the tokenizer has the habit.
                rows = self._generate_vllm([self.render.without_bos(text) for text in texts] * repeats)
            else:
                stack.enter_context(self._transformers_settings())
                rows = self._generate(model, list(texts) * repeats)
        completion_rows, completion_mask = (t.cpu() for t in rows[2:4])
        completions = [
            until_eos(row[mask.bool()].tolist(), set(self.eos_token_ids))
            for row, mask in zip(completion_rows, completion_mask, strict=True)
        ]
        # Row r belongs to prompt r mod B, whichever of its completions it is.
        return prompt_ids, [completions[b :: len(prompts)][:count] for b in range(len(prompts))]

    @torch.no_grad()
    def _generate_continuously(self, model: torch.nn.Module, rows: list[list[int]]) -> list[list[int]]:
        """A completion of each row of tokens. One that has ended makes room for the next at once."""
        from transformers.generation import ContinuousBatchingConfig

        options = self._continuous_batching_defaults(rows) | (self.args.transformers_continuous_batching_config or {})
        with (
            self._gathered(model),  # ranks take different numbers of steps, and cannot gather for each
            unwrap_model_for_generation(
                model,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                generation_kwargs=self.generation_kwargs,
            ) as policy,
            _without_autocast(policy),
        ):
            training = policy.training
            if "init_continuous_batching" not in vars(policy):
                # FSDP2 is set up by a call of the model as a whole; transformers has done so for `generate`.
                register_fsdp_forward_method(policy, "init_continuous_batching")
            engine = policy.init_continuous_batching(self.generation_config, ContinuousBatchingConfig(**options))
            try:
                # Asked for before it starts: from the same random numbers it draws the same tokens.
                names = engine.add_requests(rows, max_new_tokens=self.args.max_new_tokens)
                engine.start()
                outputs = {}
                while len(outputs) < len(rows):
                    output = engine.get_result(timeout=1)
                    if output is not None and output.is_finished():
                        outputs[output.request_id] = output
                    elif output is None and not engine.is_running():
                        break
            finally:
                engine.stop(hard_stop=True)
                engine.destroy()
                policy.train(training)  # which it turns off
        errors = [output.error for output in outputs.values() if output.error is not None]
        if errors or len(outputs) < len(rows):
            raise RuntimeError(
                f"transformers' continuous batching has failed ({errors[0] if errors else 'its thread has ended'}): "
                "leave `use_transformers_continuous_batching` out."
            )
        return [until_eos(outputs[name].generated_tokens, set(self.eos_token_ids)) for name in names]

    def _continuous_batching_defaults(self, rows: list[list[int]]) -> dict:
        """Memory for the cache: half of what is free, as in TRL's GRPO, on a CPU what the rows can need."""
        if self.accelerator.device.type != "cpu":
            return {"max_memory_percent": 0.5}
        page = (self.args.transformers_continuous_batching_config or {}).get("page_size", 64)
        pages = sum(math.ceil((len(row) + self.args.max_new_tokens) / page) for row in rows)
        return {"page_size": page, "num_blocks": pages, "max_batch_tokens": max(256, 2 * len(rows))}

    @contextmanager
    def _gathered(self, model: torch.nn.Module):
        """Within it weights that ZeRO-3 or FSDP2 has taken apart are whole: gathered once for all tokens."""
        if self._whole is model or not is_sharded(model):
            yield
            return
        gather = self.args.ds3_gather_for_generation
        shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
        with unwrap_model_for_generation(model, self.accelerator, gather_deepspeed3_params=gather):
            self._whole = model
            self.args.ds3_gather_for_generation = False  # DeepSpeed refuses to gather what is gathered
            for module in shards:
                module.set_reshard_after_forward(False, recurse=False)
                module.unshard()
            try:
                yield
            finally:
                self._whole = None
                self.args.ds3_gather_for_generation = gather
                for module in shards:
                    # Layers do again what the profile says; head and embeddings may wait for the backward pass.
                    if module is not model and any(module.children()):
                        again = self.accelerator.state.fsdp_plugin.reshard_after_forward
                        module.set_reshard_after_forward(again, recurse=False)
                    module.reshard()

    @contextmanager
    def _transformers_settings(self):
        """Within it the base samples through transformers, also where its settings are those of a vLLM engine."""
        if not self.use_vllm:
            yield
            return
        engine_settings, args = self.generation_config, self.args
        self.generation_config = GenerationConfig(
            max_new_tokens=args.max_new_tokens,
            do_sample=True,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            min_p=args.min_p,
            repetition_penalty=args.repetition_penalty,
            pad_token_id=self._tokenizer.pad_token_id,
            eos_token_id=self.eos_token_ids,
            use_cache=True,
        )
        self.generation_kwargs = None
        try:
            yield
        finally:
            self.generation_config = engine_settings


@contextmanager
def _without_autocast(model: torch.nn.Module):
    """
    Within it a model computes in the dtype of its weights, which is that of the engine's cache. (accelerate's autocast
    also takes the cache for a tensor to convert.)
    """
    wrapped, original = vars(model).get("forward"), vars(model).get("_original_forward")
    if original is not None:
        model.forward = original
    try:
        yield
    finally:
        if original is not None:
            model.forward = wrapped
