# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
A fake of vLLM: no kernels, no scheduler and no GPU, but the calls of the released wheels, the weights that are pushed
to it, and completions that are sampled from just these, by the model class of transformers.

It can be called as the wheels say in `vllm_signatures.json`, and in no other way. TRL's `VLLMGeneration` and
`VLLMClient` run on it as they are; what goes over NCCL in truth goes through a queue.
"""

import functools
import importlib
import inspect
import json
import queue
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig
from vllm_signatures import FILE


NEWEST = "0.31.0"
_RECORDED = json.loads(FILE.read_text())
VERSIONS = sorted({key.split()[0] for key in _RECORDED})
_version = NEWEST


def fields_of(name: str) -> list[str]:
    return _RECORDED[f"{_version} fields {name}"]


def as_in_the_wheel(name: str):
    """A function that can be called as the wheel's `name` can; it gets those of the arguments that it knows."""

    def decorate(function):
        known = inspect.signature(function).parameters

        @functools.wraps(function)
        def call(*args, **kwargs):
            signature = inspect.Signature(
                [
                    inspect.Parameter(p, kind, default=None if optional else inspect.Parameter.empty)
                    for p, kind, optional in _RECORDED[f"{_version} calls {name}"]
                ]
            )
            given = signature.bind(*args, **kwargs).arguments
            return function(**{p: value for p, value in given.items() if p in known})

        return call

    return decorate


class Options:
    """A class of the wheel that holds what it is given, if it is a field of the wheel's."""

    def __init__(self, **given):
        assert given.keys() <= set(fields_of(type(self).__name__)), given
        vars(self).update(given)


class SamplingParams(Options):
    pass


class StructuredOutputsParams(Options):
    pass


class CompletionOutput(Options):
    pass


class Logprob(Options):
    pass


class RequestOutput:
    @as_in_the_wheel("RequestOutput.__init__")
    def __init__(self, request_id, prompt_token_ids, outputs):
        self.request_id, self.prompt_token_ids, self.outputs = request_id, prompt_token_ids, outputs


class Engine:
    """Weights, and samples from them."""

    def __init__(self, path: str, seed: int):
        # Not by `from_pretrained`, which would take it apart under ZeRO-3.
        config = AutoConfig.from_pretrained(path)
        self.model = getattr(transformers, config.architectures[0])(config).eval()
        self.model.load_state_dict(load_file(f"{path}/model.safetensors"), strict=not config.tie_word_embeddings)
        self.generator = torch.Generator().manual_seed(seed)
        self.loads = dict.fromkeys((name for name, _ in self.model.named_parameters()), 0)
        self.requests: list[tuple[list[list[int]], SamplingParams]] = []

    def load_weights(self, weights) -> None:
        parameters = dict(self.model.named_parameters())
        for name, weight in weights:
            assert parameters[name].shape == weight.shape, name
            parameters[name].data.copy_(weight)
            self.loads[name] += 1

    @property
    def pushes(self) -> int:
        """How often all weights were pushed."""
        (count,) = set(self.loads.values())
        return count

    @torch.no_grad()
    def sample(self, prompts: list[list[int]], params: SamplingParams) -> list[list[tuple[list[int], list[float]]]]:
        """For each prompt n completions with the log-probs of their tokens, which are those after temperature."""
        self.requests.append((prompts, params))
        options = vars(params)
        assert options.get("top_p", 1) == 1 and options.get("top_k", 0) in (0, -1) and not options.get("min_p")
        found = []
        for prompt in prompts:
            tokens = torch.tensor([prompt] * params.n)
            logps = torch.zeros(params.n, 0)
            for _ in range(params.max_tokens):
                logits = self.model(input_ids=tokens).logits[:, -1].float() / params.temperature
                drawn = torch.multinomial(logits.softmax(-1), 1, generator=self.generator)
                logps = torch.cat([logps, logits.log_softmax(-1).gather(-1, drawn)], 1)
                tokens = torch.cat([tokens, drawn], 1)
            found.append([])
            for row, values in zip(tokens[:, len(prompt) :].tolist(), logps.tolist(), strict=True):
                ends = [place for place, token in enumerate(row) if token in params.stop_token_ids]
                end = ends[0] + 1 if ends else len(row)
                found[-1].append((row[:end], values[:end]))
        return found


class LLM:
    """vLLM's offline engine."""

    made: list["LLM"] = []

    @as_in_the_wheel("LLM.__init__")
    def __init__(self, model, kwargs, tensor_parallel_size=1, seed=0, **options):
        assert kwargs.keys() <= set(fields_of("EngineArgs")), kwargs
        LLM.made.append(self)
        torch.manual_seed(seed)  # as workers do
        self.options, self.engine = kwargs, Engine(model, seed)
        self.awake = {"weights", "kv_cache"}
        worker = SimpleNamespace(model_runner=SimpleNamespace(model=self.engine))
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=worker))

    @as_in_the_wheel("LLM.sleep")
    def sleep(self, level=1):
        assert level == 2 and self.options["enable_sleep_mode"]
        self.awake = set()
        for parameter in self.engine.model.parameters():
            parameter.data.fill_(torch.nan)

    @as_in_the_wheel("LLM.wake_up")
    def wake_up(self, tags=None):
        self.awake |= set(tags)

    @as_in_the_wheel("LLM.reset_prefix_cache")
    def reset_prefix_cache(self):
        return True

    @as_in_the_wheel("LLM.generate")
    def generate(self, prompts, sampling_params=None):
        assert self.awake == {"weights", "kv_cache"}
        rows = [prompt["prompt_token_ids"] for prompt in prompts]
        return [
            RequestOutput(str(index), None, row, None, [_output(*drawn) for drawn in completions], True)
            for index, (row, completions) in enumerate(
                zip(rows, self.engine.sample(rows, sampling_params), strict=True)
            )
        ]


def _output(tokens: list[int], logps: list[float]) -> CompletionOutput:
    pairs = zip(tokens, logps, strict=True)
    return CompletionOutput(
        token_ids=tuple(tokens), logprobs=[{token: Logprob(logprob=value, rank=1)} for token, value in pairs]
    )


# ---- A server, and how weights come to it ----


@as_in_the_wheel("trainer_init")
def trainer_init(init_info):
    return SimpleNamespace(group=SimpleNamespace(store=None, socket=None), tensors=Server.running.tensors)


@as_in_the_wheel("packed_nccl_broadcast_producer")
def packed_nccl_broadcast_producer(iterator, group, src, post_iter_func):
    group.tensors.put([post_iter_func(item).clone() for item in iterator])


@as_in_the_wheel("get_ip")
def get_ip():
    return "127.0.0.1"


class Server:
    """`vllm serve` on a free port of this machine. A context manager."""

    running: "Server"

    def __init__(self, path: str, logprobs_mode: str = "processed_logprobs"):
        self.path, self.engine, self.log = path, Engine(path, 0), []
        self.tensors: queue.Queue = queue.Queue()
        self.info = {"weight_transfer_config": {"backend": "nccl"}, "model_config": {"logprobs_mode": logprobs_mode}}
        handler = type("Handler", (_Handler,), {"vllm": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        Server.running = self
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()

    def update(self, names: list[str], dtype_names: list[str], shapes: list[list[int]]) -> None:
        tensors = self.tensors.get(timeout=60)
        for tensor, dtype, shape in zip(tensors, dtype_names, shapes, strict=True):
            assert tensor.dtype == getattr(torch, dtype) and list(tensor.shape) == shape
        self.engine.load_weights(zip(names, tensors, strict=True))

    def complete(self, body: dict) -> dict:
        assert body.keys() <= set(fields_of("CompletionRequest")), body
        assert body["return_token_ids"] and body["return_tokens_as_token_ids"] and body["logprobs"] == 0
        params = SamplingParams(**{name: body[name] for name in body.keys() & set(fields_of("SamplingParams"))})
        choices = []
        for prompt, completions in zip(body["prompt"], self.engine.sample(body["prompt"], params), strict=True):
            for tokens, values in completions:
                names = [f"token_id:{token}" for token in tokens]
                logprobs = {"tokens": names, "token_logprobs": values}
                logprobs["top_logprobs"] = [{name: value} for name, value in zip(names, values, strict=True)]
                choices.append({"prompt_token_ids": prompt, "token_ids": tokens, "logprobs": logprobs})
        return {"choices": choices}


class _Handler(BaseHTTPRequestHandler):
    vllm: Server

    def log_message(self, *args):
        pass

    def do_GET(self):
        path = self.path.split("?")[0]
        answers = {
            "/health": {},
            "/v1/models": {"data": [{"id": self.vllm.path}]},
            "/server_info": {"vllm_config": self.vllm.info},
            "/get_world_size": {"world_size": 1},
        }
        self._answer(answers[path])

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        self.vllm.log.append(self.path)
        if self.path == "/update_weights":
            self.vllm.update(**body["update_info"])
        self._answer(self.vllm.complete(body) if self.path == "/v1/completions" else {"success": True})

    def _answer(self, value: dict) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


# ---- Where TRL looks for it ----


@contextmanager
def installed(version: str = NEWEST):
    """Within it the fake is what `import vllm` finds, and TRL's two modules that do have imported it."""
    transfer = "vllm.distributed.weight_transfer"
    contents = {
        "vllm": {"LLM": LLM, "RequestOutput": RequestOutput, "SamplingParams": SamplingParams, "__version__": version},
        "vllm.sampling_params": {"StructuredOutputsParams": StructuredOutputsParams},
        "vllm.utils": {},
        "vllm.utils.network_utils": {"get_ip": get_ip},
        "vllm.distributed": {},
        transfer: {},
        f"{transfer}.packed_tensor": {"packed_nccl_broadcast_producer": packed_nccl_broadcast_producer},
        f"{transfer}.nccl_common": {"trainer_init": trainer_init},
        # Of versions before 0.28, of which only the offline engine is run here.
        f"{transfer}.nccl_engine": {"NCCLTrainerSendWeightsArgs": None, "NCCLWeightTransferEngine": None},
    }
    fakes = {}
    for name, content in contents.items():
        fakes[name] = ModuleType(name)
        fakes[name].__spec__, fakes[name].__file__, fakes[name].__path__ = ModuleSpec(name, None), "fake", []
        vars(fakes[name]).update(content)
    users = [importlib.import_module(f"trl.generation.{name}") for name in ("vllm_client", "vllm_generation")]
    before = [dict(vars(module)) for module in users]
    with (
        patch.dict(sys.modules, fakes),
        patch.object(sys.modules[__name__], "_version", version),
        patch.object(LLM, "made", []),
    ):
        try:
            for module in users:
                importlib.reload(module)  # in place: whoever has its classes calls the fake
            # It asks for CUDA, and does nothing there unless the device has a number.
            client = users[0].VLLMClient
            connect = client.init_communicator
            client.init_communicator = lambda client, device: connect(client, "cuda")
            yield
        finally:
            for module, contents in zip(users, before, strict=True):
                vars(module).clear()
                vars(module).update(contents)
