# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Which weights vLLM (a fake) has when it is asked, and how often it was given some."""

import fake_vllm
import pytest
import torch
from helpers import ALGORITHMS, equal, perturb, prompt_dataset, weights
from pushed import engine_of, has, merged, watch
from transformers import AutoModelForCausalLM

from trl_nash import EGPOConfig, EGPOTrainer
from trl_nash.algorithms import INITIAL
from trl_nash.rounds.batch import IGNORED, load_batches


MODES = ["colocate", "server"]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("algorithm", ["ipo", "onpo-two", "comal", "self-play"])
def test_each_round_is_sampled_from_the_policy_as_it_is(algorithm, mode, lora, vllm, tmp_path):
    """Bitwise, an adapter merged, and pushed once for all chunks of a round."""
    options = {"algorithm": algorithm, "lora": lora, "steps_per_generation": 2, "gradient_accumulation_steps": 2}
    trainer = vllm(mode=mode, output_dir=tmp_path, max_steps=3 if algorithm != "onpo-two" else 6, **options)
    seen, start = watch(trainer), weights(trainer.model)
    trainer.train()
    calls = 4 if algorithm == "self-play" else 2  # the opponent of self-play is sampled by itself
    rounds = range(0, 6, 2) if algorithm == "onpo-two" else range(3)
    assert seen == [step for step in rounds for _ in range(calls)]
    assert engine_of(trainer).pushes == 3 and not equal(weights(trainer.model), start)


def test_weights_are_pushed_when_they_have_changed_and_only_then(vllm, tmp_path):
    """Whoever has changed them, and how: in place, through `.data`, by loading, by new ones, by exchanging two."""
    trainer = vllm("ipo", tmp_path)
    parameter, engine = trainer.model.lm_head.weight, engine_of(trainer)

    def load():
        trainer.model.load_state_dict({name: 1.5 * tensor for name, tensor in weights(trainer.model).items()})

    def exchange():
        parameter.data[[0, 1]] = parameter.data[[1, 0]]

    def cancel():
        parameter.data[2, 0] += 0.5
        parameter.data[2, 1] -= 0.5

    changes = [
        lambda: None,
        lambda: perturb(trainer.model),
        lambda: parameter.data.mul_(2),
        load,
        lambda: setattr(parameter, "data", parameter.data + 1),
        exchange,
        cancel,
        lambda: parameter.data.view(torch.int32)[0, 0].bitwise_xor_(1),  # the last bit of one weight
    ]
    seen = watch(trainer)
    for number, change in enumerate(changes, 1):
        change()
        for _ in range(2):
            trainer.generate(["a"], 2)
        assert engine.pushes == number
    assert len(seen) == 2 * len(changes)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("mode", MODES)
def test_frozen_policies_are_sampled_too(mode, lora, vllm, tmp_path):
    """The start of the run is pushed when it is asked for, and the live policy again before that is."""
    trainer = vllm("ipo", tmp_path, mode, lora=lora)
    start = merged(trainer)
    trainer.policies.ensure_initial()
    perturb(trainer.model)
    engine = engine_of(trainer)
    for policy, expected in [(None, merged(trainer)), (INITIAL, start), (None, merged(trainer))]:
        for _ in range(2):
            trainer.generate(["a"], 2, policy)
            assert has(engine, expected)
    assert engine.pushes == 3 and not has(engine, start)


def test_an_explicit_reference_is_sampled_too(vllm, models, tmp_path):
    reference = AutoModelForCausalLM.from_pretrained(models / "other")
    trainer = vllm("ipo", tmp_path, extra={"ref_model": reference}, lora=True)
    trainer.generate(["a"], 2)
    trainer.generate(["a"], 2, INITIAL)
    perturb(trainer.model)
    trainer.generate(["a"], 2, INITIAL)  # which has not changed
    engine = engine_of(trainer)
    assert engine.pushes == 2
    assert has(engine, dict(reference.named_parameters()))


def test_a_reference_of_another_dtype_reaches_a_server_as_it_is(vllm, models, tmp_path):
    """A server is told of types and shapes before weights come."""
    reference = AutoModelForCausalLM.from_pretrained(models / "other", dtype=torch.bfloat16)
    trainer = vllm("ipo", tmp_path, "server", extra={"ref_model": reference})
    trainer.generate(["a"], 2)
    trainer.generate(["a"], 2, INITIAL)
    assert has(engine_of(trainer), {name: p.detach().float() for name, p in reference.named_parameters()})
    trainer.generate(["a"], 2)
    assert has(engine_of(trainer), merged(trainer))


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_and_a_second_run(mode, vllm, tmp_path):
    """
    Before the first step the policy is the start. In each evaluation the policy and the start are sampled: the second
    `train()` begins with the policy, and so does the evaluation behind it.
    """
    extra = {"eval_dataset": prompt_dataset(["a", "b c"])}
    trainer = vllm("ipo", tmp_path, mode, extra=extra, max_steps=1)
    engine, pushes = engine_of(trainer), []
    for act in (trainer.evaluate, trainer.train, trainer.evaluate, trainer.train, trainer.evaluate):
        metrics = act()
        pushes.append(engine.pushes)
    assert pushes == [1, 1, 3, 4, 6]
    assert 0 <= metrics["eval_policy/win_rate_reference"] <= 1
    assert metrics["eval_completions/mean_length_reference"] <= 4 and metrics["eval_sampling/logp_gap"] < 1e-4


def test_the_best_model_that_is_loaded_at_the_end_is_sampled_from(vllm, tmp_path):
    """The weights of step 1 are loaded behind step 2, in place, and no step tells."""
    trainer = vllm(
        "ipo",
        tmp_path,
        extra={"eval_dataset": prompt_dataset(["a"])},
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
    )
    trainer._determine_best_metric = lambda metrics, trial: (
        trainer.state.global_step == 1 and setattr(trainer.state, "best_model_checkpoint", f"{tmp_path}/checkpoint-1")
    )
    trainer.train()
    trainer.generate(["a"], 2)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-1")
    assert has(engine_of(trainer), {name: p.detach() for name, p in saved.named_parameters()})
    assert has(engine_of(trainer), merged(trainer))


def test_a_resumed_run_samples_from_what_it_resumes(vllm, tmp_path):
    """Within a round, too: the log-probs that the engine gave are in the checkpoint."""
    options = {"save_strategy": "steps", "save_steps": 1, "steps_per_generation": 2, "max_steps": 4}
    trainer = vllm("ipo", tmp_path, **options)
    trainer.train()
    resumed = vllm("ipo", tmp_path, **options)
    seen = watch(resumed)
    checkpoint = tmp_path / "checkpoint-1"
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert seen == [2, 2] and engine_of(resumed).pushes == 1
    for batch in load_batches(next(checkpoint.glob("*/round-00000.safetensors"))):
        outside = batch.labels[:, 1:] == IGNORED
        assert batch.sampled_logps[outside].eq(0).all() and batch.sampled_logps[~outside].lt(0).all()


def test_opponents_that_are_frozen_policies(vllm, tmp_path, monkeypatch):
    """Nash-EMA's average, the start of the run, EGPO's policy before its second fit: pushed at their turn."""
    for algorithm, options in [("nash-ema", {}), ("nash-md", {"mixture_coef": 1.0})]:
        trainer = vllm(algorithm, tmp_path / algorithm, max_steps=2, **options)
        trainer.train()
        assert engine_of(trainer).pushes == 3  # the policy, which is its own opponent at first, and then both
    monkeypatch.setitem(ALGORITHMS, "egpo", (EGPOTrainer, EGPOConfig, {"step_size": 1.0, "beta": 0.1}))
    trainer = vllm("egpo", tmp_path / "egpo", max_steps=4)
    seen = watch(trainer)
    trainer.train()
    assert seen == [0, 1, 2, 3] and engine_of(trainer).pushes == 4  # each fit of a round has pairs of its own


# ---- Sleep ----


def test_the_engine_sleeps_while_the_policy_is_scored_and_fitted(vllm, tmp_path):
    """Two chunks a round are sampled from one push; whatever follows finds the memory free."""
    trainer = vllm(
        "comal",
        tmp_path,
        vllm_enable_sleep_mode=True,
        steps_per_generation=2,
        max_steps=6,
        extra={"eval_dataset": prompt_dataset(["a", "b", "c", "d", "e"])},
        per_device_eval_batch_size=5,
    )
    (llm,), score, asleep = fake_vllm.LLM.made, trainer.score, []

    def check(model, batch):
        asleep.append(not llm.awake)
        return score(model, batch)

    trainer.score = check
    seen = watch(trainer)
    assert not llm.awake
    trainer.train()
    assert seen == [0, 0, 2, 2, 4, 4] and all(asleep) and not llm.awake
    pushed = sum(llm.engine.loads.values()) / len(llm.engine.loads)
    assert pushed == 3
    trainer.sampler._vllm.generate = type(trainer.sampler._vllm).generate.__get__(trainer.sampler._vllm)
    trainer.evaluate()  # in three chunks, and the reference in one
    assert llm.engine.pushes == 5 and all(asleep) and not llm.awake
