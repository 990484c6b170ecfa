"""No wait without a limit: each call that may wait for ever names, on its own line, why it may (`# no limit: ...`)."""

import ast
import re
from pathlib import Path

import pytest

from loom.util.within import wait_until

ROOT = Path(__file__).parents[2] / "loom"
ALLOWED = "# no limit: "

# By the name of what is called: these wait for ever when they are called without any argument.
BARE = {"join", "wait", "get", "acquire", "communicate", "select", "accept"}
# These know no limit as an argument, or the socket's own; `recv` and `sendall` are bounded by `settimeout` alone.
ALWAYS = {"flock", "lockf", "recv", "sendall", "exec_start", "events"}
# These wait for ever unless a limit is among their arguments, by name or at this place.
BOUNDED = {
    "subprocess.run": 99,
    "subprocess.call": 99,
    "subprocess.check_call": 99,
    "subprocess.check_output": 99,
    "select.select": 3,
    "futures.wait": 1,
    "api.wait": 1,
    "urlopen": 2,
    "requests.get": 99,
    "create_connection": 1,
}


def called(node: ast.Call) -> str:
    """The name of what is called, as far as it is one; what a call or an index gives has the name `_`."""
    names, value = [], node.func
    while isinstance(value, ast.Attribute):
        names.append(value.attr)
        value = value.value
    names.append(value.id if isinstance(value, ast.Name) else "_")
    return ".".join(reversed(names))


def limit_of(node: ast.Call, place: int) -> ast.expr | None:
    named = next((keyword.value for keyword in node.keywords if keyword.arg == "timeout"), None)
    return named or (node.args[place] if len(node.args) > place else None)


def may_wait_for_ever(node: ast.Call, imported: set[str]) -> bool:
    name = called(node)
    last = name.rpartition(".")[2]
    named = {keyword.arg: keyword.value for keyword in node.keywords}
    limit = named.get("timeout")
    if isinstance(limit, ast.Constant) and limit.value is None:
        return True
    for ending, place in BOUNDED.items():
        if name == ending or name.endswith(f".{ending}"):
            limit = limit_of(node, place)
            return limit is None or (isinstance(limit, ast.Constant) and limit.value is None)
    if last in ALWAYS and "." in name:
        # The raw connection that the SDK gives comes back with the answer's first line, for which the client has a limit.
        return "LOCK_NB" not in ast.unparse(node) and "socket" not in named
    if last == "result" and "concurrent" in imported:
        return not node.args and "timeout" not in named
    return last in BARE and "." in name and not node.args and not named


def unbounded(path: Path) -> list[str]:
    source = path.read_text()
    tree = ast.parse(source)
    lines = source.splitlines()
    imported = {(node.module or "").partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and may_wait_for_ever(node, imported):
            of_call = lines[node.lineno - 1 : (node.end_lineno or node.lineno)]
            if not any(line.partition(ALLOWED)[2].strip() for line in of_call):
                found.append(f"{path.relative_to(ROOT.parent)}:{node.lineno}: {ast.unparse(node)[:100]}")
    return found


@pytest.mark.slow
def test_every_wait_has_a_limit_or_a_reason() -> None:
    assert [line for path in sorted(ROOT.rglob("*.py")) for line in unbounded(path)] == []


@pytest.mark.parametrize(
    ("line", "finds"),
    [
        ("thread.join()", True),
        ("thread.join(3)", False),
        ("', '.join(names)", False),
        ("lock.acquire()", True),
        ("lock.acquire(timeout=2)", False),
        ("queue.get(timeout=None)", True),
        ("settings.get('a')", False),
        ("process.wait()  # no limit: it was killed", False),
        ("process.wait()  # no limit: ", True),
        ("fcntl.flock(file, fcntl.LOCK_EX)", True),
        ("fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", False),
        ("subprocess.run(['git'])", True),
        ("subprocess.run(['git'], timeout=3)", False),
        ("select.select([a], [], [])", True),
        ("select.select([a], [], [], 3)", False),
        ("from concurrent.futures import Future\nfuture.result()", True),
        ("api.wait(container)", True),
    ],
)
def test_the_kinds_are_told_apart(line: str, finds: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "a.py").write_text(f"{line}\n")
    assert bool(unbounded(tmp_path / "a.py")) is finds


# What pauses by itself, and why it is neither `wait_until` nor one of the policies of a retry (util/retrying.py).
PAUSES = {
    "commands/agents/mcp.py": "tells a client from time to time that its call goes on",
    "commands/record/logs.py": "follows a record for as long as its run goes on",
    "providers/docker/session/attach.py": "gathers output that comes line by line",
    "providers/host.py": "kills until nothing is left, a number of rounds",
    "snapshot/copy_files.py": "reads a file again that was written to meanwhile, a number of times",
}


@pytest.mark.slow
def test_every_pause_is_a_known_one() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if "sleep" in path.read_text()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and called(node).rpartition(".")[2] == "sleep"
    }
    assert found == set(PAUSES)


def test_waiting_ends_with_what_is_waited_for_or_with_its_limit() -> None:
    pauses: list[float] = []
    answers = iter([None, None, None, "there"])
    assert wait_until(lambda: next(answers), limit_s=60, every_s=0.3, first_s=0.1, pause=pauses.append) == "there"
    assert pauses == [0.1, 0.2, 0.3]
    assert wait_until(lambda: False, limit_s=0, every_s=1) is False


TIMED = re.compile(r"assert .*\b(monotonic|perf_counter|process_time)\(\) - \w+(\.\w+)* <")


@pytest.mark.slow
def test_no_test_is_timed() -> None:
    """How long a thing takes is measured in `tests/bench`; that a test does not wait is said with `promptly`."""
    tests = Path(__file__).parents[1]
    files = (path for path in tests.rglob("*.py") if "bench" not in path.parts and path.name != "waiting.py")
    assert [
        f"{path}: {line.strip()}" for path in files for line in path.read_text().splitlines() if TIMED.search(line)
    ] == []
