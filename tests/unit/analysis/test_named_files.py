"""Files that the output names, as the checkout has them: a real repository."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from loom.analysis.named_files import find_files_below, find_named_files, makers, missing_paths, undeclared
from loom.analysis.readings import NamedFile
from loom.plan.clone import Clone
from loom.plan.model import Artifacts, Job, Need, NotSelected, Plan
from tests.support.repository import commit_all


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    files = {
        ".gitignore": b"*.env\nbuild/\n",
        "plain.sh": b"#!/bin/sh\necho\n",
        "run.sh": b"#!/usr/bin/env bash\necho\n",
        "windows.sh": b"#!/bin/sh\r\necho\r\n",
        "library.sh": b"set -e\r\ncd /tmp\r\n",
        "secret.env": b"A=1\n",
        "build/out.js": b"x\n",
        ".gitmodules": b'[submodule "lib"]\n path = vendor/lib\n url = ../lib\n',
        "data.txt": b"x\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for name in ("run.sh", "windows.sh", "library.sh"):
        (tmp_path / name).chmod(0o755)
    commit_all(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "exit_code", "seen"),
    [
        ("cat: secret.env: No such file or directory", 1, ("secret.env", "ignored")),
        ("Error: Cannot find module './build/out'", 1, ("build/out.js", "ignored")),
        ("step.1: 1: ./windows.sh: not found", 127, ("windows.sh", "crlf")),
        (
            "step.1: line 1: ./windows.sh: cannot execute: required file not found",
            127,
            ("windows.sh", "crlf"),
        ),
        ("library.sh: 2: cd: can't cd to /tmp", 2, ("library.sh", "crlf")),
        ("step.1: 1: ./plain.sh: Permission denied", 126, ("plain.sh", "no bit")),
        ("step.1: 1: ./run.sh: not found", 127, ("run.sh", "needs bash")),
        ("cat: vendor/lib/a.h: No such file or directory", 1, ("vendor/lib", "submodule")),
        # The line says something else than what is true of the file, or the file is fine.
        ("cat: plain.sh: Permission denied", 1, None),
        ("step.1: 1: ./run.sh: Permission denied", 126, None),
        ("cat: data.txt: No such file or directory", 1, None),
        ("cat: run.sh: No such file or directory", 1, None),
        ("cat: missing.txt: No such file or directory", 1, None),
        ("windows.sh is fine", 1, None),
        ("cat: ../secret.env: No such file or directory", 1, None),
        ("cat: /secret.env: No such file or directory", 1, None),
    ],
)
def test_what_is_true_of_a_file_where_it_explains_the_line(
    checkout: Path, line: str, exit_code: int, seen: tuple[str, str] | None
) -> None:
    found = find_named_files(
        [line, "after"], None, lambda paths: find_files_below(checkout, paths), exit_code=exit_code
    )
    assert {line: (one.path, what(one)) for line, one in found.items()} == ({} if seen is None else {line: seen})


def what(seen: NamedFile) -> str:
    if seen.ignored or seen.empty_submodule or seen.crlf:
        return "ignored" if seen.ignored else "submodule" if seen.empty_submodule else "crlf"
    return f"needs {seen.interpreter}" if seen.executable else "no bit"


@pytest.mark.parametrize(
    ("path", "needs", "made"),
    [
        ("dist/app", None, {"dist/app": ("build", "")}),
        ("dist/app", (), {"dist/app": ("build", "unit does not take (needs, dependencies)")}),
        ("dist/app", (Need(job="again"),), {"dist/app": ("again", "")}),
        ("docs/a.html", None, {"docs/a.html": ("docs", "this run left out (not selected)")}),
        ("out/unit.xml", None, {}),  # its own, also where another job has one of that name
        ("other", None, {}),  # `all` says nothing of it
    ],
)
def test_the_job_that_makes_a_file(path: str, needs: tuple[Need, ...] | None, made: object) -> None:
    def job(name: str, stage: str, *paths: str, needs: tuple[Need, ...] | None = None) -> Job:
        artifacts = Artifacts(paths=paths, exclude=("/no/path", "*.log"))
        return Job(id=name, name=name, stage=stage, steps=(), provider="host", artifacts=artifacts, needs=needs)

    unit = job("unit", "test", "out/", needs=needs)
    left = NotSelected(id="docs", reason="not selected", artifacts=("docs/*.html", "../never", "dist/"))
    jobs = (
        job("build", "build", "dist/"),
        job("again", "build", "dist/"),
        job("all", "build", "**/*"),
        unit,
        job("later", "later", "dist/", "out/unit.xml"),
    )
    plan = Plan(workflow_path="w", stages=("build", "test", "later"), jobs=jobs, left_out=(left,))
    assert makers(plan, unit, [path]) == made


def test_a_name_that_the_line_does_not_have_is_no_artifact() -> None:
    def look(paths: Sequence[str]) -> dict[str, NamedFile]:
        return {path: NamedFile(path=path, maker="build, which is not there") for path in paths}

    assert find_named_files(["No module named 'requests'"], None, look, exit_code=1) == {}
    assert find_named_files(["cat: dist/app: No such file or directory"], None, look, exit_code=1) != {}


def test_a_file_of_the_project_that_is_no_input_of_the_job() -> None:
    job = Job(id="unit", name="unit", stage="test", steps=(), provider="host", inputs=("src", "*.cfg"))
    lines = ["cat: src/a: No such file or directory", "cat: docs/d: No such file or directory"]
    lines += [
        "fatal: not a git repository (or any of the parent directories): .git",
        "cat: x.env: No such file or directory",
    ]

    def look(paths: Sequence[str]) -> dict[str, NamedFile]:
        return undeclared(job, {path: NamedFile(path=path, ignored=path == "x.env") for path in paths})

    assert {one.path for one in find_named_files(lines, None, look, exit_code=1).values()} == {"docs/d", ".git"}


def test_the_rule_is_named(checkout: Path) -> None:
    assert find_files_below(checkout, ["secret.env"])["secret.env"].rule == ".gitignore:1: *.env"


def test_a_path_below_the_directory_that_the_step_changes_to(checkout: Path) -> None:
    assert missing_paths(["cat: out.js: No such file or directory"], "cd build && cat out.js") == [
        "out.js",
        "build/out.js",
    ]


def test_a_place_without_a_repository_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.env").write_text("x\n")
    assert find_files_below(tmp_path, ["a.env"]) == {"a.env": NamedFile(path="a.env", executable=False)}
    assert find_files_below(tmp_path / "gone", ["a.env"]) == {}


def test_a_submodule_that_the_jobs_clone_lacks(checkout: Path) -> None:
    (checkout / "vendor/lib").mkdir(parents=True, exist_ok=True)
    (checkout / "vendor/lib/a.h").write_text("")
    for submodules, expected in (("none", True), ("normal", None)):
        found = find_files_below(checkout, ["vendor/lib/a.h"], Clone(submodules=submodules))
        assert (found["vendor/lib/a.h"].not_cloned or None) is expected
