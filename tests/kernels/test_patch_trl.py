# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""TRL's own trainers over our kernel: the same numbers as without, and a way back."""

import functools
import itertools
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
import trl.trainer.utils as trainer_utils
from datasets import Dataset
from packaging.version import Version
from peft import LoraConfig
from tiny import build_model, build_tokenizer
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

from trl_nash import compat
from trl_nash.kernels import linear_logprob, op, patch, patch_trl, schedule


ORIGINAL = trainer_utils._ChunkedLogProbFunction
OPTIONAL = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")


@pytest.fixture(autouse=True)
def original_is_back():
    """Each test leaves TRL as it found it."""
    yield
    left, trainer_utils._ChunkedLogProbFunction = trainer_utils._ChunkedLogProbFunction, ORIGINAL
    assert left is ORIGINAL


@pytest.fixture
def calls(monkeypatch) -> Counter:
    """How often our kernel, its matrix product and TRL's function ran."""
    counts = Counter()

    def count(name, function):
        @functools.wraps(function)  # its signature is looked at
        def counted(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return counted

    monkeypatch.setattr(op, "forward", count("kernel", op.forward))
    monkeypatch.setattr(op, "weight_gradients", count("weight gradients", op.weight_gradients))
    monkeypatch.setattr(schedule, "multiply", count("products", schedule.multiply))
    monkeypatch.setattr(ORIGINAL, "forward", staticmethod(count("TRL", ORIGINAL.forward)))
    return counts


# ---- The function alone ----


def factors(rows=37, width=8, vocabulary=53, dtype=torch.float32):
    """Hidden states, weight, bias and targets that need gradients; every tenth target is the most likely token."""
    torch.manual_seed(0)
    hidden = (3 * torch.randn(rows, width)).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width).to(dtype).requires_grad_()
    bias = torch.randn(vocabulary).to(dtype).requires_grad_()
    targets = torch.randint(vocabulary, (rows,))
    targets[::10] = (hidden @ weight.T + bias)[::10].argmax(1)
    return hidden, weight, bias, targets


def apply(inputs, options, outputs):
    return trainer_utils._ChunkedLogProbFunction.apply(*inputs, *options, outputs)


def gradients(results, leaves):
    """Of a sum with other weights for each log-prob and each entropy."""
    rows = torch.linspace(-1, 2, len(results[0]))
    loss = (rows * results[0]).sum() + (rows.flip(0) * results[1]).sum()
    return torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        (1.0, 16, None, 1.0),
        (0.7, 64, None, 1.0),
        (1.3, 16, 5.0, 1.0),
        (0.9, 16, None, 0.3),
        (0.9, 16, 4.0, 1.7),
        (1.0, 16, None, 0.0),
    ],
)
def test_values_and_gradients_are_those_of_trl(options, with_bias):
    """Values of all that is covered, and gradients of log-probs and entropy together, agree with TRL's function."""
    inputs = factors()
    if not with_bias:
        inputs = (*inputs[:2], None, inputs[3])
    leaves = [leaf for leaf in inputs[:3] if leaf is not None]
    outputs = ("log_probs", "entropy", "mean_logits", "is_top1")
    expected = apply(inputs, options, outputs)
    with patch_trl():
        found = apply(inputs, options, outputs)
        found_gradients = gradients(found, leaves)
    for index in (0, 1, 3):
        assert found[index].dtype == torch.float32
        torch.testing.assert_close(found[index], expected[index], atol=2e-5, rtol=1e-5)
    assert found[2] is None
    assert found[4].dtype == torch.bool and found[4].equal(expected[4])
    assert options[3] == 0 or 0 < found[4].sum() < len(found[4])
    assert found[1].requires_grad and not found[3].requires_grad
    for mine, theirs in zip(found_gradients, gradients(expected, leaves), strict=True):
        torch.testing.assert_close(mine, theirs, atol=5e-5, rtol=1e-5)


def test_every_choice_of_outputs_has_trls_five_places():
    """What was not asked is None, in whatever order the others are named; log-probs are always there."""
    inputs = factors()
    for size in range(len(OPTIONAL) + 1):
        for chosen in itertools.permutations(("log_probs", *OPTIONAL), size):
            with patch_trl():
                found = apply(inputs, (1.0, 16, None, 1.0), chosen)
            places = ("log_probs", *OPTIONAL)
            assert [x is not None for x in found] == [name in ("log_probs", *chosen) for name in places]


def test_log_sum_sq_probs_is_trls_beside_our_log_probs(calls):
    """`apply` without its last three arguments gives all five; the third is TRL's to the bit, without gradient."""
    inputs = factors()
    expected = trainer_utils._ChunkedLogProbFunction.apply(*inputs, 1.0, 16)
    calls.clear()
    with patch_trl():
        found = trainer_utils._ChunkedLogProbFunction.apply(*inputs, 1.0, 16)
        alone = apply(inputs, (1.0, 16, None, 1.0), ("log_probs",))[0]
    assert all(x is not None for x in found) and calls["kernel"] == 2 and calls["TRL"] == 1
    assert found[2].equal(expected[2]) and not found[2].requires_grad
    # As in a reference, which asks for nothing else: a log-ratio of equal models is exactly 0.
    assert found[0].equal(alone) and found[0].requires_grad


@pytest.mark.parametrize("autocast", [True, False])
def test_gradient_of_the_entropy_in_bf16(autocast):
    """Under autocast, left before the backward, and for bf16 factors the gradient is TRL's own to the bit."""
    inputs = factors(dtype=torch.float32 if autocast else torch.bfloat16)

    def entropy_and_gradients():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            entropy = apply(inputs, (0.8, 16, 6.0, 1.2), ("log_probs", "entropy"))[1]
        return entropy, torch.autograd.grad(entropy.sum(), inputs[:3])

    theirs, expected = entropy_and_gradients()
    with patch_trl():
        ours, found = entropy_and_gradients()
    assert ours.dtype == torch.float32 and 0 < (ours - theirs).abs().max() < 0.05  # only TRL rounds logits
    assert all(mine.equal(other) for mine, other in zip(found, expected, strict=True))


def test_entropy_costs_nothing_more_until_it_is_differentiated(calls):
    """TRL's function runs in the backward of the entropy, and nowhere else."""
    inputs = factors()
    with patch_trl():
        results = apply(inputs, (1.0, 16, None, 1.0), ("log_probs", "entropy"))
        (results[0].sum() + results[1].detach().sum()).backward()
        assert calls["TRL"] == 0
        results = apply(inputs, (1.0, 16, None, 1.0), ("log_probs", "entropy"))
        results[1].sum().backward()
        assert calls["TRL"] == 1
        with torch.no_grad():
            assert not apply(inputs, (1.0, 16, None, 1.0), ("entropy",))[1].requires_grad
        assert calls["TRL"] == 1


def test_frozen_head_and_frozen_hidden_states():
    """Only what requires a gradient gets one, of the entropy too."""
    hidden, weight, bias, targets = factors()
    expected = torch.autograd.grad(
        apply((hidden, weight, bias, targets), (1.0, 16, None, 1.0), ("entropy",))[1].sum(), (hidden, weight)
    )
    with patch_trl():
        for index, leaf in enumerate((hidden, weight)):
            inputs = [x.detach() for x in (hidden, weight, bias)]
            inputs[index] = leaf
            results = apply((*inputs, targets), (1.0, 16, None, 1.0), ("entropy",))
            (found,) = torch.autograd.grad(results[1].sum(), (leaf,))
            torch.testing.assert_close(found, expected[index], atol=1e-5, rtol=1e-5)


def test_no_position_at_all():
    """Zero rows give empty results that are connected to the model, as an all-masked batch on CUDA does."""
    inputs = factors()
    leaves = inputs[:3]
    inputs = (inputs[0][:0], *inputs[1:3], inputs[3][:0])
    with patch_trl():
        results = apply(inputs, (1.0, 16, None, 1.0), ("log_probs", "entropy", "mean_logits", "is_top1"))
        (results[0].sum() + results[1].sum()).backward()
    assert [x.shape for x in results if x is not None] == [(0,)] * 4
    assert all(not leaf.grad.any() for leaf in leaves)


# ---- On and off ----


def test_undo_and_context(calls):
    """Our kernel runs between `patch_trl()` and its undo and within the context, and nowhere else."""

    def ran() -> bool:
        before = calls["kernel"]
        apply(factors(), (1.0, 16, None, 1.0), ("log_probs",))
        return calls["kernel"] > before

    assert not ran()
    undo = patch_trl()
    assert ran()
    undo()
    assert not ran() and trainer_utils._ChunkedLogProbFunction is ORIGINAL
    undo()
    assert not ran()
    with patch_trl():
        assert ran()
    assert not ran() and trainer_utils._ChunkedLogProbFunction is ORIGINAL
    with pytest.raises(KeyError), patch_trl():
        raise KeyError
    assert not ran() and trainer_utils._ChunkedLogProbFunction is ORIGINAL


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_patches_may_be_undone_in_any_order(order, calls):
    """Of three patches each stays in force until its own undo; the last brings TRL's function back."""
    patches = [patch_trl() for _ in range(3)]
    for count, index in enumerate(order):
        calls.clear()
        results = apply(factors(), (1.0, 16, None, 1.0), ("log_probs", "entropy"))
        results[1].sum().backward()
        # The gradient of the entropy goes through all that are in force, down to TRL's.
        assert calls["kernel"] == 3 - count and calls["TRL"] == 1
        patches[index]()
    assert trainer_utils._ChunkedLogProbFunction is ORIGINAL


def test_patch_of_another_library_stays(calls, monkeypatch):
    """What somebody put over ours is theirs to take away; an undone patch below it only passes calls on."""
    undo = patch_trl()
    ours = trainer_utils._ChunkedLogProbFunction
    theirs = SimpleNamespace(apply=lambda *args: ours.apply(*args))
    trainer_utils._ChunkedLogProbFunction = theirs
    undo()
    assert trainer_utils._ChunkedLogProbFunction is theirs
    apply(factors(), (1.0, 16, None, 1.0), ("log_probs",))
    assert calls["kernel"] == 0 and calls["TRL"] == 1
    trainer_utils._ChunkedLogProbFunction = ours  # they put back what they found
    with patch_trl():
        pass
    assert trainer_utils._ChunkedLogProbFunction is ORIGINAL


def test_undone_patch_cannot_be_entered_again():
    """`with` on a patch that was undone would do nothing, so it says so."""
    with patch_trl() as undone:
        pass
    with pytest.raises(RuntimeError, match="call `patch_trl\\(\\)` again"), undone:
        pass


def test_options_reach_the_kernel(monkeypatch):
    """The three options arrive as they were given, those of the inner patch where two are nested."""
    seen = []

    def recorded(*args, **options):
        seen.append([options[name] for name in ("stash_bytes", "workspace_bytes", "backend")])
        return linear_logprob(*args, **options)

    monkeypatch.setattr(patch, "linear_logprob", recorded)
    with patch_trl(stash_bytes=1000, workspace_bytes=2**12, backend="torch"):
        apply(factors(), (1.0, 16, None, 1.0), ("log_probs",))
        with patch_trl():
            apply(factors(), (1.0, 16, None, 1.0), ("log_probs",))
    assert seen == [[1000, 2**12, "torch"], [None, None, "auto"]]


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"stash": 1}, TypeError, "stash"),
        ({"temperature": 0.5}, TypeError, "temperature"),
        ({"backend": "cuda"}, ValueError, "`backend` is one of"),
    ],
)
def test_unknown_option_is_an_error_at_once(options, error, words):
    """Nothing is patched with an option that does not exist."""
    with pytest.raises(error, match=words):
        patch_trl(**options)
    assert trainer_utils._ChunkedLogProbFunction is ORIGINAL


@pytest.mark.parametrize("version", ["1.15.3", "1.17.0", "2.0"])
def test_other_versions_of_trl_are_refused(version, monkeypatch):
    """Outside the tested range: the versions that work, and no patch."""
    monkeypatch.setattr(compat, "TRL_VERSION", Version(version))
    with pytest.raises(ImportError, match=rf'this is TRL {version}: nothing was patched.*"trl>=1.16,<1.17"'):
        patch_trl()
    assert trainer_utils._ChunkedLogProbFunction is ORIGINAL


def test_other_arguments_are_refused(monkeypatch):
    """A function with an argument more is not replaced, nor one that is missing."""

    class Changed:
        @staticmethod
        def forward(ctx, hidden, weight, bias, targets, ignore_index):
            pass

    with monkeypatch.context() as changes:
        changes.setattr(trainer_utils, "_ChunkedLogProbFunction", Changed)
        with pytest.raises(ImportError, match=r"here it is \(ctx, hidden, weight, bias, targets, ignore_index\)"):
            patch_trl()
        assert trainer_utils._ChunkedLogProbFunction is Changed
        changes.delattr(trainer_utils, "_ChunkedLogProbFunction")
        with pytest.raises(ImportError, match="nothing was patched"):
            patch_trl()


def test_importing_the_kernels_does_not_import_trl():
    """TRL takes seconds; `trl_nash.kernels` does without it until `patch_trl` is called."""
    code = "import sys, trl_nash.kernels; sys.exit('trl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---- Trainers ----

STEPS = 3
COMMON = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.05,
    # Plain steps: Adam would blow rounding in tiny gradients up to whole steps.
    "optim": "sgd",
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "seed": 3,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
}
PROMPTS = ["a b", "c", "d e f", "g", "h a", "b b c", "one two", "three"]
CHOSEN = ["c d", "yes", "a", "yes yes b", "one", "c", "three", "a b c d"]
REJECTED = ["a a a", "no", "b c", "no", "two h", "d d", "g", "no no"]
SAMPLING = {"num_generations": 4, "max_completion_length": 6, "beta": 0.05, "temperature": 0.9}


def preferences():
    pairs = zip(PROMPTS, CHOSEN, REJECTED, strict=True)
    return Dataset.from_list([{"prompt": p, "chosen": f" {c}", "rejected": f" {r}"} for p, c, r in pairs])


def labelled():
    rows = [(p, c, True) for p, c in zip(PROMPTS, CHOSEN, strict=True)]
    rows += [(p, r, False) for p, r in zip(PROMPTS, REJECTED, strict=True)]
    return Dataset.from_list([{"prompt": p, "completion": f" {c}", "label": label} for p, c, label in rows])


def count_letters(completions, **kwargs):
    return [float(sum(len(word) == 1 for word in text.split())) for text in completions]


def train(tmp_path, cls, config, data, make_model=build_model, peft_config=None, **options):
    """The logs of three steps, and the weights behind them."""
    tokenizer = build_tokenizer(chat=False)
    model = make_model(tokenizer)
    model.save_pretrained(tmp_path / "model")  # where TRL finds the reference
    model = type(model).from_pretrained(tmp_path / "model")
    torch.manual_seed(1)
    trainer = cls(
        model=model,
        args=config(output_dir=str(tmp_path), **COMMON | options),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=peft_config,
        **({"reward_funcs": count_letters} if cls in (GRPOTrainer, RLOOTrainer) else {}),
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    logs = [
        {key: value for key, value in log.items() if isinstance(value, (int, float)) and not is_time(key)}
        for log in trainer.state.log_history[:STEPS]
    ]
    after = {name: p.detach() for name, p in trainer.model.named_parameters()}
    # Moved so far that weights within 1e-5 say something.
    assert max((after[name] - before[name]).abs().max() for name in after) > 1e-3
    return logs, after


def is_time(key: str) -> bool:
    return "time" in key or "runtime" in key or "per_second" in key


def train_both(tmp_path, calls, *args, **kwargs):
    """Trains without and with the patch, compares all that was logged and all weights, and returns our logs."""
    logs, weights = train(tmp_path, *args, **kwargs)
    assert calls["kernel"] == 0 and calls["TRL"] > 0
    calls.clear()
    with patch_trl():
        our_logs, our_weights = train(tmp_path, *args, **kwargs)
    assert len(our_logs) == STEPS and calls["kernel"] >= STEPS
    for ours, theirs in zip(our_logs, logs, strict=True):
        assert {"loss", "grad_norm"} <= set(ours)
        assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(our_weights[name], weight, atol=1e-5, rtol=0, msg=name)
    assert trainer_utils._ChunkedLogProbFunction is ORIGINAL
    return our_logs


def test_dpo(tmp_path, calls):
    """DPO: policy and reference go through the kernel; the head's own gradient is made."""
    logs = train_both(tmp_path, calls, DPOTrainer, DPOConfig, preferences())
    assert {"entropy", "logits/chosen", "mean_token_accuracy", "rewards/margins"} <= set(logs[0])
    assert calls["TRL"] == 0 and calls["kernel"] == 2 * STEPS and calls["weight gradients"] == STEPS
    # Policy: logits and E W, then logits again and the gradient of W; reference: logits.
    assert calls["products"] == 5 * STEPS


def test_dpo_with_lora(tmp_path, calls):
    """With LoRA the head is frozen: no product for its gradient, nor any in the backward."""
    peft_config = LoraConfig(target_modules=["q_proj", "v_proj"], r=4, task_type="CAUSAL_LM", init_lora_weights=False)
    train_both(tmp_path, calls, DPOTrainer, DPOConfig, preferences(), peft_config=peft_config, learning_rate=0.5)
    assert calls["TRL"] == 0 and calls["weight gradients"] == 0
    assert calls["products"] == 3 * STEPS


def test_dpo_with_weights(tmp_path, calls):
    """WPO's `log_sum_sq_probs` come from TRL's function; policy and reference are both scored by the kernel."""
    train_both(tmp_path, calls, DPOTrainer, DPOConfig, preferences(), use_weighting=True)
    assert calls["TRL"] == STEPS and calls["kernel"] == 2 * STEPS


def gemma(tokenizer):
    return with_head(Gemma2ForCausalLM, Gemma2Config, tokenizer, head_dim=8, final_logit_softcapping=2.0)


def cohere(tokenizer):
    return with_head(CohereForCausalLM, CohereConfig, tokenizer, logit_scale=0.4)


def granite(tokenizer):
    return with_head(GraniteForCausalLM, GraniteConfig, tokenizer, logits_scaling=3.0)


def with_head(model_class, config_class, tokenizer, **config):
    torch.manual_seed(0)
    model = model_class(
        config_class(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id,
            attn_implementation="eager",
            **config,
        )
    )
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    return model


@pytest.mark.parametrize("make_model", [gemma, cohere, granite])
def test_dpo_with_softcap_or_logit_scale(tmp_path, calls, make_model):
    """Gemma's bound and the factors of Cohere and Granite arrive in the kernel."""
    train_both(tmp_path, calls, DPOTrainer, DPOConfig, preferences(), make_model=make_model)
    assert calls["TRL"] == 0


def test_kto(tmp_path, calls):
    """KTO: completions, mismatched completions and the reference."""
    logs = train_both(tmp_path, calls, KTOTrainer, KTOConfig, labelled())
    assert any("logits/chosen" in log for log in logs) and any("rewards/rejected" in log for log in logs)
    assert calls["TRL"] == 0


def test_sft(tmp_path, calls):
    """SFT goes through the same head."""
    logs = train_both(tmp_path, calls, SFTTrainer, SFTConfig, Dataset.from_dict({"text": CHOSEN}))
    assert {"entropy", "mean_token_accuracy"} <= set(logs[0]) and calls["TRL"] == 0


@pytest.mark.parametrize(
    "options, differentiated",
    [
        ({}, False),
        ({"entropy_coef": 0.3}, True),
        ({"use_adaptive_entropy": True, "entropy_target": 9.0, "entropy_coef": 0.3, "entropy_coef_max": 1.0}, True),
        # First tokens of a group have one entropy but for rounding: none of them lies at this threshold.
        ({"top_entropy_quantile": 0.23}, False),
        ({"top_entropy_quantile": 0.23, "entropy_coef": 0.3}, True),
        ({"num_iterations": 2}, False),
    ],
    ids=["plain", "bonus", "adaptive", "quantile", "both", "off-policy"],
)
def test_grpo(tmp_path, calls, options, differentiated):
    """GRPO: the gradient of an entropy bonus is TRL's own, made only where there is a bonus."""
    logs = train_both(
        tmp_path, calls, GRPOTrainer, GRPOConfig, Dataset.from_dict({"prompt": PROMPTS}), **SAMPLING | options
    )
    assert all("entropy" in log for log in logs) and any(log.get("reward_std") for log in logs)
    assert calls["TRL"] == (STEPS if differentiated else 0)


def test_rloo(tmp_path, calls):
    """RLOO, with its reference."""
    logs = train_both(tmp_path, calls, RLOOTrainer, RLOOConfig, Dataset.from_dict({"prompt": PROMPTS}), **SAMPLING)
    assert all("entropy" in log for log in logs) and any(log.get("reward_std") for log in logs)
    assert calls["TRL"] == 0
