"""The predefined variables that only one job of a pipeline has; those of all jobs are in `loom.plan.variables`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from loom.util.yaml_file import Node, node_at, text_of
from loom.workflow.gitlab.variables import expand
from loom.workflow.instances import Instance

_TIERS = (
    ("development", r"dev|review|trunk"),
    ("testing", r"test|tst|int|ac(ce)?pt|qa|qc|control|quality"),
    ("staging", r"sta?g|mode?l|pre|demo|non"),
    ("production", r"pro?d|live"),
)
_NUMBERED = re.compile(r"([\s:]+(\[.*\]|\d+[\s:/\\]+\d+)){1,3}\s*\Z")
"""The suffix that GitLab removes from the names of jobs to group them: numbers such as `1/3`, or the values of a matrix."""
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def instance_variables(instance: Instance) -> dict[str, str]:
    """Return the variables that only GitLab's jobs have before they run."""
    values = {
        "GITLAB_CI": "true",
        "CI_JOB_GROUP_NAME": _NUMBERED.sub("", instance.title).strip(),
        "CI_NODE_TOTAL": str(instance.total or 1),
    }
    return values if instance.index is None else {**values, "CI_NODE_INDEX": str(instance.index)}


def environment_variables(node: Node | None, values: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a job's `environment`, without its URL; `values` expand its name."""
    written = node.get("name") if node is not None and node.is_mapping else node
    name = expand(text_of(written), values)
    if node is None or not name:
        return {}
    by_name = (tier for tier, pattern in _TIERS if re.search(pattern, name, re.IGNORECASE))
    return {
        "CI_ENVIRONMENT_NAME": name,
        "CI_ENVIRONMENT_SLUG": environment_slug(name),
        "CI_ENVIRONMENT_ACTION": text_of(node, "action") or "start",
        "CI_ENVIRONMENT_TIER": text_of(node, "deployment_tier") or next(by_name, "other"),
    }


def url_of_environment(node: Node | None, values: Mapping[str, str]) -> dict[str, str]:
    url = node_at(node, "url")
    return {} if url is None else {"CI_ENVIRONMENT_URL": expand(text_of(url), values)}


def environment_slug(name: str) -> str:
    """Write an environment's name for DNS: 24 characters; one that had to be changed ends with a part of its digest."""
    text = re.sub(r"[^a-z0-9]", "-", name.lower())
    text = re.sub(r"-+", "-", text if text[:1].isalpha() else f"env-{text}")
    if len(text) <= 24 and text == name:
        return text.removesuffix("-")
    return f"{text[:17].removesuffix('-')}-{_base_36(int(hashlib.sha256(name.encode()).hexdigest(), 16))[-6:]}"


def _base_36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits
