"""A pipeline in loom's own language, for `loom import`: with a comment at each thing that it says otherwise or can't say."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import yaml

from loom.util.units import duration_text
from loom.util.yaml_file import Node, fields_of, items_of, one_or_more
from loom.workflow.gitlab import paths
from loom.workflow.gitlab.durations import seconds
from loom.workflow.gitlab.parallel import instances
from loom.workflow.gitlab.pipeline import Entry, Pipeline
from loom.workflow.gitlab.variables import read, text_of
from loom.workflow.models import ReportKind

_SAME = ("before_script", "script", "after_script", "when", "resource_group")
_ELSEWHERE = ("extends", "inherit", "default", "stage")
_OUTCOMES = ("on_success", "on_failure", "always", "manual")
_REASONS = {
    "always": "always",
    "script_failure": "script_failure",
    "job_execution_timeout": "timeout",
    "runner_system_failure": "provider_failure",
}
_OF_RULE = ("if", "changes", "exists", "when")
_OF_CACHE = ("paths", "key", "policy", "when", "fallback_keys")
_EVERYTHING_BELOW = re.compile(r"(^|/)\*\*(/\*)?$")
_PULL = {"always": "always", "never": "never", "if-not-present": "missing"}


def translated(pipeline: Pipeline) -> str:
    """Return the workflow as text; its jobs have what `extends`, `default` and includes gave them."""
    jobs = {name: entry for name, entry in pipeline.jobs.items() if entry.merged.get("script") is not None}
    stages = [stage for stage in pipeline.stages if any(entry.stage == stage for entry in jobs.values())]
    parts = [
        f"# From {pipeline.path}, by `loom import`: each comment names what loom's language says otherwise.",
        _dumped({"version": "v1", "stages": [_stage(stage) for stage in stages]}),
    ]
    if variables := read(pipeline.root.get("variables")):
        parts.append(_dumped({"variables": {name: one.value for name, one in variables.items()}}))
    names = {name: found[0].id.partition(".")[0] for name, found in instances(dict.fromkeys(jobs)).items()}
    rules = pipeline.root.find("workflow", "rules")
    if rules is not None:
        comments: list[str] = []
        text = _dumped({"workflow": {"rules": list(_rules(rules, comments))}})
        parts.append("".join(f"# {comment}\n" for comment in comments) + text)
    cached: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for entry in jobs.values():
        for fields in map(fields_of, one_or_more(entry.merged.get("cache"))):
            if one_or_more(fields.get("paths")):
                cached[_key(fields)].add(tuple(_paths(fields["paths"])))
    parts += [
        "\n".join(_Job(entry, names, cached).lines())
        if name in jobs
        else f"# {name} ({entry.key.place}) is left out: a job without a script has no counterpart\n"
        for name, entry in pipeline.jobs.items()
    ]
    return "\n".join(parts)


def _stage(name: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-.")[:32] or "x"


def _dumped(value: Any) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)
    return text


def _rules(rules: Node, comments: list[str]) -> Iterator[dict[str, Any]]:
    for rule in items_of(rules):
        fields = fields_of(rule)
        found = {key: node.plain() for key, node in fields.items() if key in _OF_RULE}
        found |= {key: _globs(found[key]) for key in ("changes", "exists") if key in found}
        comments += [
            f"rules:{key} ({node.place}) has no counterpart"
            for key, node in fields.items()
            if key not in (*_OF_RULE, "variables", "allow_failure")
        ]
        if rule.get("variables") is not None:
            found["variables"] = {name: one.value for name, one in read(rule.get("variables")).items()}
        if isinstance(rule.get("allow_failure") and rule.value["allow_failure"].value, bool):
            found["allow_failure"] = rule.value["allow_failure"].value
        if found.get("when") == "delayed":
            found["when"] = "on_success"
        yield found


def _globs(value: Any) -> Any:
    if isinstance(value, dict):
        return value | ({"paths": _globs(value["paths"])} if "paths" in value else {})
    return [paths.translated(glob) or glob for glob in value] if isinstance(value, list) else value


class _Job:
    def __init__(self, entry: Entry, names: Mapping[str, str], cached: Mapping[str, set[tuple[str, ...]]]) -> None:
        """`cached`: the paths of the pipeline's caches by their keys."""
        self.entry = entry
        self.names = names
        self.cached = cached
        self.comments: list[str] = []

    def lines(self) -> Iterator[str]:
        value = self._value()
        for comment in self.comments:
            yield f"# {comment}"
        yield _dumped({self.names[self.entry.name]: value})

    def _value(self) -> dict[str, Any]:
        found: dict[str, Any] = {"stage": _stage(self.entry.stage)}
        if self.names[self.entry.name] != self.entry.name:
            self.comments.append(f"{self.entry.name!r} is no name for a job here")
        if _stage(self.entry.stage) != self.entry.stage:
            self.comments.append(f"the stage {self.entry.stage} has another name")
        for key, node in self.entry.merged.value.items():
            if key in _SAME:
                found[key] = (
                    node.plain() if key in ("when", "resource_group") else [text_of(one) for one in one_or_more(node)]
                )
            elif (method := getattr(self, f"_{key}", None)) is not None:
                found |= method(node)
            elif key not in _ELSEWHERE:
                self.comments.append(f"{key} ({node.place}) has no counterpart")
        found["shared_shell"] = True
        if found.get("when") == "delayed":
            found["when"] = "on_success"
        return found

    def _image(self, node: Node) -> dict[str, Any]:
        fields, docker = fields_of(node), fields_of(node.get("docker"))
        image: dict[str, Any] = {"name": text_of(node.get("name") or node)}
        if words := [text_of(word) for word in one_or_more(fields.get("entrypoint")) if text_of(word)]:
            image["entrypoint"] = words
        if policies := one_or_more(fields.get("pull_policy")):
            image["pull"] = _PULL[policies[0].text]
        return {"image": image | {key: text_of(docker[key]) for key in ("user", "platform") if key in docker}}

    def _services(self, node: Node) -> dict[str, Any]:
        self.comments.append(f"services ({node.place}): one that ends, or is not ready in its time, fails the job")
        return {"services": [self._service(one) for one in one_or_more(node)]}

    def _service(self, node: Node) -> dict[str, Any]:
        fields = fields_of(node)
        found: dict[str, Any] = {"name": text_of(node.get("name") or node)}
        if "alias" in fields:
            found["alias"] = re.split(r"[\s,]+", text_of(fields["alias"]))
        for key in ("command", "entrypoint"):
            if key in fields:
                found[key] = [text_of(word) for word in one_or_more(fields[key])]
        if variables := read(fields.get("variables")):
            found["variables"] = {name: one.value for name, one in variables.items()}
        return found

    def _variables(self, node: Node) -> dict[str, Any]:
        return {"variables": {name: one.value for name, one in read(node).items()}}

    def _needs(self, node: Node) -> dict[str, Any]:
        found = []
        for need in one_or_more(node):
            job = text_of(need.get("job") or need)
            if need.get("project") is not None or need.get("pipeline") is not None or job not in self.names:
                self.comments.append(f"the need of {job} ({need.place}) can't be said")
                continue
            entry = {key: one.plain() for key, one in fields_of(need).items() if key in ("artifacts", "optional")}
            found.append({"job": self.names[job], **entry})
        return {"needs": found}

    def _rules(self, node: Node) -> dict[str, Any]:
        return {"rules": list(_rules(node, self.comments))}

    def _allow_failure(self, node: Node) -> dict[str, Any]:
        return {"allow_failure": node.plain()}

    def _interruptible(self, node: Node) -> dict[str, Any]:
        return {}

    def _timeout(self, node: Node) -> dict[str, Any]:
        return {"timeout": duration_text(seconds(text_of(node)))}

    def _parallel(self, node: Node) -> dict[str, Any]:
        if node.get("matrix") is None:
            return {"parallel": node.plain()}
        rows = one_or_more(node.get("matrix"))
        matrix = [
            {name: [text_of(one) for one in one_or_more(values)] for name, values in row.value.items()} for row in rows
        ]
        return {"parallel": {"matrix": matrix}}

    def _retry(self, node: Node) -> dict[str, Any]:
        if not fields_of(node):
            return {"retry": node.plain()}
        reasons = [_REASONS[one.text] for one in one_or_more(node.get("when")) if one.text in _REASONS]
        found = {key: one.plain() for key, one in fields_of(node).items() if key in ("max", "exit_codes")}
        return {"retry": found | ({"when": list(dict.fromkeys(reasons))} if reasons else {})}

    def _artifacts(self, node: Node) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, one in fields_of(node).items():
            if key in ("paths", "exclude"):
                found[key] = _paths(one)
                below = [path for path in found[key] if key == "exclude" and not _EVERYTHING_BELOW.search(path)]
                if below:
                    why = "leaves out also what is below a directory of that name"
                    self.comments.append(f"artifacts:exclude ({one.place}): {', '.join(below)} {why}")
            elif key in ("when", "name", "untracked"):
                found[key] = one.plain()
            elif key == "expire_in" and one.text.strip() != "never":
                found[key] = duration_text(seconds(one.text))
            elif key == "reports":
                found[key] = _reports(one)
            elif key != "expire_in":
                self.comments.append(f"artifacts:{key} ({one.place}) has no counterpart")
        return (
            {"artifacts": found}
            if {"paths", "untracked", "reports"} & {key for key, value in found.items() if value}
            else {}
        )

    def _cache(self, node: Node) -> dict[str, Any]:
        found = []
        for one in one_or_more(node):
            fields = fields_of(one)
            if not one_or_more(fields.get("paths")):
                fields = {key: value for key, value in fields.items() if key == "untracked"}
            else:
                kept = {key: value.plain() for key, value in fields.items() if key in _OF_CACHE}
                found.append({**kept, "paths": _paths(fields["paths"])})
                if len(self.cached[_key(fields)]) > 1:
                    self.comments.append(
                        f"cache ({one.place}): other jobs have this key with other paths, and an entry of their own"
                    )
            self.comments += [
                f"cache:{key} ({value.place}) has no counterpart"
                for key, value in fields.items()
                if key not in _OF_CACHE and value.value is not False
            ]
            if (fallback := fields.get("fallback_keys")) is not None:
                why = "each means the newest of all keys that begin with it"
                self.comments.append(f"cache:fallback_keys ({fallback.place}): {why}")
        return {"cache": found} if found else {}


def _key(cache: Mapping[str, Node]) -> str:
    return str(cache["key"].plain()) if "key" in cache else "default"


def _paths(node: Node) -> list[str]:
    return [paths.of_runner(text_of(path)) for path in one_or_more(node)]


def _reports(node: Node) -> dict[str, list[str]]:
    """The reports that v1 knows, too."""
    fields = fields_of(node)
    found = {kind: one_or_more(paths) for kind, paths in fields.items() if kind in get_args(ReportKind)}
    coverage = fields_of(fields.get("coverage_report"))
    if "path" in coverage:
        found[text_of(coverage.get("coverage_format")) or "cobertura"] = one_or_more(coverage["path"])
    return {kind: [text_of(path) for path in paths] for kind, paths in found.items()}
