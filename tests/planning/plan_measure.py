# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Trains a model of 20 million parameters and prints, as JSON, the bytes that `trl-nash plan` says it needs.

`python plan_measure.py CELLS.json`, where the file has a [`Run`] for each name. Prompts are cut to their limit and no
completion ends, so that all rows have the length that the plan is made for.
"""

import contextlib
import json
import sys
import tempfile
import warnings
from dataclasses import replace
from types import SimpleNamespace

import torch
from accelerate.state import AcceleratorState
from bitsandbytes.optim import GlobalOptimManager
from helpers import lora_config, make_trainer, prompt_dataset
from tiny import build_tokenizer
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, DynamicCache, LlamaConfig, LlamaForCausalLM

from trl_nash.kernels.fused_head import FusedHead
from trl_nash.planning.run import Run


SIZES = {
    "vocab_size": 2048,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}


def bytes_of(tensors) -> int:
    """Bytes of the storages, each once."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def load(folder: str, run: Run):
    kwargs = {"dtype": getattr(torch, run.dtype)}
    if run.load_in_4bit:
        kwargs["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_compute_dtype=run.dtype,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=run.use_bnb_nested_quant,
        )
    elif run.load_in_8bit:
        kwargs["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    return AutoModelForCausalLM.from_pretrained(folder, **kwargs)


def build(run: Run, folder: str, output_dir: str):
    algorithm, own = run.algorithm, {"pair_selection": run.pair_selection}
    if algorithm == "onpo":
        algorithm, own = f"onpo-{run.fits}", own | {"anchor_history": run.anchor_history}
    elif algorithm == "comal":
        own |= {"reference_rounds": run.reference_rounds, "step_size": 0.1, "beta": 1.0}
    elif algorithm == "nash-md":
        algorithm, own = ("nash-ema" if run.opponent == "ema" else "nash-md"), {"ema_decay": 0.9}
    elif algorithm == "iterative-ipo":
        algorithm = "ipo"
    trainer = make_trainer(
        algorithm,
        output_dir,
        model=load(folder, run),
        tokenizer=build_tokenizer(),
        dataset=prompt_dataset([" ".join("abcdefgh"[(i + j) % 8] for j in range(run.max_length)) for i in range(8)]),
        peft_config=lora_config(r=run.lora_r, target_modules=targets(run)) if run.use_peft else None,
        bf16=run.precision == "bf16",
        max_steps=run.rounds * run.fit_passes * run.steps_per_generation,
        gradient_accumulation_steps=1,
        learning_rate=1e-6,
        **{} if run.algorithm == "nash-md" else {"steps_per_generation": run.steps_per_generation},
        num_generations=run.num_generations,
        num_iterations=run.num_iterations,
        per_device_train_batch_size=run.per_device_train_batch_size,
        per_device_generation_batch_size=run.per_device_generation_batch_size,
        gradient_checkpointing=run.gradient_checkpointing,
        max_length=run.max_length,
        max_new_tokens=run.max_new_tokens,
        optim=run.optim,
        **own,
    )
    trainer.sampler.config.suppress_tokens = [trainer._tokenizer.eos_token_id]
    return trainer


def targets(run: Run):
    if list(run.lora_target_modules or ()) == ["all-linear"]:
        return "all-linear"
    return list(run.lora_target_modules or ("q_proj", "v_proj"))


def quantisation(model) -> list[torch.Tensor]:
    """The scales of bitsandbytes, which are no parameters."""
    found = []
    for module in model.modules():
        weight = module._parameters.get("weight")
        state = getattr(weight, "quant_state", None)
        if state is not None:
            found += [state.absmax, state.code]
            found += [state.state2.absmax, state.state2.code, state.offset] if state.nested else []
        scales = [getattr(holder, "SCB", None) for holder in (weight, getattr(module, "state", None))]
        found += [next(scale for scale in scales if scale is not None)] if any(s is not None for s in scales) else []
    return found


def measure(run: Run, folder: str) -> dict[str, int]:
    # It keeps the embeddings of earlier models by their address in memory.
    GlobalOptimManager.get_instance().initialize()
    with tempfile.TemporaryDirectory() as output_dir:
        trainer = build(run, folder, output_dir)
        found, caches, scored = {}, [], []
        grad_norm, compute_loss = trainer._get_grad_norm, trainer.compute_loss
        under, new_cache, log_probs = trainer.scorer.under, DynamicCache.__init__, FusedHead.log_probs

        def with_gradients(*args, **kwargs):
            found["gradients"] = bytes_of(p.grad for p in trainer.model.parameters() if p.grad is not None)
            return grad_norm(*args, **kwargs)

        def with_saved(*args, **kwargs):
            saved = []
            with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
                loss = compute_loss(*args, **kwargs)
            weights = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}
            found["saved"] = bytes_of(t for t in saved if t.untyped_storage().data_ptr() not in weights)
            return loss

        def with_count(policy, batches, *args, **kwargs):
            scored.append((trainer.round, len(batches) / trainer.args.steps_per_generation))
            return under(policy, batches, *args, **kwargs)

        def with_list(cache, *args, **kwargs):
            caches.append(cache)
            new_cache(cache, *args, **kwargs)

        def without_list(*args, **kwargs):  # where completions are scored, also in parts
            count = len(caches)
            logps = log_probs(*args, **kwargs)
            del caches[count:]
            return logps

        trainer._get_grad_norm, trainer.compute_loss, trainer.scorer.under = with_gradients, with_saved, with_count
        DynamicCache.__init__, FusedHead.log_probs = with_list, without_list
        try:
            trainer.train()
        finally:
            DynamicCache.__init__, FusedHead.log_probs = new_cache, log_probs
        optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
        sizes = [bytes_of(t for layer in c.layers for t in (layer.keys, layer.values)) for c in caches if c.layers]
        # A centre that waits for the fit's own forward is counted as it is afterwards.
        logps = [torch.empty(b.input_ids.size(0), b.input_ids.size(1) - 1) for b in trainer.batches]
        batches = [replace(b, centre_logps=c) for b, c in zip(trainer.batches, logps, strict=True)]
        batches = [tensor for batch in batches for tensor in batch.tensors.values()]
        return found | {
            "weights": bytes_of([*trainer.model.parameters(), *quantisation(trainer.model)]),
            "optimizer states": bytes_of(states),
            "frozen policies": sum(bytes_of(kept.values()) for kept in trainer.policies._weights.values()),
            "round's buffer": bytes_of(batches),
            "KV cache": sum(sizes[-2:]) if run.plays_mixture else max(sizes),
            "scorings": [sum(share for r, share in scored if r == index) for index in range(run.rounds)],
            "tensors": len(list(trainer.model.parameters())),
        }


def gathered_by_fsdp2(folder: str) -> dict[str, int]:
    """
    Bytes of weights that a rank of two holds, before and while the sampler has gathered them. torch's "fake" process
    group, which allocates what a real one does and sends nothing, stands for the other rank.
    """
    with tempfile.TemporaryDirectory() as output_dir:
        sampler = build(Run(algorithm="iterative-ipo", strategy="cpu", precision="fp32"), folder, output_dir).sampler
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    model = AutoModelForCausalLM.from_pretrained(folder)
    options = {"mesh": init_device_mesh("cpu", (2,)), "mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16)}
    for module in (*model.model.layers, model):
        fully_shard(module, **options)
    AcceleratorState._shared_state["fsdp_plugin"] = SimpleNamespace(reshard_after_forward=True)
    shards = bytes_of(p.to_local() for p in model.parameters())
    with sampler.gathered(model):
        found = {"shards": shards, "gathered": bytes_of(model.parameters())}
    assert bytes_of(p.to_local() for p in model.parameters()) == shards
    return found


def main(file: str) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    with open(file, encoding="utf-8") as cells:
        runs = {name: Run(**cell) for name, cell in json.load(cells).items()}
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**SIZES, pad_token_id=0, eos_token_id=1, bos_token_id=2)).save_pretrained(folder)
        with contextlib.redirect_stdout(sys.stderr):
            measured = {name: measure(run, folder) for name, run in runs.items()}
            measured["fsdp2"] = gathered_by_fsdp2(folder)
    print(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1])
