import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from loom.plan.model import Cache as Spec
from loom.storage.cache import Cache
from loom.storage.workspace import DirectoryView
from tests.support.loom_process import run_loom

pytestmark = pytest.mark.slow

SPEC = Spec(paths=("deps",))


class Project:
    """A repository with an origin, and a store of its own."""

    def __init__(self, base: Path) -> None:
        self.root = base / "repo"
        self.root.mkdir()
        subprocess.run(["git", "init", "-q", str(self.root)], check=True)
        self.git("remote", "add", "origin", "git@example.org:team/app.git")
        (self.root / "deps").mkdir()
        self.folder = base / "store"
        self.home = base / "home"
        self.home.mkdir()

    def git(self, *arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=self.root, check=True)

    @property
    def name(self) -> str:
        return f"{self.root} (example.org/team/app)"

    def save(self, key: str, project: str | None = None, used_at: float | None = None) -> None:
        (self.root / "deps/file").write_bytes(os.urandom(20_000))
        store = Cache(self.folder, max_size=1 << 30, project=project or self.name, clock=lambda: used_at or time.time())
        assert store.save(SPEC, key, DirectoryView(self.root), lambda stream, data: None).saved

    def loom(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return run_loom(
            ("cache", *arguments),
            cwd=self.root,
            environ={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "PYTHONPATH": str(Path(__file__).parents[3]),
                "LOOM_CACHE_DIR": str(self.folder),
                **environ,
            },
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_ls(project: Project) -> None:
    assert project.loom("ls").stdout == f"no cache entries of {project.name}\n"
    project.save("npm-1", used_at=time.time() - 90_000)
    project.save("npm-2")
    project.save("theirs", project="example.org/other")
    lines = project.loom("ls").stdout.splitlines()
    assert lines[0].split() == ["KEY", "PATHS", "FILES", "SIZE", "PACKED", "USED"]
    assert [line.split()[0] for line in lines[1:]] == ["npm-2", "npm-1", "2"]
    assert lines[2].endswith("1 day ago")
    assert "theirs" in project.loom("ls", "--all").stdout
    shown = json.loads(project.loom("ls", "*-1", "--json").stdout)["entries"]
    assert [(entry["key"], entry["files"], entry["bytes"]) for entry in shown] == [("npm-1", 1, 20_000)]


def test_rm(project: Project) -> None:
    for key in ("npm-1", "npm-2", "go"):
        project.save(key)
    project.save("npm-3", project="example.org/other")
    done = project.loom("rm", "npm-*")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("2 entries removed, 40.")
    assert [entry["key"] for entry in json.loads(project.loom("ls", "--all", "--json").stdout)["entries"]] == [
        "npm-3",
        "go",
    ]
    done = project.loom("rm", "nope")
    assert done.returncode == 2
    assert done.stderr.startswith("loom: no cache entry has the key nope\n")
