"""What goes into a build: the context's files and their hash, and what a Dockerfile names."""

import os
from collections.abc import Mapping
from pathlib import Path
from stat import S_ISREG

import pytest

from loom.images.dockerfile import (
    bases_of,
    copy_inputs,
    fill_in,
    inputs_hash,
    pin_bases,
    read_ignore,
    stages_of,
)


def fill(folder: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def test_a_copy_holds_files_links_and_folders_no_sockets_and_nothing_of_looms(tmp_path: Path) -> None:
    root = fill(
        tmp_path / "root",
        {"a/x": "", "b": "", ".git/HEAD": "", ".git/loom/r": "", ".loom/.runtime/r": "", "c/.git/loom/x": ""},
    )
    (root / "link").symlink_to("nowhere")
    (root / "empty").mkdir()
    os.mkfifo(root / "pipe")
    copy_inputs(root, tmp_path / "copy", context=".", dockerfile="Dockerfile")
    paths = [path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*")]
    nested = ["c", "c/.git", "c/.git/loom", "c/.git/loom/x"]
    assert sorted(paths) == sorted([".git", ".git/HEAD", ".loom", "a", "a/x", "b", "empty", "link", *nested])


def test_the_dockerfiles_own_ignore_file_wins(tmp_path: Path) -> None:
    fill(tmp_path, {".dockerignore": "a\n", "d/Dockerfile": "FROM scratch"})
    assert read_ignore(tmp_path, tmp_path / "d/Dockerfile") == ["a"]
    fill(tmp_path, {"d/Dockerfile.dockerignore": "b\n"})
    assert read_ignore(tmp_path, tmp_path / "d/Dockerfile") == ["b"]


@pytest.mark.parametrize(
    ("context", "dockerfile"),
    [(".", "Dockerfile"), (".", "ci/Dockerfile"), ("app", "Dockerfile"), ("app", "ci/Dockerfile"), ("./", "linked")],
)
def test_a_copy_of_the_inputs_builds_the_same(tmp_path: Path, context: str, dockerfile: str) -> None:
    root = fill(
        tmp_path / "root",
        {
            ".dockerignore": "Dockerfile\n**/skip\n!app/skip/kept\nci\n",
            "Dockerfile": "FROM a",
            "ci/Dockerfile": "FROM b",
            "ci/Dockerfile.dockerignore": "**/big\n",
            "app/Dockerfile": "FROM c",
            "app/run": "x",
            "app/skip/kept": "y",
            "app/skip/big": "z",
        },
    )
    (root / "linked").symlink_to("ci/Dockerfile")
    (root / "app/dangling").symlink_to("/nowhere")
    (root / "app/run").chmod(0o755)
    (root / "app/empty").mkdir(mode=0o700)
    copy_inputs(root, tmp_path / "copy", context=context, dockerfile=dockerfile)

    def built_from(directory: Path) -> tuple[bytes, str]:
        named = directory / context / dockerfile
        found = named if named.is_file() else directory / dockerfile
        files = [
            (
                str(path.relative_to(directory)),
                path.lstat().st_mode,
                path.read_bytes() if S_ISREG(path.lstat().st_mode) else b"",
            )
            for path in sorted((directory / context).rglob("*"))
        ]
        return found.read_bytes(), repr((files, read_ignore(directory / context, found)))

    assert built_from(tmp_path / "copy") == built_from(root)


@pytest.mark.parametrize(("context", "dockerfile"), [("gone", "Dockerfile"), ("..", "D"), (".", "../D"), ("out", "D")])
def test_what_is_not_there_or_leads_out_is_not_copied(tmp_path: Path, context: str, dockerfile: str) -> None:
    fill(tmp_path, {"D": "FROM a", "root/.keep": ""})
    (tmp_path / "root/out").symlink_to(tmp_path)
    copy_inputs(tmp_path / "root", tmp_path / "copy", context=context, dockerfile=dockerfile)
    assert {path.name for path in (tmp_path / "copy").rglob("*")} <= {".keep", "out"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["D", "copy", "root"]


def hash_of(**changed: object) -> str:
    inputs: dict[str, object] = {
        "files": "tree",
        "dockerfile": b"FROM x",
        "ignore": ["*.log"],
        "args": {"A": "1"},
        "target": None,
        "platform": "linux/amd64",
        "bases": {"x": "sha256:1"},
    }
    return inputs_hash(**{**inputs, **changed})  # type: ignore[arg-type]


def test_the_hash_moves_with_every_input() -> None:
    changes: list[tuple[str, object]] = [
        ("files", "other"),
        ("dockerfile", b"FROM y"),
        ("ignore", ["*.txt"]),
        ("args", {"A": "2"}),
        ("args", {}),
        ("target", "t"),
        ("platform", "linux/arm64"),
        ("bases", {"x": "sha256:2"}),
    ]
    assert hash_of() == hash_of(args={"A": "1"})
    assert len({hash_of(), *(hash_of(**{name: value}) for name, value in changes)}) == len(changes) + 1


MULTI = """\
# a comment
ARG TAG=12
ARG BASE="debian:${TAG}"
FROM --platform=$BUILDPLATFORM golang:1.22 AS build
COPY --from=tools:1 /t /t
FROM ${BASE} as middle
RUN --mount=type=bind,from=other/image,target=/o \\
    # inside
    --mount=type=cache,target=/c true
FROM unused AS side
FROM middle
COPY --from=build /x /x
COPY --from=0 /y /y
FROM scratch AS nothing
"""
PREDEFINED = {"BUILDPLATFORM": "linux/amd64"}


@pytest.mark.parametrize(
    ("target", "args", "names"),
    [
        ("3", {}, ["golang:1.22", "tools:1", "debian:12", "other/image"]),
        ("middle", {"TAG": "13"}, ["debian:13", "other/image"]),
        ("MIDDLE", {"BASE": "mine"}, ["mine", "other/image"]),
        ("side", {}, ["unused"]),
        (None, {}, []),
    ],
)
def test_bases_of_a_target(target: str | None, args: dict[str, str], names: list[str]) -> None:
    stages = stages_of(MULTI, args=args, predefined=PREDEFINED)
    assert [name for name, _ in bases_of(stages, target=target)] == names


def test_a_base_may_name_its_platform() -> None:
    stages = stages_of(MULTI, args={}, predefined=PREDEFINED)
    assert bases_of(stages, target="build")[0] == ("golang:1.22", "linux/amd64")


def test_pinning_changes_from_lines_and_no_line_number() -> None:
    pins = {"debian:12": "debian@sha256:1", "golang:1.22": "golang@sha256:2"}
    pinned = pin_bases(MULTI, pins, stages_of(MULTI, args={}, predefined=PREDEFINED))
    assert len(pinned.splitlines()) == len(MULTI.splitlines())
    assert "FROM --platform=$BUILDPLATFORM golang@sha256:2 AS build" in pinned
    assert "FROM debian@sha256:1 as middle" in pinned
    assert "FROM unused AS side" in pinned
    assert [name for name, _ in bases_of(stages_of(pinned, args={}, predefined=PREDEFINED), target="middle")] == [
        "debian@sha256:1",
        "other/image",
    ]


def test_instructions_in_a_heredoc_are_not_instructions() -> None:
    text = "FROM x\nRUN <<EOF\nFROM y\nEOF\nFROM z\n"
    assert [stage.base for stage in stages_of(text, args={}, predefined={})] == ["x", "z"]


def test_another_escape_character() -> None:
    text = "# escape=`\nFROM x\nRUN a `\n  b\nFROM C:\\dir\n"
    assert [stage.base for stage in stages_of(text, args={}, predefined={})] == ["x", "C:\\dir"]


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("a$B-c", "aX-c"),
        ("${B}c", "Xc"),
        ("${N:-d}", "d"),
        ("${B:-d}", "X"),
        ("${B:+d}", "d"),
        ("${N:+d}", ""),
        ("$N", ""),
    ],
)
def test_variables(text: str, filled: str) -> None:
    assert fill_in(text, {"B": "X"}) == filled
