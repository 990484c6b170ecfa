"""Check the references of jobs: stages, needs, required keys.

Works on nodes, so that it can also check jobs with other errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from msgspec import Struct, field

from loom.errors import Problem
from loom.util.toposort import CycleError, order
from loom.util.yaml_file import Kind, Node, fields_of, one_or_more, pointer
from loom.workflow import models, values
from loom.workflow.messages import Suggestions


class EntryView(Struct, frozen=True, kw_only=True):
    """A job or template: its nodes, and its fields if its shape is valid."""

    name: str
    key: Node
    node: Node
    fields: models.Job | None

    @property
    def is_template(self) -> bool:
        return self.name.startswith(".")

    @property
    def stage(self) -> str | None:
        node = self.node.get("stage")
        return node.value if node is not None and isinstance(node.value, str) else None


class _Need(Struct, frozen=True, kw_only=True):
    job: str
    optional: bool
    matrix: Mapping[str, str]
    node: Node
    number: int


class References(Struct):
    views: Mapping[str, EntryView]
    stages: tuple[str, ...] | None
    """None when the file's list is invalid."""
    suggest: Suggestions = field(default_factory=Suggestions)
    problems: list[Problem] = field(default_factory=list)
    reported: set[int] = field(default_factory=set)

    def check(self) -> list[Problem]:
        position = {stage: number for number, stage in enumerate(self.stages or ())}
        jobs = {name: view for name, view in self.views.items() if not view.is_template}
        needs: dict[str, list[str]] = {}
        for view in self.views.values():
            self.stage(view, position)
            if not view.is_template:
                self.own_keys(view)
                needs[view.name] = list(self.needs(view, jobs, position))
        try:
            order(jobs, needs)
        except CycleError as error:
            view = jobs[error.cycle[0]]
            edges = " -> ".join(error.cycle)
            node = view.node.get("needs") or view.key
            self.say(node, pointer(view.name, "needs"), f"needs form a cycle: {edges}; remove one of them")
        return self.problems

    def say(self, node: Node, at: str, message: str) -> None:
        if id(node) not in self.reported:  # report a template's error once, not in each job that extends it
            self.reported.add(id(node))
            self.problems.append(node.file.problem(node, at, message))

    def stage(self, view: EntryView, position: Mapping[str, int]) -> None:
        if self.stages is None:
            return
        node = view.node.get("stage")
        if node is None:
            if view.fields is not None and not view.is_template:
                some = ", ".join(self.stages)
                self.problems.append(
                    view.key.file.problem(
                        view.key, pointer(view.name), f"the job has no stage; add `stage:` with one of {some}"
                    )
                )
        elif isinstance(node.value, str) and node.value not in position:
            close = self.suggest(node.value, self.stages)
            meant = f"did you mean {close}?" if close else f"the stages are {', '.join(self.stages)}"
            self.say(node, pointer(view.name, "stage"), f"unknown stage {node.value}; {meant}")

    def own_keys(self, view: EntryView) -> None:
        fields = view.fields
        if fields is None:
            return
        if fields.script is None:
            message = "the job has no script; add the commands it runs"
            self.problems.append(view.key.file.problem(view.key, pointer(view.name), message))
        for name in (fields.secrets or {}).keys() & (fields.variables or {}).keys():
            secrets = view.node.get("secrets")
            node = (secrets.key_node(name) if secrets is not None else None) or view.key
            self.say(node, pointer(view.name, "secrets", name), f"{name} is a variable of this job too; rename one")
        image = fields.image
        if image is not None and image.name is None and image.build is None:
            node = view.node.get("image") or view.key
            self.say(node, pointer(view.name, "image"), "the image has neither a name nor a build; add `name:`")
        if fields.user is not None and image is not None and image.user not in (None, fields.user):
            node = view.node.get("user") or view.key
            self.say(node, pointer(view.name, "user"), f"image.user is {image.user}; keep one of the two")
        for number, service in enumerate(fields.services or ()):
            if service.image is not None and not service.alias and not re.fullmatch(values.HOST_NAME, service.name):
                node = view.node.find("services", number) or view.key
                message = f"{service.name!r} is not a valid host name: letters, digits, . _ and -; or add an alias"
                self.say(node.get("name") or node, pointer(view.name, "services", number, "name"), message)
        names = [service.name for service in fields.services or ()]
        for number, name in enumerate(names):
            if name in names[:number] and not (fields.services or ())[number].alias:
                node = view.node.find("services", number) or view.key
                self.say(
                    node,
                    pointer(view.name, "services", number),
                    f"the service {name} is a duplicate; give one an alias",
                )

    def needs(self, view: EntryView, jobs: Mapping[str, EntryView], position: Mapping[str, int]) -> Iterator[str]:
        """Return the existing jobs that this one waits for; report invalid needs."""
        taken: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
        for need in _needs_of(view):
            at = pointer(view.name, "needs", need.number)
            identity = (need.job, tuple(sorted(need.matrix.items())))
            needed = jobs.get(need.job)
            if need.job.startswith("."):
                self.say(need.node, at, f"{need.job} is a template and never runs; need a job")
            elif needed is None:
                if not need.optional:
                    close = self.suggest(need.job, jobs)
                    meant = f"; did you mean {close}?" if close else ""
                    self.say(need.node, at, f"unknown job {need.job}{meant}")
            elif identity in taken:
                self.say(need.node, at, f"the job {need.job} is a duplicate; keep one")
            else:
                yield need.job
                self.combination(need, needed, at)
                if position.get(needed.stage or "", -1) > position.get(view.stage or "", len(position)):
                    self.say(
                        need.node,
                        at,
                        f"{need.job} is in a later stage ({needed.stage}) than {view.name} ({view.stage}); "
                        "need a job of the same or an earlier stage",
                    )
            taken.add(identity)

    def combination(self, need: _Need, needed: EntryView, at: str) -> None:
        if needed.fields is None:
            return
        parallel = needed.fields.parallel
        for key, value in need.matrix.items():
            values = [v for row in (parallel.matrix if parallel else None) or () for v in row.get(key, ())]
            if value not in values:
                known = (
                    f"its values are {', '.join(dict.fromkeys(values))}"
                    if values
                    else "its matrix has no such variable"
                )
                self.say(need.node, at, f"{need.job} has no combination with {key}={value}; {known}")


def _needs_of(view: EntryView) -> Iterator[_Need]:
    for number, node in enumerate(one_or_more(view.node.get("needs"))):
        if isinstance(node.value, str):
            yield _Need(job=node.value.strip(), optional=False, matrix={}, node=node, number=number)
        elif node.kind is Kind.MAPPING and (job := node.get("job")) is not None and isinstance(job.value, str):
            optional = node.get("optional")
            yield _Need(
                job=job.value.strip(),
                optional=optional is not None and optional.value is True,
                matrix={k: str(v.value) for k, v in fields_of(node.get("matrix")).items()},
                node=job,
                number=number,
            )
