# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
The sizes of models that are often trained, so that they can be planned by name where no hub is at hand.

They are facts of the models' `config.json`, read in litgpt's table of configurations (Lightning-AI/litgpt,
`litgpt/config.py`, June 2026); whether embeddings are tied is of the `config.json` itself. A test builds each model
and holds its number of parameters against the one that its page on the hub gives.
"""

import difflib
import re
from typing import NamedTuple


class Known(NamedTuple):
    """A model, in the names of transformers' configurations."""

    names: str  # after [`short`], divided by blanks
    parameters: int  # of its page on the hub, tied ones once
    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool


# fmt: off
KNOWN = tuple(Known(*row) for row in (
    ("smollm2-135m", 134_515_008, "llama", 576, 1536, 30, 9, 3, 64, 49152, True),
    ("smollm2-360m", 361_821_120, "llama", 960, 2560, 32, 15, 5, 64, 49152, True),
    ("smollm2-1.7b", 1_711_376_384, "llama", 2048, 8192, 24, 32, 32, 64, 49152, True),
    ("tinyllama-1.1b", 1_100_048_384, "llama", 2048, 5632, 22, 32, 4, 64, 32000, False),
    ("llama-2-7b", 6_738_415_616, "llama", 4096, 11008, 32, 32, 32, 128, 32000, False),
    ("llama-2-13b", 13_015_864_320, "llama", 5120, 13824, 40, 40, 40, 128, 32000, False),
    ("llama-2-70b", 68_976_648_192, "llama", 8192, 28672, 80, 64, 8, 128, 32000, False),
    ("llama-3.2-1b", 1_235_814_400, "llama", 2048, 8192, 16, 32, 8, 64, 128256, True),
    ("llama-3.2-3b", 3_212_749_824, "llama", 3072, 8192, 28, 24, 8, 128, 128256, True),
    ("llama-3-8b llama-3.1-8b llama-3-sft", 8_030_261_248, "llama", 4096, 14336, 32, 32, 8, 128, 128256, False),
    ("llama-3-70b llama-3.1-70b llama-3.3-70b",
     70_553_706_496, "llama", 8192, 28672, 80, 64, 8, 128, 128256, False),
    ("mistral-7b mistral-7b-v0.1 mistral-7b-v0.2",
     7_241_732_096, "mistral", 4096, 14336, 32, 32, 8, 128, 32000, False),
    ("mistral-7b-v0.3", 7_248_023_552, "mistral", 4096, 14336, 32, 32, 8, 128, 32768, False),
    ("gemma-2b", 2_506_172_416, "gemma", 2048, 16384, 18, 8, 1, 256, 256000, True),
    ("gemma-7b", 8_537_680_896, "gemma", 3072, 24576, 28, 16, 16, 256, 256000, True),
    ("gemma-2-2b", 2_614_341_888, "gemma2", 2304, 9216, 26, 8, 4, 256, 256000, True),
    ("gemma-2-9b", 9_241_705_984, "gemma2", 3584, 14336, 42, 16, 8, 256, 256000, True),
    ("gemma-2-27b", 27_227_128_320, "gemma2", 4608, 36864, 46, 32, 16, 128, 256000, True),
    ("gemma-3-1b", 999_885_952, "gemma3_text", 1152, 6912, 26, 4, 1, 256, 262144, True),
    ("qwen2.5-0.5b qwen2-0.5b", 494_032_768, "qwen2", 896, 4864, 24, 14, 2, 64, 151936, True),
    ("qwen2.5-1.5b qwen2-1.5b", 1_543_714_304, "qwen2", 1536, 8960, 28, 12, 2, 128, 151936, True),
    ("qwen2.5-3b", 3_085_938_688, "qwen2", 2048, 11008, 36, 16, 2, 128, 151936, True),
    ("qwen2.5-7b qwen2-7b", 7_615_616_512, "qwen2", 3584, 18944, 28, 28, 4, 128, 152064, False),
    ("qwen2.5-14b", 14_770_033_664, "qwen2", 5120, 13824, 48, 40, 8, 128, 152064, False),
    ("qwen2.5-32b", 32_763_876_352, "qwen2", 5120, 27648, 64, 40, 8, 128, 152064, False),
    ("qwen2.5-72b qwen2-72b", 72_706_203_648, "qwen2", 8192, 29568, 80, 64, 8, 128, 152064, False),
    ("qwen3-0.6b", 596_049_920, "qwen3", 1024, 3072, 28, 16, 8, 128, 151936, True),
    ("qwen3-1.7b", 1_720_574_976, "qwen3", 2048, 6144, 28, 16, 8, 128, 151936, True),
    ("qwen3-4b", 4_022_468_096, "qwen3", 2560, 9728, 36, 32, 8, 128, 151936, True),
    ("qwen3-8b", 8_190_735_360, "qwen3", 4096, 12288, 36, 32, 8, 128, 151936, False),
    ("qwen3-14b", 14_768_307_200, "qwen3", 5120, 17408, 40, 40, 8, 128, 151936, False),
    ("qwen3-32b", 32_762_123_264, "qwen3", 5120, 25600, 64, 64, 8, 128, 151936, False),
))
# fmt: on
_BY_NAME = {name: known for known in KNOWN for name in known.names.split()}
# What makes no other sizes: instruction tuning, a date, a file format.
_TUNED = re.compile(r"-(instruct|it|chat|base|hf|2507|v1\.0)(?=-|$)")


def short(name: str) -> str:
    """`meta-llama/Meta-Llama-3-8B-Instruct` is `llama-3-8b`."""
    name = name.rpartition("/")[2].lower().replace("_", "-").removeprefix("meta-")
    name = re.sub(r"^llama-?3", "llama-3", name)
    return _TUNED.sub("", name)


def known_config(name: str):
    """The configuration of a model that is known by its name, or `None`."""
    known = _BY_NAME.get(short(name))
    if known is None:
        return None
    from transformers import AutoConfig

    values = known._asdict()
    return AutoConfig.for_model(**{key: values[key] for key in Known._fields[2:]})


def near(name: str) -> list[str]:
    """Names of known models that are like this one, the likest first."""
    return difflib.get_close_matches(short(name), _BY_NAME, n=3, cutoff=0.5)
