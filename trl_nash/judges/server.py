# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Where an OpenAI-compatible server is, and the client that asks it: for judges, and policies behind a server."""

import os
import re
from urllib.parse import urlsplit

from ..extras import pip_install


OPENAI = "https://api.openai.com/v1"


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
    if not model:
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
