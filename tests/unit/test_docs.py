"""Links lead to files, the site builds without a warning, and what the wheel installs for shells and man works."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "images" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FETCHED = re.compile(r"""<(?:link|script|img|iframe)\b[^>]*(?:href|src)=["']?(?:https?:)?//|url\(["']?(?:https?:)?//""")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_a_file(page: Path) -> None:
    targets = LINK.findall(page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


NAMED = re.compile(r"\[`([\w.]+)`\]\(([^)#\s]+\.py)\)")
"""A link to a definition: its text is a name, its target a module."""


def _definitions(tree: ast.AST, within: str = "") -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield within + node.name
            yield from _definitions(node, f"{within}{node.name}.")
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (within + target.id for target in targets if isinstance(target, ast.Name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.slow
def test_a_link_to_a_definition_names_one_that_its_module_has(page: Path) -> None:
    named = [(name, link) for name, link in NAMED.findall(page.read_text()) if not name.endswith(".py")]
    defined = {link: set(_definitions(ast.parse((page.parent / link).read_text()))) for _, link in named}
    assert [f"{name} is not in {link}" for name, link in named if name not in defined[link]] == []


@pytest.mark.slow
def test_the_site_builds_strictly_and_its_pages_fetch_nothing_from_outside(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed: scripts/docs installs it")
    argv = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "scripts/mkdocs.yml", "-d", str(tmp_path)]
    done = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    pages = [*tmp_path.rglob("*.html"), *tmp_path.rglob("*.css")]
    assert len(pages) > 30
    assert [page.name for page in pages if FETCHED.search(page.read_text())] == []


def test_the_wheel_brings_the_man_page_and_the_completions() -> None:
    shared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "shared-data"
    ]
    assert shared == {
        "docs/man/loom.1": "share/man/man1/loom.1",
        "docs/completions/loom.bash": "share/bash-completion/completions/loom",
        "docs/completions/_loom": "share/zsh/site-functions/_loom",
        "docs/completions/loom.fish": "share/fish/vendor_completions.d/loom.fish",
    }
    assert all((ROOT / source).is_file() for source in shared)


COMPLETE = {
    "bash": '. docs/completions/loom.bash; COMP_WORDS=(loom ru); COMP_CWORD=1; _loom_completion loom; echo "${COMPREPLY[@]}"',
    "fish": "source docs/completions/loom.fish; complete -C 'loom ru'",
    "zsh": "compdef() { :; }; _describe() { print -rl -- ${(P)2}; }; . docs/completions/_loom; words=(loom ru); CURRENT=2; _loom",
}


@pytest.mark.parametrize("shell", COMPLETE)
def test_the_shells_complete_a_command(shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([shell, "-c", COMPLETE[shell]], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert re.findall(r"\bruns?\b(?=\"?:|\s)", done.stdout)[:2] == ["run", "runs"], done.stdout + done.stderr
    if shell != "bash":  # which shows no texts
        assert "Run the workflow's jobs" in done.stdout
