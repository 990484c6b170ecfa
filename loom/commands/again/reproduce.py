"""`loom reproduce`: a red job of a CI server, run here on the same commit, and the verdict."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from typing import Any

from msgspec.structs import replace

from loom.analysis.diff import Pair
from loom.analysis.evidence import diagnosis_of
from loom.analysis.failure import first_line, recorded
from loom.analysis.server_log import LogFacts, outputs_in_log, used_outputs
from loom.analysis.verdict import Reproduction, Trial, Verdict, parting_of, verdict
from loom.cancel import Cancel
from loom.commands.again import server_artifacts, server_checkout, server_variables
from loom.commands.again.elsewhere import blocks_of_run, hold, judged, pinned_job, tell
from loom.commands.again.job_log import JobLog
from loom.commands.again.server_job import Differences, ServerJob
from loom.commands.again.server_request import request_of
from loom.commands.again.trials import Fact, cost, facts_of
from loom.commands.plan.plan_run import plan_run
from loom.commands.project import Project, Worktree, open_project
from loom.commands.project.checkout import git
from loom.commands.record import remote
from loom.commands.run import run as running
from loom.commands.servers import RemoteJob, Server, is_address
from loom.errors import LoomError, RequestError
from loom.plan.github.growth import grown
from loom.plan.github.labels import refused
from loom.plan.github.late_jobs import LateJobs
from loom.plan.model import Job, Plan
from loom.record.documents import UsedImage
from loom.record.request import Request
from loom.record.run import Run, TakenOver
from loom.record.run_paths import artifacts_beside
from loom.status import JobResult, Status
from loom.util.controls import shown
from loom.util.globs import match_name
from loom.util.units import machine, machine_size

_INPUTS = re.compile(rb"(?:\s|#.*\n|---\n)*spec:(?:.*\n)?\s*inputs:")
"""The beginning of a GitLab file that declares inputs."""
_OUTPUT = re.compile(r"needs\.([\w-]+)\.outputs\.([\w-]+)=(.*)", re.DOTALL)


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
    project = open_project({"color": color})
    if not last and (url is None or not is_address(url)):
        hint = f"begin it with https://: {url}" if url else "loom reproduce --help"
        raise RequestError("expected the address of a job, pipeline or run, or --last", hint=hint)
    server, job = _last_failed(project) if url is None or last else remote.remote_job(project, url)
    with remote.downloaded(server, job) as file:
        log = JobLog(file, job, project.root)
        facts = facts_of(tries or (), job.size, log.facts.depth)
        name = re.sub(r"[^\w.-]+", "-", f"{server.address.host}-{server.address.project}-{job.id}")
        directory = project.config.cache_dir / "reproductions" / name
        there = ServerJob(project=project, server=server, job=job, directory=directory, differences=Differences())
        reproducing = _Reproducing(there, log, var or [], may_deploy=deploy, with_cache=with_cache)
        worktree, run, target = reproducing.planned(given, quiet=as_json)
        trials = [(fact, replace(run, plan=fact.applied(run.plan, target.id))) for fact in facts]
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            code = running.execute(worktree, run)
            found = reproducing.judged(worktree, run, target)
            if trials and found.verdict != "not-run":
                duration = worktree.find(run.run_id).receipt().duration_ms
                print(shown(cost(facts, duration)), file=sys.stderr)
                tried = [_trial(fact, worktree, trial, target.id, found) for fact, trial in trials]
                found = replace(found, trials=tried)
        tell(found, worktree.config.color, as_json=as_json)
        return code


def _last_failed(project: Project) -> tuple[Server, RemoteJob]:
    """Return the first failed job of the newest red pipeline of this branch, at origin."""
    address = remote.address_of_origin(project)
    branch = (git(project, "symbolic-ref", "--quiet", "--short", "HEAD") or b"").decode().strip()
    if address is None or not branch:
        raise RequestError("--last: there is no branch, or no origin on a server", hint="name the address of the job")
    return remote.reached(project, address, lambda server: server.last_failed(branch))


class _Reproducing:
    def __init__(
        self, there: ServerJob, log: JobLog, var: Sequence[str], *, may_deploy: bool, with_cache: bool
    ) -> None:
        self._there = there
        self._job = there.job
        self._log = log
        self._may_deploy = may_deploy
        self._with_cache = with_cache
        outputs = {text: found for text in var if (found := _OUTPUT.fullmatch(text)) is not None}
        self._outputs_given = {(one[1], one[2]): one[3] for one in outputs.values()}
        self._var = [text for text in var if text not in outputs]

    def planned(self, given: Mapping[str, Any], *, quiet: bool) -> tuple[Worktree, Run, Job]:
        """Return the run of the job in a checkout of its commit, which becomes the current directory, and the job in it."""
        there, log = self._there, self._log
        pipeline = there.server.pipeline(self._job)
        differences = there.differences
        if there.address.kind == "github":
            known = {name.lower() for name in (*there.project.config.images, *there.project.config.pools)}
            if (found := refused([label.lower() for label in self._job.tags], known)) is not None:
                differences.note(found[0])
        for what in pipeline.unread:
            differences.note(f"unknown: {what}")
        for text in self._var:
            differences.add(f"variable {text.partition('=')[0]}", None, "given by --var")
        hold(there.directory)
        shutil.rmtree(there.directory / "artifacts", ignore_errors=True)  # some may have expired since the last time
        beginning = log.beginning()
        server_checkout.fetch(there, pipeline, beginning, log.facts)
        os.chdir(there.tree)
        request = Request.of(
            {
                **given,
                "names": [glob.escape(self._job.name)],
                "var": self._var,
                "no_cache": not self._with_cache,
                "deploy": True,  # also the jobs before it, whose results are there
                "keep": given["keep"] or "on-failure",
                "quiet": given["quiet"] or quiet,
            }
        )
        request = self._select_late_job(request_of(there, pipeline, request))
        if (first := _plan_of(request)) is not None:
            self._check_deploys(first)  # before the server's variables are here
        depth = log.facts.depth
        settings = server_variables.settings(there, int(depth) if depth.isdigit() else pipeline.git_depth)
        project, run = plan_run(replace(request, flags={**request.flags, there.address.kind: settings}))
        self._check_deploys(run.plan)
        plan, target = self._target(run.plan)
        file = there.tree / run.plan.workflow_path
        if not request.inputs and file.is_file() and _INPUTS.match(file.read_bytes()):
            differences.note("the API does not have the pipeline's inputs: their defaults count; --input gives others")
        server_checkout.fetch_submodules(there, target, beginning, depth)
        # A step with `continue-on-error` does not end the job.
        goes_on = [step for step in target.steps if step.continue_on_error not in ("", "false")]
        names = {step.action.uses if step.action else first_line(step.script) for step in goes_on}
        if names:
            log.read(frozenset(filter(None, names)))
        job = pinned_job(target, log.facts.images, project, differences)
        jobs = tuple(job if each.id == job.id else each for each in plan.jobs)
        starts = self._taken_over(plan, target)
        plan = replace(plan, jobs=jobs, behind="")
        return project, replace(run, plan=plan, starts=starts, origin=self._job.url), target

    def _check_deploys(self, plan: Plan) -> None:
        """Raise RequestError for a job that deploys, unless the user wants it to."""
        meant = (job for job in plan.jobs if self._job.name == job.title or _can_become(job, self._job.name))
        if not self._may_deploy and any(job.deploys for job in meant):
            raise RequestError(
                f"{self._job.name} deploys: it changes an environment, or publishes a release, also from here",
                hint=f"to run it all the same: loom reproduce --deploy {self._job.url}",
                code="JOB_DEPLOYS",
            )

    # -- the job in the plan ----------------------------------------------------------------------------------------

    def _select_late_job(self, request: Request) -> Request:
        """Select the job of a matrix that only a result of another job tells, if the server's name can be one of its."""
        plan = _plan_of(replace(request, names=())) if self._there.address.kind == "github" else None
        jobs = plan.jobs if plan is not None else ()
        if any(self._job.name == job.title for job in jobs):
            return request
        names = tuple(job.id for job in jobs if _can_become(job, self._job.name))
        return replace(request, names=names or request.names)

    def _target(self, plan: Plan) -> tuple[Plan, Job]:
        """Return the job, and the plan in which it stands by itself."""
        if not any(self._job.name == job.title for job in plan.jobs):
            for job in plan.jobs:
                plan = self._grown(plan, job) if _can_become(job, self._job.name) else plan
        named = [job for job in plan.jobs if self._job.name == job.title]
        if len(named) != 1:
            found = "more than one" if named else "no"
            raise RequestError(
                f"the workflow of commit {self._job.sha[:12]} has {found} job {self._job.name!r} here",
                hint=f"see what it has: cd {self._there.tree} && loom compile --explain",
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

    # -- the results of the jobs before it --------------------------------------------------------------------------

    def _taken_over(self, plan: Plan, target: Job) -> dict[str, TakenOver]:
        """Return the jobs before the target, with their results, and download what they left."""
        there = self._there
        before = {job.name: job for job in there.server.jobs_before(self._job)}
        needed = {*(target.artifacts_from or ()), *(need.job for need in target.needs or () if need.artifacts)}
        takes_all = target.needs is None and target.artifacts_from is None
        outputs = self._outputs(target)
        found = {}
        for job in plan.jobs:
            if job.id == target.id:
                continue
            # The target ran, so they did not stop it.
            result = JobResult(status=Status.SUCCESS, outputs=outputs.get(job.id, {}))
            found[job.id] = TakenOver(result=result, archive=there.archive_of(job.id))
            if (of_server := before.get(job.title)) is not None and (takes_all or job.id in needed):
                server_artifacts.bring(there, job, of_server)
        if found and any(step.action and "actions/download-artifact" in step.action.uses for step in target.steps):
            server_artifacts.bring_of_run(there, artifacts_beside(next(iter(found.values())).archive))
        return found

    def _outputs(self, target: Job) -> dict[str, dict[str, str]]:
        """Return outputs of the jobs that the target needs: from `--var needs.JOB.outputs.NAME=value`, else from the log."""
        if not (used := used_outputs(target)):
            return {}
        headers = (line.text for line in self._log.lines() if line.kind == "header")
        known = outputs_in_log(target, headers) | self._outputs_given
        if missing := sorted(used - known.keys()):
            names = ", ".join(f"needs.{need}.outputs.{name}" for need, name in missing)
            self._there.differences.note(f"the API does not give {names}, empty here: --var NAME=value gives them")
        return {
            job_id: {name: value for (of, name), value in known.items() if of == need.name}
            for need in target.expected_results
            for job_id in need.jobs
        }

    # -- the verdict ------------------------------------------------------------------------------------------------

    def judged(self, project: Worktree, run: Run, target: Job) -> Reproduction:
        """Compare the job's end here with that on the server."""
        log, facts, reading = self._log, self._log.facts, project.find(run.run_id)
        failed_step = log.diagnosis.step if facts.format == "github" else None
        differences = self._there.differences
        image = reading.job_manifest(target.id).image
        differences.pairs.extend(_differences(facts, self._job, image, with_cache=self._with_cache))
        for what in _unknown(facts, self._job):
            differences.note(f"unknown: {what}")
        return judged(
            self._job.url,
            target,
            (target.id, run.run_id),
            (log.diagnosis, diagnosis_of(reading, target.id)),
            (log.ending(), recorded(reading, target.id)),
            parting_of(log.blocks(), blocks_of_run(reading, target.id, failed_step)),
            differences,
            plan=lambda: _plan_of(replace(run.request, names=())),
        )


def _trial(fact: Fact, project: Worktree, run: Run, job_id: str, before: Reproduction) -> Trial:
    """Run the job with a fact as it was there, and compare how it ends."""
    run_id = str(time.time_ns())
    without = replace(project, config=dataclasses.replace(project.config, keep="never"))
    running.execute(without, run.again(run_id))
    kind, text = verdict(before.there, recorded(project.find(run_id), job_id), None)
    as_there: Verdict = "passes-here" if before.there.status == "success" else "reproduced"
    decides = kind == as_there != before.verdict
    return Trial(fact=fact.text, run_id=run_id, verdict=kind, text=text, decides=decides)


def _can_become(job: Job, name: str) -> bool:
    """Return whether a job of this name on the server can be one of those that the job becomes while it runs."""
    if not job.becomes_several:
        return False
    pattern = "*".join(map(glob.escape, re.split(r"\$\{\{.*?\}\}", job.title)))
    return match_name(pattern, name) or match_name(f"{pattern} (*)", name)


def _plan_of(request: Request) -> Plan | None:
    """Return the plan of a request, before anybody is asked for anything; None where it can't be made."""
    try:
        return plan_run(replace(request, dry_run=True), ask=False)[1].plan
    except LoomError:
        return None


def _differences(facts: LogFacts, job: RemoteJob, image: UsedImage | None, *, with_cache: bool) -> Iterator[Pair]:
    if facts.digest and image and image.digest and facts.digest not in image.digest:
        yield Pair(name="image", a=facts.digest, b=image.digest)
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
