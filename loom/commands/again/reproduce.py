"""`loom reproduce`: a red job of a CI server, run here on the same commit, and the verdict."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import re
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from itertools import groupby
from typing import Any, BinaryIO

from msgspec.structs import replace

from loom.addresses import Address
from loom.analysis.diagnosis import Diagnosis
from loom.analysis.diff import Pair
from loom.analysis.evidence import diagnosis_of
from loom.analysis.failure import LINES_READ, JobEnding, ending, first_line, recorded
from loom.analysis.server_log import LogFacts, LogReader, ServerLog, diagnosis_of_log, outputs_in_log, used_outputs
from loom.analysis.verdict import Block, Reproduction, Trial, Verdict, parting_of, verdict
from loom.cancel import Cancel
from loom.commands import project
from loom.commands.again.elsewhere import blocks_of_run, hold, judged, pinned_job, tell
from loom.commands.again.server_artifacts import ServerArtifacts
from loom.commands.again.server_submodules import lay_out_submodules
from loom.commands.again.server_variables import ServerVariables
from loom.commands.again.trials import Fact, cost, facts_of
from loom.commands.plan.git_server import fetch_checkout
from loom.commands.plan.plan_run import Worktree, plan_run
from loom.commands.project import Here
from loom.commands.project.checkout import git, origin_of
from loom.commands.record import remote
from loom.commands.run import run as running
from loom.commands.run.children import child_file, includes_of
from loom.commands.screen import progress_line
from loom.commands.servers import (
    RemoteJob,
    RemotePipeline,
    Server,
    is_address,
)
from loom.errors import LoomError, RequestError, SnapshotError
from loom.plan.clone import Clone, Recursion
from loom.plan.github.events import ON_MERGE
from loom.plan.github.growth import grown
from loom.plan.github.labels import refused
from loom.plan.github.late_jobs import LateJobs
from loom.plan.model import Job, Plan
from loom.plan.origin import origin_of as project_origin
from loom.plan.variables import EVENTS
from loom.record.request import Request
from loom.record.run import Run, TakenOver
from loom.record.run_paths import artifacts_beside
from loom.status import JobResult, Status
from loom.util import atomic
from loom.util.controls import shown
from loom.util.globs import match_name
from loom.util.units import machine, machine_size

_EVENTS = {name: name for name in EVENTS} | {"merge_request_event": "merge_request"}
_MERGED = re.compile(rb"\+(?P<sha>[0-9a-f]{40,64}):refs/remotes/(?P<ref>pull/\d{1,18}/merge)\b")
"""The commit of a pull request's merge, in the command by which `actions/checkout` fetches it."""
_SUBMODULES = re.compile(rb"Updating/initializing submodules|\[command\]\S*git .*submodule update --init --force.*")
"""The line of GitLab's runner, and the command of `actions/checkout`."""
_BEGINNING = 4 << 20
"""The part of a log that is searched for these."""


def reproduce(
    url: str | None,
    *,
    last: bool,
    with_cache: bool,
    deploy: bool,
    tries: list[str] | None,
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
        facts = facts_of(tries or (), job.size, log.facts.depth)
        there = diagnosis_of_log(log, job.url, job=job.name, root=here.root)
        reproducing = _Reproducing(here, server, job, log, there, file, facts, may_deploy=deploy)
        return reproducing.run(given, var or [], with_cache=with_cache, as_json=as_json)


def _last_failed(here: Here) -> tuple[Server, RemoteJob]:
    """Return the first failed job of the newest red pipeline of this branch, at origin."""
    address = remote.address_of_origin(here)
    branch = (git(here.root, here.environ, "symbolic-ref", "--quiet", "--short", "HEAD") or b"").decode().strip()
    if address is None or not branch:
        raise RequestError("--last: there is no branch, or no origin on a server", hint="name the address of the job")
    return remote.reached(here, address, lambda server: server.last_failed(branch))


def _may_become(job: Job, name: str) -> bool:
    """Return whether a job of this name on the server can be one of those that the job becomes while it runs."""
    if not job.becomes_several:
        return False
    shown = "*".join(map(glob.escape, re.split(r"\$\{\{.*?\}\}", job.title)))
    return match_name(shown, name) or match_name(f"{shown} (*)", name)


_INPUTS = re.compile(rb"(?:\s|#.*\n|---\n)*spec:(?:.*\n)?\s*inputs:")
"""The beginning of a GitLab file that declares inputs."""
_OUTPUT = re.compile(r"needs\.([\w-]+)\.outputs\.([\w-]+)=(.*)", re.DOTALL)


class _Reproducing:
    def __init__(
        self,
        here: Here,
        server: Server,
        job: RemoteJob,
        log: ServerLog,
        there: Diagnosis,
        file: BinaryIO,
        facts: Sequence[Fact],
        *,
        may_deploy: bool,
    ) -> None:
        self._here = here
        self._facts = facts
        self._server = server
        self._address = server.address
        self._job = job
        self._log = log
        self._there = there
        self._file = file
        self._may_deploy = may_deploy
        self._notes: list[str] = []
        self._differs: list[Pair] = []
        name = re.sub(r"[^\w.-]+", "-", f"{self._address.host}-{self._address.project}-{job.id}")
        self._directory = here.config.cache_dir / "reproductions" / name
        self._variables = ServerVariables(here, server, job, self._directory, self._notes, self._differs)
        self._artifacts = ServerArtifacts(server, job, self._directory, self._notes, self._differs)
        if self._address.kind == "github":
            known = {*here.config.images, *here.config.pools}
            found = refused([label.lower() for label in job.tags], {label.lower() for label in known})
            self._notes += [found[0]] if found is not None else []

    def run(self, given_here: Mapping[str, Any], var: Sequence[str], *, with_cache: bool, as_json: bool) -> int:
        pipeline = self._server.pipeline(self._job)
        self._notes += [f"unknown: {what}" for what in pipeline.unread]
        given_outputs = [(text, _OUTPUT.fullmatch(text)) for text in var]
        self._given_outputs = {(one[1], one[2]): one[3] for _, one in given_outputs if one is not None}
        var = [text for text, one in given_outputs if one is None]
        self._differs += [Pair(name=f"variable {text.partition('=')[0]}", a=None, b="given by --var") for text in var]
        hold(self._directory)
        shutil.rmtree(self._directory / "artifacts", ignore_errors=True)  # some may have expired since the last time
        self._fetch(pipeline)
        os.chdir(self._directory / "tree")
        request = Request.of(
            {
                **given_here,
                "names": [glob.escape(self._job.name)],
                "var": [*self._given(pipeline), *var],
                "event": "tag" if self._job.is_tag else _EVENTS.get(pipeline.source, "push"),
                "no_cache": not with_cache,
                "deploy": True,  # also the jobs before it, whose results are there
                "keep": given_here["keep"] or "on-failure",
                "quiet": given_here["quiet"] or as_json,
            }
        )
        if pipeline.payload is not None:
            event_file = self._directory / "event.json"
            atomic.write(event_file, json.dumps(pipeline.payload).encode(), mode=0o600)
            request = replace(request, event_file=str(event_file))
        request = self._of_late_matrix(self._with_file(request, pipeline))
        if (first := _planned(request)) is not None:
            self._check_deploys(first)  # before the server's variables are here
        told = self._log.facts.depth
        git_depth = int(told) if told.isdigit() else pipeline.git_depth
        request = replace(request, flags={**request.flags, self._address.kind: self._variables.settings(git_depth)})
        here, run = plan_run(request)
        self._check_deploys(run.plan)
        plan, target = self._target(run.plan)
        file = self._directory / "tree" / run.plan.workflow_path
        if not request.inputs and file.is_file() and _INPUTS.match(file.read_bytes()):
            self._notes.append(
                "the API does not have the pipeline's inputs: their defaults count; --input gives others"
            )
        self._fetch_submodules(target, told)
        self._read_again(target)
        job = pinned_job(target, self._log.facts.images, here, self._notes, self._differs)
        jobs = tuple(job if each.id == job.id else each for each in plan.jobs)
        starts = self._taken_over(plan, target)
        run = replace(run, plan=replace(plan, jobs=jobs, behind=""), starts=starts, origin=self._job.url)
        self._trials = [(fact, fact.applied(run.plan, target.id)) for fact in self._facts]
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            code = running.execute(here, run)
        self._verdict(here, run, target, with_cache=with_cache, as_json=as_json)
        return code

    def _fetch(self, pipeline: RemotePipeline) -> None:
        facts, sha, ref = self._log.facts, self._job.sha, self._job.ref
        self._file.seek(0)
        beginning = self._file.read(_BEGINNING)
        merged = _MERGED.search(beginning) if pipeline.source in ON_MERGE else None
        if merged is not None:
            sha, ref = merged["sha"].decode(), f"refs/{merged['ref'].decode()}"
        try:
            self._fetch_commit(pipeline, sha, ref)
        except SnapshotError:
            if merged is None:
                raise
            sha = self._job.sha
            self._fetch_commit(pipeline, sha, self._job.ref)
        self._submodules = _SUBMODULES.search(beginning)
        there = merged["sha"].decode() if merged is not None else facts.commit
        unnamed = pipeline.source in ON_MERGE and merged is None
        if unnamed or (there and (merged is not None or facts.format == "gitlab") and not sha.startswith(there)):
            there = "a merge of the pull request, which its log does not name" if unnamed else there
            self._notes.append(f"not the same commit: the job there ran on {there}, this one on {sha[:12]}")
            self._differs.append(Pair(name="commit", a=there, b=sha))

    def _fetch_commit(self, pipeline: RemotePipeline, sha: str, ref: str) -> None:
        depth = self._log.facts.depth
        of_request = ref.startswith(("refs/merge-requests/", "refs/pull/"))
        with progress_line(at_once=True) as show:
            show(f"fetching commit {sha[:12]}")
            fetch_checkout(
                self._directory / "tree",
                url=self._clone_url(),
                sha=sha,
                ref=ref,
                branch=pipeline.branch or "merge-request" if of_request else ref,
                is_tag=self._job.is_tag,
                default_branch=pipeline.default_branch,
                depth=int(depth) if depth.isdigit() and int(depth) else None,
                near=self._here.root,
                environ=self._here.environ,
            )

    def _fetch_submodules(self, target: Job, depth: str) -> None:
        """Fetch those that the job there had, and say which can't be had."""
        clone, there = target.clone, self._submodules
        if self._address.kind == "github" and there is not None:
            recursion: Recursion = "recursive" if b"--recursive" in there[0] else "normal"
            clone = Clone(submodules=recursion, submodule_depth=int(depth) if depth.isdigit() else 0)
        if clone is None or clone.submodules == "none":
            if there is not None:
                self._notes.append(
                    "unknown: the submodules, which the job there had, and for which its file does not ask"
                )
                self._differs.append(Pair(name="submodules", a="present", b=None))
            return
        tree, environ = self._directory / "tree", self._here.environ
        with progress_line(at_once=True) as show:
            show("fetching submodules")
            missing = [*lay_out_submodules(tree, self._here.root, clone, server=self._address.server, environ=environ)]
        for why in missing:
            print(shown(f"submodule that the job there had, and that is missing here: {why}"), file=sys.stderr)
            self._notes.append(f"unknown: the submodule {why}")
        self._differs += [Pair(name="submodules", a="present", b=f"{len(missing)} missing")] if missing else []

    def _clone_url(self) -> Address:
        """Return the checkout's own origin if it is that project, since git knows how to read it; else the server's address."""
        found, address = origin_of(self._here.root, self._here.environ), self._address
        origin = project_origin(str(found)) if found is not None else None
        if found is not None and origin is not None and origin.path == address.project:
            return found
        return Address(f"{address.server}/{address.project}.git")

    # -- what the job gets ------------------------------------------------------------------------------------------

    def _given(self, pipeline: RemotePipeline) -> Iterator[str]:
        """Yield the variables that were given to the pipeline, and those that only the server can know, as `NAME=value`."""
        of_gitlab = self._address.kind == "gitlab" and pipeline.source not in _EVENTS
        source = {"CI_PIPELINE_SOURCE": pipeline.source} if of_gitlab else {}
        for name, value in {**pipeline.variables, **source, **pipeline.known}.items():
            yield f"{name}={value}"

    def _with_file(self, given: Request, pipeline: RemotePipeline) -> Request:
        """Return the options with the pipeline's file, where the project or the job that started it names another one."""
        if pipeline.above is not None:
            return self._of_child(given, *pipeline.above)
        if pipeline.source == "parent_pipeline":
            raise RequestError(
                f"{self._job.url} is of a child pipeline, and the server does not give the one that started it",
                hint="name a job of that one: its trigger runs the child pipeline here",
                code="JOB_UNKNOWN",
            )
        if self._address.kind == "github" or not pipeline.workflow or given.inputs:
            return replace(given, workflow=pipeline.workflow) if pipeline.workflow else given
        path, _, project = pipeline.workflow.partition("@")
        if "://" in path:
            return self._including(given, [{"remote": path}])
        name, _, ref = project.partition(":")
        of_project = {"project": name, "file": path, **({"ref": ref} if ref else {})}
        return self._including(given, [of_project if project else {"local": path}])

    def _including(self, given: Request, includes: list[dict[str, Any]]) -> Request:
        """Return the options with a file that includes others, whatever their names."""
        whole = self._directory / "pipeline.gitlab-ci.yml"
        atomic.write(whole, json.dumps({"include": includes}).encode())
        return replace(given, workflow=str(whole))

    def _of_child(self, given: Request, number: int, name: str) -> Request:
        """Return the options with the files, inputs and variables that job `name` of pipeline `number` gave its child."""
        job = replace(self._job, pipeline=number)
        above = self._server.pipeline(job)
        of_above = replace(
            given,
            names=(glob.escape(name),),
            var=tuple(self._given(above)),
            event=_EVENTS.get(above.source, "push"),
        )
        _, run = plan_run(replace(self._with_file(of_above, above), dry_run=True), ask=False)
        trigger = next((each for each in run.plan.jobs if each.title == name and each.trigger is not None), None)
        if trigger is None or trigger.trigger is None:
            raise RequestError(
                f"{name} of pipeline {number}, which started this one, starts none here", code="JOB_UNKNOWN"
            )
        given = replace(given, var=(*(f"{key}={one}" for key, one in trigger.trigger.variables.items()), *given.var))
        (file, *_), folder = trigger.trigger.files, self._directory / "above"
        if file.job is None:
            return self._including(given, includes_of(trigger.trigger))
        shutil.rmtree(folder, ignore_errors=True)
        artifacts = ServerArtifacts(self._server, job, folder, self._notes, self._differs)
        producer = run.plan.job(file.job)
        there = {each.name: each for each in self._server.jobs_before(job)}
        if (of_server := there.get(producer.title)) is not None:
            artifacts.bring(producer, of_server)
        folder.joinpath("files").mkdir(parents=True)
        found = child_file(file, trigger.id, folder, artifacts.archive_of, folder / "files")
        if found.is_symlink() or not found.is_file():
            raise RequestError(
                f"{name}: the artifacts of {producer.name} have no file {file.path}", code="WF_NOT_FOUND"
            )
        inputs = (f"{key}={one if isinstance(one, str) else json.dumps(one)}" for key, one in file.inputs.items())
        return replace(
            given,
            workflow=str(found.rename(folder / "pipeline.gitlab-ci.yml")),
            inputs=(*inputs, *given.inputs),
        )

    def _check_deploys(self, plan: Plan) -> None:
        """Raise RequestError for a job that deploys, unless the user wants it to."""
        if not self._may_deploy and any(job.deploys and self._is_meant(job) for job in plan.jobs):
            raise RequestError(
                f"{self._job.name} deploys: it changes an environment, or publishes a release, also from here",
                hint=f"to run it all the same: loom reproduce --deploy {self._job.url}",
                code="JOB_DEPLOYS",
            )

    def _is_meant(self, job: Job) -> bool:
        return self._job.name == job.title or _may_become(job, self._job.name)

    def _of_late_matrix(self, given: Request) -> Request:
        """Select the job of a matrix that only a result of another job tells, if the server's name can be one of its."""
        plan = _whole(given) if self._address.kind == "github" else None
        jobs = plan.jobs if plan is not None else ()
        if any(self._job.name == job.title for job in jobs):
            return given
        return replace(given, names=tuple(job.id for job in jobs if _may_become(job, self._job.name)) or given.names)

    def _target(self, plan: Plan) -> tuple[Plan, Job]:
        """Return the job, and the plan in which it stands by itself."""
        if not any(self._job.name == job.title for job in plan.jobs):
            for job in plan.jobs:
                plan = self._grown(plan, job) if _may_become(job, self._job.name) else plan
        named = [job for job in plan.jobs if self._job.name == job.title]
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
        return grown(plan, job.id, tuple(one for one in jobs if self._job.name == one.title))

    def _taken_over(self, plan: Plan, target: Job) -> dict[str, TakenOver]:
        """Return the jobs before the target, with their results, and download what they left."""
        there = {job.name: job for job in self._server.jobs_before(self._job)}
        needed = {*(target.artifacts_from or ()), *(need.job for need in target.needs or () if need.artifacts)}
        outputs = self._outputs(target)
        found = {}
        for job in plan.jobs:
            if job.id == target.id:
                continue
            given = outputs.get(job.id, {})
            result = JobResult(status=Status.SUCCESS, outputs=given)  # the target ran, so they did not stop it
            found[job.id] = TakenOver(result=result, archive=self._artifacts.archive_of(job.id))
            of_server = there.get(job.title)
            if of_server is not None and (job.id in needed or (target.needs is None and target.artifacts_from is None)):
                self._artifacts.bring(job, of_server)
        if found and any(step.action and "actions/download-artifact" in step.action.uses for step in target.steps):
            self._artifacts.bring_of_run(artifacts_beside(next(iter(found.values())).archive))
        return found

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
        for need in target.expected_results:
            for job_id in need.jobs:
                found[job_id] = {name: value for (of, name), value in known.items() if of == need.name}
        return found

    def _read_again(self, target: Job) -> None:
        """Read the log with what it does not tell: a step with `continue-on-error` does not end the job."""
        goes_on = [step for step in target.steps if step.continue_on_error not in ("", "false")]
        names = {step.action.uses if step.action else first_line(step.script) for step in goes_on}
        if names:
            self._log = remote.read(self._file, frozenset(filter(None, names)))
            self._there = diagnosis_of_log(self._log, self._job.url, job=self._job.name, root=self._here.root)

    # -- the verdict ------------------------------------------------------------------------------------------------

    def _verdict(self, here: Worktree, run: Run, target: Job, *, with_cache: bool, as_json: bool) -> None:
        reading = here.find(run.run_id)
        manifest = reading.job_manifest(target.id)
        ours = diagnosis_of(reading, target.id)
        there = _ending_of_log(self._file, self._log, self._there.state)
        parting = parting_of(
            _blocks_of_log(self._file, self._log),
            blocks_of_run(reading, manifest, self._there.step if self._log.facts.format == "github" else None),
        )
        facts = self._log.facts
        differs = [*self._differs, *_differences(facts, self._job, manifest, with_cache=with_cache)]
        found = judged(
            self._job.url,
            target,
            manifest,
            (self._there, ours),
            (there, recorded(reading, target.id)),
            parting,
            differs,
            [*self._notes, *(f"unknown: {what}" for what in _unknown(facts, self._job))],
            plan=lambda: _whole(run.request),
        )
        if self._facts and found.verdict != "not-run":
            print(shown(cost(self._facts, reading.receipt()["duration_ms"])), file=sys.stderr)
            with redirect_stdout(sys.stderr) if as_json else nullcontext():
                tried = [
                    self._tried(fact, here, replace(run, plan=plan), target.id, found) for fact, plan in self._trials
                ]
            found = replace(found, trials=tried)
        tell(found, here.config.color, as_json=as_json)

    def _tried(self, fact: Fact, here: Worktree, run: Run, job_id: str, before: Reproduction) -> Trial:
        """Run the job with a fact as it was there, and compare how it ends."""
        run_id = str(time.time_ns())
        without = replace(here, config=dataclasses.replace(here.config, keep="never"))
        running.execute(without, run.again(run_id))
        kind, text = verdict(before.there, recorded(here.find(run_id), job_id), None)
        return Trial(fact=fact.text, run_id=run_id, verdict=kind, text=text, decides=_decides(before, kind))


def _planned(request: Request) -> Plan | None:
    try:
        return plan_run(replace(request, dry_run=True), ask=False)[1].plan
    except LoomError:
        return None


def _decides(before: Reproduction, kind: Verdict) -> bool:
    as_there: Verdict = "passes-here" if before.there.status == "success" else "reproduced"
    return kind == as_there != before.verdict


def _whole(request: Request) -> Plan | None:
    """Return the plan of all jobs, of which the run has a part."""
    return _planned(replace(request, names=()))


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


def _unknown(facts: LogFacts, job: RemoteJob) -> Iterator[str]:
    """Yield the facts about the job there that neither the server nor its log tells."""
    if facts.image and not facts.digest:
        yield f"the digest of {facts.image}"
    if not job.size:
        yield "the processors and the memory of the machine"
    yield "its time zone and locale"


def _ending_of_log(file: BinaryIO, log: ServerLog, status: str) -> JobEnding:
    """Read how the job ended, from the last command of the unit that ended it."""
    command, lines = log.unit.name, deque[str]()
    for block in _blocks_of_log(file, log):
        command, lines = block.command or log.unit.name, deque(block.lines, LINES_READ)
    return ending(status, command=command, exit_code=log.facts.exit_code, error=log.facts.error, lines=lines)


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
