"""`loom reproduce`: a red job of a CI server, run here on the same commit, and the verdict."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from msgspec.structs import replace

from loom.addresses import Address
from loom.analysis.diagnosis import Diagnosis
from loom.analysis.diff import Pair
from loom.analysis.evidence import recorded_diagnosis
from loom.analysis.reasons import Circumstances
from loom.analysis.server_log import LogFacts, LogReader, ServerLog, diagnosis_of_log, outputs_in_log, used_outputs
from loom.analysis.verdict import Block, parting_of
from loom.cancel import Cancel
from loom.commands import project
from loom.commands.again.elsewhere import blocks_of_run, ending_of, hold, judged, pinned_job, tell
from loom.commands.again.server_artifacts import ServerArtifacts
from loom.commands.again.server_variables import ServerVariables
from loom.commands.plan.git_server import fetch_checkout
from loom.commands.plan.preparing import Options, Prepared, prepare
from loom.commands.project import Here
from loom.commands.project.checkout import git, origin_of
from loom.commands.record import remote
from loom.commands.run import run as running
from loom.commands.screen import progress_line
from loom.commands.servers import (
    RemoteJob,
    RemotePipeline,
    Server,
    address_of,
    is_address,
    tokens,
)
from loom.errors import LoomError, RequestError
from loom.plan.github.labels import refused
from loom.plan.growth import grown
from loom.plan.model import Job, Plan
from loom.plan.origin import origin_of as project_origin
from loom.record.run_paths import artifacts_beside
from loom.runner.late.jobs import LateJobs
from loom.runner.request import Brought
from loom.status import JobResult, Status
from loom.util.globs import match_name
from loom.util.units import machine, machine_size
from loom.workflow.languages import GITHUB, GITLAB

_EVENTS = {
    "push": "push",
    "web": "web",
    "schedule": "schedule",
    "trigger": "trigger",
    "merge_request_event": "merge_request",
    "workflow_dispatch": "workflow_dispatch",
    "pull_request": "pull_request",
}
_MERGE_REQUEST = re.compile(r"refs/merge-requests/(?P<number>\d+)/\w+")


def reproduce(
    url: str | None,
    *,
    last: bool,
    with_cache: bool,
    var: list[str] | None,
    as_json: bool,
    color: str | None,
    **given: Any,
) -> int:
    """`loom reproduce`; return the exit code of the run. `given`: options of `loom run`, as they are."""
    here = project.here({"color": color})
    if not last and (url is None or not is_address(url)):
        hint = f"begin it with https://: {url}" if url else "loom reproduce --help"
        raise RequestError("expected the address of a job, pipeline or run, or --last", hint=hint)
    server, job = _last_failed(here) if url is None or last else remote.remote_job(here, url)
    with remote.downloaded(server, job) as file:
        log = remote.read(file)
        there = diagnosis_of_log(log, job.url, job=job.name, root=here.root)
        reproducing = _Reproducing(here, server, job, log, there, file)
        return reproducing.run(given, var or [], with_cache=with_cache, as_json=as_json)


def _last_failed(here: Here) -> tuple[Server, RemoteJob]:
    """Return the first failed job of the newest red pipeline of this branch, at origin."""
    origin = remote.home_of(here)
    branch = (git(here.root, here.environ, "symbolic-ref", "--quiet", "--short", "HEAD") or b"").decode().strip()
    if origin is None or not branch:
        raise RequestError("--last: there is no branch, or no origin on a server", hint="name the address of the job")
    is_github = (
        origin.host == "github.com"
        or tokens.is_configured("github", origin.server, here.environ)
        or (here.root.joinpath(GITHUB.default).is_dir() and not here.root.joinpath(GITLAB.default).exists())
    )
    page = "actions/runs/1" if is_github else "-/pipelines/1"
    address = replace(address_of(f"{origin.protocol}://{origin.server}/{origin.path}/{page}"), pipeline=None)
    server = remote.connected(here, address)
    return server, server.last_failed(branch)


_OF_MATRIX = re.compile(r": \[.*\]$| \d+/\d+$")
"""The suffix that GitLab adds to the name of a job of a matrix."""


def _names_there(job: Job) -> tuple[str, ...]:
    """Return the names that servers may have for a job."""
    if job.late is not None:
        return (job.late.shown,)
    values = ", ".join(job.matrix.values())
    return (job.name, job.id) if not values else (f"{job.name} ({values})", f"{job.name}: [{values}]", job.name, job.id)


def _may_become(job: Job, name: str) -> bool:
    """Return whether a job of this name on the server can be one of those that the job becomes while it runs."""
    if job.late is None or not job.late.strategy:
        return False
    shown = "*".join(map(glob.escape, re.split(r"\$\{\{.*?\}\}", job.late.shown)))
    return match_name(shown, name) or match_name(f"{shown} (*)", name)


_INPUTS = re.compile(rb"(?:\s|#.*\n|---\n)*spec:(?:.*\n)?\s*inputs:")
"""The beginning of a GitLab file that declares inputs."""
_OUTPUT = re.compile(r"needs\.([\w-]+)\.outputs\.([\w-]+)=(.*)", re.DOTALL)


class _Reproducing:
    def __init__(
        self, here: Here, server: Server, job: RemoteJob, log: ServerLog, there: Diagnosis, file: BinaryIO
    ) -> None:
        self._here = here
        self._server = server
        self._address = server.address
        self._job = job
        self._log = log
        self._there = there
        self._file = file
        self._notes: list[str] = []
        self._differs: list[Pair] = []
        name = re.sub(r"[^\w.-]+", "-", f"{self._address.host}-{self._address.project}-{job.id}")
        self._directory = here.config.cache_dir / "reproductions" / name
        self._variables = ServerVariables(here, server, job, self._directory, self._notes, self._differs)
        self._artifacts = ServerArtifacts(server, job, self._directory, self._notes, self._differs)
        if self._address.kind == "github":
            known = {*here.config.github.runs_on, *here.config.pools}
            found = refused([label.lower() for label in job.tags], {label.lower() for label in known})
            self._notes += [found[0]] if found is not None else []

    def run(self, given_here: Mapping[str, Any], var: Sequence[str], *, with_cache: bool, as_json: bool) -> int:
        pipeline = self._server.pipeline(self._job)
        self._notes += [f"not read: {what}" for what in pipeline.unread]
        given_outputs = [(text, _OUTPUT.fullmatch(text)) for text in var]
        self._given_outputs = {(one[1], one[2]): one[3] for _, one in given_outputs if one is not None}
        var = [text for text, one in given_outputs if one is None]
        self._differs += [Pair(name=f"variable {text.partition('=')[0]}", a=None, b="given by --var") for text in var]
        hold(self._directory)
        self._fetch(pipeline)
        os.chdir(self._directory / "tree")
        name = self._job.name if self._address.kind == "github" else _OF_MATRIX.sub("", self._job.name)
        given = Options.of(
            {
                **given_here,
                "names": [glob.escape(name)],
                "var": [*(f"{name}={value}" for name, value in self._given(pipeline).items()), *var],
                "event": "tag" if self._job.is_tag else _EVENTS.get(pipeline.source, "push"),
                "workflow": Path(pipeline.workflow) if pipeline.workflow else None,
                "no_cache": not with_cache,
                "deploy": True,
                "keep": given_here["keep"] or "on-failure",
                "quiet": given_here["quiet"] or as_json,
                self._address.kind: self._variables.settings(),
            }
        )
        prepared = prepare(self._of_late_matrix(given))
        plan, target = self._target(prepared.plan)
        file = self._directory / "tree" / prepared.plan.workflow_path
        if not given.inputs and file.is_file() and _INPUTS.match(file.read_bytes()):
            self._notes.append(
                "the API does not have the pipeline's inputs: their defaults count; --input gives others"
            )
        job = pinned_job(target, self._log.facts.images, prepared, self._notes, self._differs)
        jobs = tuple(job if each.id == job.id else each for each in plan.jobs)
        brought = self._brought(plan, target)
        prepared = replace(prepared, plan=replace(plan, jobs=jobs), brought=brought)
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            code = running.execute(prepared)
        self._verdict(prepared, target, with_cache=with_cache, as_json=as_json)
        return code

    def _fetch(self, pipeline: RemotePipeline) -> None:
        depth = self._log.facts.depth
        with progress_line(at_once=True) as show:
            show(f"fetching commit {self._job.sha[:12]}")
            fetch_checkout(
                self._directory / "tree",
                url=self._clone_url(),
                sha=self._job.sha,
                ref=self._job.ref if _MERGE_REQUEST.fullmatch(self._job.ref) is None else "merge-request",
                is_tag=self._job.is_tag,
                default_branch=pipeline.default_branch,
                depth=int(depth) if depth.isdigit() and int(depth) else None,
                near=self._here.root,
                environ=self._here.environ,
            )

    def _clone_url(self) -> Address:
        """Return the checkout's own origin if it is that project, since git knows how to read it; else the server's address."""
        found, address = origin_of(self._here.root, self._here.environ), self._address
        origin = project_origin(str(found)) if found is not None else None
        if found is not None and origin is not None and origin.path == address.project:
            return found
        return Address(f"{address.server}/{address.project}.git")

    # -- what the job gets ------------------------------------------------------------------------------------------

    def _given(self, pipeline: RemotePipeline) -> dict[str, str]:
        """Return the variables that were given to the pipeline, and those that only the server can know."""
        found = dict(pipeline.variables)
        if self._address.kind == "gitlab" and pipeline.source not in _EVENTS:
            found["CI_PIPELINE_SOURCE"] = pipeline.source
        if (request := _MERGE_REQUEST.fullmatch(self._job.ref)) is not None:
            found["CI_MERGE_REQUEST_IID"] = request["number"]
        return found

    def _of_late_matrix(self, given: Options) -> Options:
        """Select the job of a matrix that only a result of another job tells, if the server's name can be one of its."""
        plan = _whole(given) if self._address.kind == "github" else None
        jobs = plan.jobs if plan is not None else ()
        if any(self._job.name in _names_there(job) for job in jobs):
            return given
        return replace(given, names=tuple(job.id for job in jobs if _may_become(job, self._job.name)) or given.names)

    def _target(self, plan: Plan) -> tuple[Plan, Job]:
        """Return the job, and the plan in which it stands by itself."""
        if not any(self._job.name in _names_there(job) for job in plan.jobs):
            for job in plan.jobs:
                plan = self._grown(plan, job) if _may_become(job, self._job.name) else plan
        named = [job for job in plan.jobs if self._job.name in _names_there(job)]
        if len(named) != 1:
            found = "more than one" if named else "no"
            raise RequestError(
                f"the workflow of commit {self._job.sha[:12]} has {found} job {self._job.name!r} here",
                hint=f"see what it has: cd {self._directory / 'tree'} && loom compile --explain",
                code="JOB_UNKNOWN",
            )
        return plan, named[0]

    def _grown(self, plan: Plan, job: Job) -> Plan:
        """Return the plan with the job of the server in place of one that its matrix makes several."""
        outputs = self._outputs(job)
        done = {name: JobResult(status=Status.SUCCESS, outputs=given) for name, given in outputs.items()}
        start, jobs = LateJobs(plan, done, Cancel()).several(job)
        if start.status is not Status.SUCCESS:
            needed = next(iter(sorted(used_outputs(job))), ("JOB", "NAME"))
            raise RequestError(
                f"{self._job.name} has a matrix from an output of another job, which the API does not give: {start.reason}",
                hint=f"--var 'needs.{needed[0]}.outputs.{needed[1]}=JSON' gives it",
                code="JOB_UNKNOWN",
            )
        return grown(plan, job.id, tuple(one for one in jobs if self._job.name in _names_there(one)))

    def _brought(self, plan: Plan, target: Job) -> Brought:
        """Return the results of the jobs before the target, and download what they left."""
        there = {job.name: job for job in self._server.jobs(self._job.pipeline)}
        needed = {*(target.artifacts_from or ()), *(need.job for need in target.needs or () if need.artifacts)}
        outputs = self._outputs(target)
        results = {}
        for job in plan.jobs:
            if job.id == target.id:
                continue
            given = outputs.get(job.id, {})
            results[job.id] = JobResult(status=Status.SUCCESS, outputs=given)  # the target ran, so they did not stop it
            of_server = next((there[name] for name in _names_there(job) if name in there), None)
            if of_server is not None and (job.id in needed or (target.needs is None and target.artifacts_from is None)):
                self._artifacts.bring(job, of_server)
        if results and any(
            step.late and step.late.action and "actions/download-artifact" in step.late.action.uses
            for step in target.steps
        ):
            self._artifacts.bring_of_run(artifacts_beside(self._artifacts.archive_of(next(iter(results)))))
        return Brought(origin=self._job.url, results=results, archive_of=self._artifacts.archive_of)

    def _outputs(self, target: Job) -> dict[str, dict[str, str]]:
        """Return outputs of the jobs that the target needs: from `--var needs.JOB.outputs.NAME=value`, else from the log."""
        if not (used := used_outputs(target)):
            return {}
        self._file.seek(0)
        lines = LogReader().lines(iter(lambda: self._file.read(1 << 18), b""))
        known = outputs_in_log(target, (line.text for line in lines if line.kind == "header")) | self._given_outputs
        if missing := sorted(used - known.keys()):
            names = ", ".join(f"needs.{need}.outputs.{name}" for need, name in missing)
            note = f"the API does not give {names}, empty here: --var NAME=value gives them"
            self._notes += [note] if note not in self._notes else []
        found: dict[str, dict[str, str]] = {}
        for need in target.late.needs if target.late is not None else ():
            for job_id in need.jobs:
                found[job_id] = {name: value for (of, name), value in known.items() if of == need.name}
        return found

    # -- the verdict ------------------------------------------------------------------------------------------------

    def _verdict(self, prepared: Prepared, target: Job, *, with_cache: bool, as_json: bool) -> None:
        reading = prepared.here.find(prepared.run_id)
        manifest = reading.job_manifest(target.id)
        ours = recorded_diagnosis(reading)
        there = ending_of(self._there, self._there.state, by_step=True)
        here = ending_of(ours, str(manifest["status"]), error=reading.receipt()["error"], by_step=True)
        parting = parting_of(
            _blocks_of_log(self._file, self._log),
            blocks_of_run(reading, manifest, self._there.step if self._log.facts.format == "github" else None),
        )
        facts = self._log.facts
        differs = [*self._differs, *_differences(facts, self._job, manifest, with_cache=with_cache)]
        known = Circumstances(
            checkout=self._here.root,
            tree=self._directory / "tree",
            plan=lambda: _whole(prepared.options),
            job=target,
            depth=facts.depth,
            withheld=self._variables.withheld,
            size=self._job.size,
            here=machine_size(),
        )
        found = judged(
            self._job.url,
            target.id,
            prepared.run_id,
            (self._there, ours),
            (there, here),
            parting,
            differs,
            self._notes,
            known,
        )
        tell(found, prepared.here.config.color, as_json=as_json)


def _whole(given: Options) -> Plan | None:
    """Return the plan of all jobs, of which the run has a part."""
    try:
        return prepare(replace(given, names=(), dry_run=True), ask=False).plan
    except LoomError:
        return None


def _differences(facts: LogFacts, job: RemoteJob, manifest: Mapping[str, Any], *, with_cache: bool) -> Iterator[Pair]:
    image = manifest.get("image") or {}
    digest = image.get("digest") or ""
    if facts.digest and digest and facts.digest not in digest:
        yield Pair(name="image", a=facts.digest, b=digest)
    if job.tags or job.size:
        there = [*([f"tags {', '.join(job.tags[:10])}"] if job.tags else []), *([job.size] if job.size else [])]
        yield Pair(name="runner", a=", ".join(there), b=f"this machine, {machine()}, {machine_size()}")
    if facts.cache == "restored" and not with_cache:
        yield Pair(name="cache", a="restored", b="cold (--with-cache)")


def _blocks_of_log(file: BinaryIO, log: ServerLog) -> Iterator[Block]:
    file.seek(0)
    number, command, directory = 0, "" if log.unit.marked else log.unit.name, log.facts.directory or "\0"

    def numbered() -> Iterator[tuple[int, str, str | None]]:
        nonlocal number, command
        for line in LogReader().lines(iter(lambda: file.read(1 << 18), b"")):
            if line.unit != log.unit.name:
                continue
            if line.kind == "command":
                number, command = number + 1, line.text
                yield number, command, None
            elif line.kind == "output":
                yield number, command, line.text.replace(directory, "<workspace>")

    for (_, name), lines in groupby(numbered(), key=lambda each: each[:2]):
        yield Block(name, (text for _, _, text in lines if text is not None))
