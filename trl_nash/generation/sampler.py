# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Completions from a policy, live, frozen or mixed: through transformers, its continuous batching, or vLLM."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch.distributed.fsdp import FSDPModule
from transformers import GenerationConfig, PreTrainedTokenizerBase

from ..algorithms import Policy
from ..compat import unwrap_model_for_generation
from ..data.columns import as_turn
from ..data.messages import Dialogue, prompt_of, tools_of
from ..policies import FrozenPolicies, is_sharded, without_checkpointing
from ..rounds.batch import chunks, until_eos
from .continuous import generate_continuously
from .mixture import GeometricMixture
from .plain import generate_plainly
from .prompts import PromptRenderer
from .vllm import VLLMEngine


if TYPE_CHECKING:
    from .dialogue.function import RolloutFunction
    from .dialogue.play import TurnByTurn


class Sampler:
    """
    Samples completions from policies.

    Args:
        args ([`NashConfig`]): how.
        accelerator ([`~accelerate.Accelerator`]): which has prepared the model.
        model (`Callable[[], torch.nn.Module]`): returns the live policy, as it is called for training.
        policies ([`FrozenPolicies`]): the others.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): the policy's.
        eos_token_ids (`list[int]`): tokens that end a completion.
        say_once (`Callable[[str], None]`): says what the user should know, once a run.
        tell (`Callable[[int], None]`): is told each token that transformers draws, counted from 1 in each call.
        vllm ([`VLLMEngine`], *optional*): which samples in place of transformers.

    Attributes:
        source ([`TurnByTurn`] or [`RolloutFunction`], *optional*):
            Who plays whole dialogues. Left out, a completion is one turn.
        beside (`dict[str, list]`):
            What is known of the last completions beside their tokens, by the field of [`Samples`] that has it: their
            log-probs, as vLLM gave them, and of dialogues all the rest.
    """

    source: "TurnByTurn | RolloutFunction | None" = None

    def __init__(
        self,
        args,
        accelerator: Accelerator,
        model: Callable[[], torch.nn.Module],
        policies: FrozenPolicies,
        tokenizer: PreTrainedTokenizerBase,
        eos_token_ids: list[int],
        say_once: Callable[[str], None],
        tell: Callable[[int], None],
        vllm: VLLMEngine | None = None,
    ):
        self.args = args
        self.accelerator = accelerator
        self.policies = policies
        self.tokenizer = tokenizer
        self.eos_token_ids = eos_token_ids
        self.render = PromptRenderer.of(args, tokenizer)
        self.config = generation_config(args, tokenizer, eos_token_ids)
        self._model = model
        self._say_once = say_once
        self._tell = tell
        self._vllm = vllm
        self.beside: dict[str, list] = {}
        self._drawn_logps: list[list[list[float]]] | None = None
        self._whole: torch.nn.Module | None = None  # the sharded model that is gathered at the moment
        self._gathering = ExitStack()  # what keeps it so while a round is sampled

    def generate(
        self, prompts: list, count: int, policy: Policy | Mapping[Policy, float] | None = None
    ) -> tuple[list[list[int]], list[list[list[int]]]]:
        """
        Samples `count` completions for each prompt.

        Args:
            prompts (`list`): prompts as they are in the dataset.
            count (`int`): completions per prompt.
            policy (`Policy` or `Mapping[Policy, float]`, *optional*):
                The policy to sample from: the live one if left out, a frozen one, or the geometric mixture of frozen
                ones, by their weights, with the live one, which has the rest. vLLM samples from no mixture.
                All processes ask for it together.

        Returns:
            The prompts' token lists, and for each prompt its completions' token lists.
        """
        if self.source is not None:
            draw, engine = partial(self.draw, policy=policy), partial(self._engine, policy)
            samples = self.source.play(prompts, count, draw, engine, self.marches(policy))
            self.beside = samples.beside
            return samples.prompt_ids, samples.completion_ids
        prompt_ids, cut = map(list, zip(*map(self.render.ids, prompts), strict=True))
        if any(cut):
            self._say_once(self.render.cut_sentence)
        completions, logps = self.draw(prompt_ids, count, policy)
        self.beside = {"logps": logps}
        return prompt_ids, completions

    @property
    def logps(self) -> list[list[list[float]]] | None:
        """Log-probs of the tokens of the last completions, as vLLM gave them."""
        return self.beside.get("logps")

    def draw(
        self, prompt_ids: list[list[int]], count: int, policy: Policy | Mapping[Policy, float] | None = None
    ) -> tuple[list[list[list[int]]], list[list[list[float]]] | None]:
        """
        Samples one turn: `count` completions of each of B contexts.

        Returns:
            B x count completions, each up to its first end-of-sequence token, and the log-probs of their tokens where
            the engine has them.
        """
        self._drawn_logps = None
        with self._engine(policy) as sample:
            completions = sample(prompt_ids, count)
        ends = set(self.eos_token_ids)
        return [[until_eos(row, ends) for row in rows] for rows in completions], self._drawn_logps

    def prompt_of(self, row: dict[str, Any]) -> Any:
        """What is sampled from for a row: its prompt, and for dialogues the whole row with it."""
        if self.source is None:
            return prompt_of(row)
        return Dialogue(as_turn(row["prompt"]), tools_of(row), row)

    def shown(self, row: dict[str, Any]) -> Any:
        """What is rendered of a row: its prompt, and the tools that can be called, the row's or the run's."""
        return prompt_of(row) if self.source is None else self.source.shown(row)

    def marches(self, policy: Policy | Mapping[Policy, float] | None = None) -> bool:
        """Whether ranks have to sample from a policy together, call by call."""
        user = getattr(self.source, "user", None)
        # Weights are sharded, also while they are gathered; those of a frozen policy are put in place together.
        together = self._vllm is not None or self._whole is not None or is_sharded(self._model())
        together = together or policy is not None or (user is not None and user.is_policy)
        return self.accelerator.num_processes > 1 and together

    @property
    def vllm_generation(self):
        """TRL's engine, if vLLM samples."""
        return None if self._vllm is None else self._vllm.engine

    @contextmanager
    def _engine(self, policy: Policy | Mapping[Policy, float] | None):
        """A function that makes `count` completions of each of B prompts: `(prompt_ids, count)` to B x count."""
        device = self.accelerator.device
        with ExitStack() as stack:
            if isinstance(policy, Mapping):
                ((reference, coef),) = policy.items()
                other = stack.enter_context(self.policies.beside(reference))
                model = stack.enter_context(self._unwrapped(self._model()))
                mixing = partial(GeometricMixture, other, coef)
                yield partial(generate_plainly, model, self.config, device, mixing=mixing, tell=self._tell)
            elif self._vllm is not None:
                stack.enter_context(self.awake())
                with nullcontext(self._model()) if policy is None else self.policies.active(policy) as model:
                    self._vllm.push(model)
                yield self._from_vllm
            else:
                model = self._model()
                if policy is not None:
                    self._gathering.close()  # weights are exchanged in shards
                    model = stack.enter_context(self.policies.active(policy))
                continuous = self.args.use_transformers_continuous_batching
                if continuous:
                    stack.enter_context(self.gathered(model))  # ranks take different numbers of steps
                model = stack.enter_context(self._unwrapped(model))
                if continuous:
                    yield partial(generate_continuously, model, self.config, self.args, device)
                else:
                    yield partial(generate_plainly, model, self.config, device, tell=self._tell)

    def _from_vllm(self, prompt_ids: list[list[int]], count: int) -> list[list[list[int]]]:
        completions, logps = self._vllm.generate(prompt_ids, count)  # which end where ours do
        self._drawn_logps = list(chunks(logps, count))
        return list(chunks(completions, count))

    @contextmanager
    def _unwrapped(self, model: torch.nn.Module):
        """The model without its wrappers, whole, and without gradient checkpointing, for as long as it samples."""
        with (
            without_checkpointing(model),
            unwrap_model_for_generation(
                model,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation and self._whole is not model,
            ) as policy,
        ):
            yield policy

    @contextmanager
    def round(self):
        """Within it the live policy is kept gathered, until a frozen one is asked for, or vLLM is kept awake."""
        with ExitStack() as self._gathering, self.awake():
            if self._vllm is None:
                self._gathering.enter_context(self.gathered(self._model()))
            yield

    def awake(self):
        """Context in which vLLM, if it samples, is kept awake between calls."""
        return nullcontext() if self._vllm is None else self._vllm.awake()

    def release(self) -> None:
        """Takes weights apart that [`round`] has gathered."""
        self._gathering.close()

    @contextmanager
    def gathered(self, model: torch.nn.Module):
        """Within it weights that ZeRO-3 or FSDP2 has taken apart are whole: gathered once for all tokens."""
        if self._whole is model or not is_sharded(model):
            yield
            return
        shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
        with self._unwrapped(model):
            self._whole = model  # DeepSpeed refuses to gather what is gathered
            for module in shards:
                module.set_reshard_after_forward(False, recurse=False)
                module.unshard()
            try:
                yield
            finally:
                self._whole = None
                for module in shards:
                    # Layers do again what the profile says; head and embeddings may wait for the backward pass.
                    if module is not model and any(module.children()):
                        again = self.accelerator.state.fsdp_plugin.reshard_after_forward
                        module.set_reshard_after_forward(again, recurse=False)
                    module.reshard()


def generation_config(args, tokenizer: PreTrainedTokenizerBase, eos_token_ids: list[int]) -> GenerationConfig:
    """
    How `args` has transformers sample, all of it: from softmax(logits / T), but for what `args` itself asks for.

    What is not named here does nothing by default, and nothing is filled in from the model (see [`only`]).
    """
    options = {
        "max_new_tokens": args.max_new_tokens,
        "do_sample": True,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": eos_token_ids,
        "temperature": args.temperature,
        "top_k": args.top_k or 0,  # transformers' own default is 50
        "top_p": args.top_p,
        "min_p": args.min_p,
        "repetition_penalty": args.repetition_penalty,
        "cache_implementation": args.cache_implementation,
        "use_cache": True,
    }
    own = ({} if args.use_vllm else args.generation_kwargs) or {}
    options |= {name: value for name, value in own.items() if value is not None}
    return GenerationConfig(**{name: value for name, value in options.items() if value is not None})
