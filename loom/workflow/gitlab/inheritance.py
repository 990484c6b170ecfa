"""What jobs get from `extends`, from `default` and from the keywords at the root."""

from __future__ import annotations

from collections.abc import Mapping

from loom.util.yaml_file import Kind, Node, fields_of, items_of, mapping
from loom.workflow import merge
from loom.workflow.gitlab.keywords import DEFAULTS, GLOBALS, ROOT
from loom.workflow.messages import Problems

MAX_LEVELS = 10


def entry_names(root: Node) -> list[str]:
    """Return the root keys that are jobs or hidden."""
    return [name for name in root.value if name not in ROOT]


def extended(root: Node, problems: Problems) -> Node:
    """Replace each entry with `extends` by its merge with what it extends; a wrong one stays as it is."""
    entries = {name: root.value[name] for name in entry_names(root)}
    return mapping(root, {**root.value, **merge.extended(entries, problems, most=MAX_LEVELS)})


def defaults_of(root: Node) -> dict[str, tuple[Node, Node]]:
    """Return the keywords that jobs inherit, with the nodes of their keys: `default`, else the deprecated root keywords."""
    found: dict[str, tuple[Node, Node]] = {}
    for owner, keys in ((root, GLOBALS), (root.get("default"), DEFAULTS)):
        for key in keys:
            node = fields_of(owner).get(key)
            if owner is not None and node is not None and not _nothing(node):
                found[key] = (node, owner.keys[key])
    return found


def with_defaults(job: Node, defaults: Mapping[str, tuple[Node, Node]]) -> Node:
    """Add the defaults that the job lacks and lets through; `null` counts as lacking, as in GitLab."""
    inherit = job.find("inherit", "default")
    if inherit is not None and inherit.value is False:
        return job
    wanted = {node.value for node in items_of(inherit)} if inherit is not None and inherit.kind is Kind.LIST else None
    added = {
        key: node for key, (node, _) in defaults.items() if (wanted is None or key in wanted) and _nothing(job.get(key))
    }
    if not added:
        return job
    merged = mapping(job, {**job.value, **added})
    merged.keys = job.keys | {key: defaults[key][1] for key in added}
    return merged


def _nothing(node: Node | None) -> bool:
    return node is None or (node.kind is Kind.SCALAR and node.value is None)
