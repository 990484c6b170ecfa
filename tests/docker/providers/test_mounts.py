"""The three ways in which a job's container sees the workspace, and who owns the files afterwards."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import docker
import pytest

from loom.errors import ProviderError
from loom.plan.model import MountMode
from loom.providers.files import unpack
from loom.storage.selection import Everything
from loom.storage.tar import Item, read
from loom.storage.workspace import Archives, Skipped, view_of
from tests.support.effort import LONG

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.docker

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="looks at files as root, or becomes another user")


def put(files: Path | Archives, items: Iterable[Item]) -> None:
    if isinstance(files, Path):
        unpack(items, files)
    else:
        files.put(items)


def skipped(item: Skipped) -> None:
    raise AssertionError(item)


@pytest.fixture(params=list(MountMode))
def mounted(request: pytest.FixtureRequest, docker_site: Site) -> Site:
    docker_site.mount_mode = request.param
    return docker_site


def tree(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): (path.readlink().as_posix() if path.is_symlink() else path.read_text())
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def fill(workspace: Path) -> None:
    (workspace / "src" / "deep").mkdir(parents=True)
    (workspace / "src" / "a.txt").write_text("a\n")
    (workspace / "src" / "deep" / "b.txt").write_text("b\n")
    (workspace / "tool").write_text("#!/bin/sh\necho tool\n")
    (workspace / "tool").chmod(0o755)
    (workspace / "link").symlink_to("src/a.txt")
    (workspace / "dangling").symlink_to("/nowhere/at all")
    (workspace / "src" / "up").symlink_to("../../../beside/it")
    (workspace / "with space\nand line").write_text("odd\n")
    (workspace / os.fsdecode(b"not-utf8-\xff")).write_text("odder\n")
    (workspace / "gone").write_text("")


def test_a_job_sees_the_same_tree_in_each_mode(mounted: Site) -> None:
    fill(mounted.workspace)
    with mounted.job() as job:
        listing = job.run(
            "find . -printf '%P %y %m %l\\0' | sort -z; ./tool; cat link 'with space\nand line' not-utf8-*"
        )
        assert listing.code == 0
    expected = subprocess.run(
        ["sh", "-c", "find . -printf '%P %y %m %l\\0' | sort -z; ./tool; cat link 'with space\nand line' not-utf8-*"],
        cwd=mounted.workspace,
        capture_output=True,
        check=True,
    ).stdout
    assert listing.out == expected


def test_only_a_bind_mount_writes_into_the_workspace(mounted: Site) -> None:
    fill(mounted.workspace)
    before = tree(mounted.workspace)
    with mounted.job() as job:
        job.run(
            "echo new >new; echo changed >src/a.txt; rm gone; rm -r src/deep; git_dir=.git; mkdir $git_dir; echo x >.git/x"
        )
        # All modes give out the same.
        names = {entry.path for entry, _ in view_of(job.session.files()).read(Everything("."), skipped)}
    assert {"new", "src/a.txt", ".git/x"} <= names
    assert not {"gone", "src/deep/b.txt"} & names
    if mounted.mount_mode is MountMode.BIND:
        assert (mounted.workspace / "new").exists()
    else:
        assert tree(mounted.workspace) == before
        mounted.provider.close()
        if mounted.mount_mode is MountMode.OVERLAY:
            (upper,) = mounted.workspace.parent.glob("*.jobs/*/*")
            assert (upper / "new").read_text() == "new\n", "what the job wrote stays, and nothing else"


def test_where_root_is_another_user_a_volume_alone_works(mounted: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loom.providers.docker.session.session.may_all", lambda root: root not in (0, os.geteuid()))
    if mounted.mount_mode is MountMode.VOLUME:
        with mounted.job() as job:
            assert job.run("touch x").code == 0
        return
    with pytest.raises(ProviderError, match="root in its containers is another user") as refused, mounted.job():
        pass
    assert refused.value.code == "WORKSPACE_UNSEEN"


def test_links_that_climb_out_come_and_go_as_links(mounted: Site) -> None:
    with mounted.job() as job:
        assert job.run("mkdir out; ln -s ../../x out/up; ln -s up out/same").code == 0
        links = list(view_of(job.session.files()).read(Everything("out"), skipped))
    with mounted.job() as job:
        job.run("rm -rf out")
        put(job.session.files(), links)
        assert job.run("readlink out/up out/same").out == b"../../x\nup\n"


def test_podman_keeps_links_of_the_workspace_that_climb_out(podman_site: Site) -> None:
    podman_site.mount_mode = MountMode.VOLUME
    (podman_site.workspace / "in").mkdir()
    (podman_site.workspace / "in" / "up").symlink_to("../../x")
    with podman_site.job() as job:
        links = list(view_of(job.session.files()).read(Everything("in"), skipped))
        assert job.run("readlink in/up; rm in/up").out == b"../../x\n"
        put(job.session.files(), links)
        assert job.run("readlink in/up").out == b"../../x\n"


def test_two_jobs_do_not_see_each_others_work(mounted: Site) -> None:
    if mounted.mount_mode is MountMode.BIND:
        pytest.skip("they do, and are meant to")
    with mounted.job() as one, mounted.job() as other:
        one.run("echo one >mine")
        other.run("echo other >mine")
        assert (one.run("cat mine").out, other.run("cat mine").out) == (b"one\n", b"other\n")


def test_what_the_workspace_borrows_is_at_the_same_path_and_read_only(mounted: Site, tmp_path: Path) -> None:
    store = tmp_path / "objects"
    store.mkdir()
    (store / "object").write_text("borrowed\n")
    with mounted.job(read_only_mounts=(store,)) as job:
        assert job.run(f"cat '{store}/object'").out == b"borrowed\n"
        job.run(f"rm -f '{store}/object'")
    assert (store / "object").exists()


@pytest.fixture
def joes_image(build: Callable[..., str]) -> str:
    return build("joe", "FROM debian:trixie-slim\nRUN useradd -u 1234 -m joe\nUSER joe\n")


def test_an_images_own_user_can_write_in_the_workspace(mounted: Site, joes_image: str) -> None:
    fill(mounted.workspace)
    owner = mounted.workspace.stat().st_uid
    mounted.image = joes_image
    with mounted.job() as job:
        ran = job.run("id -u; echo more >>src/a.txt; mkdir made; echo x >made/x; rm gone")
        assert (ran.code, ran.out, ran.err) == (0, b"1234\n", b"")
        incoming = io.BytesIO()
        with tarfile.open(fileobj=incoming, mode="w") as archive:
            member = tarfile.TarInfo("given/file")
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
        if not isinstance(files := job.session.files(), Path):
            put(files, read(io.BytesIO(incoming.getvalue())))
            assert job.run("echo more >>given/file").code == 0
    for path in (mounted.workspace, *mounted.workspace.rglob("*")):
        assert path.lstat().st_uid == owner


@as_root
@pytest.mark.parametrize("mode", [MountMode.OVERLAY, MountMode.VOLUME])
def test_a_step_of_roots_can_become_another_user(docker_site: Site, mode: MountMode) -> None:
    fill(docker_site.workspace)
    docker_site.workspace.chmod(0o755)
    docker_site.mount_mode = mode
    with docker_site.job() as job:
        ran = job.run("setpriv --reuid 4321 --regid 4321 --clear-groups cat src/deep/b.txt")
        assert (ran.code, ran.out) == (0, b"b\n"), ran.err
        for layers in docker_site.workspace.parent.glob("*.jobs/*"):
            assert layers.stat().st_mode & 0o077 == 0, "others on this machine must not get at it"


def test_two_jobs_of_one_user_share_the_workspace(docker_site: Site, joes_image: str) -> None:
    docker_site.image = joes_image
    with docker_site.job() as one:
        one.run("echo x >one")
        with docker_site.job() as other:
            assert other.run("echo y >>one").code == 0
        assert one.run("echo z >>one").code == 0
    assert (docker_site.workspace / "one").lstat().st_uid == 0


CALLER = textwrap.dedent(
    """
    import os, shutil, sys, time
    from pathlib import Path
    from msgspec.structs import replace
    from loom.cancel import Cancel
    from loom.plan.model import Image, MountMode
    from loom.providers.base import SessionRequest
    from loom.providers.command import Command
    from loom.providers.docker.engine.client import Engine
    from loom.providers.docker.provider import DockerProvider

    workspace, image, mode = Path(sys.argv[1]), sys.argv[2], MountMode(sys.argv[3])
    provider = DockerProvider(Engine(os.environ))
    request = SessionRequest(run_id="caller", job_id="job", workspace=workspace, project_dir="/workspace",
        environment={}, shell=("sh", "-e"), image=Image(name=image), mount_mode=mode)
    with provider.open(request, lambda *_: None, Cancel()) as session:
        script = "echo more >>given; mkdir -p deep/er; echo x >deep/er/file; chmod 600 deep/er/file; chmod 700 deep"
        ended = session.run(Command(script=script, shell=()), lambda s, d: print(d, flush=True), Cancel())
        assert ended.code == 0, ended
        if mode is MountMode.BIND:
            # A job of root's that ends meanwhile does not take the files from this one.
            with provider.open(replace(request, image=Image(name="debian:trixie-slim")), lambda *_: None, Cancel()) as other:
                assert other.run(Command(script="echo x >roots", shell=()), lambda *_: None, Cancel()).code == 0
            again = session.run(Command(script="echo x >later; rm later", shell=()), lambda *_: None, Cancel())
            assert again.code == 0, again
    problems = list(provider.close())
    assert problems == [], problems
    if mode is MountMode.BIND:
        (workspace / "given").write_text((workspace / "given").read_text())
        assert (workspace / "deep/er/file").read_text() == "x\\n"
    shutil.rmtree(workspace)
    for left in workspace.parent.glob("*.jobs"):
        shutil.rmtree(left)
    """
)


CALLS = [
    *zip(MountMode, ("joe", "root", "joe"), strict=True),
    *(zip(MountMode, ("root", "joe", "root"), strict=True) if LONG else ()),
]


@as_root
@pytest.mark.parametrize(("mode", "image"), CALLS)
def test_a_caller_who_is_not_root_owns_everything_afterwards(
    engine: docker.DockerClient, joes_image: str, tmp_path: Path, image: str, mode: MountMode
) -> None:
    if shutil.which("setpriv") is None or not Path("/var/run/docker.sock").exists():
        pytest.skip("needs setpriv, and the engine's socket in its usual place")
    group = Path("/var/run/docker.sock").stat().st_gid
    base = Path(f"/tmp/loom-test-caller-{os.getpid()}-{image}-{mode}")
    workspace = base / "workspace"
    try:
        workspace.mkdir(parents=True)
        (workspace / "given").write_text("given\n")
        for path in (base, workspace, workspace / "given"):
            os.chown(path, 12345, 12345)
        become = ["setpriv", "--reuid=12345", "--regid=12345", f"--groups={group}"]
        image_name = joes_image if image == "joe" else "debian:trixie-slim"
        ran = subprocess.run(
            [*become, sys.executable, "-c", CALLER, str(workspace), image_name, mode.value],
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"], "HOME": str(base), "PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        assert not workspace.exists()
    finally:
        shutil.rmtree(base, ignore_errors=True)
