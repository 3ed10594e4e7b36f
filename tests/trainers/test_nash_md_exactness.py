# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Nash-MD's gradient, in expectation over everything that can be sampled, against the exact gradient of

`J(π) = E_{y ~ π, y' ~ sg(opponent)} P(y ≻ y') - τ KL(π ‖ μ)`

for completions of at most two tokens from three symbols, of which symbol 1 ends the sequence.
"""

from functools import partial
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from helpers import lora_config, make_trainer, move, prompt_dataset, weights
from peft import get_peft_model
from tiny import build_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trl_nash import NashMDTrainer
from trl_nash.trainers.policy_gradient import PolicyGradientConfig


EOS, SYMBOLS, TAU, COEF, TEMPERATURE = 1, 3, 0.4, 0.3, 0.7
COMPLETIONS = [[EOS], *([a, b] for a in (0, 2) for b in range(SYMBOLS))]  # 7
FIRST = torch.tensor([c[0] for c in COMPLETIONS])
SECOND = torch.tensor([c[-1] for c in COMPLETIONS])
IS_LONG = torch.tensor([len(c) == 2 for c in COMPLETIONS])


def preferences() -> torch.Tensor:
    """P(y ≻ y') of the 7 completions, far from transitive."""
    generator = torch.Generator().manual_seed(3)
    wins = torch.rand(7, 7, generator=generator, dtype=torch.float64)
    return (wins + 1 - wins.T) / 2


def table(seed: int) -> list[torch.Tensor]:
    """Logits of the first token, and of the second after each first one."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in [(3,), (3, 3)]]


def token_logps(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Log-probs of the tokens of the 7 completions, shape (7, 2), 0 where there is no token."""
    second = second.log_softmax(-1)[FIRST, SECOND]
    return torch.stack([first.log_softmax(-1)[FIRST], torch.where(IS_LONG, second, 0.0)], dim=-1)


def mixture(policy: list[torch.Tensor], reference: list[torch.Tensor], coef: float) -> list[torch.Tensor]:
    """Logits of π^{1-c} μ^c, normalised token by token."""
    return [(1 - coef) * p.log_softmax(-1) + coef * r.log_softmax(-1) for p, r in zip(policy, reference, strict=True)]


def exact_objective(logps, reference_logps, opponent_logps) -> torch.Tensor:
    """J, as a sum over the 7 completions and their 49 pairs."""
    policy, opponent = logps.sum(-1).exp(), opponent_logps.sum(-1).exp().detach()
    kl = (policy * (logps - reference_logps).sum(-1)).sum()
    return policy @ preferences() @ opponent - TAU * kl


def expected_loss(
    objective, logps, reference_logps, opponent_logps, count: int, sampled_logps: torch.Tensor | None = None
) -> torch.Tensor:
    """
    `objective` of every draw of `count` own completions and as many opponents, each weighted by its probability.

    The weights are those of the sampler, so they carry no gradient: the policy itself, or an engine that has
    `sampled_logps`.
    """
    draws = torch.tensor(list(product(range(7), repeat=count)))
    own = (logps if sampled_logps is None else sampled_logps).sum(-1).detach().exp()[draws].prod(-1)
    opponents = opponent_logps.sum(-1).detach().exp()[draws].prod(-1)
    assert abs(own.sum() - 1) < 1e-6 and abs(opponents.sum() - 1) < 1e-6
    i, j = (t.flatten() for t in torch.meshgrid(*[torch.arange(len(draws))] * 2, indexing="ij"))
    batch = SimpleNamespace(
        # (B, K * K), pair k * K + j is own completion k against opponent j, as `sample_pairs` lists them
        preference=preferences()[draws[i][:, :, None], draws[j][:, None, :]].flatten(1),
        centre_logps=reference_logps[draws[i].flatten()],
        sampled_logps=None if sampled_logps is None else sampled_logps[draws[i].flatten()],
    )
    return (own[i] * opponents[j] * objective(logps[draws[i].flatten()], batch)).sum()


def trainer_objective(count: int, tau: float = TAU):
    """The trainer's own objective, with no trainer around it."""
    trainer = SimpleNamespace(args=SimpleNamespace(num_generations=count), beta=tau)
    return lambda logps, batch: NashMDTrainer.objective(trainer, logps, batch)


def kl_of_own_token_only(logps, batch):
    """What TRL shipped until 1.13: each token sees its own log-ratio and not what follows it."""
    advantage = batch.preference - 0.5
    kl = logps.detach() - batch.centre_logps
    return -(logps * (advantage - TAU * kl)).sum(-1)


def kl_of_whole_sequence(logps, batch):
    """The textbook form: every token sees the log-ratio of the whole sequence."""
    advantage = batch.preference - 0.5
    kl = (logps.detach() - batch.centre_logps).sum(-1, keepdim=True)
    return -(logps * (advantage - TAU * kl)).sum(-1)


def gradients(objective, count: int, opponent: str = "mixture") -> tuple[torch.Tensor, torch.Tensor]:
    """(Expected gradient that a trainer descends, exact gradient that it should ascend), over the 12 logits."""
    policy = [logits.requires_grad_() for logits in table(0)]
    reference = table(1)
    opponent = {"mixture": mixture(policy, reference, COEF), "self": policy, "another": table(2)}[opponent]
    logps, reference_logps, opponent_logps = (token_logps(*t) for t in (policy, reference, opponent))
    loss = expected_loss(objective, logps, reference_logps, opponent_logps, count)
    descended = torch.autograd.grad(loss, policy, retain_graph=True)
    ascended = torch.autograd.grad(exact_objective(logps, reference_logps, opponent_logps), policy)
    return tuple(torch.cat([g.flatten() for g in grads]) for grads in (descended, ascended))


@pytest.mark.parametrize("opponent", ["mixture", "self", "another"])
@pytest.mark.parametrize("count", [1, 2])
def test_expected_gradient_is_the_exact_gradient(count, opponent):
    """
    Over all 7^K x 7^K draws the expected gradient of the trainer's objective is -∇J to 1e-12 in fp64, for one own
    completion (baseline ½) and for two (leave-one-out), against the mixture, itself, or a moving average's policy.
    """
    descended, ascended = gradients(trainer_objective(count), count, opponent)
    torch.testing.assert_close(-descended, ascended, rtol=0, atol=1e-12)
    assert ascended.abs().max() > 0.05


def gradients_with_an_engine(correction: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Of completions that an engine samples whose policy is not quite the one that is trained."""
    policy = [logits.requires_grad_() for logits in table(0)]
    reference = table(1)
    with torch.no_grad():
        engine = [logits + noise / 2 for logits, noise in zip(table(0), table(3), strict=True)]
    logps, reference_logps, sampled_logps = (token_logps(*t) for t in (policy, reference, engine))
    options = {"correction": correction, "mode": "sequence_truncate", "clip_min": None, "clip_max": 1e9}
    args = SimpleNamespace(num_generations=2)
    vars(args).update({f"vllm_importance_sampling_{name}": value for name, value in options.items()})
    args.importance = lambda logps, batch: PolicyGradientConfig.importance(args, logps, batch)
    trainer = SimpleNamespace(args=args, beta=TAU)
    loss = expected_loss(
        lambda logps, batch: NashMDTrainer.objective(trainer, logps, batch),
        logps,
        reference_logps,
        logps,
        2,
        sampled_logps,
    )
    descended = torch.autograd.grad(loss, policy, retain_graph=True)
    ascended = torch.autograd.grad(exact_objective(logps, reference_logps, logps), policy)
    return tuple(torch.cat([g.flatten() for g in grads]) for grads in (descended, ascended))


def test_an_engine_with_another_policy_is_corrected():
    """
    Over all draws of the engine, each with its probability there, the weighted gradient is -∇J of the policy to 1e-12;
    without the weights it misses it by more than 5 %.
    """
    descended, ascended = gradients_with_an_engine(correction=True)
    torch.testing.assert_close(-descended, ascended, rtol=0, atol=1e-12)
    descended, ascended = gradients_with_an_engine(correction=False)
    assert (descended + ascended).norm() / ascended.norm() > 0.05


def test_reward_to_go_equals_the_full_sequence_form():
    """KL terms of tokens that came before have no influence in expectation: they are a baseline."""
    descended, ascended = gradients(kl_of_whole_sequence, 1)
    torch.testing.assert_close(-descended, ascended, rtol=0, atol=1e-12)


def test_the_kl_of_the_own_token_alone_is_not_the_gradient():
    """The form that TRL shipped misses the gradient by more than 5 % here, so the tests above can tell."""
    descended, ascended = gradients(kl_of_own_token_only, 1)
    assert (descended + ascended).norm() / ascended.norm() > 0.05


def test_the_kl_coefficient_is_the_trainers_beta():
    """With twice τ the expected gradient is another one."""
    descended, ascended = gradients(trainer_objective(2, tau=2 * TAU), 2)
    assert (descended + ascended).norm() / ascended.norm() > 0.05


TEXTS = ["", "a a", "a", "a b", "b a", "b", "b b"]  # what the judge sees of `COMPLETIONS`


def judge_table(prompts, first, second):
    wins = preferences()
    return [wins[TEXTS.index(a), TEXTS.index(b)].item() for a, b in zip(first, second, strict=True)]


def three_symbols() -> PreTrainedTokenizerFast:
    """Symbol 1 is the end of a sequence, and the padding, as in many real tokenizers."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<eos>": EOS, "b": 2}, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")


def logits_in_fp64(model, state, lora: bool, prompt: list[int]) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """A copy of a policy, and its logits / T of the first token and of the second after each first one."""
    twin = get_peft_model(model, lora_config()) if lora else model
    twin.load_state_dict(state)
    twin.double()
    starts = torch.tensor([[*prompt, symbol] for symbol in range(SYMBOLS)])
    logits = twin(input_ids=starts).logits / TEMPERATURE
    return twin, [logits[0, -2], logits[:, -1]]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
def test_expected_gradient_of_a_language_model_through_the_trainer(lora, tmp_path):
    """
    The same through a whole round of the real trainer: a Llama over three symbols at temperature .7, every draw of
    K = 2 + 2 completions as one prompt of the round, judged, padded, and scored under the reference by the trainer;
    the exact gradient is that of J through a copy of the model in fp64.
    """
    tokenizer, draws = three_symbols(), torch.tensor(list(product(range(7), repeat=4)))
    new_model = partial(build_model, tokenizer, vocab_size=SYMBOLS)
    trainer = make_trainer(
        "nash-md",
        tmp_path,
        model=new_model(),
        tokenizer=tokenizer,
        dataset=prompt_dataset(["a b"] * len(draws)),
        judge=judge_table,
        lora=lora,
        per_device_train_batch_size=len(draws),
        num_generations=2,
        beta=TAU,
        mixture_coef=COEF,
        temperature=TEMPERATURE,
    )
    initial = weights(trainer.model)
    move(trainer, 0.3)

    # Everything that can be drawn takes the place of generation.
    tokens = [[COMPLETIONS[index] for index in draw] for draw in draws.tolist()]
    prompt = tokenizer("a b").input_ids
    drawn = {"own": [draw[:2] for draw in tokens], "mixed": [draw[2:] for draw in tokens]}
    trainer.generate = lambda prompts, count, policy=None: (
        [prompt] * len(prompts),
        drawn["own" if policy is None else "mixed"],
    )
    batch = trainer._prepare_inputs(list(trainer.train_dataset))

    twin, policy = logits_in_fp64(new_model(), trainer.model.state_dict(), lora, prompt)
    _, reference = logits_in_fp64(new_model(), initial, lora, prompt)
    reference = [logits.detach() for logits in reference]
    logps, opponent_logps = token_logps(*policy), token_logps(*mixture(policy, reference, COEF))
    exact_objective(logps, token_logps(*reference), opponent_logps).backward()

    own, opponents = (t.sum(-1).detach().exp() for t in (logps, opponent_logps))
    chance = own[draws[:, :2]].prod(-1) * opponents[draws[:, 2:]].prod(-1)
    (chance * trainer.objective(trainer.score(trainer.model, batch), batch)).sum().backward()

    moved = 0
    for parameter, exact in zip(trainer.model.parameters(), twin.parameters(), strict=True):
        if parameter.requires_grad:
            scale = exact.grad.abs().max()
            torch.testing.assert_close(-parameter.grad.double(), exact.grad, rtol=0, atol=1e-6 + 1e-5 * scale.item())
            moved += bool(scale > 1e-3)
    assert moved >= 4
