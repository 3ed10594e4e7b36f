# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Reward models behind a server: vLLM's `/pooling` and `/classify`, SGLang's `/classify`, OpenRLHF's remote RM."""

import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from ...usage import did_you_mean
from ..base import Abstained, JudgeError, Prompt, joined
from ..local.loading import load_tokenizer
from ..questions.template import SPECIAL_TOKENS
from ..questions.text import Message, Neutraliser, as_messages
from ..servers.pace import NoMoreAnswers, Pace, RequestFailed, Stopped
from ..servers.server import ChatServer, Declined, find_server
from ..store import as_store
from .judge import RewardJudge


TEXTS_A_REQUEST = 32
_SPECIAL = re.compile("|".join(SPECIAL_TOKENS))


class Protocol(NamedTuple):
    """How a server is asked: the path, the request of some texts, and the numbers in its reply, one for each."""

    path: str
    body: Callable[[str, list], dict[str, Any]]
    read: Callable[[Any], list[float]]
    renders: bool = False  # whether the server renders dialogues, one a request; else it gets texts


def _pooled(entry: Any) -> float:
    """The last token's number, where there is one for each token."""
    while isinstance(entry, list) and entry and isinstance(entry[-1], list):
        entry = entry[-1]
    return _number(entry)


def _number(entry: Any) -> float:
    if isinstance(entry, list) and len(entry) != 1:
        raise ValueError(f"{len(entry)} numbers for a text")
    return float(entry[0] if isinstance(entry, list) else entry)


PROTOCOLS = {
    # `use_activation` is vLLM's for the plain logit; by default it would be squeezed into (0, 1).
    "pooling": Protocol(
        "/pooling",
        lambda model, some: {
            "model": model,
            "messages": some[0],
            "add_generation_prompt": False,
            "use_activation": False,
        },
        lambda reply: [_pooled(entry["data"]) for entry in reply["data"]],
        renders=True,
    ),
    "classify": Protocol(
        "/classify",
        lambda model, some: {"model": model, "input": some, "add_special_tokens": False, "use_activation": False},
        lambda reply: [_number(entry["probs"]) for entry in sorted(reply["data"], key=lambda entry: entry["index"])],
    ),
    "sglang": Protocol(
        "/classify",
        lambda model, some: {"model": model, "text": some},
        lambda reply: [_number(entry["embedding"]) for entry in (reply if isinstance(reply, list) else [reply])],
    ),
    "openrlhf": Protocol(
        "/get_reward",
        lambda model, some: {"query": some},
        lambda reply: [_number(entry) for entry in reply["rewards"]],
    ),
}


class RewardServer:
    """
    A reward model behind a server as a reward function. A text to which there is no answer gets [`Abstained`].

    Args:
        server ([`~judges.servers.server.ChatServer`]): Where it is.
        protocol (`str`): A key of `PROTOCOLS`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Of the model; needed unless the server renders dialogues.
        concurrency (`int`), max_retries (`int`), timeout (`float`), chat_template_kwargs (`dict`):
            As of [`RewardServerJudge`].
    """

    def __init__(
        self, server: ChatServer, protocol: str, tokenizer=None, *, concurrency, max_retries, timeout, **kwargs
    ):
        self.server, self.protocol, self.tokenizer = server, PROTOCOLS[protocol], tokenizer
        self.concurrency, self.timeout = concurrency, timeout
        self.chat_template_kwargs = kwargs
        self.pace = Pace(max_retries)
        self.neutralise = Neutraliser(tokenizer) if tokenizer is not None else _neutralised
        self.__name__ = f"reward-server:{server.model}"
        # SGLang puts a beginning-of-text token before every text, whether it has one or not.
        self._doubled = tokenizer.bos_token if protocol == "sglang" and _begins_texts(tokenizer) else ""

    def __call__(self, prompts: list[Prompt], completions: list[str | list[Message]]) -> list[float]:
        asked = [self._render(*row) for row in zip(prompts, completions, strict=True)]
        size = 1 if self.protocol.renders else TEXTS_A_REQUEST
        chunks = [asked[start : start + size] for start in range(0, len(asked), size)]
        stop = threading.Event()
        with ThreadPoolExecutor(self.concurrency) as pool:
            answers = list(pool.map(partial(self._ask, stop), chunks))
        failures = [answer for answer in answers if isinstance(answer, Exception)]
        end = next((failure for failure in failures if isinstance(failure, NoMoreAnswers)), None)
        if end or (failures and all(isinstance(answer, RequestFailed) for answer in answers)):
            raise JudgeError(f"{self.__name__} cannot go on with {self.server.url}: {end or failures[0]}.")
        rewards: list[float] = []
        for chunk, answer in zip(chunks, answers, strict=True):
            reason = answer.reason if isinstance(answer, Declined) else "server"
            rewards += [Abstained(reason)] * len(chunk) if isinstance(answer, Exception) else answer
        return rewards

    def _render(self, prompt: Prompt, completion: str | list[Message]) -> Any:
        answer = self.neutralise(completion if isinstance(completion, str) else completion[0]["content"])
        messages = as_messages(prompt) if isinstance(prompt, str) else joined(prompt)
        messages = [*messages, {"role": "assistant", "content": answer}]
        if self.protocol.renders:
            return messages
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, **self.chat_template_kwargs)
        return text.removeprefix(self._doubled)

    def _ask(self, stop: threading.Event, some: list) -> list[float] | Exception:
        body = self.protocol.body(self.server.model, some)
        if self.protocol.renders and self.chat_template_kwargs:
            body["chat_template_kwargs"] = self.chat_template_kwargs
        try:
            return self.pace.attempt(stop, partial(self._send, body, len(some)))
        except NoMoreAnswers as error:
            stop.set()
            return error
        except (RequestFailed, Declined, Stopped) as error:
            return error

    def _send(self, body: dict[str, Any], count: int) -> list[float]:
        reply = self.server.post(self.protocol.path, body, self.timeout)
        try:
            rewards = self.protocol.read(reply)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise RequestFailed(f"its reply holds no rewards ({error})", retry=False) from None
        if len(rewards) != count:
            raise RequestFailed(f"it gave {len(rewards)} rewards for {count} texts", retry=False)
        return rewards


class RewardServerJudge(RewardJudge):
    r"""
    A reward model behind a server: `P(a ≻ b) = σ((r(a) - r(b)) / temperature)`. Every completion is scored once,
    whatever the number of pairs.

    Args:
        model (`str`):
            Name of the model on the server, `model@http://host:port`, or the URL alone for servers that know one.
        base_url (`str`, *optional*):
            The server. A path such as `/get_reward` at its end says which protocol it speaks.
        protocol (`str`, *optional*, defaults to `"pooling"`):
            `"pooling"` (`vllm serve MODEL --runner pooling`; the server renders dialogues), `"classify"` (vLLM's),
            `"sglang"` (`/classify` of a server with `--is-embedding`) or `"openrlhf"` (`openrlhf.cli.serve_rm`, and
            what else answers `{"query": [...]}` with `{"rewards": [...]}`).
        tokenizer (`str` or [`~transformers.PreTrainedTokenizerBase`], *optional*):
            Renders dialogues for all protocols but `"pooling"`; by default that of `model`.
        temperature (`float`, *optional*, defaults to 1.0):
            What reward differences are divided by, in units of the reward.
        concurrency (`int`, *optional*, defaults to 32), max_retries (`int`, *optional*, defaults to 5):
            As of [`~judges.servers.remote.RemoteJudge`].
        timeout (`float`, *optional*, defaults to 120.0):
            Seconds of silence after which a request has failed.
        api_key_env (`str`, *optional*, defaults to `"OPENAI_API_KEY"`):
            Environment variable with the key, if the server wants one.
        chat_template_kwargs (`dict`, *optional*):
            Arguments of the chat template.
        cache (`bool`, `str` or [`JudgementStore`], *optional*):
            Where preferences are kept: `True` for the default store, or a path.

    Raises:
        `ValueError`: If there is no such protocol or no server, or its texts cannot be rendered.
        [`JudgeError`]: When asked, if the server answers nothing.

    Example:

    ```python
    >>> judge = load_judge("reward-server:Skywork/Skywork-Reward-V2-Qwen3-8B@http://localhost:8000")
    >>> judge = load_judge("reward-server:http://localhost:5000/get_reward", tokenizer="Qwen/Qwen3-8B")
    ```
    """

    waits = True

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        protocol: str | None = None,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        temperature: float = 1.0,
        concurrency: int = 32,
        max_retries: int = 5,
        timeout: float = 120.0,
        api_key_env: str = "OPENAI_API_KEY",
        chat_template_kwargs: dict[str, Any] | None = None,
        cache: Any = None,
    ):
        if re.match("https?://", model):
            model, base_url = "", model
        elif base_url is None and not re.search("@https?://", model):
            raise ValueError(
                f"The judge `reward-server` needs a server, as in `reward-server:{model or 'MODEL'}@http://host:port`."
            )
        name, url = find_server(model or "unnamed", base_url, api_key_env, whose="reward model")
        url, path = re.fullmatch(r"(.*?)(?:/v1)?(/pooling|/classify|/get_reward|/v1)?", url).groups()
        if protocol is None:
            protocol = next((key for key, known in PROTOCOLS.items() if known.path == path), "pooling")
        if protocol not in PROTOCOLS:
            hint = did_you_mean(protocol, PROTOCOLS) or f": there are {', '.join(PROTOCOLS)}."
            raise ValueError(f"`protocol` of the judge `reward-server` cannot be {protocol!r}{hint}")
        for argument, value in {"concurrency": concurrency, "timeout": timeout}.items():
            if value <= 0:
                raise ValueError(f"`{argument}` of the judge `reward-server` must be positive, got {value}.")
        if not PROTOCOLS[protocol].renders and not isinstance(tokenizer, PreTrainedTokenizerBase):
            if tokenizer is None and not model:
                raise ValueError(f"The protocol {protocol!r} sends texts: pass the `tokenizer` that renders them.")
            tokenizer = load_tokenizer(tokenizer or name)
        if not PROTOCOLS[protocol].renders and tokenizer.chat_template is None:
            raise ValueError(f"The `tokenizer` of {name} has no chat template, which texts are rendered with.")
        self.name_on_server, self.protocol, self.base_url = name, protocol, url
        self._asked = RewardServer(
            ChatServer(name, url, api_key_env, "reward model"),
            protocol,
            None if PROTOCOLS[protocol].renders else tokenizer,
            concurrency=concurrency,
            max_retries=max_retries,
            timeout=timeout,
            **(chat_template_kwargs or {}),
        )
        super().__init__(self._asked, temperature=temperature)
        self.cache = as_store(cache)

    @property
    def usage(self):
        """`requests`, `failed_requests` and `seconds` so far."""
        return self._asked.pace.usage

    @property
    def identity(self) -> str:
        template = self._asked.chat_template_kwargs
        return json.dumps(
            ["reward-server", self.base_url, self.name_on_server, self.protocol, template, self.temperature]
        )


def _neutralised(text: str) -> str:
    """As of [`Neutraliser`], for a tokenizer that is not here: what looks like a special token gets a space."""
    while _SPECIAL.search(text):
        text = _SPECIAL.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
    return text


def _begins_texts(tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
