"""Imports point down the table of docs/contributing/layout.md, or stay inside one folder: the page and the code agree."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
ROOT = PROJECT / "loom"
LAYOUT = PROJECT / "docs/contributing/layout.md"
ORDER = re.findall(r"^\| `(\w+)/?` \|", LAYOUT.read_text(), re.MULTILINE)
"""The folders and modules of `loom/`, from the top down."""


Import = ast.Import | ast.ImportFrom


@cache
def imports(path: Path) -> list[tuple[Import, bool]]:
    """The imports of a module, each with whether it stands inside a function."""

    def below(node: ast.AST, inside: bool) -> Iterator[tuple[Import, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Import):
                yield child, inside
            elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):  # no expression has an import
                yield from below(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    return list(below(ast.parse(path.read_text()), False))


def imports_of(path: Path) -> set[str]:
    names = set()
    for node, _ in imports(path):
        if isinstance(node, ast.ImportFrom) and node.module == "loom":
            names |= {alias.name for alias in node.names if alias.name != "__version__"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("loom."):
            names.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("loom.")}
    return names


def test_the_page_names_every_folder() -> None:
    there = {
        path.name.removesuffix(".py")
        for path in ROOT.iterdir()
        if (path.suffix == ".py" and not path.name.startswith("__")) or (path / "__init__.py").is_file()
    }
    assert sorted(ORDER) == sorted(there)
    assert len(there) <= 21


@pytest.mark.slow
def test_imports_point_down() -> None:
    wrong = []
    for path in ROOT.rglob("*.py"):
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if own.startswith("__"):
            continue
        wrong += [
            f"{path.relative_to(ROOT)} imports loom.{name}"
            for name in imports_of(path) - {own}
            if ORDER.index(name) <= ORDER.index(own)
        ]
    assert wrong == []


@pytest.mark.slow
def test_libraries_stand_beside_each_other() -> None:
    beside = {"record", "snapshot", "storage", "secrets"}
    found = {
        f"{path.relative_to(ROOT)} imports loom.{name}"
        for own in beside
        for path in (ROOT / own).rglob("*.py")
        for name in imports_of(path) & (beside - {own})
    }
    assert found == set()


def modules_named_in(path: Path) -> set[Path]:
    """The modules of loom that one imports, at its top or inside a function."""
    found = set()
    for node, _ in imports(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("loom."):
            below = PROJECT / (node.module or "").replace(".", "/")
            found |= {below.with_suffix(".py"), *(below / f"{alias.name}.py" for alias in node.names)}
    return found - {path}


@pytest.mark.slow
def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {path for path in ROOT.rglob("*.py") if path.name != "__init__.py"}
    TopologicalSorter({path: modules_named_in(path) & modules for path in modules}).prepare()


@pytest.mark.slow
def test_no_folders_import_each_other_in_a_circle() -> None:
    """What stands side by side in a folder, modules and folders alike, has an order at every depth."""
    for top in [path.parent for path in ROOT.rglob("__init__.py")]:
        order: TopologicalSorter[str] = TopologicalSorter()
        for path in {*top.rglob("*.py")} - {top / "__init__.py"}:
            named = {
                other.relative_to(top).parts[0].removesuffix(".py")
                for other in modules_named_in(path)
                if other.is_relative_to(top)
            }
            own = path.relative_to(top).parts[0].removesuffix(".py")
            order.add(own, *named - {own})
        order.prepare()


LATE = 113
"""Imports inside functions, in all of `loom/`: each has a reason, such as a library that only some paths need."""


@pytest.mark.slow
def test_imports_stand_at_the_top() -> None:
    late = sum(inside for path in ROOT.rglob("*.py") for _, inside in imports(path))
    assert late <= LATE, "move an import to the top of its module, or raise LATE and give the reason in the commit"


ENGINE_ADMINISTRATION = {
    "commands/plan/init.py": "drafts a job for an image that the engine has",
    "commands/plan/jobs.py": "says which images the engine has",
    "commands/doctor.py": "looks at the engine itself",
    "commands/keep/images.py": "pulls, locks and removes the engine's images",
}
"""Who reaches into a provider, and why that is no verb of the promise."""


@pytest.mark.slow
def test_only_engine_administration_reaches_into_a_provider() -> None:
    inside = re.compile(
        r"loom\.providers\.(?:docker|host)\b|from loom\.providers import .*\b(?:docker|host)\b|\b(?:Host|Docker)Session\b"
    )
    found = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if path.relative_to(ROOT).parts[0] != "providers" and inside.search(path.read_text())
    }
    assert found <= ENGINE_ADMINISTRATION.keys()


PORCELAIN = ("commands/again", "commands/servers", "commands/agents", "commands/record", "analysis", "render")
"""They make runs, or read records: of the kernel they know no module, only what the snapshot offers to all."""


def test_what_is_around_the_kernel_knows_nothing_of_its_inside() -> None:
    inside = re.compile(
        r"(?:from|import) loom\.(?:runner|providers|snapshot\.)|from loom import .*\b(?:runner|providers)\b"
    )
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for room in PORCELAIN
        for path in (ROOT / room).rglob("*.py")
        for line in path.read_text().splitlines()
        if inside.search(line)
    ]
    assert found == []


@pytest.mark.slow
def test_nothing_asks_which_provider_it_is() -> None:
    asks = re.compile(r"provider(?:\.name)? (?:is|==|!=|in) |facts\.provider\b [=!]=")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in ROOT.rglob("*.py")
        if path.relative_to(ROOT).parts[0] != "providers"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if asks.search(line.partition("#")[0]) and "for provider in" not in line
    ]
    assert found == []


def modules_of_the_command_line(path: Path) -> set[str]:
    return {
        name
        for node, _ in imports(path)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("loom.cli")
        for name in ([alias.name for alias in node.names] if node.module == "loom.cli" else [node.module.split(".")[2]])
    }


def test_commands_share_two_modules_and_import_no_other_command() -> None:
    below = {"command": set(), "help": set(), "familiar": {"help"}, "options": {"command"}}
    for path in (ROOT / "cli").glob("*.py"):
        if path.stem not in {"__init__", "app", "boundary"}:
            assert modules_of_the_command_line(path) <= below.get(path.stem, {"command", "help", "options"}), path.name


@pytest.mark.slow
def test_a_plan_of_gitlabs_file_needs_nothing_of_looms_own_language() -> None:
    asked = "import sys, loom.commands.plan.compile, loom.workflow.gitlab.loader, loom.plan.gitlab.resolve; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True)
    assert {"pydantic", "loom.workflow.native", "loom.plan.native", "urllib.request"} & {*done.stdout.split()} == set()
