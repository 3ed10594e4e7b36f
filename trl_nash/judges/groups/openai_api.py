# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Group judges behind an OpenAI-compatible server: all completions of a prompt in one request."""

import json
import math
from functools import partial
from typing import Any

from ..base import Abstained
from ..questions.template import as_text
from ..servers.openai_api import without_retry
from ..servers.remote import RemoteJudge
from ..servers.server import ChatServer, Declined, ModeFailed, find_server
from .judge import GroupJudge
from .question import GroupQuestion


MODES = ("auto", "structured", "text")
MAX_TOKENS = 4096
SECONDS = 600.0  # of silence after which a request has failed: it reads much, and may reason
SHORTEST_CUT = 200  # characters of a prompt; shorter ones are not cut further


class OpenAIGroupJudge(GroupJudge, RemoteJudge):
    """
    A language model behind a server with OpenAI's API for chat completions, which sees all completions of a prompt in
    one request: two requests a prompt, forwards and backwards, whatever K is.

    Args:
        model (`str`):
            Name of the model on the server, or `model@http://host:port/v1`.
        base_url (`str`, *optional*):
            The server; by default `$OPENAI_BASE_URL`, or OpenAI's.
        prompt (`str`, *optional*, defaults to `"scores"`):
            The question: `"scores"`, a number from 0 to 10 for each; `"ranking"`; or the path of a Jinja file
            ([`~judges.groups.question.GroupQuestion`]).
        temperature (`float`, *optional*, defaults to `1.0`):
            Of the preferences, in points of the score: `P = σ((s_i - s_j) / temperature)`.
        mode (`str`, *optional*, defaults to `"auto"`):
            `"structured"`: JSON that the server holds the model to. `"text"`: JSON in the model's own words, the last
            one counting. `"auto"` asks for the first until the server does not take it.
        timeout (`float`, *optional*, defaults to 600): seconds of silence after which a request has failed.
        request (`dict`, *optional*):
            Further parameters of the request; `None` removes one. The judge itself sets `temperature` 0 and
            `max_tokens` 4096.
        api_key_env (`str`, *optional*, defaults to `"OPENAI_API_KEY"`):
            Environment variable with the key. It is sent to the server and nowhere else.
        kwargs:
            `order`, `concurrency`, `max_retries`, `requests_per_minute`, `max_failures`, `budget` and `cache`; see
            [`~judges.servers.remote.RemoteJudge`].

    Raises:
        `ImportError`: If `openai` is not installed.
        `ValueError`: If an argument cannot be, or there is no key where one is needed.

    Example:

    ```python
    >>> judge = load_judge("openai-group:Qwen/Qwen3-32B@http://localhost:8000/v1", concurrency=64)
    ```
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        prompt: str = "scores",
        temperature: float = 1.0,
        mode: str = "auto",
        timeout: float = SECONDS,
        request: dict[str, Any] | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        **kwargs,
    ):
        self.model, self.base_url = find_server(model, base_url, api_key_env)
        self.question = GroupQuestion(prompt)
        GroupJudge.__init__(self, self.question.returns, temperature)
        if mode not in MODES:
            raise ValueError(f"`mode` is one of {', '.join(map(repr, MODES))}; got {mode!r}.")
        if not timeout > 0:
            raise ValueError(f"`timeout` must be a positive number of seconds; got {timeout!r}.")
        self.mode, self.timeout, self.request = mode, timeout, dict(request or {})
        if taken := sorted({"model", "messages", "stream", "n"} & set(self.request)):
            raise ValueError(f"`request` cannot set {taken[0]!r}, which the judge does.")
        if unknown := sorted(set(kwargs) - set(RemoteJudge.__init__.__kwdefaults__)):
            own = ("base_url", "prompt", "temperature", "mode", "timeout", "request", "api_key_env")
            raise ValueError(
                f"The judge {model!r} takes no argument {unknown[0]!r}; it takes "
                f"{', '.join((*own, *RemoteJudge.__init__.__kwdefaults__))}."
            )
        self.chat = ChatServer(self.model, self.base_url, api_key_env, fixed=self.request)
        self._structured = mode != "text"
        self._known = mode != "auto"  # whether it answers in this mode
        RemoteJudge.__init__(self, server=self.base_url, **kwargs)

    @property
    def name(self) -> str:
        return f"openai-group:{self.model}"

    @property
    def identity(self) -> str:
        asked = [self.base_url, self.model, self.mode, self.question.source, self.temperature, self.request]
        return json.dumps(["openai-group", *asked], sort_keys=True)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(self.question.columns)

    def columns_of(self, columns):
        if missing := [name for name in self.question.columns if name not in columns]:
            raise ValueError(f"The prompt of {self.name} uses the column {missing[0]!r}, which the dataset lacks.")
        return {name: columns[name] for name in self.question.columns}

    def judge_groups(self, prompts, groups, **columns):
        return [answer for _, answer in sorted(self.groups_each(prompts, groups, **columns), key=lambda pair: pair[0])]

    def groups_each(self, prompts, groups, **columns):
        """Side by side, in the order in which answers arrive."""
        return RemoteJudge.judge_each(self, prompts, groups, groups, **columns)

    def ask(self, attempt, prompt, first, second, **columns):
        """The answer about the group `first`."""
        text = as_text(prompt)
        answer = self._answer(attempt, text, first, columns)
        # Only the server knows its context, so the left half of the prompt is left out until the rest fits.
        while getattr(answer, "reason", None) == "too long" and len(text) >= 2 * SHORTEST_CUT:
            if len(text) == len(as_text(prompt)):
                self.pace.count(cut_prompts=1)
            text = text[len(text) // 2 :]
            answer = self._answer(attempt, text, first, columns)
        return answer

    def _answer(self, attempt, prompt: str, group: list[str], columns: dict) -> list | Abstained:
        said: list | Abstained = Abstained("unparsable")

        def once(send):  # while it is found out what the server can, silence is an answer
            return attempt(partial(without_retry, send))

        for strict in (False, True):
            structured = self._structured  # as this is asked: another question may find out meanwhile
            try:
                answer = self._once(attempt if self._known else once, prompt, group, strict, columns, structured)
                self._known = True
            except ModeFailed:
                if self.mode != "auto" or not structured:
                    raise
                self._structured, self._known = False, True  # of all questions from now on
                answer = self._once(attempt, prompt, group, strict, columns, structured=False)
            if answer is not None and _complete(answer, len(group)):
                return answer
            said = said if answer is None else answer  # and once more
        return said

    def _once(self, attempt, prompt, group, strict, columns, structured: bool) -> list | Abstained | None:
        messages = self.question.render(prompt, group, strict=strict, **columns)
        body = {"messages": messages, "temperature": 0.0, "max_tokens": MAX_TOKENS}
        if structured:
            schema = {"name": "verdict", "strict": True, "schema": self.question.schema(len(group))}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        body = {name: value for name, value in (body | self.request).items() if value is not None}
        try:
            reply = self.chat.complete(attempt, body, self.timeout)
        except Declined as declined:
            return Abstained(declined.reason)
        self.pace.count(**reply.usage)
        choice = reply.choices[0]
        if choice.get("finish_reason") == "content_filter" or choice["message"].get("refusal"):
            return Abstained("refused")
        return Abstained("cut") if choice.get("finish_reason") == "length" else self.question.read(choice, len(group))


def _complete(answer: list | Abstained, count: int) -> bool:
    """Whether an answer says something of everybody, or is none that asking again would mend."""
    if isinstance(answer, Abstained):
        return True
    if any(isinstance(value, list) for value in answer):
        return sum(map(len, answer)) == count
    return not any(map(math.isnan, answer))
