# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Links of the documentation that leave `docs/` (to an example, a recipe) lead, in the site, to a page with that file's
text. In the repository they lead to the file itself.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File


ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"\]\((?!https?:)([^)\s#]+)\)")
_LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".toml": "toml", ".md": "markdown"}


def _outside(page: str, target: str) -> str | None:
    """The path in the repository that a link leads to, or `None` if it stays in `docs/`."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.startswith("docs/") else path


def _text(path: str) -> str:
    file = ROOT / path
    if not file.exists() or path.startswith(".."):
        raise PluginError(f"A page links to {path}, which the repository does not have.")
    if file.is_dir():
        raise PluginError(f"A page links to the folder {path}: link to the files in it.")
    # Five marks, as a page of Markdown has fences of its own.
    return f"# {path}\n\n`````{_LANGUAGES.get(file.suffix, 'text')}\n{file.read_text(encoding='utf-8')}\n`````\n"


def on_files(files, config, **kwargs):
    """Adds a page for each file that a page links to."""
    wanted = set()
    for page in files.documentation_pages():
        for target in _LINK.findall(page.content_string):
            wanted |= {_outside(page.src_uri, target)} - {None}
    for path in sorted(wanted):
        files.append(File.generated(config, f"repository/{path}.md", content=_text(path)))
    return files


def on_page_markdown(markdown: str, page, **kwargs) -> str:
    """Leads these links to the pages."""
    here = page.file.src_uri

    def link(match: re.Match) -> str:
        path = _outside(here, match[1])
        return (
            match[0]
            if path is None
            else f"]({posixpath.relpath(f'repository/{path}.md', posixpath.dirname(here) or '.')})"
        )

    return _LINK.sub(link, markdown)
