"""Rules that hold in every place, not only where somebody thought of them: each test finds the wall without a door."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import loom

ROOT = Path(loom.__file__).parent


def where(words: str, found: Callable[[ast.AST], bool]) -> set[str]:
    """Return the modules of loom with such a piece of code. Only files that have one of the words are parsed."""
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in ROOT.rglob("*.py")}
    read = {name: ast.walk(ast.parse(text)) for name, text in texts.items() if re.search(words, text)}
    return {name for name, nodes in read.items() if any(map(found, nodes))}


STARTED = {
    "util/processes.py": "this Python, isolated",
    "snapshot/git.py": "git",
    "snapshot/removal.py": "rm",
    "plan/gitlab/scripts.py": "bash, which reads scripts and runs nothing",
    "commands/plan/check.py": "sh and actionlint",
    "providers/docker/engine/ssh.py": "ssh",
    "providers/docker/images/buildx.py": "buildx",
    "providers/host.py": "a job's shell and commands",
    "secrets/stores.py": "op",
}
"""The modules that start a process, and what."""
_STARTS = re.compile(
    r"subprocess\.(Popen|run|call|check_\w+|get\w+)|os\.(exec|spawn|posix_spawn|fork|popen|system|startfile)\w*"
    r"|(multiprocessing|pty|runpy)(\.\w+)*|(\w+\.)*(ProcessPoolExecutor|create_subprocess_\w+|subprocess_(exec|shell))"
)


@pytest.mark.slow
def test_one_function_starts_python_or_loom() -> None:
    """Python imports from where it is started: in a checkout, a stranger's `loom` would be the one that runs."""

    def starts(node: ast.AST) -> bool:
        if isinstance(node, ast.Import | ast.ImportFrom):
            above = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            return any(_STARTS.fullmatch(above + each.name) for each in node.names)
        return isinstance(node, ast.Call) and _STARTS.fullmatch(ast.unparse(node.func)) is not None

    def names_python(node: ast.AST) -> bool:
        word = node.value if isinstance(node, ast.Constant) else ""
        named = isinstance(node, ast.Attribute) and node.attr == "executable"
        return named or (
            isinstance(word, str) and re.fullmatch(r"(/usr/bin/(env )?)?(python[\d.]*|loom)", word) is not None
        )

    assert where(r"subprocess|multiprocessing|pty|runpy|Executor|os\.|from os", starts) == set(STARTED)
    assert not (where("executable|subprocess", names_python) - {"util/processes.py"}) & set(STARTED)


def test_only_the_asking_function_lends_objects_of_others() -> None:
    """Without its consent, `take` fills no workspace of a repository that borrows objects."""

    def consents(node: ast.AST) -> bool:
        return isinstance(node, ast.keyword) and node.arg in ("lends", "may_lend")

    assert where("lend", consents) == {"commands/project/trusting.py", "snapshot/source.py"}
