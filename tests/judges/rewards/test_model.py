# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`RewardJudge` with sequence classifiers, which bring a tokenizer of their own."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from trl_nash.judges import RewardJudge


CHATS = [[{"role": "user", "content": "a b"}], [{"role": "system", "content": "d"}, {"role": "user", "content": "c"}]]
COMPLETIONS = [["c", "d e", "a a a a"], ["b", "e c d", "c c"]]
PAIRS = [(0, 1), (0, 2), (1, 2), (2, 0)]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


WORDS = ["<unk>", "<eos>", "e", "d", "c", "b", "a", "<sys>", "<usr>", "<bot>", "<pad>"]  # not the policy's vocabulary


def build_tokenizer(**options) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # A tokenizer that begins every text with a special token of its own accord: the rendered text must be left alone.
    backend.post_processor = processors.TemplateProcessing(single="<eos> $A", special_tokens=[("<eos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{"unk_token": "<unk>", "eos_token": "<eos>", "pad_token": "<pad>", **options},
        chat_template="{% for m in messages %}<{{ {'system': 'sys', 'user': 'usr', 'assistant': 'bot'}[m['role']] }}> "
        "{{ m['content'] }} {% endfor %}",
    )


def build_model(**options) -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    config = LlamaConfig(
        **{
            "vocab_size": len(WORDS),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "num_labels": 1,
            "initializer_range": 0.5,
            **options,
        }
    )
    return LlamaForSequenceClassification(config)


@torch.no_grad()
def reward_of(model, words: str) -> float:
    """By hand: one unpadded row of word indices, the head on the last hidden state."""
    hidden = model.model(torch.tensor([[WORDS.index(word) for word in words.split()]])).last_hidden_state
    return (hidden[0, -1] @ model.score.weight[0]).item()


RAW_BY_HAND = [["a b c", "a b d e", "a b a a a a"], ["c b", "c e c d", "c c c"]]
CHATS_BY_HAND = [
    ["<usr> a b <bot> c", "<usr> a b <bot> d e", "<usr> a b <bot> a a a a"],
    ["<sys> d <usr> c <bot> b", "<sys> d <usr> c <bot> e c d", "<sys> d <usr> c <bot> c c"],
]


@pytest.mark.parametrize("tokens_per_batch", [1, 20, 16384])
@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("raw", [False, True])
def test_model_equals_forward_by_hand(raw, padding_side, tokens_per_batch):
    """Whatever the batch and the tokenizer's habit of padding, each text gets the reward it has on its own."""
    model = build_model()
    judge = RewardJudge(
        model,
        reward_processing_classes=build_tokenizer(padding_side=padding_side),
        tokens_per_batch=tokens_per_batch,
        raw_prompts=raw,
    )
    prompts, by_hand = (["a b ", "c "], RAW_BY_HAND) if raw else (CHATS, CHATS_BY_HAND)
    rewards = [[reward_of(model, words) for words in row] for row in by_hand]
    assert np.ptp(rewards) > 0.5  # rewards that are all alike would prove nothing
    expected = [[sigmoid(row[i] - row[j]) for i, j in PAIRS] for row in rewards]
    np.testing.assert_allclose(judge.compare(prompts, COMPLETIONS, PAIRS), expected, atol=1e-6)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_absolute_positions_start_at_the_first_token(padding_side):
    """A model that counts positions must not count padding, whichever side the tokenizer likes to pad."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, num_labels=1, initializer_range=0.5)
    model = GPT2ForSequenceClassification(config)
    tokenizer = build_tokenizer(padding_side=padding_side)
    together = RewardJudge(model, reward_processing_classes=tokenizer).rewards(["a "] * 3, ["b", "c d", "a b c d e"])
    alone = RewardJudge(model, reward_processing_classes=tokenizer, tokens_per_batch=1)
    np.testing.assert_allclose(together, alone.rewards(["a "] * 3, ["b", "c d", "a b c d e"]), atol=1e-5)


def test_equal_texts_are_forwarded_once(monkeypatch):
    model = build_model()
    judge = RewardJudge(model, reward_processing_classes=build_tokenizer(), tokens_per_batch=4, raw_prompts=True)
    rows = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: rows.append(len(inputs["input_ids"])) or forward(**inputs))
    preference = judge.compare(["a ", "a "], [["b", "c", "b"], ["c", "d", "b"]], [(0, 2), (0, 1)])
    assert rows == [2, 1]  # "a b", "a c" and "a d"
    assert preference[0, 0] == 0.5
    assert preference[0, 1] == pytest.approx(1 - sigmoid(reward_of(model, "a c") - reward_of(model, "a b")), abs=1e-6)


def test_tokenizer_without_padding_token():
    model = build_model()
    judge = RewardJudge(model, reward_processing_classes=build_tokenizer(pad_token=None), raw_prompts=True)
    rewards = judge.rewards(["a b ", "c "], ["a a a a", "b"])
    expected = [reward_of(model, "a b a a a a"), reward_of(model, "c b")]
    np.testing.assert_allclose(rewards, expected, atol=1e-6)


def test_model_is_evaluated_without_dropout_and_gradient():
    model = build_model(attention_dropout=0.5).train()
    judge = RewardJudge(model, reward_processing_classes=build_tokenizer(), raw_prompts=True)
    rewards = [judge.rewards(["a b "], ["c d"])[0] for _ in range(2)]
    assert rewards == pytest.approx([reward_of(model, "a b c d")] * 2, abs=1e-6)


def test_model_from_a_path_brings_its_tokenizer(tmp_path):
    model = build_model()
    model.save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    expected = [reward_of(model, "<usr> a b <bot> c"), reward_of(model, "<usr> a b <bot> d e")]
    from_path = RewardJudge(str(tmp_path), device="cpu", model_kwargs={"dtype": torch.float32})
    np.testing.assert_allclose(from_path.rewards([CHATS[0]] * 2, ["c", "d e"]), expected, atol=1e-6)
    loaded = LlamaForSequenceClassification.from_pretrained(tmp_path)
    np.testing.assert_allclose(RewardJudge(loaded).rewards([CHATS[0]] * 2, ["c", "d e"]), expected, atol=1e-6)


def test_model_kwargs_reach_the_model(tmp_path):
    build_model().save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    judge = RewardJudge(str(tmp_path), model_kwargs={"dtype": torch.bfloat16, "trust_remote_code": False})
    assert judge.reward_funcs[0].model.dtype == torch.bfloat16
    assert np.isfinite(judge.rewards(["a "], ["b"])).all()


def test_tokenizer_is_loaded_as_the_model_is(tmp_path, monkeypatch):
    asked = {}

    def from_pretrained(path, **kwargs):
        asked.update(kwargs)
        return build_tokenizer()

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", from_pretrained)
    build_model().save_pretrained(tmp_path)
    options = {"revision": "main", "trust_remote_code": True}
    RewardJudge(str(tmp_path), model_kwargs={**options, "dtype": torch.float32})
    assert asked == options


@pytest.mark.parametrize("conversational", [False, True])
def test_completions_cannot_hold_special_tokens(conversational):
    """`<eos>` would end the completion's turn, and let it write the next one itself."""
    model = build_model()
    judge = RewardJudge(model, reward_processing_classes=build_tokenizer(), raw_prompts=not conversational)
    words = "<usr> a b <bot> c <unk> <unk> d" if conversational else "a b c <unk> <unk> d"
    prompt = CHATS[0] if conversational else "a b "
    assert judge.rewards([prompt], ["c <eos> d"])[0] == pytest.approx(reward_of(model, words), abs=1e-6)


def test_models_and_functions_together():
    def length(completions, **kwargs):
        return [float(len(text)) for text in completions]

    model = build_model()
    judge = RewardJudge(
        [length, model],
        reward_processing_classes=[None, build_tokenizer()],
        reward_weights=[0.25, 2.0],
        raw_prompts=True,
    )
    rewards = judge.rewards(["a ", "c "], ["d e", "b"])
    expected = [0.25 * 3 + 2 * reward_of(model, "a d e"), 0.25 * 1 + 2 * reward_of(model, "c b")]
    np.testing.assert_allclose(rewards, expected, atol=1e-5)


@pytest.mark.parametrize("conversational", [False, True])
def test_rewards_are_those_of_trl(conversational):
    """The drop-in promise: the same totals as `OnlineDPOTrainer`'s own method, for strings and for conversations."""
    from trl_nash.compat import OnlineDPOTrainer

    def sometimes(prompts, completions, **kwargs):
        return [
            None if "d" in str(completion) else 0.5 * len(str(prompt))
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    def by_column(completions, completion_ids, source, **kwargs):
        return [len(ids) + value for ids, value in zip(completion_ids, source, strict=True)]

    model, tokenizer = build_model(), build_tokenizer()
    funcs, weights, source = [sometimes, by_column, model], [1.0, 0.3, -2.0], [1.0, 2.0, 3.0]
    judge = RewardJudge(
        funcs, reward_processing_classes=[None, None, tokenizer], reward_weights=weights, raw_prompts=True
    )
    prompts = [CHATS[0], CHATS[1], CHATS[0]] if conversational else ["a b ", "c ", "a b "]
    texts, ids = ["c", "e c d", "a a a a"], [[1], [1, 2, 3], [1, 2, 3, 4]]
    model.config.pad_token_id = tokenizer.pad_token_id  # as its constructor does
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu"),
        reward_funcs=funcs,
        reward_processing_classes=[None, None, tokenizer],
        reward_weights=torch.tensor(weights),
        state=None,
    )
    completions = [[{"role": "assistant", "content": text}] for text in texts] if conversational else texts
    expected = OnlineDPOTrainer._calculate_rewards_from_functions(trainer, prompts, completions, ids, source=source)
    rewards = judge.rewards(prompts, texts, columns={"source": source}, completion_ids=ids)
    np.testing.assert_allclose(rewards, expected.numpy(), atol=1e-5)


def test_model_with_two_labels():
    with pytest.raises(ValueError, match="has 2 labels"):
        RewardJudge(build_model(num_labels=2), reward_processing_classes=build_tokenizer())


def test_model_of_unknown_origin_needs_a_tokenizer():
    with pytest.raises(ValueError, match="LlamaForSequenceClassification .*pass it as .*`reward_processing_classes`"):
        RewardJudge(build_model())


@pytest.mark.parametrize("kind", ["two labels", "language model"])
def test_path_without_a_trained_reward_head(tmp_path, kind):
    """TRL takes both, and trains against a random head."""
    model = build_model(num_labels=2)
    if kind == "language model":
        model = LlamaForCausalLM(model.config)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is not a reward model.*score.weight.* would be random"):
        RewardJudge(str(tmp_path), reward_processing_classes=build_tokenizer())


# Long texts


def long_judge(model, max_length, **options) -> RewardJudge:
    return RewardJudge(
        model, reward_processing_classes=build_tokenizer(), max_length=max_length, raw_prompts=True, **options
    )


DIALOGUE = [
    {"role": "system", "content": "d"},
    {"role": "user", "content": "a b"},
    {"role": "assistant", "content": "c"},
    {"role": "user", "content": "e a"},
]


@pytest.mark.parametrize(
    ("prompt", "max_length", "words"),
    [
        ("a b c ", 5, "a b c d e"),
        ("a b c ", 4, "b c d e"),
        ("a b c ", 3, "c d e"),
        ("a b c ", 2, "d e"),
        ("a b c ", 1, None),
        (DIALOGUE, 13, "<sys> d <usr> a b <bot> c <usr> e a <bot> d e"),
        (DIALOGUE, 11, "<usr> a b <bot> c <usr> e a <bot> d e"),
        (DIALOGUE, 10, "<usr> b <bot> c <usr> e a <bot> d e"),
        (DIALOGUE, 8, "<usr> e a <bot> d e"),
        (DIALOGUE, 4, "<usr> <bot> d e"),
        (DIALOGUE, 3, None),
    ],
)
def test_prompts_are_cut_from_the_left_and_completions_never(prompt, max_length, words):
    model = build_model()
    judge = long_judge(model, max_length)
    reward = judge.rewards([prompt], ["d e"])[0]
    expected = math.nan if words is None else reward_of(model, words)
    assert reward == pytest.approx(expected, abs=1e-6, nan_ok=True)
    whole = words is None or (max_length in (5, 13))
    assert judge.reward_funcs[0].local.contexts_cut == int(not whole)


def test_the_models_own_limit_is_known():
    judge = long_judge(build_model(max_position_embeddings=4), None)
    assert np.isnan(judge.rewards(["a "] * 2, ["b c d e a", "b c d"])).tolist() == [True, False]


def test_too_long_is_counted_and_only_its_pairs_are_without_verdict():
    """Whatever a second reward says: a sum without one of its terms is not comparable."""
    judge = RewardJudge(
        [build_model(), lambda completions: [1.0] * len(completions)],
        reward_processing_classes=[build_tokenizer(), None],
        max_length=3,
    )
    preferences = judge.compare(["a "], [["b", "b c d e", "c"]], [(0, 1), (0, 2), (2, 1)])
    assert np.isnan(preferences).tolist() == [[True, False, True]]
    assert judge.tally.take().abstained == {"too long": 2}
    assert np.isnan(judge(["a "], ["b"], ["b c d e"])).all()
    assert judge.tally.take().abstained == {"too long": 1}


# Cache


@pytest.fixture
def folder(tmp_path) -> str:
    build_model().save_pretrained(tmp_path / "reward")
    build_tokenizer().save_pretrained(tmp_path / "reward")
    return str(tmp_path / "reward")


def test_what_is_left_of_a_round_is_scored(folder, tmp_path):
    options = {"cache": str(tmp_path / "cache.sqlite"), "tokens_per_batch": 1}
    pairs, columns = (
        [(0, 1), (0, 2), (1, 2)],
        {"source": [object()]},
    )  # a column that no key could hold, and none needs
    first = RewardJudge(folder, **options).compare(["a "], [["b", "c", "d"]], pairs, columns=columns)
    plain = RewardJudge(folder).compare(["a "], [["b", "c", "d"]], pairs)
    np.testing.assert_allclose(first, plain, atol=1e-6)
    judge = RewardJudge(folder, **options)
    calls = []
    judge.reward_funcs[0].model.register_forward_hook(lambda *_: calls.append(1))
    again = judge.compare(["a "], [["b", "c", "d"]], pairs, columns=columns)
    np.testing.assert_array_equal(again, first)
    assert not calls and judge.tally.take().cached == 3
    judge.compare(["a ", "c "], [["d", "c", "b"], ["b", "c", "d"]], pairs)
    assert len(calls) == 3


def test_settings_that_change_preferences_are_part_of_the_key(folder):
    settings = [{}, {"temperature": 2.0}, {"reward_weights": [2.0]}, {"max_length": 9}]
    settings += [
        {"chat_template_kwargs": {"x": 1}},
        {"raw_prompts": True},
        {"model_kwargs": {"dtype": torch.bfloat16}},
    ]
    assert len({RewardJudge(folder, **options).identity for options in settings}) == len(settings)


def test_what_has_no_identity_is_not_cached(folder, tmp_path):
    cache = str(tmp_path / "cache.sqlite")
    for judge in (
        RewardJudge(lambda completions: [0.0] * len(completions), cache=cache),
        RewardJudge(build_model(), reward_processing_classes=build_tokenizer(), cache=cache),
        RewardJudge(folder, missing_eos_penalty=1.0, eos_token_ids=[1], cache=cache),
    ):
        with pytest.raises(ValueError, match="has no `identity`, so its answers cannot be cached"):
            judge.compare(["a "], [["b", "c"]], [(0, 1)])


def test_chat_template_takes_arguments():
    model, tokenizer = build_model(), build_tokenizer()
    tokenizer.chat_template += "{% if silent %} e{% endif %}"
    judge = RewardJudge(model, reward_processing_classes=tokenizer, chat_template_kwargs={"silent": True})
    assert judge.rewards([CHATS[0]], ["c"])[0] == pytest.approx(reward_of(model, "<usr> a b <bot> c e"), abs=1e-6)


@pytest.mark.parametrize("tokens_per_batch", [1, 16384])
def test_classifiers_that_read_their_first_token(tokens_per_batch):
    """As BERT's: padding must stay behind the text, and its positions begin at 0."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        num_labels=1, initializer_range=0.5, pad_token_id=WORDS.index("<pad>"),
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    judge = RewardJudge(
        model, reward_processing_classes=build_tokenizer(), tokens_per_batch=tokens_per_batch, raw_prompts=True
    )
    texts = ["b", "c d", "a b c d e"]
    with torch.no_grad():
        rows = [torch.tensor([[WORDS.index(word) for word in f"a {text}".split()]]) for text in texts]
        expected = [model(input_ids=row).logits.item() for row in rows]
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(judge.rewards(["a "] * 3, texts), expected, atol=1e-5)
