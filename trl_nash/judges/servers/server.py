# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Servers of models: where one is, how it is asked, and what went wrong. For judges, and policies behind a server."""

import functools
import json
import os
import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ...extras import pip_install
from .pace import NoMoreAnswers, RequestFailed, retry_after


OPENAI = "https://api.openai.com/v1"
# Parameters that some servers refuse, and what is asked for in their place.
INSTEAD: dict[str, dict[str, Any]] = {
    "max_tokens": {},
    "temperature": {},
    "top_logprobs": {"top_logprobs": 5},
    "n": {},
}
REFUSED = r"unsupported|not support|unrecogni[sz]ed|unknown|not (permitted|allowed)|less than|at most|maximum|must be"
PASSING = (408, 409, 425, 429)  # and 500 and above: states of a server that a retry may heal


class ModeFailed(RequestFailed):
    """A request failed such that another way to ask may not."""


class TimedOut(ModeFailed):
    """The server was silent for too long."""


class ParameterRefused(ModeFailed):
    """The server does not take a parameter."""

    def __init__(self, message: str, name: str):
        super().__init__(message, retry=False)
        self.name = name


class Declined(Exception):
    """The server answers, but not this question: its `reason` is `"too long"` or `"refused"`, the message the rest."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


class Reply(NamedTuple):
    """What a server says: its choices as OpenAI's API writes them, one or more, and the tokens that it counted."""

    choices: list[dict[str, Any]]
    usage: dict[str, int]  # of `prompt_tokens` and `completion_tokens` those that it states


class ChatServer:
    """
    A model behind a server with OpenAI's API for chat completions. Faults are told apart, retries are the caller's
    ([`~judges.servers.pace.Pace`]); what is raised holds no secrets and has no traceback that does.

    Args:
        model (`str`): Its name on the server.
        url (`str`): The server, as [`find_server`] gives it.
        api_key_env (`str`, *optional*, defaults to `"OPENAI_API_KEY"`):
            Environment variable with the key, which is sent to the server and nowhere else.
        whose (`str`, *optional*, defaults to `"judge"`): What the model is, for messages.
        fixed (`Collection[str]`, *optional*):
            Parameters that are sent whatever the server says. Of others that it refuses it is asked again without
            (`max_completion_tokens` for `max_tokens`, 5 for 20 `top_logprobs`), and from then on.

    Raises:
        `ValueError`: If there is no key where one is needed.
        `ImportError`: If `openai` is not installed.
    """

    def __init__(
        self,
        model: str,
        url: str,
        api_key_env: str = "OPENAI_API_KEY",
        whose: str = "judge",
        fixed: Collection[str] = (),
    ):
        check_key(url, api_key_env)
        import_openai(whose)
        self.model, self.url, self.api_key_env = model, url, api_key_env
        self.fixed = frozenset(fixed)
        self._refused: set[str] = set()  # parameters that the server does not take

    @functools.cached_property
    def client(self):
        """Made when it is used, with the key of then."""
        # Servers without keys ignore this one.
        key = os.environ.get(self.api_key_env) or "none"
        return import_openai().OpenAI(base_url=self.url, api_key=key, max_retries=0)

    def complete(self, attempt: Callable[[Callable], Any], body: dict[str, Any], timeout: float) -> Reply:
        """
        The reply to a request.

        Args:
            attempt (`Callable`): Calls what sends the request, see [`~judges.servers.pace.Pace.attempt`].
            body (`dict`): The request's parameters without `model`.
            timeout (`float`): Seconds of silence after which it has failed.

        Raises:
            `RequestFailed`: If there is none; [`ModeFailed`] if another way to ask may get one.
            `Declined`: If there is none to this question.
            `NoMoreAnswers`: If there will be none to others either.
        """
        while True:  # no longer than there are parameters that can be refused
            try:
                return attempt(functools.partial(self.send, body, timeout))
            except ParameterRefused as refused:
                self._refused.add(refused.name)

    def send(self, body: dict[str, Any], timeout: float) -> Reply:
        """One request without what the server has refused."""
        rest = {name: value for name, value in body.items() if name not in self._refused}
        for name in self._refused & body.keys():
            rest |= {"max_completion_tokens": body[name]} if name == "max_tokens" else INSTEAD[name]
        reply = self.post("/chat/completions", {"model": self.model, **rest}, timeout)
        try:
            choices, usage = reply["choices"], reply.get("usage")
            if not choices or not all(isinstance(choice["message"], dict) for choice in choices):
                raise TypeError
        except (KeyError, TypeError, AttributeError):
            raise RequestFailed("its reply is no chat completion", retry=True) from None
        names = ("prompt_tokens", "completion_tokens")
        stated = usage if isinstance(usage, dict) else {}
        return Reply(choices, {name: stated[name] for name in names if isinstance(stated.get(name), int)})

    def post(self, path: str, body: dict[str, Any], timeout: float) -> Any:
        """The JSON of the reply to a request at `path` below the server's URL. Raises as [`~ChatServer.complete`]."""
        import openai

        error = None
        try:
            # The client's own methods refuse parameters that are not OpenAI's.
            reply = self.client.post(path, cast_to=object, body=body, options={"timeout": timeout})
            # Text, to servers that do not say JSON.
            return _writable(json.loads(reply) if isinstance(reply, str) else reply)
        except openai.APIError as failure:
            error = failure
        except ValueError:
            raise RequestFailed("its reply is no JSON", retry=True) from None
        raise self._failure(error, body, timeout)  # out here, so that no traceback shows what the server said

    def _failure(self, error, sent: dict[str, Any], timeout: float) -> Exception:
        import openai

        if isinstance(error, openai.APITimeoutError):
            return TimedOut(f"no reply within {timeout:g} seconds", retry=True)
        if not isinstance(error, openai.APIStatusError):
            return RequestFailed(self._clean(error.__cause__ or error), retry=True)
        status = error.status_code
        body = error.body if isinstance(error.body, dict) else {}
        text = self._clean(body.get("message") or error.body or error.message)
        said = f"status {status}, {text}"
        code = f"{error.code} {text}".lower()
        if status in (400, 422) and (name := self._refusal(error, text, sent)):
            return ParameterRefused(said, name)
        if status in (400, 413, 422) and re.search(r"context.?(length|window|size)|too long|too large", code):
            return Declined(said, "too long")
        if status == 400 and re.search(r"content.?(filter|policy)", code):
            return Declined(said, "refused")
        if status in (401, 403):
            return NoMoreAnswers(f"it refuses the key in {self.api_key_env} ({said})")
        if status == 404:
            return NoMoreAnswers(f"it has no model {self.model!r}, or the URL is not that of an API ({said})")
        if status == 429 and "insufficient_quota" in code:
            return NoMoreAnswers(f"the account's quota is spent ({said})")
        kind = RequestFailed if status in PASSING else ModeFailed
        return kind(said, retry=status in PASSING or status >= 500, retry_after=retry_after(error.response.headers))

    def _refusal(self, error, text: str, sent: dict[str, Any]) -> str | None:
        """The parameter of ours that the server does not take, if that is what it says."""
        if re.search(r"context.?(length|window|size)", text, re.IGNORECASE):
            return None
        for name in INSTEAD:
            if name not in sent or name in self.fixed or (name == "top_logprobs" and name in self._refused):
                continue
            if error.param == name or (re.search(rf"\b{name}\b", text) and re.search(REFUSED, text, re.IGNORECASE)):
                return name
        return None

    def _clean(self, text: Any) -> str:
        """What a server said, on one line, cut, and without the key, which some servers repeat."""
        text = str(text)
        if key := os.environ.get(self.api_key_env):
            text = text.replace(key, "***")
        return " ".join(text.split())[:300].rstrip(".")


def _writable(reply: Any) -> Any:
    """A reply as UTF-8 can say it: JSON can also name one half of a pair of surrogates."""
    text = json.dumps(reply, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.loads(text.encode(errors="replace"))
    return reply


def find_server(
    model: str, base_url: str | None = None, api_key_env: str = "OPENAI_API_KEY", whose: str = "judge"
) -> tuple[str, str]:
    """
    The name of a model, and the address of its server: of `model` and `base_url`, or of `model@http://host:port/v1`.

    Args:
        model (`str`): as the user writes it.
        base_url (`str`, *optional*): the server; by default `$OPENAI_BASE_URL`, or OpenAI's.
        api_key_env (`str`, *optional*): where a key goes, for messages.
        whose (`str`, *optional*): what the model is, for messages.

    Raises:
        `ValueError`: If there is no model, or no usable address.
    """
    model, at, url = re.fullmatch(r"(.*?)(?:(@)(https?://.*))?", model, re.DOTALL).groups()
    if at and base_url is not None:
        raise ValueError(f"The server is given twice, after the model ({host_of(url)}) and as `base_url`; give one.")
    base_url = (url or base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI).rstrip("/")
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise ValueError(
            f"`base_url` of the {whose} must look like http://host:port/v1, without password or query; got one for "
            f"{host_of(base_url)!r}. A key goes into the environment variable {api_key_env}."
        )
    if re.search(r"@(localhost|[\w.-]+:\d+|[\w.-]+/v\d)", model):  # which is not shown: it may hold a password
        raise ValueError(
            f"The {whose} has an address without http:// or https:// behind its model: write it as "
            "`openai:MODEL@http://host:port/v1`."
        )
    if not model or model.startswith(("http://", "https://")):
        raise ValueError(f"The {whose} needs the name of a model, as in `openai:MODEL` or `openai:MODEL@http://...`.")
    return model, base_url


def check_key(base_url: str, api_key_env: str) -> None:
    """Refuses to ask OpenAI without a key."""
    if base_url == OPENAI and not os.environ.get(api_key_env):
        raise ValueError(f"{base_url} needs a key: set the environment variable {api_key_env}.")


def import_openai(whose: str = "judge"):
    """
    The client's package.

    Raises:
        `ImportError`: With the command that installs it.
    """
    try:
        import openai
    except ImportError:
        raise ImportError(f"The {whose} `openai` needs a package more: {pip_install('judges')}.") from None
    return openai


def host_of(url: str) -> str:
    """Of a URL what may be shown."""
    return urlsplit(url).netloc.rpartition("@")[2]
