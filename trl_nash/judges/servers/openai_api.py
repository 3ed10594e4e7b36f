# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Judges behind an OpenAI-compatible server: OpenAI, `vllm serve`, TGI, Ollama, llama.cpp, the Hugging Face router."""

import functools
import json
import logging
import math
import os
from collections.abc import Callable
from typing import Any, TypeVar

from ..base import Abstained
from ..questions.template import QuestionTemplate, as_text
from ..questions.verdicts import mean_verdict
from .pace import RequestFailed
from .remote import RemoteJudge
from .server import ChatServer, Declined, ModeFailed, TimedOut, find_server, host_of


logger = logging.getLogger(__name__)
T = TypeVar("T")

HF_ROUTER = "https://router.huggingface.co/v1"
MODES = ("auto", "logprobs", "structured", "text")
MAX_TOKENS = {"logprobs": 1, "structured": 1024, "text": 4096}
PROBE = ("What is 2 + 2?", "2 + 2 is 4.", "2 + 2 is 5.")  # what a server is asked to find out what it can
SHORTEST_CUT = 200  # characters of a prompt; shorter ones are not cut further
SLOWEST = 10.0  # tokens a second of one answer on a busy server


class OpenAIJudge(RemoteJudge):
    """
    A language model behind a server with OpenAI's API for chat completions, as a judge.

    Args:
        model (`str`):
            Name of the model on the server, or `model@http://host:port/v1`.
        base_url (`str`, *optional*):
            The server; by default `$OPENAI_BASE_URL`, or OpenAI's.
        prompt (`str`, *optional*, defaults to `"pair"`):
            The question: `"pair"`, `"alpaca-eval"`, `"mt-bench"`, `"arena-hard"`, or the path of a Jinja file
            ([`~judges.questions.template.QuestionTemplate`]).
        verdict_pattern (`str` or `dict`, *optional*):
            How the answer's verdict is found if not by the prompt's labels or verdicts: a preset, a regular
            expression with named groups, or a table ([`~judges.questions.verdicts.VerdictPattern`]). Answers are then
            text.
        mode (`str`, *optional*, defaults to `"auto"`):
            How the answer is read. `"logprobs"`: the probabilities of the labels as the first token, relative to each
            other. `"structured"`: JSON that the server holds the model to, 0 or 1. `"text"`: the model's own words.
            `"auto"` takes the first of them that one question more shows to work, and warns if that is not the first.
            A mode that the server answers with an error or not at all is one that does not work. A prompt with
            `verdicts` instead of labels is read as text. What was cut at `max_tokens` is no verdict.
        votes (`int`, *optional*, defaults to 1):
            Answers that are sampled, at temperature 1 if `request` does not say: the probability is the mean of their
            verdicts. Where fewer than half of them have one, the question abstains. Answers are then text.
        timeout (`float`, *optional*):
            Seconds of silence after which a request has failed. By default 60, and one more for every 10 tokens that
            the answer may have: reasoning takes its time.
        request (`dict`, *optional*):
            Further parameters of the request; `None` removes one. The judge itself sets `temperature` 0, `max_tokens`
            and, for logprobs, `top_logprobs` 20. A server that refuses one of these is asked again without it
            (`max_completion_tokens` for `max_tokens`, 5 for 20), and from then on.
        api_key_env (`str`, *optional*, defaults to `"OPENAI_API_KEY"`):
            Environment variable with the key. It is sent to the server and nowhere else. Servers named by a URL may do
            without.
        kwargs:
            `order`, `concurrency`, `max_retries`, `requests_per_minute`, `max_failures`, `budget` and `cache`; see
            [`~judges.servers.remote.RemoteJudge`].

    Attributes:
        usage (`Counter`):
            `requests`, `failed_requests`, `seconds`, `prompt_tokens`, `completion_tokens` and `cut_prompts` so far. A
            prompt too long for the server loses its left half, again and again; responses are never cut.

    Raises:
        `ImportError`: If `openai` is not installed.
        `ValueError`: If an argument cannot be, or there is no key where one is needed.

    Example:

    ```python
    >>> judge = OpenAIJudge("Qwen/Qwen3-8B", base_url="http://localhost:8000/v1")
    >>> judge = load_judge("openai:Qwen/Qwen3-8B@http://localhost:8000/v1", concurrency=64)
    ```
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        prompt: str = "pair",
        verdict_pattern: str | dict[str, float] | None = None,
        mode: str = "auto",
        votes: int = 1,
        timeout: float | None = None,
        request: dict[str, Any] | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        **kwargs,
    ):
        self.request = dict(request or {})
        self.model, self.base_url = find_server(model, base_url, api_key_env)
        self.prompt = QuestionTemplate(prompt, verdict_pattern)
        self.verdict_pattern = verdict_pattern
        self.timeout = timeout
        if mode not in MODES:
            raise ValueError(f"`mode` is one of {', '.join(map(repr, MODES))}; got {mode!r}.")
        if self.prompt.pattern is not None and mode not in ("auto", "text"):
            raise ValueError(
                f"The prompt {prompt!r} is answered in sentences, so `mode` must be 'text'; got {mode!r}."
            )
        if votes < 1 or (votes > 1 and mode not in ("auto", "text")):
            raise ValueError(
                f"`votes` is a number of sampled answers, 1 or more, which are read as text; got {votes} with the "
                f"mode {mode!r}."
            )
        if timeout is not None and (not isinstance(timeout, int | float) or not timeout > 0):
            raise ValueError(f"`timeout` must be a positive number of seconds; got {timeout!r}.")
        if taken := sorted({"model", "messages", "stream", "n"} & set(self.request)):
            raise ValueError(f"`request` cannot set {taken[0]!r}, which the judge does.")
        if unknown := sorted(set(kwargs) - set(RemoteJudge.__init__.__kwdefaults__)):
            own = ("base_url", "prompt", "verdict_pattern", "mode", "votes", "timeout", "request", "api_key_env")
            raise ValueError(
                f"The judge {model!r} takes no argument {unknown[0]!r}; it takes "
                f"{', '.join((*own, *RemoteJudge.__init__.__kwdefaults__))}."
            )
        self.chat = ChatServer(self.model, self.base_url, api_key_env, fixed=self.request)
        self.mode = "text" if self.prompt.pattern is not None or votes > 1 else mode
        self.votes = votes
        # How answers are read; logprobs are tried first, as servers drop them without a word.
        self._reads = self.mode if self.mode in ("structured", "text") else None
        super().__init__(server=self.base_url, **kwargs)

    @property
    def name(self) -> str:
        return f"openai:{self.model}"

    def _read(self, choice: dict[str, Any], mode: str) -> float | None:
        """The verdict of an answer in words."""
        if is_refused(choice):
            return Abstained("refused")
        return Abstained("cut") if choice.get("finish_reason") == "length" else self.prompt.read(choice, mode)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, base_url={self.base_url!r}, mode={self.mode!r})"

    @property
    def identity(self) -> str:
        return json.dumps(
            {
                "family": "openai",
                "base_url": self.base_url,
                "model": self.model,
                "mode": self.mode,
                "prompt": self.prompt.source,
                "verdict_pattern": self.verdict_pattern,
                "request": self.request,
                **({"votes": self.votes} if self.votes > 1 else {}),  # others keep the answers that they have
            },
            sort_keys=True,
        )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(self.prompt.columns)

    def __call__(self, prompts, first, second, **columns):
        if missing := [name for name in self.prompt.columns if name not in columns]:
            raise ValueError(f"The prompt of {self.name} uses the column {missing[0]!r}, which the dataset lacks.")
        # Columns that the question does not show must not make two questions different.
        return super().__call__(prompts, first, second, **{name: columns[name] for name in self.prompt.columns})

    def prepare(self, attempt):
        if self._reads is not None:
            return
        modes = ("logprobs", "structured", "text") if self.mode == "auto" else (self.mode,)
        columns = dict.fromkeys(self.prompt.columns, "")
        why = ""

        def once(send):  # while it is found out what the server can, silence is an answer
            return attempt(functools.partial(without_retry, send))

        for mode in modes:
            try:
                answer = self._answer(once, PROBE, mode, False, columns)
            except RequestFailed as error:
                if error.retry and not isinstance(error, ModeFailed):
                    raise self.ended(str(error)) from None
                answer, why = None, f" ({error})"
            if answer is not None and not math.isnan(answer):
                break
        else:
            how = "" if self.mode == "auto" else "; try `mode='text'`"
            raise self.ended(f"it gives no answer that can be read as {' or '.join(modes)}{why}{how}")
        if mode != "logprobs":
            logger.warning(
                f"{self.name} at {self.server} serves no logprobs of the answer{why}: its answers are read as {mode}, "
                f"which gives 0 or 1 instead of probabilities."
            )
        self._reads = mode

    def ask(self, attempt, prompt, first, second, **columns):
        text = as_text(prompt)
        answer = self._verdict(attempt, (prompt, first, second), columns)
        # Only the server knows its context, so the left half of the prompt is left out until the rest fits.
        while getattr(answer, "reason", None) == "too long" and len(text) >= 2 * SHORTEST_CUT:
            if len(text) == len(as_text(prompt)):
                self.pace.count(cut_prompts=1)
            text = text[len(text) // 2 :]
            answer = self._verdict(attempt, (text, first, second), columns)
        return answer

    def _verdict(self, attempt, question, columns: dict) -> float:
        for strict in (False, True):
            answer = self._answer(attempt, question, self._reads, strict, columns)
            if answer is not None:
                if not math.isnan(answer):
                    with self._lock:
                        self.tally.modes[self._reads] += 1
                return answer
        return Abstained("unparsable")

    def _answer(self, attempt, question, mode: str, strict: bool, columns: dict) -> float | None:
        """The probability, [`Abstained`], or `None` if the reply cannot be read."""
        body = {
            "messages": self.prompt.render(*question, mode=mode, strict=strict, **columns),
            "temperature": 0.0 if self.votes == 1 else 1.0,
            "max_tokens": MAX_TOKENS[mode],
        }
        if mode == "logprobs":
            body |= {"logprobs": True, "top_logprobs": 20}
        elif mode == "structured":
            schema = {
                "type": "object",
                "properties": {"better": {"type": "string", "enum": list(self.prompt.labels)}},
                "required": ["better"],
                "additionalProperties": False,
            }
            schema = {"name": "verdict", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        body = {name: value for name, value in (body | self.request).items() if value is not None}
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or MAX_TOKENS["text"]
        timeout = self.timeout or 60.0 + limit / SLOWEST
        choices: list[dict[str, Any]] = []
        while len(choices) < self.votes:  # servers that know no `n` give one at a time
            left = self.votes - len(choices)
            try:
                reply = self.chat.complete(attempt, body | ({"n": left} if left > 1 else {}), timeout)
            except Declined as declined:
                return Abstained(declined.reason)
            self.pace.count(**reply.usage)
            choices += reply.choices[:left]
        if mode != "logprobs":
            return mean_verdict([self._read(choice, mode) for choice in choices])
        choice = choices[0]
        if is_refused(choice):
            return Abstained("refused")
        if (found := self.prompt.read_logprobs(choice)) is None:
            return None
        probability, mass = found
        if self._reads is not None:
            with self._lock:
                self.tally.add_label_mass(mass)
        return probability


def is_refused(choice: dict[str, Any]) -> bool:
    return choice.get("finish_reason") == "content_filter" or bool(choice["message"].get("refusal"))


class HFJudge(OpenAIJudge):
    """[`OpenAIJudge`] on Hugging Face's inference providers: another server, and the key in `HF_TOKEN`."""

    def __init__(self, model: str, *, base_url: str = HF_ROUTER, api_key_env: str = "HF_TOKEN", **kwargs):
        if not os.environ.get(api_key_env):
            raise ValueError(f"{host_of(base_url)} needs a token: set the environment variable {api_key_env}.")
        super().__init__(model, base_url=base_url, api_key_env=api_key_env, **kwargs)


def without_retry(send: Callable[[], T]) -> T:
    """What `send` returns; if the server is silent, it is not asked again."""
    try:
        return send()
    except TimedOut as error:
        error.retry = False
        raise
