"""`loom replay`: run what a bundle holds again, in a repository of loom's own, and tell whether it fails in the same way.

The plan is that of the record: what the workflow included, and the settings of its author, count without being had here. The
record is a stranger's, so that nothing of the plan counts that names anything on this machine.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import shutil
import sys
import time
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

import typer
from msgspec import Struct
from msgspec.structs import replace

from loom import __version__
from loom.analysis.diff import Pair, differing_inputs
from loom.analysis.evidence import diagnosis_of
from loom.analysis.failure import recorded
from loom.analysis.verdict import Reproduction, parting_of
from loom.commands import terminal
from loom.commands.again.elsewhere import blocks_of_run, hold, judged, pinned_job, tell
from loom.commands.again.server_job import Differences
from loom.commands.plan.plan_run import checkout_for, run_of
from loom.commands.project import BUNDLES, Project, Worktree, open_project, say_not_counted, trusting
from loom.commands.project.bundle_file import ACTIONS, UnpackedBundle, pack_name, unpacked
from loom.commands.run import run as running
from loom.commands.screen import progress_line
from loom.errors import LoomError, RecordError, RequestError
from loom.plan.builder import finished, settled
from loom.plan.model import Job, JobSelection, Plan, Secret, Step
from loom.plan.placement import pool_for
from loom.plan.variables import rerun_variables
from loom.record.reader import Reading
from loom.record.request import Request
from loom.record.run import Run, load_run
from loom.snapshot import TreeOfBundle, check_consent, elsewhere
from loom.util.controls import shown
from loom.util.paths import climbs_out
from loom.util.units import machine_size
from loom.util.untrusted_files import read_regular

MOST_BYTES = 8 << 30
"""The size of the files that a bundle may lay out."""
_VARIABLE = re.compile(r"(?!LD_|GIT_|LOOM_|PYTHON|DOCKER_|XDG_|PATH$|HOME$)[A-Z][A-Z0-9_]{0,100}")
"""The names of variables that a value for a secret may be asked for."""


def replay(file: Path, *, repeat: int | None, quiet: bool, as_json: bool, **asked: Any) -> int:
    """`loom replay`; return the exit code of the run. `asked`: options of `loom run`, as they are."""
    near = open_project({"color": asked["color"]}, trusting=asked["trust"])
    with progress_line(f"unpacks {file}"):
        found = unpacked(file, near.config.cache_dir / BUNDLES)
    there = found.reading
    try:
        planned = load_run(there.paths.plan)
    except RecordError as error:
        why = error.message.replace(str(there.paths.plan), "its plan")
        hint = f"loom {found.manifest.loom_version} made it, and this is loom {__version__}"
        raise RequestError(shown(f"{file}: {why}"), hint=hint, code="BUNDLE_INVALID") from error
    _consent(file, there, trust=asked["trust"])
    trusting.settle_objects(near)
    # Permissions are for this bundle alone: another one of the same run may hold other commands.
    tips = "".join(one.tip_sha for one in (found.manifest, *found.manifest.submodules.values()))
    key = read_regular(there.paths.plan) + tips.encode()
    folder = near.config.cache_dir / "replays" / f"{found.manifest.run_id}-{hashlib.sha256(key).hexdigest()[:12]}"
    with progress_line("lays out the files"):
        _lay_out(found, folder, near, file)
    file = file.resolve()
    os.environ.pop("LOOM_BUNDLE", None)  # this one is from a bundle
    os.chdir(folder / "tree")
    request = Request.of(
        {
            **asked,
            "no_cache": True,
            "gitlab": {},  # child pipelines are planned here: they get no variables of the user's
            "github": {},
            "container": planned.container,
            "mount_mode": planned.mount_mode.value,
            "strict": planned.isolated,
            "repeat": repeat,
            "form": "json" if repeat and as_json else "screen",
            "quiet": quiet or as_json,
        }
    )
    differences = Differences()
    project, run = _planned(file, there, planned, request, folder / ACTIONS, differences)
    with redirect_stdout(sys.stderr) if as_json and not repeat else nullcontext():
        code = running.run_as_asked(project, run)
    if repeat and as_json:
        return code
    runs = [project.find(run.run_id)]
    if repeat:
        entries = project.store.entries(project.root)
        runs = [Reading(entry) for entry in entries if entry.child_of == run.run_id]
    if runs:
        failed = min(runs, key=lambda one: one.state == "success")
        compared = _compared(found, failed, run, differences.notes, str(file))
        tell(compared, project.config.color, as_json=as_json)
    return code


def _consent(file: Path, there: Reading, *, trust: bool) -> None:
    if trust:
        return
    if terminal.attended():
        command = " ".join(there.receipt().command[1:])
        print(shown(f"{file} is of somebody else's: `loom {command}`."))
        if typer.confirm("Run its commands here, in containers?"):
            return
    raise RequestError(
        f"{trusting.CODE}: {file} holds commands of somebody else's",
        hint=f"look first: loom show {file}; --trust runs them, with all that they ask for",
        code=trusting.CODE,
    )


def _lay_out(found: UnpackedBundle, folder: Path, near: Project, file: Path) -> None:
    """Make `tree`, a repository with HEAD and files as they were, and `actions`. RequestError where commits are missing."""
    hold(folder)
    for earlier in (folder / "tree", folder / ACTIONS):
        if earlier.exists():
            shutil.rmtree(earlier)
    (folder / "tree").mkdir(mode=0o700)
    if (found.folder / ACTIONS).is_dir():
        shutil.move(found.folder / ACTIONS, folder / ACTIONS)
    left, links = MOST_BYTES, {""}
    for number, (path, one) in enumerate([("", found.manifest), *found.manifest.submodules.items()]):
        directory = folder / "tree" / path
        if path not in links or directory.resolve() != folder.resolve() / "tree" / path:
            raise RequestError(shown(f"{file}: its tree has no submodule {path!r}"), code="BUNDLE_INVALID")
        links.remove(path)
        laid = TreeOfBundle(one, directory, _store(near, path), file)
        laid.fetch(found.folder / pack_name(number))
        size, inner = laid.contents()
        left -= size
        if left < 0:
            raise RequestError(f"{file}: its files are too large", code="BUNDLE_INVALID")
        links |= {f"{path}/{each}".lstrip("/") for each in inner}
        laid.check_out(None if path else found.manifest.branch)


def _store(near: Project, path: str) -> list[Path]:
    """Return the store of the user's clone, or of its submodule. RequestError where it borrows objects unasked."""
    try:
        environ = elsewhere(near.environ) if path else near.environ
        source = trusting.discover(near.root / path, environ, flag=near.trusting)
    except LoomError:
        return []
    check_consent(source)
    return [source.objects_dir]


def _planned(
    file: Path, there: Reading, planned: Run, request: Request, actions: Path, differences: Differences
) -> tuple[Worktree, Run]:
    """Return the run of the bundle's plan in the current directory, with its jobs adapted to this machine.

    RequestError as in `trusting.settle`.
    """
    project = checkout_for(request)
    _ask_for_secrets(file, planned.plan, project.root)
    jobs = tuple(_ForeignJobs(file, project, actions).job(job) for job in planned.plan.jobs)
    if not (request.trust or all(job.image is not None or job.trigger is not None for job in jobs)):
        raise RequestError(
            f"{trusting.CODE}: jobs of {file} run on this machine, without a container",
            hint="--trust allows it, if you would run its commands by hand",
            code=trusting.CODE,
        )
    trusting.settle(jobs, project)
    say_not_counted(project.config)
    images = {image.name: image.digest.rpartition("@")[2] for image in there.receipt().images if image.digest}
    with progress_line("looks for the images that ran there"):
        pinned = tuple(pinned_job(job, images, project, differences) for job in jobs)
    variables = rerun_variables(planned.variables, str(time.time_ns()))
    return project, run_of(project, request, replace(planned.plan, jobs=pinned), variables, origin=str(file))


class _ForeignJobs(Struct):
    """Makes jobs of a stranger's plan those that a workflow here could have."""

    _file: Path
    _project: Project
    _actions: Path

    def job(self, job: Job) -> Job:
        files = job.trigger.files if job.trigger is not None else ()
        if job.artifacts_above or any(one.path.startswith("/") or climbs_out("", one.path) for one in files):
            self._refuse(f"job {job.id} wants files from elsewhere on this machine")
        config = self._project.config
        pool = pool_for(None, has_image=job.image is not None, selection=JobSelection(on=config.on), config=config)
        job = replace(
            job,
            provider=pool.target,
            pool=settled(pool),
            runner_pool=None,
            steps=tuple(map(self._step, job.steps)),
            secrets=self._secrets(job.secrets),
            services=tuple(replace(one, secrets=self._secrets(one.secrets)) for one in job.services),
        )
        return finished(job, config, lambda _, why: self._refuse(f"job {job.id}: {why}"))

    def _secrets(self, secrets: tuple[Secret, ...]) -> tuple[Secret, ...]:
        return tuple(replace(one, ref=_reference(one, self._project.root)) for one in secrets)

    def _step(self, step: Step) -> Step:
        """Return the step with its action's files as the bundle has them."""
        action = step.action
        if action is None or not action.directory:
            return step
        directory = self._actions / action.commit
        if directory.parent != self._actions or not directory.is_dir():
            self._refuse(f"the files of {action.uses} are missing")
        return replace(step, action=replace(action, directory=str(directory)))

    def _refuse(self, why: str) -> NoReturn:
        raise RequestError(shown(f"{self._file}: {why}"), code="BUNDLE_INVALID")


def _reference(secret: Secret, root: Path) -> str:
    """Return the reference to a secret: a variable, or a file of the tree. The author's other stores do not exist here."""
    scheme, _, rest = secret.ref.partition("://")
    inside = (
        scheme == "file" and not rest.startswith(("/", "~")) and not climbs_out("", rest) and (root / rest).is_file()
    )
    return secret.ref if scheme == "env" or inside else f"env://{secret.name}"


def _ask_for_secrets(file: Path, plan: Plan, root: Path) -> None:
    """Ask for the values that the environment lacks, or name them; a job whose secret is missing says so itself."""
    wanted = (_reference(one, root).partition("env://")[2] for job in plan.jobs for one in job.all_secrets)
    missing = [name for name in dict.fromkeys(wanted) if name not in os.environ and _VARIABLE.fullmatch(name)]
    if sys.stdin.isatty():
        os.environ |= {name: value for name in missing if (value := getpass.getpass(f"secret {name}: "))}
    elif missing:
        given = "give each as a variable of the environment"
        print(shown(f"loom: {file} does not have the secrets {', '.join(missing)}: {given}"), file=sys.stderr)


def _compared(found: UnpackedBundle, here: Reading, run: Run, notes: list[str], origin: str) -> Reproduction:
    """Compare the job that failed there, or the first one, with the same job here."""
    there = found.reading
    failed = (job.id for job in there.fold.jobs.values() if job.status is not None and not job.status.ok)
    job_id = there.pipeline_manifest()["failing_job_id"] or next(failed, next(iter(there.fold.jobs)))
    parting = parting_of(blocks_of_run(there, job_id), blocks_of_run(here, job_id))
    inputs = differing_inputs(there, here, None)
    ids = {image.name: image.id for image in here.receipt().images}
    notes += [
        f"the record has no digest of {image.name}: another image of that name ran here"
        for image in there.receipt().images
        if not image.digest and ids.get(image.name, image.id) != image.id
    ]
    images = [
        replace(pair, name="image" if pair.name == job_id else f"image of {pair.name}")
        for pair in inputs.images
        if re.split("[ @]", pair.a or "")[-1] != re.split("[ @]", pair.b or "")[-1]
    ]
    variables = [replace(pair, name=f"variable {pair.name.removeprefix(f'{job_id}.')}") for pair in inputs.variables]
    size = Pair(name="machine", a=found.manifest.machine, b=machine_size())
    sizes = [size] if size.a not in ("", size.b) else []
    differs = [pair for pair in (inputs.tree, inputs.head, *images, *variables, *sizes, *inputs.other) if pair]
    job = next((job for job in run.plan.jobs if job.id == job_id), None)  # none if the run created the job
    return judged(
        origin,
        job,
        (job_id, here.run_id),
        [diagnosis_of(one, job_id) if job_id in one.fold.jobs else None for one in (there, here)],
        [recorded(one, job_id) for one in (there, here)],
        parting,
        Differences(differs, notes),
        plan=lambda: run.plan,
    )
