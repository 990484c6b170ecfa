"""`loom bisect`: the commit since which a job fails. Each commit runs in a checkout of loom's own."""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from loom.analysis.bisection import Bisection, RemainingCommits, Tested, Verdict, left_of
from loom.analysis.evidence import diagnosis_of
from loom.analysis.failure import compare, recorded
from loom.analysis.reproduction import reproduce_command
from loom.cancel import Cancel, signals
from loom.commands.project import Project, open_project
from loom.commands.project.checkout import git
from loom.commands.project.recreate_tree import checked_out
from loom.commands.project.trusting import discover, settle_objects
from loom.commands.screen import screen_parts
from loom.errors import InfrastructureError, LoomError, RequestError, SnapshotError
from loom.record.documents import Commit
from loom.record.reader import Reading
from loom.record.request import Request
from loom.render import diagnosis as forms
from loom.render.look import Look
from loom.render.output import print_json
from loom.snapshot import elsewhere
from loom.status import ExitCode, Status
from loom.util import atomic, processes, typed
from loom.util.controls import shown
from loom.util.private import make_private
from loom.util.units import counted
from loom.util.untrusted_files import read_regular

_OF_MACHINE = frozenset(
    {"IMAGE_REGISTRY_DOWN", "IMAGE_CERTIFICATE", "IMAGE_RATE_LIMITED", "IMAGE_DISK_FULL", "IMAGE_NEEDS_BUILDKIT"}
)
"""Errors of images that say nothing about the commit: later, or with another engine, its image can be had."""
SKIP = 125
"""The exit code by which a job says that its commit can't be judged, as for `git bisect run`."""


def bisect(
    job: str, good: str, bad: str, *, jobs: int | None, as_json: bool, color: str | None, trust: bool, **given: Any
) -> int:
    source = discover(Path.cwd(), os.environ, flag=trust)
    project = open_project({"color": color}, root=source.root, trusting=trust)
    settle_objects(project, can_ask=not as_json)
    command = [*shlex.split(reproduce_command(Request.of({**given, "names": [job]}), None))[1:]]
    words = [*command, *(["--trust"] if trust else [])]
    look, write = screen_parts(project.config.color)
    cancel = Cancel()
    found = _Bisect(project, words, good, bad, (lambda _: None) if as_json else write, cancel)
    with signals(cancel):
        left = found.find_first_bad(jobs or 1)
    if cancel.requested:
        known = counted(len(found.tested), "result")
        print(f"interrupted: the same command goes on from here ({known} known)", file=sys.stderr)
        return cancel.exit_code or ExitCode.INTERRUPTED
    document = found.document(job, left)
    if as_json:
        print_json(document)
    else:
        _write(document, found.subject_of, look, write)
    return ExitCode.OK if document.first_bad is not None else ExitCode.REQUEST


class _Bisect:
    def __init__(
        self,
        project: Project,
        words: Sequence[str],
        good: str,
        bad: str,
        say: Callable[[str], None],
        cancel: Cancel,
    ) -> None:
        self._project = project
        self._words = words
        self._say = say
        self._cancel = cancel
        self._good, self._bad = self._commit(good), self._commit(bad)
        base = self._git("merge-base", self._good, self._bad)
        if base != self._good or self._good == self._bad:
            why = "is the bad one" if self._good == self._bad else "is no ancestor of the bad one"
            raise RequestError(
                f"the good commit {good} {why}",
                hint=f"name an earlier one, in which the job passes: loom bisect JOB {base[:12]} {bad}",
                code="BISECT_RANGE",
            )
        key = "\0".join((str(project.root), *words, self._good, self._bad))
        self._file = project.config.state_dir / "bisect" / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.json"
        try:
            self.tested = typed.decode(read_regular(self._file), list[Tested])
        except (OSError, ValueError):
            self.tested = []

    def find_first_bad(self, at_once: int) -> RemainingCommits:
        """Run commits until one is left, or the cancel is requested. InfrastructureError where none can run."""
        if self.tested:
            self._say(f"goes on with {counted(len(self.tested), 'result')} of an earlier command")
        self._confirm(self._bad, "bad")
        self._confirm(self._good, "good")
        while (
            left := left_of(self._order, self._good, self._bad, self._verdicts, at_once)
        ).next and not self._cancel.requested:
            self._test(left.next)
        if not self._cancel.requested:
            self._file.unlink(missing_ok=True)
        return left

    def _confirm(self, commit: str, named: Verdict) -> None:
        """Run the job on a commit that was named, before any other. RequestError for another result."""
        if commit not in self._verdicts and not self._cancel.requested:
            self._test([commit])
        if (verdict := self._verdicts.get(commit, named)) != named and (named, verdict) != ("good", "skip"):
            why = next((f" ({each.reason})" for each in self.tested if each.commit == commit and each.reason), "")
            raise RequestError(
                f"{commit[:12]}, which you named as {named}, is {verdict}{why}",
                hint="name another one; or the job may be flaky: loom run JOB --repeat 20",
                code="BISECT_RANGE",
            )

    def document(self, job: str, left: RemainingCommits) -> Bisection:
        only = left.candidates[0] if len(left.candidates) == 1 else None
        run_id = next((each.run_id for each in self.tested if each.commit == only), None)
        return Bisection(
            jobs=[job],
            good=self._good,
            bad=self._bad,
            first_bad=None if only is None else self._facts(only),
            candidates=left.candidates,
            tested=self.tested,
            diagnosis=None if run_id is None else diagnosis_of(self._project.find(run_id)),
        )

    def subject_of(self, commit: str) -> str:
        return f"{commit[:12]} {self._facts(commit).subject}"

    @property
    def _verdicts(self) -> dict[str, Verdict]:
        return {each.commit: each.verdict for each in self.tested}

    def _order(self, bad: str, good: Sequence[str]) -> list[str]:
        listed = self._git("rev-list", "--bisect-all", bad, "--not", *good)
        return [line.split(" ", 1)[0] for line in listed.splitlines()]

    def _test(self, commits: Sequence[str]) -> None:
        with ThreadPoolExecutor(len(commits)) as pool:
            for done in as_completed([pool.submit(self._tested, commit) for commit in commits]):
                result = done.result()  # no limit: it is done
                if result is None:
                    continue
                self.tested.append(result)
                make_private(self._file.parent.parent)
                self._file.parent.mkdir(exist_ok=True, mode=0o700)
                atomic.write(self._file, msgspec.json.encode(self.tested), mode=0o600)
                why = f" ({result.reason})" if result.reason else ""
                self._say(shown(f"{result.verdict:<5} {self.subject_of(result.commit)}{why}"))

    def _tested(self, commit: str) -> Tested | None:
        """Run the job on a commit; None where the command was interrupted."""
        try:
            return self._ran(commit)
        except LoomError:
            if not self._cancel.requested:
                raise
            return None

    def _ran(self, commit: str) -> Tested | None:
        with checked_out(self._project, commit, self._cancel) as root:
            code, said = self._run(root)
            if self._cancel.requested:
                return None
            entry = next(self._project.store.entries(root), None)
            reading = None if entry is None else Reading(entry)
            run_id = None if reading is None else reading.run_id
            if code in (ExitCode.OK, ExitCode.JOB_FAILED, ExitCode.TIMED_OUT) and reading is not None:
                return self._judged(commit, reading)
            errors = {} if reading is None else _image_errors(reading)
            if gone := next((errors[each] for each in errors if each not in _OF_MACHINE), ""):
                return Tested(commit=commit, verdict="skip", run_id=run_id, reason=gone)
            if code == ExitCode.REQUEST:
                return Tested(commit=commit, verdict="skip", run_id=run_id, reason=said)
        raise InfrastructureError(
            f"{commit[:12]}: loom run ended with {code}: {next(iter(errors.values()), said)}", code="BISECT_STOPPED"
        )

    def _judged(self, commit: str, reading: Reading) -> Tested:
        """Compare the failure of a commit with that of the bad one, also of a job that may fail; another one says nothing."""
        failed = (job.id for job in reading.fold.jobs.values() if job.status in (Status.FAILURE, Status.TIMED_OUT))
        job_id = reading.pipeline_manifest()["failing_job_id"] or next(failed, None)
        result = Tested(commit=commit, verdict="good", run_id=reading.run_id, reason=None)
        if job_id is None:
            return result
        found = recorded(reading, job_id)
        if found.exit_code == SKIP:
            return replace(result, verdict="skip", reason=f"exit code {SKIP}")
        if commit == self._bad:
            return replace(result, verdict="bad", failure=found)
        wanted = next(each.failure for each in self.tested if each.failure is not None)
        compared = compare(wanted, found, same_tree=False, names=(f"in {self._bad[:12]}", "here"))
        if compared.same:
            return replace(result, verdict="bad")
        return replace(result, verdict="skip", reason=f"another failure: {compared.text}")

    def _run(self, root: Path) -> tuple[int, str]:
        """Return the exit code of `loom run` there, and the first line that it says on standard error."""
        process = processes.start_loom(
            [*self._words, "--quiet"],
            root,
            {
                **elsewhere(self._project.environ),
                "LOOM_KEEP": "never",
                "LOOM_AUTO_CLEAN": "false",
                "LOOM_BUNDLE": "",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        forget = self._cancel.on_request(lambda: process.send_signal(signal.SIGTERM))
        try:
            _, said = process.communicate()  # no limit: the job has its own
        finally:
            forget()
        return process.returncode, next(iter(said.decode(errors="replace").strip().splitlines()), "")

    def _facts(self, commit: str) -> Commit:
        subject, author, time = self._git(
            "log", "-1", "--no-show-signature", "--format=%s%x00%an <%ae>%x00%cd", "--date=format-local:%FT%TZ", commit
        ).split("\0")
        return Commit(sha=commit, subject=subject, author=author, time=time)

    def _commit(self, name: str) -> str:
        asked = ("rev-parse", "--verify", "-q", "--end-of-options", f"{name}^{{commit}}")
        if (found := git(self._project, *asked)) is None:
            raise RequestError(f"{name}: no commit of this repository", hint="git log names them")
        return found.decode().strip()

    def _git(self, *arguments: str) -> str:
        answer = git(replace(self._project, environ={**self._project.environ, "TZ": "UTC"}), *arguments)
        if answer is None:
            raise SnapshotError(f"git {arguments[0]} failed in {self._project.root}", hint="run it there to see why")
        return answer.decode(errors="replace").strip()


def _image_errors(reading: Reading) -> dict[str, str]:
    """Return the errors of jobs whose image could not be pulled or built, by code."""
    jobs = (reading.job_manifest(job_id) for job_id in reading.fold.jobs)
    errors = {job.error_code: (job.error or "").partition("\n")[0] for job in jobs if job.error_code}
    return {code: error for code, error in errors.items() if code.startswith("IMAGE_")}


def _write(found: Bisection, subject_of: Callable[[str], str], look: Look, write: Callable[..., None]) -> None:
    if found.first_bad is None:
        write("only skipped commits are left; the first bad one is one of:")
        for commit in found.candidates:
            write(shown(f"  {subject_of(commit)}"))
        return
    first = found.first_bad
    write(look.styled(shown(f"first bad commit: {first.sha[:12]} {first.subject}"), "bold"))
    write(shown(f"  {first.author}, {first.time}"))
    if found.diagnosis is not None:
        write(*forms.lines("text", found.diagnosis, look, now_ns=0))
