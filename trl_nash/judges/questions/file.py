# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Jinja files that hold questions to judges, and the constants that they set."""

import difflib
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment


class QuestionFile:
    """
    A question in Jinja, read without being rendered.

    Args:
        name (`str`): a file's name in `folder` without `.jinja`, or the path of a file.
        folder (`Path`): where the package's own ones are.

    Attributes:
        path (`Path`), source (`str`): where it is, and its text.
        template (`jinja2.Template`): renders it, in a sandbox.
        settings (`dict`): the constants that it sets.
        names (`set[str]`): the variables that it uses.

    Raises:
        `ValueError`: If there is no such file or it is no template.
    """

    def __init__(self, name: str, folder: Path):
        self.path = folder / f"{name}.jinja"
        if not self.path.is_file():
            self.path = Path(name)
        if not self.path.is_file():
            known = sorted(path.stem for path in folder.glob("*.jinja"))
            near = difflib.get_close_matches(str(name), known, n=1)
            raise ValueError(
                f"Unknown prompt {str(name)!r}{f', did you mean {near[0]!r}?' if near else '.'} There are "
                f"{', '.join(known)}; anything else is the path of a Jinja file."
            )
        self.source = self.path.read_text(encoding="utf-8")
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
        try:
            tree = environment.parse(self.source)
            self.template = environment.from_string(self.source)
            self.settings: dict[str, Any] = {
                node.target.name: node.node.as_const() for node in tree.body if isinstance(node, nodes.Assign)
            }
        except (TemplateError, nodes.Impossible) as error:
            raise ValueError(f"The prompt {self.path} is no question to a judge: {error}.") from error
        self.names = meta.find_undeclared_variables(tree)
