"""Hooks of the documentation site: a page for each file of the repository that the documentation links to."""

from __future__ import annotations

import os
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"\[(?P<text>[^]]*)\]\((?!https?:|mailto:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")

DEFINITION = re.compile(r'(?P<link>href="[^"#]*source/(?P<module>[^"#]+\.py)\.html)"><code>(?=(?P<name>[^<]+)</code>)')


def on_files(files: Any, *, config: Any) -> Any:
    """Add a page for each file outside docs/, or hidden in it, to which a page leads."""
    known = {DOCS / file.src_uri for file in files if file.inclusion.is_included()}
    waiting = [path for path in known if path.suffix == ".md"]
    while waiting:
        for target in _targets(waiting.pop()):
            if target not in known:
                known.add(target)
                files.append(File.generated(config, _name(target), content=_content(target)))
                if target.suffix == ".md":
                    waiting.append(target)
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Turn links to files of the repository into links to their pages; give the page of commands their options."""
    here = _origin(page.file)
    if page.file.src_uri == "reference/commands.md":
        markdown += runpy.run_path(str(ROOT / "scripts" / "command_reference.py"))["options"]()

    def link(match: re.Match[str]) -> str:
        target = _resolve(here, match["path"])
        name = target.relative_to(DOCS).as_posix() if _is_page(files, target) else _name(target)
        path = os.path.relpath(name, Path(page.file.src_uri).parent)
        return f"[{match['text']}]({path}{match['anchor'] or ''})"

    return LINK.sub(link, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Lead a link whose text names a definition to its line. Done here since mkdocs knows no anchors inside code blocks."""
    return DEFINITION.sub(lambda match: f'{match["link"]}{_line_of(match)}"><code>', html)


def _is_page(files: Any, target: Path) -> bool:
    file = files.get_file_from_path(target.relative_to(DOCS).as_posix()) if target.is_relative_to(DOCS) else None
    return file is not None and file.inclusion.is_included()


def _targets(page: Path) -> Iterator[Path]:
    for match in LINK.finditer(page.read_text()):
        target = _resolve(page, match["path"])
        if not target.exists():
            raise PluginError(f"{page.relative_to(ROOT)}: there is no file for the link {match['path']}")
        yield target


def _resolve(page: Path, link: str) -> Path:
    return Path(os.path.normpath(page.parent / link))


def _name(target: Path) -> str:
    """Name the page of a file; without the dots that hide a file from the site."""
    name = f"source/{target.relative_to(ROOT).as_posix()}".replace("/.", "/")
    return name if target.suffix == ".md" else f"{name}.md"


def _origin(file: Any) -> Path:
    """Return the file of the repository whose text a page shows."""
    inside = str(file.src_uri).removeprefix("source/")
    return (ROOT if inside != file.src_uri else DOCS) / inside


def _content(target: Path) -> str:
    if target.suffix == ".md":
        return target.read_text()
    title = target.relative_to(ROOT).as_posix()
    if target.is_dir():
        rows = "\n".join(f"- `{path.name}{'/' * path.is_dir()}`{_summary(path)}" for path in _listed(target))
        return f"# {title}/\n\n{rows}\n"
    language = {".py": "python", ".yml": "yaml", ".json": "json"}.get(target.suffix, "text")
    return f"# {title}\n\n````{language}\n{target.read_text()}````\n"


def _listed(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.name != "__pycache__")


def _summary(path: Path) -> str:
    """Return the first line of a module's docstring."""
    module = path / "__init__.py" if path.is_dir() else path
    if module.suffix != ".py" or not module.is_file():
        return ""
    found = re.match(r'"""(.+?)("""|\n)', module.read_text())
    return f": {found[1]}" if found else ""


def _line_of(link: re.Match[str]) -> str:
    """Return the anchor of the definition that a link's text names, such as `execute` or `JobRunner.run`."""
    name = link["name"].removesuffix("()").rpartition(".")[2]
    definition = re.compile(rf"\s*(?:(?:async )?def|class) {re.escape(name)}\b|{re.escape(name)}\b.* = ")
    lines = (ROOT / link["module"]).read_text().splitlines()
    return next((f"#__codelineno-0-{at}" for at, line in enumerate(lines, start=1) if definition.match(line)), "")
