"""Check the references of a workflow's jobs, and the keys that each must have.

Works on nodes, so that it can also check jobs with other errors.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from loom.util.yaml_file import Node, fields_of, one_or_more, truth
from loom.workflow.messages import Problems
from loom.workflow.native import values
from loom.workflow.native.inheritance import Entry
from loom.workflow.needs import Needing, WantedNeed
from loom.workflow.needs import check as check_needs


def check(
    entries: Mapping[str, Entry], sound: Collection[str], stages: Sequence[str] | None, problems: Problems
) -> None:
    """Report wrong stages, needs and missing keys. Only `sound` entries have values; `stages`: None if the file's are invalid."""
    jobs = {name: entry for name, entry in entries.items() if not entry.is_template}
    for name, entry in entries.items():
        whole = name in sound and not entry.is_template
        if stages is not None:
            _check_stage(entry, stages, problems, required=whole)
        for node, message in _own_keys(entry) if whole else ():
            problems.say(node, message)
    needing = {
        name: Needing(stage=entry.stage, key=entry.key, node=entry.merged, needs=list(needs_of(entry.merged)))
        for name, entry in jobs.items()
    }
    check_needs(needing, stages or (), problems)
    for need in (need for job in needing.values() for need in job.needs):
        for message in _combination(need, jobs[need.job]) if need.job in jobs and need.job in sound else ():
            problems.say(need.node, message)


def _check_stage(entry: Entry, stages: Sequence[str], problems: Problems, *, required: bool) -> None:
    node = entry.merged.get("stage")
    if node is None and required:
        problems.say(entry.key, f"the job has no stage; add `stage:` with one of {', '.join(stages)}")
    elif node is not None and isinstance(node.value, str) and node.value not in stages:
        meant = problems.meant(node.value, stages, f"; the stages are {', '.join(stages)}")
        problems.say(node, f"unknown stage {node.value}{meant}")


def _own_keys(entry: Entry) -> Iterator[tuple[Node, str]]:
    """Yield the problems of keys that are valid by themselves but contradict each other."""
    fields = entry.fields

    def node_of(*path: str | int) -> Node:
        return entry.merged.find(*path) or entry.key

    if "script" not in fields:
        yield entry.key, "the job has no script; add the commands it runs"
    for name in fields.get("secrets", {}).keys() & fields.get("variables", {}).keys():
        key = node_of("secrets").keys.get(name) or entry.key
        yield key, f"{name} is a variable of this job too; rename one"
    image = fields.get("image", {})
    if "image" in fields and not image.keys() & {"name", "build"}:
        message = "the image has neither a name nor a build; add `name:`"
        yield node_of("image"), message
    if "user" in fields and image.get("user") not in (None, fields["user"]):
        message = f"image.user is {image['user']}; keep one of the two"
        yield node_of("user"), message
    names: list[str] = []
    for number, service in enumerate(fields.get("services", ())):
        node, named = node_of("services", number), service["name"]
        if "image" in service and not service.get("alias") and not re.fullmatch(values.HOST_NAME, named):
            message = f"{named!r} is not a valid host name: letters, digits, . _ and -; or add an alias"
            yield node.get("name") or node, message
        elif named in names and not service.get("alias"):
            yield node, f"the service {named} is a duplicate; give one an alias"
        names.append(named)


def _combination(need: WantedNeed, needed: Entry) -> Iterator[str]:
    matrix = needed.fields.get("parallel", {}).get("matrix", ())
    for key, value in sorted(need.matrix[0].items()) if need.matrix else ():
        known = [v for row in matrix for v in row.get(key, ())]
        if value not in known:
            why = f"its values are {', '.join(dict.fromkeys(known))}" if known else "its matrix has no such variable"
            yield f"{need.job} has no combination with {key}={value}; {why}"


def needs_of(job: Node) -> Iterator[WantedNeed]:
    """Yield the needs of a job, without entries of a wrong shape, which are reported elsewhere."""
    for node in one_or_more(job, "needs"):
        needed = node if node.is_scalar else node.get("job")
        if needed is not None and isinstance(needed.value, str):
            matrix = {key: str(one.value) for key, one in fields_of(node, "matrix").items()}
            yield WantedNeed(
                job=needed.value.strip(),
                node=needed,
                optional=truth(node, "optional"),
                artifacts=truth(node, "artifacts", default=True),
                matrix=(matrix,) if matrix else (),
                which=matrix,
            )
