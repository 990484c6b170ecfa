"""`loom replay`: run what a bundle holds again, in a repository of loom's own, and tell whether it fails in the same way."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import typer
from msgspec.structs import replace

from loom import snapshot
from loom.analysis.diff import Pair, diff_of
from loom.analysis.evidence import recorded_diagnosis
from loom.analysis.verdict import Block, JobEnding, Reproduction, parting_of, verdict
from loom.commands import project
from loom.commands.keep import trusting
from loom.commands.run import run as running
from loom.commands.run.elsewhere import blocks_of_run, ending_of, tell
from loom.commands.run.preparing import Options, prepare
from loom.errors import LoomError, RequestError
from loom.plan.model import Image, Plan
from loom.record.bundle import PACK, BundleManifest, UnpackedBundle, unpacked
from loom.record.reader import Reading
from loom.snapshot import git
from loom.util.controls import shown
from loom.util.private import make_private

MOST_BYTES = 8 << 30
"""The size of the files that a bundle may lay out."""
_VARIABLE = re.compile(r"(?!LD_|GIT_|LOOM_|PYTHON|DOCKER_|XDG_|PATH$|HOME$)[A-Z][A-Z0-9_]{0,100}")
"""The names of variables that a value for a secret may be asked for."""


def replay(
    file: Path,
    *,
    keep: str | None,
    jobs: int | None,
    pull: str | None,
    trust: bool,
    quiet: bool,
    as_json: bool,
    color: str | None,
) -> int:
    """`loom replay`; return the exit code of the run."""
    here = project.here({"color": color})
    found = unpacked(file)
    manifest = found.manifest
    there = Reading(found.entry)
    _consent(file, there, trust=trust)
    directory = here.config.cache_dir / "replays" / manifest.run_id
    _lay_out(found, directory, here.root, file)
    _ask_for_secrets(manifest)
    os.environ.pop("LOOM_BUNDLE", None)  # this one is from a bundle
    os.chdir(directory)
    own = manifest.options
    given = Options.of(
        {
            **own.model_dump(exclude={"workflow"}),
            "workflow": None if own.workflow is None else directory / own.workflow,
            "no_cache": True,
            "keep": keep,
            "jobs": jobs,
            "pull": pull,
            "trust": trust,
            "quiet": quiet or as_json,
            "color": color,
        }
    )
    prepared = prepare(given)
    if not trust and any(job.image is None and job.trigger is None for job in prepared.plan.jobs):
        raise RequestError(
            f"{trusting.CODE}: jobs of {file} run on this machine, without a container",
            hint="--trust allows it, if you would run its commands by hand",
            code=trusting.CODE,
        )
    prepared = replace(prepared, plan=_pinned(prepared.plan, manifest))
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        code = running.execute(prepared, given)
    here = prepared.here
    told = _compared(there, here.find(prepared.run_id), str(file))
    tell(told, here.config.color, as_json=as_json)
    return code


def _consent(file: Path, there: Reading, *, trust: bool) -> None:
    if trust:
        return
    if trusting.attended():
        command = " ".join(map(str, there.receipt()["command"][1:]))
        print(shown(f"{file} is of somebody else's: `loom {command}` in {there.receipt()['repo_root']}."))
        if typer.confirm("Run its commands here, in containers?"):
            return
    raise RequestError(
        f"{trusting.CODE}: {file} holds commands of somebody else's",
        hint=f"look first: loom show {file}; --trust runs them, with all that they ask for",
        code=trusting.CODE,
    )


def _lay_out(found: UnpackedBundle, directory: Path, near: Path, file: Path) -> None:
    """Make a repository with HEAD and files as they were. RequestError where commits are missing."""
    manifest = found.manifest
    make_private(directory.parent)
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(mode=0o700)
    try:
        source = snapshot.discover(near, environ=os.environ)
        stores = [source.objects_dir]
    except LoomError:
        stores = []
    store = directory / ".git"
    made = git.environment_for(os.environ, git_dir=store)
    form = "sha256" if len(manifest.head_sha) == 64 else "sha1"
    git.run(("init", "--bare", "-q", "--template=", f"--object-format={form}"), made, cwd=directory)
    git.run(("config", "core.bare", "false"), made, cwd=directory)
    plain = git.environment_for(os.environ, git_dir=store, work_tree=directory)
    lent = {**plain, **git.environment_for({}, alternates=stores)}
    if manifest.pack:
        _checked(lent, directory, file, manifest, ("bundle", "unbundle", str(found.folder / PACK)))
    _checked(lent, directory, file, manifest, ("update-ref", "--no-deref", "HEAD", manifest.head_sha))
    git.run(("update-ref", "refs/loom/tip", manifest.tip_sha), lent, cwd=directory)
    tree = git.run(("rev-parse", f"{manifest.tip_sha}^{{tree}}"), lent, cwd=directory).decode().strip()
    sizes = git.run(("ls-tree", "-r", "-l", "-z", manifest.tip_sha), lent, cwd=directory).split(b"\0")
    total = sum(int(size) for line in sizes if line and (size := line.split(b"\t")[0].split()[3]) != b"-")
    if tree != manifest.tree_sha or total > MOST_BYTES:
        raise RequestError(f"{file}: its files are not those that it names, or too large", code="BUNDLE_INVALID")
    git.run(("repack", "-a", "-d", "-q"), lent, cwd=directory)  # what the clone lent is here from now on
    if manifest.branch is not None:
        named = ("check-ref-format", "--branch", manifest.branch)
        if git.Running(named, plain, cwd=directory).result(check=False)[0] == 0:
            git.run(("update-ref", f"refs/heads/{manifest.branch}", manifest.head_sha), plain, cwd=directory)
            git.run(("symbolic-ref", "HEAD", f"refs/heads/{manifest.branch}"), plain, cwd=directory)
    git.run(("read-tree", "-u", "--reset", manifest.tip_sha), plain, cwd=directory)


def _checked(
    environment: dict[str, str], directory: Path, file: Path, manifest: BundleManifest, arguments: tuple[str, ...]
) -> None:
    code, _, said = git.Running(arguments, environment, cwd=directory).result(check=False)
    if code != 0:
        lacks = re.findall(r"[0-9a-f]{40,64}", said)
        raise RequestError(
            f"{file}: this clone lacks commit {(lacks or [manifest.head_sha])[0][:12]}, on which the bundle builds",
            hint="go to a clone of the project and `git fetch`; or ask for a bundle with --full",
            code="BUNDLE_BASE",
        )


def _ask_for_secrets(manifest: BundleManifest) -> None:
    """Ask for the values that the environment lacks; a job whose secret is missing says so itself."""
    for name in manifest.secrets:
        if name not in os.environ and _VARIABLE.fullmatch(name) and sys.stdin.isatty():
            os.environ[name] = getpass.getpass(f"secret {name}: ")


def _pinned(plan: Plan, manifest: BundleManifest) -> Plan:
    """Return the plan with the images that ran there, by their digests."""

    def pinned(image: Image) -> Image:
        digest = manifest.images.get(image.name or "")
        if image.name is None or digest is None or "@" in image.name:
            return image
        return replace(image, name=f"{re.sub(r':[^:/]*$', '', image.name)}@{digest}")

    return replace(
        plan,
        jobs=tuple(job if job.image is None else replace(job, image=pinned(job.image)) for job in plan.jobs),
    )


def _compared(there: Reading, here: Reading, origin: str) -> Reproduction:
    """Compare the job that failed there, or the first one, with the same job here."""
    job_id = there.pipeline_manifest()["failing_job_id"] or there.job_ids()[0]
    one, other = _ending(there, job_id), _ending(here, job_id)
    parting = parting_of(_blocks(there, job_id), _blocks(here, job_id))
    kind, text = verdict(one, other, parting)
    inputs = diff_of(there, here).inputs
    changed = [pair for pair in (inputs.tree, inputs.head, *inputs.images, *inputs.variables, *inputs.other) if pair]
    return Reproduction(
        origin=origin,
        job_id=job_id,
        run_id=here.run_id,
        verdict=kind,
        text=text,
        there=one,
        here=other,
        parting=parting,
        differs=[Pair(name=pair.name, a=pair.a, b=pair.b) for pair in changed],
        notes=[],
    )


def _ending(reading: Reading, job_id: str) -> JobEnding:
    found = recorded_diagnosis(reading)
    status = reading.job_manifest(job_id)["status"] if job_id in reading.job_ids() else "skipped"
    return ending_of(found if found is not None and found.job_id == job_id else None, str(status))


def _blocks(reading: Reading, job_id: str) -> Iterator[Block]:
    return blocks_of_run(reading, reading.job_manifest(job_id)) if job_id in reading.job_ids() else iter(())
