# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What reward models read, and from which token: against `tokenizer(question, answer)`, the chat template's render, and
the model's own forward on one text at a time, with its config as it came.
"""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import build_tokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DebertaV2Tokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

from trl_nash.judges import RewardJudge, load_judge


SIZE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_labels": 1,
    "initializer_range": 0.5,
}
PROMPT, ANSWERS = "a b c", ["yes", "no one two", "d e f g h"]


def build_classifier(kind: str = "qwen2", tokenizer=None, **config):
    torch.manual_seed(0)
    tokenizer = tokenizer or build_tokenizer()
    options = {"vocab_size": len(tokenizer), "pad_token_id": None, **SIZE, **config}
    config_class, model_class = {
        "qwen2": (Qwen2Config, Qwen2ForSequenceClassification),
        "llama": (LlamaConfig, LlamaForSequenceClassification),
    }[kind]
    return model_class(config_class(num_key_value_heads=2, **options)).eval()


@torch.no_grad()
def alone(model, encoded) -> float:
    """The model's own forward on one text, nothing padded."""
    return model(**{name: torch.tensor([ids]) for name, ids in encoded.items()}).logits.item()


def as_rendered(tokenizer, messages) -> dict[str, list[int]]:
    return {"input_ids": tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)}


def spoken(prompt, answer):
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return [*turns, {"role": "assistant", "content": answer}]


# A string is one turn of the user


def test_a_string_prompt_is_a_turn_of_the_user(tmp_path):
    tokenizer = build_tokenizer()
    model = build_classifier("llama")
    expected = [alone(model, as_rendered(tokenizer, spoken(PROMPT, answer))) for answer in ANSWERS]
    assert np.ptp(expected) > 0.1
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    judge = load_judge(f"reward:{tmp_path}")
    np.testing.assert_allclose(judge.rewards([PROMPT] * 3, ANSWERS), expected, atol=1e-5)
    p = 1 / (1 + np.exp(expected[1] - expected[0]))
    assert judge([PROMPT], [ANSWERS[0]], [ANSWERS[1]]) == pytest.approx([p], abs=1e-6)


def test_only_raw_prompts_are_put_together_as_trl_does():
    tokenizer, model = build_tokenizer(), build_classifier()
    judge = RewardJudge(model, reward_processing_classes=tokenizer, raw_prompts=True)
    texts = tokenizer([f"{PROMPT} {answer}" for answer in ANSWERS], add_special_tokens=False)["input_ids"]
    expected = [alone(model, {"input_ids": ids}) for ids in texts]
    np.testing.assert_allclose(judge.rewards([f"{PROMPT} "] * 3, ANSWERS), expected, atol=1e-5)
    expected = [alone(model, as_rendered(tokenizer, spoken(PROMPT, answer))) for answer in ANSWERS]
    prompt = [{"role": "user", "content": PROMPT}]
    np.testing.assert_allclose(judge.rewards([prompt] * 3, ANSWERS), expected, atol=1e-5)


def build_deberta() -> tuple[DebertaV2ForSequenceClassification, DebertaV2Tokenizer]:
    """As OpenAssistant/reward-model-deberta-v3-large-v2: no token types, relative attention."""
    words = "a b c d e f g h yes no one two".split()
    pieces = [(token, 0.0) for token in ("[PAD]", "[CLS]", "[SEP]", "[UNK]")]
    tokenizer = DebertaV2Tokenizer(vocab=[*pieces, ("▁", -9.0), *((f"▁{word}", -1.0) for word in words)], unk_id=3)
    torch.manual_seed(0)
    relative = {"relative_attention": True, "position_buckets": 8, "pos_att_type": "p2c|c2p", "share_att_key": True}
    config = DebertaV2Config(vocab_size=32, type_vocab_size=0, position_biased_input=False, **relative, **SIZE)
    return DebertaV2ForSequenceClassification(config).eval(), tokenizer


def build_bert() -> tuple[BertForSequenceClassification, BertTokenizer]:
    """An encoder that is told which token is whose."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"a b c d e f g h yes no one two user :".split()]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(vocab_size=len(words), **SIZE)).eval(), tokenizer


@pytest.mark.parametrize("tokens_per_batch", [1, 16384])
@pytest.mark.parametrize("build", [build_deberta, build_bert])
def test_encoders_read_question_and_answer_as_a_pair(build, tokens_per_batch):
    """`tokenizer(question, answer)`, as their model cards say, with `[SEP]` between and types where there are some."""
    model, tokenizer = build()
    expected = [alone(model, tokenizer(PROMPT, answer)) for answer in ANSWERS]
    joined = [alone(model, tokenizer(PROMPT + " " + answer)) for answer in ANSWERS]
    assert np.abs(np.subtract(expected, joined)).max() > 0.1  # it matters
    judge = RewardJudge(model, reward_processing_classes=tokenizer, tokens_per_batch=tokens_per_batch)
    for prompt in (PROMPT, [{"role": "user", "content": PROMPT}]):
        np.testing.assert_allclose(judge.rewards([prompt] * 3, ANSWERS), expected, atol=1e-5)


def test_long_questions_of_encoders_are_cut_from_the_left():
    model, tokenizer = build_bert()
    judge = RewardJudge(model, reward_processing_classes=tokenizer, max_length=6)
    expected = [alone(model, tokenizer("b c", "yes")), alone(model, tokenizer("c", "no one"))]
    np.testing.assert_allclose(judge.rewards([PROMPT] * 2, ["yes", "no one"]), expected, atol=1e-5)
    assert judge.reward_funcs[0].local.contexts_cut == 2
    assert np.isnan(judge.rewards([PROMPT], ["d e f g"])).all()


def test_answers_of_encoders_cannot_hold_a_separator():
    model, tokenizer = build_bert()
    judge = RewardJudge(model, reward_processing_classes=tokenizer)
    expected = alone(model, tokenizer(PROMPT, "yes [ SEP] no"))
    assert judge.rewards([PROMPT], ["yes [SEP] no"])[0] == pytest.approx(expected, abs=1e-5)


def test_a_tokenizer_that_can_do_neither_is_refused_when_it_is_loaded(tmp_path):
    tokenizer, model = build_tokenizer(chat=False), build_classifier()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no chat template, and no separator .* set `tokenizer.chat_template`"):
        load_judge(f"reward:{tmp_path}")
    assert np.isfinite(load_judge(f"reward:{tmp_path}", raw_prompts=True).rewards([PROMPT], ["yes"])).all()


# Where the reward is


class Gated(LlamaForSequenceClassification):
    """As ArmoRM: many objectives, and a score of them all in the output; here their mean. The logits are 1-D."""

    attribute = "score"

    def forward(self, **inputs):
        scores = super().forward(**inputs).logits.mean(-1)
        return SimpleNamespace(**{"logits": torch.zeros_like(scores), self.attribute: scores})


class Flat(Gated):
    attribute = "logits"


class Several(Gated):
    def forward(self, **inputs):
        return LlamaForSequenceClassification.forward(self, **inputs)


@pytest.mark.parametrize("model_class", [Gated, Flat])
def test_rewards_that_are_a_score_or_of_one_dimension(model_class):
    tokenizer, plain = build_tokenizer(), build_classifier("llama", num_labels=3)
    model = model_class(plain.config)
    model.load_state_dict(plain.state_dict())
    expected = []
    for answer in ANSWERS:
        ids = torch.tensor([as_rendered(tokenizer, spoken(PROMPT, answer))["input_ids"]])
        expected.append(plain(input_ids=ids).logits.mean().item())
    judge = RewardJudge(model, reward_processing_classes=tokenizer)
    np.testing.assert_allclose(judge.rewards([PROMPT] * 3, ANSWERS), expected, atol=1e-5)


def test_scores_that_are_no_reward():
    model = Several(build_classifier("llama", num_labels=3).config)
    judge = RewardJudge(model, reward_processing_classes=build_tokenizer())
    with pytest.raises(ValueError, match=r"gives scores of shape \(3, 3\) for 3 texts"):
        judge.rewards([PROMPT] * 3, ANSWERS)


def test_contents_in_parts():
    judge = RewardJudge(build_classifier(), reward_processing_classes=build_tokenizer()).reward_funcs[0]
    parts = [{"role": "user", "content": [{"type": "text", "text": "a b"}, {"type": "text", "text": " c"}]}]
    assert judge([parts], ["yes"]) == judge([PROMPT], ["yes"])


# Padding


PADDINGS = {  # of tokenizer and config; the template ends in <eos>, which is token 1
    "none": (None, None),
    "the tokenizer's": ("<pad>", None),
    "the config's": (None, 0),
    "end of sequence, the tokenizer's": ("<eos>", None),
    "end of sequence, both": ("<eos>", 1),
    "one that the tokenizer lacks": (None, 23),
    "none of the vocabulary": (None, -1),
}


# An embedding of Qwen2 has no padding index of -1; Llama 1 and 2 were published with it.
PADDED = [(padding, kind) for padding in PADDINGS for kind in ("llama", "qwen2")]
PADDED.remove(("none of the vocabulary", "qwen2"))


@pytest.mark.parametrize("padding, kind", PADDED)
def test_padding_does_not_decide_which_token_is_read(padding, kind):
    """The value of each text is that of the model's own forward on it alone."""
    token, number = PADDINGS[padding]
    tokenizer = build_tokenizer()
    tokenizer.pad_token = token
    model = build_classifier(kind, vocab_size=len(tokenizer) + 8, pad_token_id=number if number != -1 else None)
    if number == -1:
        model.config.pad_token_id = -1
    texts = [as_rendered(tokenizer, spoken(PROMPT, answer)) for answer in ANSWERS]
    assert {text["input_ids"][-1] for text in texts} == {tokenizer.eos_token_id}
    untouched = copy.deepcopy(model)
    expected = [alone(untouched, text) for text in texts]
    judge = RewardJudge(model, reward_processing_classes=tokenizer)
    prompts = [[{"role": "user", "content": PROMPT}]] * 3
    np.testing.assert_allclose(judge.rewards(prompts, ANSWERS), expected, atol=1e-5)
    assert model.config.pad_token_id == number and tokenizer.pad_token == token  # nothing of the user's is changed
