# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What vLLM's released wheels say of the calls that TRL and this package make: the signatures that `fake_vllm.py` obeys.

They are read from the source in the wheels, without importing it, and kept in `vllm_signatures.json`:

    pip download --no-deps --only-binary=:all: vllm==0.22.0 -d wheels   # the oldest and the newest that TRL supports
    pip download --no-deps --only-binary=:all: vllm==0.31.0 -d wheels
    python tests/generation/vllm_signatures.py wheels/*.whl
"""

import ast
import inspect
import json
import sys
import zipfile
from pathlib import Path


FILE = Path(__file__).with_suffix(".json")
# file in the wheel: functions whose parameters matter, and classes whose fields are what they can be given
_CALLS = {
    "vllm/entrypoints/llm.py": ["LLM.__init__", "LLM.generate", "LLM.sleep", "LLM.wake_up", "LLM.reset_prefix_cache"],
    "vllm/outputs.py": ["RequestOutput.__init__"],
    "vllm/utils/network_utils.py": ["get_ip"],
    "vllm/distributed/weight_transfer/nccl_common.py": ["trainer_init"],
    "vllm/distributed/weight_transfer/packed_tensor.py": ["packed_nccl_broadcast_producer"],
}
_FIELDS = {
    "vllm/engine/arg_utils.py": ["EngineArgs"],
    "vllm/sampling_params.py": ["SamplingParams", "StructuredOutputsParams"],
    "vllm/outputs.py": ["CompletionOutput"],
    "vllm/logprobs.py": ["Logprob"],
    "vllm/entrypoints/openai/completion/protocol.py": ["CompletionRequest"],
}
_KINDS = [
    ("posonlyargs", inspect.Parameter.POSITIONAL_ONLY),
    ("args", inspect.Parameter.POSITIONAL_OR_KEYWORD),
    ("vararg", inspect.Parameter.VAR_POSITIONAL),
    ("kwonlyargs", inspect.Parameter.KEYWORD_ONLY),
    ("kwarg", inspect.Parameter.VAR_KEYWORD),
]


def signatures(wheel: zipfile.ZipFile) -> dict[str, dict[str, list]]:
    """By name: the parameters of functions as `[name, kind, has a default]`, the fields of classes by name."""
    calls, fields, names = {}, {}, set(wheel.namelist())
    for file in sorted({*_CALLS, *_FIELDS} & names):
        tree = ast.parse(wheel.read(file))
        for name in _CALLS.get(file, []):
            if (found := _find(tree, name)) is not None:
                calls[name] = _parameters(found.args)
        for name in _FIELDS.get(file, []):
            body = _find(tree, name).body
            fields[name] = [line.target.id for line in body if isinstance(line, ast.AnnAssign)]
    return {"calls": calls, "fields": fields}


def _find(tree: ast.AST, name: str):
    for part in name.split("."):
        matching = [node for node in tree.body if getattr(node, "name", None) == part]
        if not matching:
            return None
        tree = matching[-1]  # behind its overloads
    return tree


def _parameters(arguments: ast.arguments) -> list[list]:
    found = []
    positional = len(arguments.posonlyargs) + len(arguments.args)
    defaults = [False] * (positional - len(arguments.defaults)) + [True] * len(arguments.defaults)
    for attribute, kind in _KINDS:
        given = getattr(arguments, attribute) or []
        for index, argument in enumerate(given if isinstance(given, list) else [given]):
            if attribute == "kwonlyargs":
                optional = arguments.kw_defaults[index] is not None
            else:
                optional = attribute in ("posonlyargs", "args") and defaults.pop(0)
            found.append([argument.arg, int(kind), optional])
    return found


if __name__ == "__main__":
    read = {}
    for path in sys.argv[1:]:
        with zipfile.ZipFile(path) as wheel:
            read[Path(path).name.split("-")[1]] = signatures(wheel)
    entries = [
        f' "{version} {part} {name}": {json.dumps(entry)}'
        for version, parts in sorted(read.items())
        for part in sorted(parts)
        for name, entry in sorted(parts[part].items())
    ]
    FILE.write_text("{\n" + ",\n".join(entries) + "\n}\n")
