"""Places in the project's files: which directory a path of a tool's output is relative to."""

from pathlib import Path

import pytest

from loom.analysis.diagnosis import diagnose
from loom.analysis.locations import WorkingDirectories
from tests.unit.analysis.test_diagnosis import evidence


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in ("lib/src/a.c", "app/src/a.c", "app/go/m.go", "web/only.ts", "src/b.c"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("\n" * 20)
    return tmp_path


def test_a_directory_that_make_entered_and_did_not_leave(root: Path) -> None:
    lines = [
        "make[1]: Entering directory '/workspace/lib'",
        "make[1]: Leaving directory '/workspace/lib'",
        "make[1]: Entering directory '/workspace/app'",
        "src/a.c:3:1: error: x",
    ]
    assert WorkingDirectories(root, lines).file("src/a.c") == "app/src/a.c"
    assert WorkingDirectories(root, [*lines[:1], lines[3]]).file("src/a.c") == "lib/src/a.c"
    assert (
        WorkingDirectories(root, ["ninja: Entering directory `build'", "../src/b.c:1: x"]).file("../src/b.c")
        == "src/b.c"
    )


def test_the_directory_of_the_shell_and_of_the_command(root: Path) -> None:
    assert WorkingDirectories(root, [], directory="/workspace/app/go").file("m.go") == "app/go/m.go"
    assert WorkingDirectories(root, [], directory="/workspace").file("src/b.c") == "src/b.c"
    assert WorkingDirectories(root, [], command="make -C lib").file("src/a.c") == "lib/src/a.c"
    assert WorkingDirectories(root, [], command="cargo test --manifest-path app/src/x").file("src/a.c") == "src/a.c"


def test_one_file_of_the_name_is_found_and_of_two_none(root: Path) -> None:
    assert WorkingDirectories(root, []).file("only.ts") == "web/only.ts"
    assert WorkingDirectories(root, []).file("src/a.c") == "src/a.c"
    assert WorkingDirectories(root, []).file("../../etc/passwd") == "../../etc/passwd"
    assert WorkingDirectories(None, [], directory="/workspace/app").file("x.c") == "x.c"


def test_the_position_of_the_telling_line_is_first(root: Path) -> None:
    lines = ["app/go/m.go:2:in `fetch': key not found: :port (KeyError)", "\tfrom web/only.ts:9:in `<main>'"]
    found = diagnose(evidence(lines=lines, root=root))
    assert [(each.file, each.line) for each in found.locations] == [("app/go/m.go", 2), ("web/only.ts", 9)]


def test_a_place_that_the_files_of_the_job_do_not_have_is_none(root: Path) -> None:
    printed = ["Makefile:3: error: of a log", "app/go/m.go:22: error: behind the end", "web/only.ts:9: error: x"]
    assert [each.text for each in diagnose(evidence(lines=printed, root=root)).locations] == ["web/only.ts:9"]


def test_where_several_files_may_be_meant_all_are_told(root: Path) -> None:
    found = diagnose(evidence(lines=["src/a.c:3:1: error: x"], root=root))
    assert [each.text for each in found.locations] == ["one of app/src/a.c:3, lib/src/a.c:3"]
    assert WorkingDirectories(root, [], command="cc app lib").file("src/a.c") == "src/a.c"


@pytest.mark.parametrize(
    ("below", "directory", "file"),
    [
        ("FAIL\texample.org/app/go\t0.01s", None, "app/go/m.go"),
        ("FAIL\texample.org/x/go\t0.01s", "/workspace/app", "app/go/m.go"),
        ("ok  \texample.org/app/go\t0.01s\nFAIL\texample.org/other\t0.01s", None, "app/go/m.go"),
        ("FAIL\texample.org/other\t0.01s", None, "other/m.go"),
        ("FAIL\texample.org\t0.01s", None, "m.go"),
        ("npm error Lifecycle script `test` failed\nnpm error location /workspace/other", None, "other/m.go"),
    ],
)
def test_the_package_below_a_line_decides(root: Path, below: str, directory: str | None, file: str) -> None:
    for path in ("m.go", "other/m.go"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text("")
    lines = ["    m.go:5: bad", *below.splitlines()]
    assert WorkingDirectories(root, lines, directory=directory).file("m.go") == file
