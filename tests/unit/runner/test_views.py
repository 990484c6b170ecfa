"""Which view of the workspace a job gets, and the second layout of a snapshot."""

import os
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import ProviderError, SnapshotError
from loom.plan.model import Job, MountMode, Retry, WorkspaceMode
from loom.providers.base import Capabilities
from loom.runner.views import Views
from loom.snapshot import duplicate


def job(name: str = "a b,c", *, retries: int = 0, provider: str = "docker") -> Job:
    return Job(
        id=name,
        name=name,
        stage="s",
        target="linux",
        provider=provider,
        shell=("sh",),
        steps=(),
        retry=Retry(max=retries),
    )


class _Provider:
    def __init__(self, *mounts: MountMode) -> None:
        self.capabilities = Capabilities(mounts=frozenset(mounts), isolated=True)

    def overlays(self, workspace: Path) -> bool:
        return True


PROVIDERS: Any = {
    "docker": _Provider(*MountMode),
    "host": _Provider(MountMode.BIND),
    "far": _Provider(MountMode.VOLUME),
}


def views(tmp_path: Path, mode: WorkspaceMode = WorkspaceMode.AUTO, *, alone: bool = False) -> Views:
    (tmp_path / "run").mkdir(exist_ok=True)
    return Views(tmp_path / "run", mode, PROVIDERS, alone=alone)


def test_a_job_that_is_alone_has_the_workspace_unless_it_may_need_another(tmp_path: Path) -> None:
    assert views(tmp_path, alone=True).of(job()).workspace == tmp_path / "run"
    assert views(tmp_path, alone=True).of(job(retries=1)).mode is MountMode.OVERLAY
    host = views(tmp_path).of(job(provider="host"))
    assert (host.mode, host.copied, host.files) == (MountMode.BIND, True, host.workspace)


@pytest.mark.parametrize("mode", list(WorkspaceMode))
def test_a_session_that_sees_no_directory_of_this_machine_is_sent_the_files(
    tmp_path: Path, mode: WorkspaceMode
) -> None:
    far = views(tmp_path, mode, alone=True).of(job(provider="far"))
    assert (far.mode, far.copied, far.workspace) == (MountMode.VOLUME, False, tmp_path / "run")


@pytest.mark.parametrize("code", ["VIEW_UNAVAILABLE", "WORKSPACE_UNSEEN"])
def test_what_can_not_be_had_is_not_tried_again(tmp_path: Path, code: str) -> None:
    several = views(tmp_path)
    kinds = []
    for _ in range(3):
        view = several.of(job())
        kinds.append((view.mode, view.copied))
        last = not several.another(job(), view, ProviderError("no", code=code))
    assert kinds == [(MountMode.OVERLAY, False), (MountMode.BIND, True), (MountMode.VOLUME, False)]
    assert last
    assert not several.another(job(), several.of(job()), ProviderError("a broken engine"))


def test_what_was_asked_for_by_name_is_had_or_nothing(tmp_path: Path) -> None:
    overlay = views(tmp_path, WorkspaceMode.OVERLAY)
    assert not overlay.another(job(), overlay.of(job()), ProviderError("no", code="VIEW_UNAVAILABLE"))


@pytest.mark.parametrize(
    ("mode", "provider", "no_checkout", "expected"),
    [
        ("auto", "docker", False, "overlay run"),
        ("auto", "docker", True, "bind empty-or-own"),
        ("auto", "far", True, "volume empty"),
        ("auto", "host", True, "bind empty-or-own"),
        ("copy", "docker", False, "bind copied"),
        ("copy", "far", False, "volume run"),
        ("shared", "docker", False, "bind run"),
        ("shared", "docker", True, "bind empty-or-own"),
        ("volume", "docker", False, "volume run"),
        ("overlay", "host", False, "bind copied"),
    ],
)
@pytest.mark.parametrize("is_open", [True, False])
def test_the_kind_of_a_view(
    tmp_path: Path, mode: str, provider: str, no_checkout: bool, expected: str, is_open: bool
) -> None:
    asked = replace(job(provider=provider), no_checkout=no_checkout, open_files=is_open)
    view = views(tmp_path, WorkspaceMode[mode.upper()]).of(asked)
    run = tmp_path / "run"
    own = view.directory and view.directory / "workspace"
    found = {(run, False): "run", (own, True): "copied", (own, False): "empty-or-own"}
    if view.directory is not None:
        found[view.directory / "given", False] = "empty"
        assert view.run_workspace == run
        assert view.brought == view.directory / ".brought.json"
    assert f"{view.mode.name.lower()} {found[view.workspace, view.copied]}" == expected
    if view.workspace != run:
        assert view.workspace.stat().st_mode & 0o777 == (0o777 if is_open else 0o755)
        assert list(view.workspace.iterdir()) == []
    of_inputs = views(tmp_path, WorkspaceMode[mode.upper()]).of(replace(asked, inputs=("a",)))
    assert of_inputs.workspace != run
    assert of_inputs.copied is not no_checkout


def test_a_view_that_was_not_to_be_had_leaves_nothing(tmp_path: Path) -> None:
    several = views(tmp_path)
    (tmp_path / "run.jobs").write_text("no directory")
    with pytest.raises(SnapshotError, match="no directory for the files of job a b,c: "):
        several.of(job())


def test_a_jobs_directories_are_its_own_and_closed(tmp_path: Path) -> None:
    several = views(tmp_path)
    first, *others = [view.directory for view in (several.of(job()) for _ in range(3))]
    assert first is not None
    assert [first.name, *(other.name for other in others if other is not None)] == ["a-b-c", "a-b-c.2", "a-b-c.3"]
    assert first.parent.stat().st_mode & 0o777 == 0o700


def test_a_second_layout_is_the_first_ones_twin(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "sub" / "empty").mkdir(parents=True)
    (source / ".loom").mkdir()
    (source / ".loom" / ".runtime").symlink_to(tmp_path)
    (source / "sub" / "tool").write_text("#!/bin/sh\n")
    (source / "sub" / "tool").chmod(0o755)
    (source / "link").symlink_to("sub/tool")
    os.utime(source / "sub" / "tool", ns=(1, 1))
    modes = {"": 0o777, "sub": 0o711, "sub/open": 0o666, "sub/tool": 0o755}
    (source / "sub/open").touch()
    for path, mode in modes.items():
        (source / path).chmod(mode)
    target.mkdir()
    duplicate(source, target, cancel=Cancel())
    assert (target / "sub" / "empty").is_dir()
    assert (target / "link").readlink() == Path("sub/tool")
    assert {path: (target / path).stat().st_mode & 0o777 for path in modes} == modes
    tool = (target / "sub" / "tool").stat()
    assert tool.st_mtime_ns == 1
    assert tool.st_ino != (source / "sub" / "tool").stat().st_ino
    assert not (target / ".loom" / ".runtime").is_symlink()
