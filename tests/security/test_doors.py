"""Rules that hold in every place, not only where somebody thought of them: each test finds the wall without a door."""

import ast
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import loom

ROOT = Path(loom.__file__).parent
pytestmark = pytest.mark.slow  # each reads all of loom's code


@cache
def texts() -> dict[str, str]:
    return {str(path.relative_to(ROOT)): path.read_text() for path in ROOT.rglob("*.py")}


def where(words: str, found: Callable[[ast.AST], bool]) -> set[str]:
    """Return the modules of loom with such a piece of code. Only files in which `words` match are parsed."""
    read = {name: ast.walk(ast.parse(text)) for name, text in texts().items() if re.search(words, text)}
    return {name for name, nodes in read.items() if any(map(found, nodes))}


STARTED = {
    "util/processes.py": "this Python, isolated",
    "snapshot/git.py": "git",
    "snapshot/removal.py": "rm",
    "plan/gitlab/scripts.py": "bash, which reads scripts and runs nothing",
    "commands/plan/check.py": "sh and actionlint",
    "commands/gate/signing.py": "ssh-keygen and gpg",
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

    first = r"subprocess|\b(multiprocessing|pty|runpy|ProcessPoolExecutor|from os|os\.(exec|spawn|posix|fork|popen|system|start))"
    assert where(first, starts) == set(STARTED)
    words = {"util/processes.py", "commands/gate/signing.py"}  # the latter: the namespace of its signatures
    assert not where("executable|subprocess", names_python) & set(STARTED) - words


def test_only_the_asking_function_lends_objects_of_others() -> None:
    """Without its consent, `take` fills no workspace of a repository that borrows objects."""

    def consents(node: ast.AST) -> bool:
        return isinstance(node, ast.keyword) and node.arg in ("lends", "may_lend")

    assert where("lend", consents) == {"commands/project/trusting.py", "snapshot/source.py"}


CONNECTED = {
    "commands/servers/web.py": "the client for servers",
    "action_services/server.py": "listens, for the actions of a job",
    "storage/bucket.py": "the bucket for caches that the user's own configuration names",
}
"""The modules that connect to something, besides those for engines and clusters (`providers`)."""
_CONNECTS = re.compile(
    r"(socket|ssl|http\.client|urllib\.request|requests|urllib3|httpx?|aiohttp|websockets?|gitlab|github|docker|kubernetes"
    r"|fsspec|ftplib|smtplib|paramiko)(\..*)?"
)


def test_one_client_asks_servers() -> None:
    """The token goes to its server alone, and every answer ends, only where each request passes the client's door."""

    def imports(node: ast.AST) -> bool:
        if isinstance(node, ast.Import):
            return any(_CONNECTS.fullmatch(each.name) for each in node.names)
        if isinstance(node, ast.ImportFrom):
            return node.module is not None and _CONNECTS.fullmatch(f"{node.module}.{node.names[0].name}") is not None
        if not isinstance(node, ast.Call):
            return False
        late = getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__")
        return late and any(isinstance(one, ast.Constant) and _CONNECTS.fullmatch(str(one.value)) for one in node.args)

    def goes_alone(node: ast.AST) -> bool:
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        with_session = isinstance(node, ast.Call) and any(one.arg == "session" for one in node.keywords)
        return (called == "gitlab.Gitlab" and not with_session) or re.fullmatch(
            r"requests\.(Session|session|request|get|post|put|patch|delete|head|options)", called
        ) is not None

    first = (
        r"socket|ssl|https?|httpx|urllib3?|requests|aiohttp|websockets?|gitlab|github|docker|kubernetes|fsspec|ftplib"
    )
    found = where(rf"\b(from|import) .*\b({first}|smtplib|paramiko)\b|import_module|__import__", imports)
    assert {name for name in found if not name.startswith("providers/")} == set(CONNECTED)
    alone = {name for name in where(r"requests\.|Gitlab\(", goes_alone) if not name.startswith("providers/")}
    assert alone == {"commands/servers/web.py"}


def callers(*names: str) -> set[str]:
    """Return the modules that call a function of these names."""

    def calls(node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in names

    return where(rf"\b({'|'.join(names)})\(", calls)


def test_values_of_other_jobs_pass_the_function_that_knows_this_machine() -> None:
    def reads(node: ast.AST) -> bool:
        return isinstance(node, ast.Attribute) and ast.unparse(node) in ("dotenv.read", "dotenv.kept")

    assert where("dotenv", reads) == {"runner/products.py"}
    assert callers("may_get") == {"plan/variables.py"}


def test_what_goes_out_is_searched() -> None:
    """A bundle and a report by the modules that search them, and each text for an agent where values are hidden."""
    assert callers("write_bundle") == {"commands/record/bundle.py"}
    assert callers("page") == {"commands/record/report.py"}
    assert {"commands/record/bundle.py", "commands/record/report.py"} <= callers("masker_for")
    tools, server = (ast.parse((ROOT / f"commands/agents/{name}.py").read_text()) for name in ("tools", "mcp"))
    made = [node for each in (tools, server) for node in ast.walk(each) if isinstance(node, ast.Call)]
    texts = [ast.unparse(node) for node in made if ast.unparse(node.func) in ("Answer", "RunAnswer", "ExecAnswer")]
    pages = next(ast.unparse(node) for node in tools.body if isinstance(node, ast.ClassDef) and node.name == "Pages")
    assert not [text for text in texts if text not in pages and not re.search(r"\*\*(self\.pages\.)?cut\b", text)]
    errors = [ast.unparse(node) for node in made if ast.unparse(node.func) == "ToolError"]
    assert not [text for text in errors if "error" in text and "hidden(" not in text]


def test_what_replaces_files_of_the_checkout_keeps_copies() -> None:
    assert callers("apply_to") == {"snapshot/sync.py", "snapshot/pull_request.py"}, "the latter: in a new workspace"
    replaces = where(
        r"snapshot\.(apply_patch|bring)",
        lambda node: (
            isinstance(node, ast.Attribute) and ast.unparse(node) in ("snapshot.apply_patch", "snapshot.bring")
        ),
    )
    assert replaces == callers("keep_copies") == {"commands/inside/pull.py", "commands/inside/sync.py"}


def test_each_language_is_read_and_planned_within_the_budget() -> None:
    def is_language(node: ast.AST) -> bool:
        named = isinstance(node, ast.Call) and ast.unparse(node.func) == "import_module" and ast.unparse(node.args[0])
        return bool(named) and re.match(r"f'loom\.(workflow|plan)\.\{", str(named)) is not None

    def unlimited(node: ast.AST) -> bool:
        """Return whether it is a function that calls the module of a language, or `_planning_of` with that, outside of the budget."""

        def calls(inner: ast.AST) -> bool:
            return is_language(inner) or (isinstance(inner, ast.Call) and ast.unparse(inner.func) == "_planning_of")

        if not isinstance(node, ast.FunctionDef) or node.name == "_planning_of" or not any(map(calls, ast.walk(node))):
            return False
        within = [
            one for one in ast.walk(node) if isinstance(one, ast.With) and "limited()" in ast.unparse(one.items[0])
        ]
        return not any(calls(inner) for one in within for inner in ast.walk(one))

    def goes_round(node: ast.AST) -> bool:
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        names = [each.name for each in node.names] if isinstance(node, ast.ImportFrom) else []
        return bool(re.fullmatch(r"loom\.(workflow|plan)\.\w+\.(loader|resolve)", module)) and bool(
            {"examine", "resolve", "rehearse"} & set(names)
        )

    assert where("import_module", is_language) == {"workflow/dialects.py", "plan/resolve.py"}
    assert not {
        name for name in where("import_module", unlimited) if name in ("workflow/dialects.py", "plan/resolve.py")
    }
    assert not where(r"loom\.(workflow|plan)\.\w+\.(loader|resolve)", goes_round)
