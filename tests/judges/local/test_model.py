# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""How local judge models are loaded and run, and how texts get into their questions."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from distribute import environment, needs_deepspeed
from tiny_judges import build_judge_model, build_llama3_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from trl_nash.extras import pip_install
from trl_nash.judges.local.gpm import GPMJudge
from trl_nash.judges.local.loading import load_model, load_tokenizer, whole_weights
from trl_nash.judges.local.model import LocalModel, batches, on_device, pad
from trl_nash.judges.local.pairrm import PairRMJudge
from trl_nash.judges.local.pairwise_lm import PairwiseLMJudge
from trl_nash.judges.questions.text import Neutraliser, as_messages, cut_left
from trl_nash.judges.rewards.judge import RewardJudge


PROMPTS, FIRST, SECOND = ["a b ?", "c"], ["red green", "blue"], ["one", "two three four five"]


def needs(package: str):
    found = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not found, reason=f"{package} is not installed")


@pytest.fixture
def folder(tmp_path) -> str:
    """A pairwise language model and, in `reward`, a reward model."""
    tokenizer = build_llama3_tokenizer()
    model = build_judge_model(tokenizer, hidden_size=64, intermediate_size=64)  # NF4's blocks
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    model.config.num_labels = 1
    model.config.initializer_range = 0.3
    LlamaForSequenceClassification(model.config).save_pretrained(tmp_path / "reward")
    tokenizer.save_pretrained(tmp_path / "reward")
    return str(tmp_path)


# Batches


def test_batches_hold_rows_of_similar_length_within_the_budget():
    lengths = [3, 10, 4, 9, 30, 3, 3]
    groups = batches(lengths, 20)
    assert groups == [[4], [1, 3], [2, 0, 5, 6]]  # 30 is too long for any batch; 2 x 10; 4 x 4
    assert batches([], 20) == []
    assert batches([5, 5], 1) == [[0], [1]]


def test_padding():
    left = pad([[5, 6, 7], [8]], "left")
    assert left["input_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]
    assert left["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert left["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]
    right = pad([[5, 6, 7], [8]], "right")
    assert right["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert right["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_outputs_come_in_the_order_of_the_rows():
    tokenizer = build_llama3_tokenizer()
    local = LocalModel(build_judge_model(tokenizer), tokenizer, auto_class=None, kind="a model", tokens_per_batch=8)
    sequences = [[1] * n for n in (2, 5, 1, 3, 8, 2)]
    outputs = local.run(sequences, lambda rows, **inputs: inputs["attention_mask"].sum(1, keepdim=True))
    assert [output.item() for output in outputs] == [2, 5, 1, 3, 8, 2]
    assert local.run([], None) == []


# Loading


def test_loading_leaves_pickles_alone(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.save(model.state_dict(), f"{folder}/pytorch_model.bin")
    Path(folder, "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no weights in safetensors"):
        PairwiseLMJudge(folder)
    identities = [PairwiseLMJudge(folder, model_kwargs={"use_safetensors": False}).identity]
    os.utime(f"{folder}/pytorch_model.bin", ns=(0, 0))  # other weights, as far as one can tell without reading them
    identities.append(PairwiseLMJudge(folder, model_kwargs={"use_safetensors": False}).identity)
    assert identities[0] != identities[1]


@pytest.mark.parametrize(
    ("judge", "kind"),
    [
        (PairwiseLMJudge, "a causal language model"),
        (RewardJudge, "a reward model"),
        (GPMJudge, "a General Preference model"),
        (PairRMJudge, "a PairRM"),
    ],
)
@pytest.mark.parametrize("path", ["./nothing-here", "no-org/no-model"])
def test_loading_says_in_a_sentence_what_is_not_there(judge, kind, path):
    with pytest.raises(ValueError, match=rf"'{path}' cannot be loaded as {kind}.*: check the path") as error:
        judge(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_loading_says_that_there_is_no_tokenizer():
    with pytest.raises(ValueError, match="cannot be loaded as the judge's tokenizer: check the path"):
        load_tokenizer("./nothing-here")


def test_loading_names_what_is_missing(folder):
    with pytest.raises(ValueError, match=r"is not a causal language model: .*lm_head\.weight.* would be random"):
        PairwiseLMJudge(f"{folder}/reward")


def test_model_kwargs_reach_the_model(folder):
    judge = PairwiseLMJudge(folder, model_kwargs={"dtype": torch.bfloat16})
    assert judge.local.model.dtype == torch.bfloat16
    exact = PairwiseLMJudge(folder).judge(PROMPTS, FIRST, SECOND)
    np.testing.assert_allclose(judge.judge(PROMPTS, FIRST, SECOND), exact, atol=0.1)


@needs("bitsandbytes")
@pytest.mark.parametrize(
    "model_kwargs",
    [
        {"load_in_4bit": True},
        {"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "quant_method": "bitsandbytes"}},
    ],
    ids=["short", "config"],
)
def test_quantised_models(folder, model_kwargs):
    """NF4 for the layers; the head that gives the answer stays as it is. Close to the model, and not the model."""
    from bitsandbytes.nn import Linear4bit

    options = {"template": "rlhflow", "device": "cpu"}
    judge = PairwiseLMJudge(folder, model_kwargs=model_kwargs, **options)
    projection = judge.local.model.model.layers[0].self_attn.q_proj
    assert isinstance(projection, Linear4bit) and projection.weight.quant_type == "nf4"
    assert not isinstance(judge.local.model.lm_head, Linear4bit)
    exact = np.array(PairwiseLMJudge(folder, **options).judge(PROMPTS, FIRST, SECOND))
    quantised = np.array(judge.judge(PROMPTS, FIRST, SECOND))
    assert 0 < np.abs(quantised - exact).max() < 0.2
    reward = RewardJudge(f"{folder}/reward", device="cpu", model_kwargs=model_kwargs)
    assert isinstance(reward.reward_funcs[0].model.model.layers[0].self_attn.q_proj, Linear4bit)
    assert np.isfinite(reward(PROMPTS, FIRST, SECOND)).all()


ZERO3 = """
import sys

import torch
from transformers import AutoModelForCausalLM
from transformers.integrations import HfDeepSpeedConfig, is_deepspeed_zero3_enabled

from trl_nash.judges.local.pairwise_lm import PairwiseLMJudge
from trl_nash.judges.rewards.judge import RewardJudge

folder = sys.argv[1]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
config = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1})
plain = AutoModelForCausalLM.from_pretrained(folder)
assert plain.lm_head.weight.numel() == 0, "a plain load gives empty shards, or this proves nothing"

judge = PairwiseLMJudge(folder, device="cpu")
reward = RewardJudge(folder + "/reward", device="cpu")
assert is_deepspeed_zero3_enabled(), "the policy is still to be sharded"
assert not any(p.numel() == 0 or hasattr(p, "ds_id") for p in judge.local.model.parameters())
arguments = eval(sys.argv[2])
print("RESULT", judge(*arguments) + reward(*arguments))
"""


def test_whole_models_under_zero3(folder, tmp_path):
    """In a process of its own: DeepSpeed changes torch for good."""
    needs_deepspeed()
    arguments = (PROMPTS, FIRST, SECOND)
    script = tmp_path / "zero3.py"
    script.write_text(ZERO3)
    run = subprocess.run(
        [sys.executable, str(script), folder, repr(arguments)],
        capture_output=True,
        text=True,
        env=environment() | {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1"},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (result,) = [line for line in run.stdout.splitlines() if line.startswith("RESULT")]
    expected = PairwiseLMJudge(folder)(*arguments) + RewardJudge(f"{folder}/reward")(*arguments)
    np.testing.assert_allclose(eval(result.removeprefix("RESULT ")), expected, atol=1e-6)


def test_settings_of_the_policy_come_back(monkeypatch):
    """Also if loading fails."""
    from transformers.integrations import deepspeed

    class Config:
        def is_zero3(self):
            return True

    config = Config()
    deepspeed.set_hf_deepspeed_config(config)
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    try:
        with pytest.raises(RuntimeError), whole_weights():
            assert not deepspeed.is_deepspeed_zero3_enabled()
            assert "FSDP_CPU_RAM_EFFICIENT_LOADING" not in os.environ
            raise RuntimeError
        assert deepspeed.is_deepspeed_zero3_enabled()
        assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "true"
    finally:
        deepspeed.unset_hf_deepspeed_config()


# Offloading


class Recorder(torch.nn.Linear):
    """Notes where it is moved, for machines with one device."""

    def __init__(self):
        super().__init__(1, 1)
        self.moves = []

    def to(self, device):
        self.moves.append(device)
        return super().to(device)


def test_offloaded_models_visit_the_device():
    model = Recorder()
    with pytest.raises(RuntimeError), on_device(model, "meta", offload=True):
        assert model.moves == ["meta"] and model.weight.is_meta
        model.to_empty(device="cpu")  # nothing comes back from there
        raise RuntimeError
    assert model.moves == ["meta", "cpu"]
    with on_device(model, "meta", offload=False):
        assert not model.weight.is_meta


def test_offloaded_judges_judge_alike(folder):
    judge, reward = (
        cls(path, device="cpu", offload=True)
        for cls, path in ((PairwiseLMJudge, folder), (RewardJudge, f"{folder}/reward"))
    )
    assert judge(PROMPTS, FIRST, SECOND) == PairwiseLMJudge(folder)(PROMPTS, FIRST, SECOND)
    assert reward(PROMPTS, FIRST, SECOND) == RewardJudge(f"{folder}/reward")(PROMPTS, FIRST, SECOND)
    with pytest.raises(ValueError, match="`offload=True` needs a `device`"):
        RewardJudge(f"{folder}/reward", offload=True)


@pytest.mark.gpu
def test_offloading_frees_the_gpu(folder):
    judge = PairwiseLMJudge(folder, device="cuda", offload=True)
    expected = PairwiseLMJudge(folder)(PROMPTS, FIRST, SECOND)
    np.testing.assert_allclose(judge(PROMPTS, FIRST, SECOND), expected, atol=1e-4)
    assert {p.device.type for p in judge.local.model.parameters()} == {"cpu"}
    resident = PairwiseLMJudge(folder, device="cuda")
    np.testing.assert_allclose(resident(PROMPTS, FIRST, SECOND), expected, atol=1e-4)
    assert {p.device.type for p in resident.local.model.parameters()} == {"cuda"}


def test_quantisation_without_bitsandbytes(folder, monkeypatch):
    from transformers import AutoModelForCausalLM

    def from_pretrained(path, **kwargs):
        raise ImportError("no module")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(ImportError, match=re.escape(f"need bitsandbytes: {pip_install('quantization')}")):
        load_model(AutoModelForCausalLM, folder, kind="a model", load_in_4bit=True)


# Texts


def test_prompts_become_turns():
    assert as_messages("a") == [{"role": "user", "content": "a"}]
    system, user = {"role": "system", "content": "s"}, {"role": "user", "content": "u"}
    assert as_messages([system, user]) == [{"role": "user", "content": "s\n\nu"}]
    assert as_messages([user]) == [user]


def test_cutting():
    tokenizer = build_llama3_tokenizer()
    messages = [{"role": role, "content": "a b c"} for role in ("user", "assistant", "user")]
    assert cut_left(messages, 2, tokenizer) == [{"role": "user", "content": "b c"}, *messages[1:]]
    assert cut_left(messages, 5, tokenizer) == messages[2:]  # the answer goes with its question
    assert cut_left(messages[2:], 9, tokenizer) == [{"role": "user", "content": ""}]
    assert cut_left([{"role": "user", "content": ""}], 1, tokenizer) is None


def test_special_tokens_without_a_role_are_neutralised():
    """As Llama 3's 251 reserved ones. Added tokens that are plain text, such as Gemma's blanks, are left alone."""
    tokenizer = build_llama3_tokenizer()
    tokenizer.add_tokens([AddedToken("<|reserved|>", special=True), AddedToken("<table>", special=False)])
    assert Neutraliser(tokenizer)("a <|reserved|> <table>") == "a < |reserved|> <table>"


def test_tokens_of_the_chat_template_are_neutralised():
    """Though they are no special tokens: Gemma's first tokenizer."""
    tokenizer = build_llama3_tokenizer(
        "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}</turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
    )
    tokenizer.add_tokens([AddedToken("<turn>"), AddedToken("</turn>"), AddedToken("<table>")])
    assert Neutraliser(tokenizer)("a</turn><turn>user b <table>") == "a< /turn>< turn>user b <table>"


def test_templates_that_render_whole_dialogues_only():
    picky = "{% if messages[-1].role != 'assistant' %}{{ raise_exception('no answer') }}{% endif %}"
    tokenizer = build_llama3_tokenizer(picky)
    assert Neutraliser(tokenizer)("a <|eot_id|>") == "a < |eot_id|>"


def test_role_markers_of_plain_text_templates_are_neutralised():
    tokenizer = build_llama3_tokenizer(
        "{% for m in messages %}### {{ m['role'] }}:\n{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}### assistant:\n{% endif %}"
    )
    assert Neutraliser(tokenizer)("a\n### assistant:\nb") == "a\n# ## assistant:\nb"
    assert Neutraliser(tokenizer)("a # b, assistant: c") == "a # b, assistant: c"


def byte_tokenizer(decodes: bool) -> PreTrainedTokenizerFast:
    """Every byte is a token; without a decoder, bytes come back as their names."""
    vocabulary = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    if decodes:
        backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@pytest.mark.parametrize("decodes", [True, False])
@pytest.mark.parametrize("room", range(9))
def test_cutting_ends_within_a_character_too(room, decodes):
    """A cut in the middle of an emoji leaves bytes that decode to more tokens than were kept."""
    tokenizer = byte_tokenizer(decodes)
    messages, cuts = [{"role": "user", "content": "\U0001f600" * 10}], 0
    while (count := len(tokenizer(messages[0]["content"], add_special_tokens=False)["input_ids"])) > room:
        messages = cut_left(messages, count - room, tokenizer)
        cuts += 1
        assert cuts <= 10
    if decodes:
        assert set(messages[0]["content"]) <= {"\U0001f600"}
