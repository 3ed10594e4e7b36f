# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""How to install what is optional."""

from trl_nash import __version__


def pip_install(extra: str, version: str = __version__) -> str:
    """
    The command that installs an extra, true for this version: only releases are on a package index.

    Args:
        extra (`str`):
            A name of `[project.optional-dependencies]` in pyproject.toml.
        version (`str`, *optional*):
            That of this package.

    Returns:
        `str`: the end of a sentence, without its full stop.
    """
    if ".dev" in version:
        return f'pip install ".[{extra}]" in a clone of trl-nash'
    return f'pip install "trl-nash[{extra}]"'
