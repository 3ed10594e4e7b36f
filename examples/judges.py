# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Every family of judges on one question, offline: tiny models without training stand for the checkpoints that you would
name, a server on this machine for OpenAI's or vLLM's. Their preferences mean nothing; how to make each judge does.

    python examples/judges.py
"""

import asyncio
import json
import math
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import DebertaV2Config, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
from transformers import PreTrainedTokenizerFast as Fast
from transformers.utils import logging

from trl_nash import load_judge
from trl_nash.judges.local.pairrm import PREFIXES, PairRM


PROMPT, FIRST, SECOND = "Name a colour.", "Blue.", "A colour is green, I think."
CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
CHAT += "{% if add_generation_prompt %}<|assistant|>{% endif %}"


def save(model, folder: Path) -> str:
    """A model, with a tokenizer in which a character is a token."""
    specials = ["<unk>", "<pad>", "<|end|>", "<|user|>", "<|assistant|>", *PREFIXES]
    characters = ["\n", *map(chr, range(32, 127))]
    vocabulary = {token: number for number, token in enumerate(specials + characters)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "<|end|>"}
    model.save_pretrained(folder)
    Fast(tokenizer_object=backend, extra_special_tokens=specials[3:], chat_template=CHAT, **names).save_pretrained(
        folder
    )
    return str(folder)


def tiny_models(folder: Path) -> dict[str, str]:
    """Folders of models without training, as `save_pretrained` leaves them."""
    torch.manual_seed(0)
    size = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    size |= {"intermediate_size": 64, "max_position_embeddings": 512, "initializer_range": 0.1, "pad_token_id": 1}
    tiny = {
        "reward": LlamaForSequenceClassification(LlamaConfig(num_labels=1, **size)),
        "pairwise-lm": LlamaForCausalLM(LlamaConfig(**size)),
        "gpm": LlamaForCausalLM(LlamaConfig(**size)),
        "pairrm": PairRM(DebertaV2Config(**size)),
    }
    paths = {key: save(model, folder / key) for key, model in tiny.items()}
    weights = folder / "gpm" / "model.safetensors"  # a GPM is a language model and a head
    save_file({**load_file(weights), "value_head.weight": torch.randn(6, 32)}, weights, metadata={"format": "pt"})
    return {**paths, "dpo": f"{paths['pairwise-lm']},{paths['gpm']}"}


class Server(BaseHTTPRequestHandler):
    """Says A with probability .7, whatever A is: the mean of both orders is .5."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        top = [{"token": token, "logprob": math.log(p)} for token, p in (("A", 0.7), ("B", 0.3))]
        choice = {"message": {"content": "A"}, "logprobs": {"content": [{"token": "A", "top_logprobs": top}]}}
        reply = json.dumps({"choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *arguments):
        pass


def shorter(prompts, first, second):
    return [float(len(a) < len(b)) for a, b in zip(first, second, strict=True)]


async def slowly(prompts, first, second):
    async def ask(a, b):
        await asyncio.sleep(0.01)  # a request of your own
        return 0.8 if "Blue" in a else 0.4

    return await asyncio.gather(*map(ask, first, second))


def main() -> dict[str, float]:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        judges = {key: load_judge(f"{key}:{path}") for key, path in tiny_models(Path(folder)).items()}
        judges["openai"] = load_judge(f"openai:tiny@{url}", cache=None)
        judges["genrm"] = load_judge(f"genrm:CompassJudger@{url}", votes=4, cache=None)
        judges["function"] = load_judge(shorter)
        judges["async function"] = load_judge(slowly)
        judges["ensemble"] = load_judge([judges["reward"], shorter])
        judges["length-debiased"] = load_judge("length-debiased", judge=shorter, coefficient=-3.0)
        verdicts = {name: judge([PROMPT], [FIRST], [SECOND])[0] for name, judge in judges.items()}
        print(f"{PROMPT} {FIRST!r} or {SECOND!r}?\n\n{'judge':18}P(first)  position bias")
        for name, p in verdicts.items():
            bias = judges[name].tally.position_bias  # nan for judges that are asked in one order
            print(f"{name:18}{p:8.3f}  {bias:13.3f}".replace("nan", "  -"))
    server.shutdown()
    return verdicts


if __name__ == "__main__":
    main()
