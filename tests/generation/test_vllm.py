# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
`use_vllm=True`: TRL's own `VLLMGeneration` and `VLLMClient` over a fake of vLLM (`fake_vllm.py`), which samples from
the weights that it was given. Nothing here has seen a GPU.
"""

import copy
import os
from contextlib import ExitStack
from unittest.mock import patch

import fake_vllm
import pytest
import torch
from accelerate.utils import is_peft_model
from helpers import (
    ALGORITHMS,
    build_copier,
    equal,
    history,
    make_config,
    make_trainer,
    perturb,
    prompt_dataset,
    weights,
)
from peft import LoraConfig
from tiny import build_model, build_tokenizer
from transformers import AutoModelForCausalLM

from trl_nash import EGPOConfig, EGPOTrainer
from trl_nash.algorithms import INITIAL
from trl_nash.rounds.batch import IGNORED, load_batches
from trl_nash.trainers.run.reporter import LOGP_GAP


MODES = ["colocate", "server"]


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders with tiny models, by name: vLLM starts from files."""
    tokenizer = build_tokenizer()
    folder = tmp_path_factory.mktemp("models")
    for name, model in {
        "llama": build_model(tokenizer),
        "other": build_model(tokenizer, seed=5),
        "copier": build_copier(tokenizer),
        "tied": build_model(tokenizer, tie_word_embeddings=True),
    }.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def vllm(models):
    """A way to build trainers over the fake; `engine_of` finds what they sample with."""
    with ExitStack() as stack:
        stack.enter_context(fake_vllm.installed())

        def build(algorithm, output_dir, mode="colocate", path="llama", **options):
            if mode == "server":
                pytest.importorskip("requests")
                server = stack.enter_context(fake_vllm.Server(str(models / path)))
                options["vllm_server_base_url"] = server.url
            if algorithm == "self-play":
                algorithm, options = "nash-md", {"mixture_coef": 0.0} | options
            options = {"max_new_tokens": 4, "vllm_mode": mode, "use_vllm": True} | options
            options.setdefault("model", AutoModelForCausalLM.from_pretrained(models / path))
            with patch.dict(os.environ):  # TRL writes RANK and its kin there, and accelerate reads them
                return make_trainer(algorithm, output_dir, **options)

        yield build


def engine_of(trainer) -> fake_vllm.Engine:
    return fake_vllm.LLM.made[-1].engine if trainer.vllm_mode == "colocate" else fake_vllm.Server.running.engine


def merged(trainer) -> dict[str, torch.Tensor]:
    """The live policy as one model, by PEFT's own account of it."""
    model = copy.deepcopy(trainer.model)
    model = model.merge_and_unload() if is_peft_model(model) else model
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def has(engine: fake_vllm.Engine, expected: dict[str, torch.Tensor]) -> bool:
    """Whether the engine has these weights, bitwise."""
    return equal({name: p.detach() for name, p in engine.model.named_parameters()}, expected)


# ---- What is asked for, and what comes back ----


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_completions_belong_to_their_prompts(count, mode, vllm, tmp_path):
    """
    A policy that repeats its last token: all K completions of a prompt repeat the prompt's last word, whatever else is
    in the call. (In server mode they were shuffled for months: trl#5514.) An odd K wastes nothing.
    """
    trainer = vllm("ipo", tmp_path, mode, path="copier", num_generations=count)
    prompts = ["a", "b c", "d e f"]
    prompt_ids, completion_ids = trainer.generate(prompts, count)
    encode = trainer._tokenizer
    assert prompt_ids == [encode(prompt)["input_ids"] for prompt in prompts]
    assert completion_ids == [[[ids[-1]] * 4] * count for ids in prompt_ids]
    ((asked, params),) = engine_of(trainer).requests
    if mode == "server":
        assert asked == prompt_ids and params.n == count
    else:  # vLLM makes the same of it
        assert asked == [ids for ids in prompt_ids for _ in range(count)] and params.n == 1


@pytest.mark.parametrize("mode", MODES)
def test_samples_are_fresh_and_their_log_probs_the_policys(mode, vllm, tmp_path):
    """K completions of one prompt differ, and the log-probs that come with them are those of logits / T."""
    trainer = vllm("ipo", tmp_path, mode, temperature=0.7)
    ((prompt,), (completions,)) = trainer.generate(["a b"], 16)
    assert len({tuple(ids) for ids in completions}) > 8
    for ids, logps in zip(completions, trainer.sampler.logps[0], strict=True):
        logits = trainer.model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1] / 0.7
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(logps), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_how_a_request_is_sampled(mode, vllm, tmp_path):
    """The options reach vLLM, and a completion ends where transformers would end it, not where a file says."""
    given = {"frequency_penalty": 0.1, "stop_token_ids": [7]}
    trainer = vllm("ipo", tmp_path, mode, temperature=0.5, generation_kwargs=given)
    trainer.generate(["a"], 2)
    params = engine_of(trainer).requests[0][1]
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0.5, 1.0, 0, 4)
    assert params.frequency_penalty == 0.1
    assert params.ignore_eos and params.stop_token_ids == [trainer._tokenizer.eos_token_id, 7]


def test_the_engine_is_built_from_the_options(vllm, tmp_path):
    vllm(
        "ipo",
        tmp_path,
        num_generations=3,
        per_device_generation_batch_size=5,
        max_length=20,
        vllm_gpu_memory_utilization=0.4,
        vllm_enable_sleep_mode=True,
        vllm_model_impl="transformers",
        trust_remote_code=True,
    )
    (engine,) = fake_vllm.LLM.made  # TRL's own constructor starts none
    expected = {"max_num_seqs": 15, "max_model_len": 20, "enable_sleep_mode": True, "model_impl": "transformers"}
    assert expected.items() <= engine.options.items()


def test_the_generators_are_left_alone(vllm, tmp_path):
    """vLLM seeds torch when it starts, the same in every run: what is drawn afterwards still goes by `seed`."""
    drawn = []
    for seed in (1, 1, 2):
        vllm("ipo", tmp_path, seed=seed)
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("mode", MODES)
def test_conversations_and_long_prompts_reach_the_engine_as_tokens(mode, vllm, tmp_path):
    """Through the chat template, and cut from the left to max_length - max_new_tokens = 10 - 4 tokens."""
    prompt = [{"role": "user", "content": "a b"}]
    trainer = vllm("ipo", tmp_path, mode, dataset=prompt_dataset([prompt] * 4), max_length=10)
    ((ids,), _) = trainer.generate([prompt], 2)
    text = "user a b <eos> <|im_start|> assistant"
    assert engine_of(trainer).requests[0][0][0] == ids == trainer._tokenizer.convert_tokens_to_ids(text.split())


@pytest.mark.parametrize("mode", MODES)
def test_prompt_begins_with_one_bos(mode, vllm, tmp_path):
    """With a tokenizer that adds BOS, the engine and the loss see the same prompt, with one BOS."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer(bos_token="<bos>")
    bos = tokenizer.convert_tokens_to_ids("<bos>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    trainer = vllm("ipo", tmp_path, mode, tokenizer=tokenizer)
    ((ids,), _) = trainer.generate(["a b"], 2)
    assert (
        engine_of(trainer).requests[0][0][0] == ids == [bos, *tokenizer("a b", add_special_tokens=False)["input_ids"]]
    )


# ---- Which weights it has ----


def watch(trainer) -> list[int]:
    """Before each call the engine has the live policy's weights. Returns the steps of the calls, as they come."""
    seen, generate = [], trainer.sampler._vllm.generate

    def compare(prompt_ids, count):
        assert has(engine_of(trainer), merged(trainer))
        seen.append(trainer.state.global_step)
        return generate(prompt_ids, count)

    trainer.sampler._vllm.generate = compare
    return seen


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


# ---- What it says of its samples ----


def test_the_gap_is_measured_and_said_where_it_is_large(vllm, tmp_path, caplog):
    """The engine that has the policy agrees with it; one that has another says that it does not."""
    trainer = vllm("ipo", tmp_path, max_steps=2)
    trainer.train()
    assert max(history(trainer, "sampling/logp_gap")) < 1e-4
    means, quantiles = history(trainer, "sampling/logp_gap"), history(trainer, "sampling/logp_gap_p99")
    assert len(means) == 2 and all(p99 >= mean for p99, mean in zip(quantiles, means, strict=True))
    assert "are not the policy's" not in caplog.text

    trainer = vllm("ipo", tmp_path, max_steps=2, path="other", model=trainer.model)
    trainer.sampler._vllm.push = lambda model: None  # it keeps what it has read
    trainer.train()
    assert min(history(trainer, "sampling/logp_gap")) > LOGP_GAP
    assert caplog.text.count("The log-probs that vLLM gives with its samples are not the policy's") == 1


def test_tokens_without_a_log_prob_count_nowhere(vllm, tmp_path):
    """vLLM may have none: TRL says `None`."""
    trainer = vllm("self-play", tmp_path, max_steps=1)
    generation = trainer.sampler._vllm._vllm
    generate = generation.generate
    generation.generate = lambda *args: (*(found := generate(*args))[:2], [[[None]] * len(r) for r in found[1]], None)
    start = weights(trainer.model)
    trainer.train()
    assert history(trainer, "sampling/logp_gap") == [] and not equal(weights(trainer.model), start)


def test_a_tournament_keeps_log_probs_with_their_completions(vllm, tmp_path):
    """The best and the worst come first, and what the engine said of them with them."""
    trainer = vllm("ipo", tmp_path, num_generations=4, pair_selection="tournament", max_steps=2)
    trainer.train()
    assert max(history(trainer, "sampling/logp_gap")) < 1e-4


def test_chunks_and_a_killed_round_keep_log_probs_with_their_completions(vllm, tmp_path):
    """Chunks are sampled longest prompt first; what was sampled before a kill is taken from disk."""
    options = {"steps_per_generation": 4, "gradient_accumulation_steps": 4, "max_steps": 1}
    trainer = vllm("ipo", tmp_path, **options)
    engine = trainer.sampler._vllm
    generate, calls = engine.generate, []

    def die(prompt_ids, count):
        calls.append(len(prompt_ids))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(prompt_ids, count)

    engine.generate = die
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    resumed = vllm("ipo", tmp_path, **options)
    seen = watch(resumed)
    resumed.train()
    assert len(seen) == 2 and max(history(resumed, "sampling/logp_gap")) < 1e-4


def test_policy_gradients_are_weighted(vllm, tmp_path):
    """
    The engine says of its samples that they were twice as likely as they are: each weighs 1/2, and the gradient is
    half of what it was; without the correction it is the same.
    """

    def grad_norm(factor, correction=True):
        options = {"vllm_importance_sampling_correction": correction, "max_grad_norm": 1e9}
        trainer = vllm("self-play", tmp_path, max_steps=1, **options)
        generation = trainer.sampler._vllm._vllm
        generate = generation.generate

        def lie(*args):
            prompt_ids, completion_ids, logprobs, _ = generate(*args)
            for row in logprobs:
                row[0][0] += torch.tensor(factor).log().item()
            return prompt_ids, completion_ids, logprobs, None

        generation.generate = lie
        trainer.train()
        return history(trainer, "grad_norm")[0]

    honest = grad_norm(1.0)
    assert honest > 0.1
    assert grad_norm(2.0) == pytest.approx(honest / 2, rel=1e-3)
    assert grad_norm(2.0, correction=False) == pytest.approx(honest, rel=1e-3)
    assert grad_norm(0.1) == pytest.approx(3 * honest, rel=1e-3)  # truncated at 3


# ---- What cannot work ----


@pytest.mark.parametrize(
    "algorithm, options",
    [("nash-md", {}), ("nash-md", {"mixture_coef": [0.0, 0.5]})],
)
def test_mixtures_are_refused(algorithm, options, tmp_path):
    """vLLM samples from one policy at a time: a schedule that mixes two raises when the config is built."""
    with pytest.raises(ValueError, match="leave `use_vllm` out, or set `mixture_coef` to 0 or 1"):
        make_config(algorithm, tmp_path, use_vllm=True, **options)


@pytest.mark.parametrize("name, value", [("n", 1), ("seed", 3)])
def test_whose_a_completion_is_and_its_noise_are_not_for_vllm_to_say(name, value, vllm, tmp_path):
    with pytest.raises(ValueError, match=f"`{name}={value}` in `generation_kwargs` cannot apply here"):
        vllm("ipo", tmp_path, generation_kwargs={name: value})


def test_a_model_without_files_is_refused(vllm, tmp_path):
    with pytest.raises(ValueError, match="this model has none: load it with `from_pretrained`"):
        vllm("ipo", tmp_path, model=build_model(build_tokenizer()))


@pytest.mark.parametrize(
    "options", [{"target_modules": ["embed_tokens"]}, {"modules_to_save": ["lm_head"]}], ids=["lora", "saved"]
)
def test_an_adapter_that_parts_tied_embeddings_is_refused(options, vllm, tmp_path):
    config = LoraConfig(**{"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | options)
    with pytest.raises(ValueError, match="which are one weight in this model"):
        vllm("ipo", tmp_path, path="tied", peft_config=config)


def test_vllm_that_is_not_installed_is_an_import_error_with_the_pip_line(models, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(models / "llama")
    with pytest.raises(ImportError, match=r"pip install trl\[vllm\]"):
        make_trainer("ipo", tmp_path, use_vllm=True, model=model)


def test_a_server_with_other_log_probs_is_warned_of(vllm, tmp_path, monkeypatch, caplog):
    """A server is started by hand, and may not be told to give log-probs of what it samples from."""
    made = fake_vllm.Server.__init__
    monkeypatch.setattr(fake_vllm.Server, "__init__", lambda server, path: made(server, path, "raw_logprobs"))
    vllm("ipo", tmp_path, "server")
    assert "`--logprobs-mode raw_logprobs`: what it says of its samples is not comparable" in caplog.text


# ---- The fake ----


@pytest.mark.parametrize("version", fake_vllm.VERSIONS)
def test_the_calls_are_those_of_the_released_wheels(version, models, tmp_path):
    """The oldest and the newest vLLM that TRL supports take what TRL and we give them."""
    with fake_vllm.installed(version), patch.dict(os.environ):
        trainer = make_trainer(
            "ipo",
            tmp_path,
            model=AutoModelForCausalLM.from_pretrained(models / "llama"),
            use_vllm=True,
            vllm_enable_sleep_mode=True,
            max_steps=1,
        )
        trainer.train()
        assert fake_vllm.LLM.made[0].engine.pushes == 1


def test_the_fake_refuses_what_the_wheels_refuse(models):
    with fake_vllm.installed():
        with pytest.raises(TypeError):
            fake_vllm.LLM(str(models / "llama"), "generate")  # all but the model are keywords
        with pytest.raises(AssertionError):
            fake_vllm.SamplingParams(max_new_tokens=3)
        engine = fake_vllm.Engine(str(models / "llama"), 0)
        with pytest.raises(KeyError):
            engine.load_weights([("base_model.model.lm_head.weight", torch.zeros(1))])
