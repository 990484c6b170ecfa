"""Check what the jobs of a workflow refer to, and the keys that each has to have.

Works on nodes, so that it can also check jobs with other errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from loom.util.yaml_file import Kind, Node, fields_of, one_or_more, pointer, truth
from loom.workflow.messages import Problems
from loom.workflow.native import values
from loom.workflow.native.shapes import Fields
from loom.workflow.needs import Needing, WantedNeed
from loom.workflow.needs import check as check_needs


class EntryView(Struct, frozen=True, kw_only=True):
    """A job or template: its nodes, and its fields if its shape is valid."""

    name: str
    key: Node
    node: Node
    fields: Fields | None

    @property
    def is_template(self) -> bool:
        return self.name.startswith(".")

    @property
    def stage(self) -> str | None:
        node = self.node.get("stage")
        return node.value if node is not None and isinstance(node.value, str) else None


def check(views: Mapping[str, EntryView], stages: Sequence[str] | None, problems: Problems) -> None:
    """Report wrong stages, needs and missing keys. `stages`: None when the file's list is invalid."""
    reported: dict[tuple[int, str], Node] = {}  # a template's mistake is reported once, not in each job that extends it

    def say(node: Node, at: str, message: str) -> None:
        if (id(node), message) not in reported:
            reported[id(node), message] = node
            problems.say(node, at, message)

    jobs = {name: view for name, view in views.items() if not view.is_template}
    for view in views.values():
        for node, at, message in (*_stage(view, stages, problems), *(() if view.is_template else _own_keys(view))):
            say(node, at, message)
    needs = {name: list(needs_of(name, view.node)) for name, view in jobs.items()}
    needing = {
        name: Needing(stage=view.stage, key=view.key, node=view.node, needs=needs[name]) for name, view in jobs.items()
    }
    check_needs(needing, stages or (), problems)
    for need in (need for several in needs.values() for need in several):
        for message in _combination(need, jobs.get(need.job)):
            say(need.node, need.at, message)


Mistakes = Iterator[tuple[Node, str, str]]


def _stage(view: EntryView, stages: Sequence[str] | None, problems: Problems) -> Mistakes:
    node = view.node.get("stage")
    if stages is None:
        return
    if node is None:
        if view.fields is not None and not view.is_template:
            some = ", ".join(stages)
            yield view.key, pointer(view.name), f"the job has no stage; add `stage:` with one of {some}"
    elif isinstance(node.value, str) and node.value not in stages:
        meant = problems.meant(node.value, stages, f"; the stages are {', '.join(stages)}")
        yield node, pointer(view.name, "stage"), f"unknown stage {node.value}{meant}"


def _own_keys(view: EntryView) -> Mistakes:
    """Yield what is wrong with keys of one job that are sound each for itself."""
    fields = view.fields
    if fields is None:
        return

    def node_of(*path: str | int) -> Node:
        return view.node.find(*path) or view.key

    if "script" not in fields:
        yield view.key, pointer(view.name), "the job has no script; add the commands it runs"
    for name in fields.get("secrets", {}).keys() & fields.get("variables", {}).keys():
        key = node_of("secrets").key_node(name) or view.key
        yield key, pointer(view.name, "secrets", name), f"{name} is a variable of this job too; rename one"
    image = fields.get("image", {})
    if "image" in fields and not image.keys() & {"name", "build"}:
        message = "the image has neither a name nor a build; add `name:`"
        yield node_of("image"), pointer(view.name, "image"), message
    if "user" in fields and image.get("user") not in (None, fields["user"]):
        message = f"image.user is {image['user']}; keep one of the two"
        yield node_of("user"), pointer(view.name, "user"), message
    names: list[str] = []
    for number, service in enumerate(fields.get("services", ())):
        node, at, named = node_of("services", number), ("services", number), service["name"]
        if "image" in service and not service.get("alias") and not re.fullmatch(values.HOST_NAME, named):
            message = f"{named!r} is not a valid host name: letters, digits, . _ and -; or add an alias"
            yield node.get("name") or node, pointer(view.name, *at, "name"), message
        elif named in names and not service.get("alias"):
            yield node, pointer(view.name, *at), f"the service {named} is a duplicate; give one an alias"
        names.append(named)


def _combination(need: WantedNeed, needed: EntryView | None) -> Iterator[str]:
    if needed is None or needed.fields is None:
        return
    matrix = needed.fields.get("parallel", {}).get("matrix", ())
    for key, value in sorted(need.matrix[0].items()) if need.matrix else ():
        known = [v for row in matrix for v in row.get(key, ())]
        if value not in known:
            why = f"its values are {', '.join(dict.fromkeys(known))}" if known else "its matrix has no such variable"
            yield f"{need.job} has no combination with {key}={value}; {why}"


def needs_of(name: str, job: Node) -> Iterator[WantedNeed]:
    """Yield what a job needs; entries of a wrong shape, which is reported elsewhere, are left out."""
    for number, node in enumerate(one_or_more(job.get("needs"))):
        needed = node if node.kind is Kind.SCALAR else node.get("job")
        if needed is not None and isinstance(needed.value, str):
            matrix = {key: str(one.value) for key, one in fields_of(node.get("matrix")).items()}
            yield WantedNeed(
                job=needed.value.strip(),
                node=needed,
                at=pointer(name, "needs", number),
                optional=truth(node.get("optional")),
                artifacts=truth(node.get("artifacts"), True),
                matrix=(matrix,) if matrix else (),
                which=matrix,
            )
