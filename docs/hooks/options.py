# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
The options of the training commands, read from the source of their dataclasses. Nothing is imported, so that the site
is the same whatever is installed. `docs/reference/options.md` says where the tables go.
"""

import ast
import re
from pathlib import Path


ROOT = Path(__file__).parents[2]
_MARK = re.compile(r"^<!-- options: (\w+) -->$", flags=re.MULTILINE)


def dataclasses() -> dict[str, ast.ClassDef]:
    """The dataclasses of the package, by name."""
    found = {}
    for file in sorted((ROOT / "trl_nash").rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list):
                found[node.name] = node
    return found


def _text(node: ast.expr) -> str:
    """A default or a help, as it is written in the source, `lambda: [10.0]` without its wrapping."""
    if isinstance(node, ast.Lambda):
        node = node.body
    return ast.unparse(node)


def options(owner: ast.ClassDef) -> list[tuple[str, str, str, str]]:
    """Name, type, default and help of each option that a dataclass defines or redefines."""
    rows = []
    for node in owner.body:
        if not isinstance(node, ast.AnnAssign) or "ClassVar" in ast.unparse(node.annotation):
            continue
        default, said = "", ""
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "field":
            given = {keyword.arg: keyword.value for keyword in node.value.keywords}
            default = next((_text(given[name]) for name in ("default", "default_factory") if name in given), "")
            if isinstance(given.get("metadata"), ast.Dict):
                metadata = given["metadata"]
                entries = {key.value: value for key, value in zip(metadata.keys, metadata.values, strict=True)}
                said = ast.literal_eval(entries["help"]) if "help" in entries else ""
        elif node.value is not None:
            default = _text(node.value)
        rows.append((node.target.id, ast.unparse(node.annotation), default, said.replace("%%", "%")))
    return rows


def table(owner: ast.ClassDef) -> str:
    lines = ["| option | type | default | |", "|---|---|---|---|"]
    for name, kind, default, said in options(owner):
        shown = "" if default in ("", "None") else f"`{default}`"
        kinds = " or ".join(f"`{part}`" for part in kind.split(" | ") if part != "None")
        said = re.sub(r"docs/([\w/]+)\.md", r"[\1](../\1.md)", said)  # the page is in docs/reference
        lines.append("| " + " | ".join([f"`--{name}`", kinds, shown, said]) + " |")
    return "\n".join(lines)


def on_page_markdown(markdown: str, page, **kwargs) -> str:
    """Replaces `<!-- options: COMALConfig -->` by the table of that class."""
    if not _MARK.search(markdown):
        return markdown
    classes = dataclasses()
    return _MARK.sub(lambda match: table(classes[match[1]]), markdown)


def on_page_content(content: str, **kwargs) -> str:
    """Shows what a default factory makes, in the pages of the configs."""
    return re.sub(r"\(lambda: (.*?)\)\(\)", r"\1", content)
