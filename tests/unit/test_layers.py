"""Imports go from a higher layer to a lower one, or stay inside one package; the table is docs/explanation/layout.md's."""

import ast
from pathlib import Path

LAYERS = [
    {
        "errors",
        "results",
        "cancel",
        "output",
        "config",
        "units",
        "globs",
        "yamlfile",
        "processes",
        "names",
        "patterns",
    }
    | {"lazily", "util"},
    {"workflow", "expressions", "expansion", "events", "facts", "graph", "junit", "storage"},
    {"plan", "planned", "resolve", "explain", "records", "journal", "environment", "view", "dockerfile", "images"}
    | {"diagnosis", "rundiff", "schemas", "upkeep", "permissions", "secrets"},
    {"providers", "snapshot", "store", "cache", "artifacts", "services", "render"},
    {"scheduler", "runner", "recorder", "reading", "listing", "retention", "trust"},
    {"engine", "past", "report"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
ROOT = Path(__file__).parents[2] / "loom"


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "loom":
            names |= {alias.name for alias in node.names if alias.name != "__version__"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("loom."):
            names.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("loom.")}
    return names


def test_imports_point_down() -> None:
    wrong = []
    for path in ROOT.rglob("*.py"):
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if own in ("__init__", "py.typed"):
            continue
        for name in imports_of(path) - {own}:
            lower = LEVEL[name] < LEVEL[own] or (LEVEL[name] == LEVEL[own] <= 2)
            if not lower:
                wrong.append(f"{path.relative_to(ROOT)} imports loom.{name}")
    assert wrong == []
