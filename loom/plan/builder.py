"""The common part of the builders of jobs of all languages: steps, pools, and the origin of values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from msgspec.structs import replace

from loom.config import Config
from loom.config.pools import Pool
from loom.errors import Problem
from loom.plan import model as p
from loom.plan.candidates import Candidate
from loom.plan.selection import Choice
from loom.util.yaml_file import Node, line_in_file, one_or_more, text_of
from loom.workflow.keywords import Keyword, Support

PHASES: tuple[p.Phase, ...] = ("before_script", "script", "after_script")
WHEN: Mapping[str, Literal["on_failure", "always", "manual"]] = {
    "on_failure": "on_failure",
    "always": "always",
    "manual": "manual",
}
"""`when` of a plan's job by that of its rules; `on_success` for all others."""
_SETTINGS = (("image", "default_image"), ("timeout", "job_timeout"), ("step_timeout", "step_timeout"))


def steps(job: Node) -> Iterator[p.Step]:
    """Yield the steps of a job, each item of its scripts one; without empty ones."""
    for phase in PHASES:
        written = [node for node in one_or_more(job, phase) if text_of(node).strip()]
        for number, node in enumerate(written, start=1):
            yield p.Step(
                phase=phase,
                number=number,
                script=text_of(node),
                file=node.file.name,
                line=line_in_file(node, 1),
                literal=node.style == "|",
            )


def settled(pool: Pool) -> Pool | None:
    """Return the pool for `Job.pool`: None if it has no settings of its own."""
    return pool if pool != Pool(provider=pool.provider) else None


def sources(job: Node, config: Config, named: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the origins for `Job.sources`; `named`: keys and settings that have another name in the job's language."""
    names, found = named or {}, {}
    for key, setting in _SETTINGS:
        if (node := job.get(names.get(key, key))) is not None:
            node = node.get("name") or node
            found[key] = f"{node.file.name}:{node.line}"
        else:
            setting = names.get(setting, setting)
            found[key] = f"`{setting}`, {config.origins.get(setting.partition('.')[0]) or 'built-in'}"
    return found


def allow_failure(*decided: bool | frozenset[int] | None) -> p.AllowFailure:
    """Return the first that says something: whether any failure is allowed, or which exit codes."""
    found = next((one for one in decided if one is not None), False)
    if isinstance(found, bool):
        return p.AllowFailure(always=found)
    return p.AllowFailure(exit_codes=found)


def limits(config: Config, **own: Any) -> p.Resources:
    """Return the limits of the user's configuration, below those of the job itself."""
    settings = {
        key: origin.source for key in ("cpus", "memory", "pids") if (origin := config.origins.get(key)) is not None
    }
    sources = {key: source for key, source in settings.items() if source and key not in own}
    return p.Resources(**{"cpus": config.cpus, "memory": config.memory, "pids": config.pids, **own}, sources=sources)


def keys_at(node: Node, parts: Sequence[str]) -> Iterator[Node]:
    """Yield the nodes of the keys at a path, in each item of the lists on the way."""
    for owner in one_or_more(node):
        child = owner.get(parts[0])
        if child is not None and len(parts) == 1:
            yield owner.keys.get(parts[0], child)
        elif child is not None:
            yield from keys_at(child, parts[1:])


def finished(job: p.Job, config: Config, refuse: Callable[[tuple[str, ...], str], None]) -> p.Job:
    """Apply the hardened profile, where it is on; call `refuse` for each request beyond it."""
    if not config.hardened:
        return job
    from loom.plan.hardening import hardened  # few runs have it

    return hardened(job, config, refuse)


class Refusals:
    """The requests of jobs that this machine can't meet: each is refused when it would run, and the others run without it."""

    def __init__(self, keywords: Iterable[Keyword], *, code: str) -> None:
        self._keywords = [one for one in keywords if one.support is Support.NO_JOB]
        self._code = code
        self._refusing: dict[tuple[str, int, int, str], tuple[Problem, dict[str, None]]] = {}
        """The refusals by position, each with the names of the jobs that are refused for it."""
        self.refused: dict[str, list[Problem]] = {}
        """The refusals of each job, by its id."""

    def refuse_at(self, candidate: Candidate, node: Node, message: str) -> None:
        problem = node.file.problem(node, message, code=self._code)
        found = self.refused.setdefault(candidate.id, [])
        if problem not in found:
            found.append(problem)
        where = (problem.file, problem.line, problem.column, message)
        if candidate.held is None:
            self._refusing.setdefault(where, (problem, {}))[1][candidate.name] = None

    def refuse_keywords(self, candidate: Candidate, job: Node) -> None:
        """Refuse a job for the keys that a table refuses."""
        for keyword in self._keywords:
            parts = keyword.name.split(":")
            for key in keys_at(job, parts):
                why = f"{keyword.name} is not supported: {keyword.about}"
                self.refuse_at(candidate, key, why)

    def drop_demands(self, job: p.Job) -> p.Job:
        """Return a job that, if it is refused, has the reasons and asks the engine and the user for nothing."""
        if job.id not in self.refused:
            return job
        reasons = tuple(str(problem) for problem in self.refused[job.id])
        image = p.Image() if job.image is not None else None
        return replace(job, refused=reasons, image=image, services=(), secrets=())

    def errors_of_named(self, choice: Choice, jobs: Sequence[Candidate]) -> list[Problem]:
        """Return the refusals that are errors: those of jobs that the user has named, and of all if no job is left."""
        named = choice.named(jobs) if len(self.refused) < len(jobs) else self.refused.keys()
        return [problem for job_id in named for problem in self.refused.get(job_id, ())]

    def warnings(self) -> Iterator[Problem]:
        """Yield a warning for each refusal, with the jobs that a run refuses for it; jobs that it leaves out have none."""
        for refusal, names in self._refusing.values():
            turn = "its turn comes" if len(names) == 1 else "their turn comes"
            message = f"{refusal.message} (a run refuses {', '.join(names)} when {turn})"
            yield replace(refusal, message=message, severity="warning")


def held(found: Iterable[Candidate], *, code: str) -> Iterator[Problem]:
    """Yield a notice of the jobs that a run leaves out for each reason, at the first of them."""
    by_reason: dict[str, dict[str, Any]] = {}
    for one in found:
        if one.held is not None:
            by_reason.setdefault(one.held.kind, {})[one.name] = one.entry
    for reason, entries in by_reason.items():
        key = next(iter(entries.values())).key
        message = f"a run leaves out {', '.join(entries)} ({reason})"
        yield key.file.problem(key, message, code=code, severity="notice")
