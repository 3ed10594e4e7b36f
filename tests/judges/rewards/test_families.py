# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Rewards that are no classifier's logit: of a model's own `get_score`, of a token's logit, and implicit ones."""

import json

import numpy as np
import pytest
import torch
from tiny import build_model, build_tokenizer

from trl_nash.judges import DPOJudge, load_judge
from trl_nash.judges.local.model import LocalModel
from trl_nash.judges.rewards.dpo import ImplicitReward


PROMPT, ANSWERS = "a b c", ["yes", "no one two", "d e f g h yes no"]

# As internlm/internlm2-7b-reward has it: the class behind AutoModel, and no classifier.
OWN_CODE = """
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel, LlamaPreTrainedModel


class OwnConfig(LlamaConfig):
    model_type = "own-reward"


class OwnRewardModel(LlamaPreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.v_head = nn.Linear(config.hidden_size, 1, bias=False)
        self.post_init()

    def forward(self, input_ids, attention_mask=None):
        return self.v_head(self.model(input_ids, attention_mask=attention_mask).last_hidden_state)

    @torch.no_grad()
    def get_score(self, tokenizer, conversation):
        text = "".join(f"<|im_start|>{turn['role']} {turn['content']} <eos> " for turn in conversation) + "<bos>"
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        return self(ids)[0, -1, 0].item()
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with a model of its own code, and what its `get_score` says."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "modeling_own.py").write_text(OWN_CODE)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    config = build_model(tokenizer).config.to_dict() | {"model_type": "own-reward", "initializer_range": 0.5}
    config |= {"auto_map": {"AutoConfig": "modeling_own.OwnConfig", "AutoModel": "modeling_own.OwnRewardModel"}}
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["OwnRewardModel"]}))
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(3)
    model = AutoModel.from_config(
        AutoConfig.from_pretrained(folder, trust_remote_code=True), trust_remote_code=True
    ).eval()
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["OwnRewardModel"]}))
    return str(folder), model, tokenizer


def test_a_models_own_get_score_is_asked(own):
    path, model, tokenizer = own
    judge = load_judge(f"reward:{path}", model_kwargs={"trust_remote_code": True})
    expected = [
        model.get_score(tokenizer, [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": answer}])
        for answer in ANSWERS
    ]
    np.testing.assert_allclose(judge.rewards([PROMPT] * 3, ANSWERS), expected, rtol=1e-6)
    assert len(set(expected)) == 3
    (p,) = judge([PROMPT], [ANSWERS[0]], [ANSWERS[1]])
    assert p == pytest.approx(1 / (1 + np.exp(expected[1] - expected[0])))


def test_own_code_is_not_run_without_leave(own):
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_judge(f"reward:{own[0]}")


@torch.no_grad()
def logit(model, tokenizer, answer: str, token: int) -> float:
    """Of the token behind the dialogue, by the model's own forward on it alone."""
    messages = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    return model(torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])).logits[0, -1, token].item()


@pytest.fixture(scope="module")
def nemotron(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nvidia") / "Llama-3.1-Nemotron-70B-Reward-HF"
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed=5).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder), model, tokenizer


@pytest.mark.parametrize("token", [None, 7])
def test_a_reward_is_a_logit_of_the_token_behind_the_dialogue(nemotron, token):
    """nvidia/Llama-3.1-Nemotron-70B-Reward-HF: `scores[0][0][0]` of the first token that would be generated."""
    path, model, tokenizer = nemotron
    judge = load_judge(f"reward:{path}", **({} if token is None else {"reward_token": token}))
    expected = [logit(model, tokenizer, answer, token or 0) for answer in ANSWERS]
    np.testing.assert_allclose(judge.rewards([PROMPT] * 3, ANSWERS), expected, atol=1e-5)


def test_which_models_are_known(nemotron):
    path, model, tokenizer = nemotron
    other = load_judge("reward:" + path, reward_token=0)
    assert other.identity != load_judge("reward:" + path, reward_token=7).identity


@torch.no_grad()
def log_prob(model, tokenizer, answer: str) -> float:
    """Of an answer and the end of its turn, by the model's own forward and `log_softmax`."""
    question = [{"role": "user", "content": PROMPT}]
    before = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*question, {"role": "assistant", "content": answer}], tokenize=False)
    start = len(tokenizer(before, add_special_tokens=False)["input_ids"])
    ids = torch.tensor([tokenizer(whole, add_special_tokens=False)["input_ids"]])
    logps = model(ids).logits[0, :-1].double().log_softmax(-1)
    return logps.gather(-1, ids[0, 1:, None])[start - 1 :].sum().item()


@pytest.mark.parametrize("tokens_per_batch", [16, 16384])
def test_implicit_rewards_are_log_ratios(tmp_path, tokens_per_batch):
    tokenizer = build_tokenizer()
    models = [build_model(tokenizer, seed).eval() for seed in (1, 2)]
    for name, model in zip(("policy", "reference"), models, strict=True):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    judge = load_judge(
        f"dpo:{tmp_path / 'policy'},{tmp_path / 'reference'}", beta=0.3, tokens_per_batch=tokens_per_batch
    )
    expected = [
        0.3 * (log_prob(models[0], tokenizer, answer) - log_prob(models[1], tokenizer, answer)) for answer in ANSWERS
    ]
    np.testing.assert_allclose(judge.rewards([PROMPT] * 3, ANSWERS), expected, rtol=1e-5, atol=1e-5)
    (p,) = judge([PROMPT], [ANSWERS[0]], [ANSWERS[1]])
    assert p == pytest.approx(1 / (1 + np.exp(expected[1] - expected[0])), abs=1e-5)
    assert judge.identity != load_judge(f"dpo:{tmp_path / 'policy'},{tmp_path / 'reference'}").identity


def test_arguments_of_implicit_rewards():
    tokenizer, other = build_tokenizer(), build_tokenizer([*"a b c d e f g h user assistant system".split(), "ten"])
    model = build_model(tokenizer)
    with pytest.raises(ValueError, match="needs a policy and its reference"):
        load_judge("dpo:policy")
    with pytest.raises(ValueError, match="`beta` must be positive"):
        DPOJudge(model, model, beta=0.0, tokenizer=tokenizer)
    policy, reference = (LocalModel(model, each, auto_class=None, kind="a policy") for each in (tokenizer, other))
    with pytest.raises(ValueError, match="different vocabularies"):
        ImplicitReward(policy, reference, beta=0.1)


@pytest.mark.network
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("internlm/internlm2-1_8b-reward", {"trust_remote_code": True}),
        ("nvidia/Llama-3.1-Nemotron-70B-Reward-HF", {"dtype": "bfloat16"}),
    ],
)
def test_published_models(model, options):
    (p,) = load_judge(f"reward:{model}", model_kwargs=options)(
        ["What is the capital of France?"], ["It is Paris."], ["It is Rome."]
    )
    assert p > 0.5


@pytest.mark.network
def test_a_published_policy():
    judge = load_judge("dpo:HuggingFaceH4/zephyr-7b-beta,HuggingFaceH4/mistral-7b-sft-beta", device="cuda")
    (p,) = judge(["What is the capital of France?"], ["It is Paris."], ["It is Rome."])
    assert p > 0.5
