"""`loom doctor`: check loom's requirements on this machine, each with a remedy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from loom import snapshot
from loom.cancel import Cancel
from loom.commands.plan.plan_run import plan_run
from loom.commands.plan.wiring import run_tools
from loom.commands.project import WORKFLOWS, Project, not_counted, open_project
from loom.commands.screen import screen_parts
from loom.config.pools import Pool, named
from loom.errors import LoomError, SnapshotError
from loom.providers.docker.engine.client import Engine, Traits
from loom.providers.docker.engine.endpoint import endpoint_of
from loom.providers.docker.probe import probe
from loom.record.request import Request
from loom.render.output import print_kind
from loom.runner.preflight import missing_things
from loom.snapshot import git
from loom.status import ExitCode
from loom.util.extras import install_command
from loom.util.file_systems import allocated, file_system_of, in_memory
from loom.util.units import counted, rough_size
from loom.values import Immutable

_LITTLE_SPACE = 2_000_000_000


class Check(Immutable):
    """One requirement of loom."""

    name: str
    state: Literal["ok", "warn", "bad"]
    text: str
    advice: str | None
    """The remedy; one or more lines."""


def doctor(*, on: str | None, as_json: bool) -> int:
    project = open_project({"on": on})
    checks = list(_checks(project))
    if as_json:
        print_kind("doctor", {"checks": checks})
    else:
        look, write = screen_parts(project.config.color)
        for check in checks:
            write(f"{look.styled(look.marks[check.state], check.state)} {check.name}: {check.text}")
            for line in (check.advice or "").splitlines():
                write(f"    {line}")
    return ExitCode.INFRASTRUCTURE if any(check.state == "bad" for check in checks) else ExitCode.OK


def _check(state: Any, name: str, text: str, advice: str | None = None) -> Check:
    return Check(name=name, state=state, text=text, advice=advice)


_ok, _warn, _bad = (partial(_check, state) for state in ("ok", "warn", "bad"))


def _checks(project: Project) -> Iterator[Check]:
    for name, line in not_counted(project.config).items():
        yield _warn(f"setting {name}", line)
    yield _git()
    yield _repository(project)
    pool = named(project.config.on, project.config.pools)
    yield from _elsewhere(project, pool) if pool.elsewhere else _engine(project)
    yield from _workflow(project)
    yield directory("state directory", project.config.state_dir)
    yield directory("workspaces", project.config.tmp_dir)
    yield directory("caches", project.config.cache_dir)
    records, kept = counted(len(project.store.run_ids()), "run"), rough_size(allocated(project.store.runs_dir))
    yield _ok("records", f"{records}, {kept}, with their artifacts; {project.config.keep_runs} of each checkout stay")


def _git() -> Check:
    try:
        version = git.run(("version",), git.without_repository(os.environ))
    except SnapshotError as error:
        return _bad("git", f"can't be run: {error.message}", "install git 2.31 or newer")
    return _ok("git", version.decode().strip().removeprefix("git version "))


def _repository(project: Project) -> Check:
    try:
        source = snapshot.discover(project.root, environ=os.environ)
    except LoomError as error:
        return _warn("repository", error.message, error.hint)
    if not any((source.root / path).exists() for path in WORKFLOWS):
        text = f"{source.root} has no {' and no '.join(map(str, WORKFLOWS))}"
        return _warn("repository", text, "`loom init` drafts a first one")
    return _ok("repository", str(source.root))


def _workflow(project: Project) -> Iterator[Check]:
    """Check that the jobs of the workflow find what they need, as a run does before its first job."""
    if not any((project.root / path).exists() for path in WORKFLOWS):
        return
    try:
        worktree, run = plan_run(Request(dry_run=True), ask=False)
        tools = run_tools(worktree, run, Cancel())
        missing = missing_things(run.plan, tools)
    except LoomError as error:
        yield _bad("workflow", error.message, error.hint)
        return
    yield from (_bad("workflow", thing.message, thing.hint) for thing in missing)
    if not missing:
        yield _ok(
            "workflow", f"{run.plan.workflow_path}, {counted(len(run.plan.jobs), 'job')}: what they need can be had"
        )


def _elsewhere(project: Project, pool: Pool) -> Iterator[Check]:
    try:
        checkup = import_module("loom.providers.kubernetes.checkup")  # its library is an optional extra
    except ImportError as error:
        yield _bad("cluster", f"its library is not installed: {error}", install_command("kubernetes"))
        return
    for found in checkup.findings(pool, project.environ, project.config.default_image):
        yield _check(found.state, found.name, found.text, found.advice)


# -- the engine ---------------------------------------------------------------------------------------------------


def _engine(project: Project) -> Iterator[Check]:
    engine = Engine(os.environ, project.config.engine)
    try:
        client: Any = engine()
        info = client.info()
        traits = Traits(client)
    except LoomError as error:
        yield _bad("engine", error.message, error.hint)
        return
    except Exception as error:  # noqa: BLE001  whatever the engine's client raises is a finding
        yield _bad("engine", f"does not answer as it should: {error}")
        return
    try:
        endpoint = endpoint_of(engine.environ)
        kind = f"rootless {traits.name}" if traits.rootless and "rootless" not in traits.name else traits.name
        system, driver = info.get("OperatingSystem"), info.get("Driver")
        yield _ok("engine", f"{kind} {traits.version}, {system}, {driver}, at {endpoint}")
        yield _image(client, project.config.default_image)
        yield _container(client, project)
        if endpoint.local and info.get("DockerRootDir") and os.path.isdir(info["DockerRootDir"]):  # noqa: PTH112
            yield space("engine's disk", Path(info["DockerRootDir"]))
    finally:
        engine.close()


def _image(client: Any, name: str) -> Check:
    try:
        found = client.images.get(name)
    except Exception:  # noqa: BLE001  not here, for whatever reason: the advice is the same
        advice = f"it is pulled when a job needs it; now: docker pull {name}"
        return _warn("default image", f"{name} is not on this machine", advice)
    return _ok("default image", f"{name}, {str(found.id)[:19]}")


def _container(client: Any, project: Project) -> Check:
    image = project.config.default_image
    try:
        started = probe(client, image, project.config.tmp_dir)
    except (LoomError, OSError) as error:
        message, hint = getattr(error, "message", str(error)), getattr(error, "hint", None)
        if getattr(error, "code", None) == "WORKSPACE_UNSEEN" and project.config.mount_mode == "auto":
            return _warn("container", f"{message}; jobs get their files in a volume", hint)
        return _bad("container", message, hint)
    if started is None:
        advice = f"get one, then ask again: docker pull {image}"
        return _warn("container", "not tried: the engine has no image to start one from", advice)
    text = f"one of {started[0]} started, wrote into a workspace and was removed, {started[1]:.0f} ms"
    return _ok("container", text)


# -- this machine's disk ------------------------------------------------------------------------------------------


def directory(name: str, path: Path) -> Check:
    """Check that a directory is writable and has space, creating it like a run."""
    above = next((folder for folder in (path, *path.parents) if folder.exists()), path)
    if not os.access(above, os.W_OK | os.X_OK):
        advice = "give permission there, or name another directory (`loom config show --origin`)"
        return _bad(name, f"{path} can't be written", advice)
    found = space(name, above, shown=path)
    if name == "workspaces" and found.state == "ok" and in_memory(above):
        text = f"{found.text}; it is in memory ({file_system_of(above)})"
        return _warn(name, text, "for workspaces on disk: `tmp_dir: /var/tmp` in ~/.config/loom/config.yml")
    return found


def space(
    name: str, path: Path, *, shown: Path | None = None, usage: Callable[[Path], Any] = shutil.disk_usage
) -> Check:
    free = usage(path).free
    text = f"{shown or path}, {rough_size(free)} free"
    if free < _LITTLE_SPACE:
        state = _bad if free < _LITTLE_SPACE / 10 else _warn
        return state(name, text, "make room: loom clean, loom cache rm, loom images prune")
    return _ok(name, text)
