"""Build a job of the plan from a candidate: expand every value, fill in every default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from loom.config.pools import Pool
from loom.errors import Problem, RequestError
from loom.images.reference import parse_reference, service_aliases
from loom.plan import builder
from loom.plan import model as p
from loom.plan.clone import Clone
from loom.plan.native.candidates import EntryCandidate, job_values
from loom.plan.placement import pool_for, unknown_pool
from loom.util.budget import spend
from loom.util.toposort import CycleError
from loom.util.units import platform
from loom.util.yaml_file import Node, fields_of
from loom.workflow import interpolation
from loom.workflow.native.inheritance import Entry
from loom.workflow.native.loader import Workflow
from loom.workflow.native.shapes import Fields
from loom.workflow.native.values import user as checked_user
from loom.workflow.words import shell_words

_EMPTY_WHEN_UNSET = frozenset({"CI_COMMIT_BRANCH", "CI_COMMIT_TAG", "CI_COMMIT_DESCRIPTION"})


class JobBuilder(Struct):
    """Build jobs; `problems` collects errors in their values."""

    workflow: Workflow
    selection: p.JobSelection
    context: p.ResolveContext
    workflow_variables: Mapping[str, str]
    problems: list[Problem] = []

    def say(self, node: Node | None, message: str) -> None:
        if node is not None:
            self.problems.append(node.file.problem(node, message))

    def job(self, candidate: EntryCandidate) -> p.Job:
        spend("jobs", candidate.entry.key, 0)
        entry, config = candidate.entry, self.context.config
        known = {
            **dict.fromkeys(_EMPTY_WHEN_UNSET, ""),
            **self.context.predefined,
            **job_values(self.workflow, self.selection, self.context, entry, candidate.id),
        }
        variables = self.variables(candidate, known)
        text = _Texts(self, entry, {**known, **variables})
        fields: Fields = text.expanded(entry.fields, entry.merged)
        pool = self.pool(entry)
        shell = fields.get("shell") or tuple(shell_words(config.default_shell))
        job = p.Job(
            id=candidate.id,
            name=entry.name,
            stage=candidate.stage,
            steps=tuple(builder.steps(entry.merged)),
            provider=pool.target,
            image=self.image(fields, entry, pool),
            shell=shell,
            shared_shell=self.shared_shell(entry, shell),
            merge_output=fields.get("merge_output", False),
            inputs=tuple(fields["inputs"]) if "inputs" in fields else None,
            clone=Clone(depth=fields["git_depth"]) if fields.get("git_depth") else None,
            variables=variables,
            given_variables=tuple(self.selection.variables),
            needs=None if candidate.needs is None else tuple(candidate.needs),
            when=builder.WHEN.get(candidate.decision.when, "on_success"),
            allow_failure=builder.allow_failure(
                candidate.decision.allow_failure, _allow_failure(fields.get("allow_failure"))
            ),
            retry=_retry(fields.get("retry")),
            timeout_s=fields.get("timeout", config.job_timeout),
            step_timeout_s=fields.get("step_timeout", config.step_timeout),
            resources=self.resources(fields.get("resources", {}), entry),
            network=self.network(fields, entry),
            privileged=fields.get("privileged", False),
            docker_socket=fields.get("docker_socket", False),
            services=tuple(self.service(number, fields, text) for number, _ in enumerate(fields.get("services", ()))),
            artifacts=_artifacts(fields.get("artifacts")),
            cache=tuple(_cache(cache) for cache in fields.get("cache", ()) if not cache.get("disabled")),
            secrets=_secrets(fields.get("secrets", {})),
            matrix=candidate.matrix,
            resource_group=fields.get("resource_group"),
            runner_pool=fields.get("runner_pool"),
            pool=builder.settled(pool),
            sources=builder.sources(entry.merged, config),
            rule=candidate.decision.rule,
        )
        return builder.finished(job, config, lambda at, why: self.say(_node_of(entry, *at), why))

    def shared_shell(self, entry: Entry, shell: tuple[str, ...]) -> bool:
        shared: bool = entry.fields.get("shared_shell", False)
        if shared and not can_share_shell(shell):
            node = entry.merged.get("shared_shell")
            message = (
                f"`{' '.join(shell)}` can't be shared by steps: it has to be a shell that reads commands from its input"
            )
            self.say(node, f"{message}, such as bash or sh; set `shell`")
        return shared

    def variables(self, candidate: EntryCandidate, known: Mapping[str, str]) -> dict[str, str]:
        entry = candidate.entry
        index, total = candidate.instance.index, candidate.instance.total
        layered = {
            **({} if index is None else {"CI_NODE_INDEX": str(index), "CI_NODE_TOTAL": str(total)}),
            **self.workflow.variables,
            **self.workflow_variables,
            **entry.fields.get("variables", {}),
            **candidate.matrix,
            **candidate.decision.variables,
            **self.selection.variables,
        }
        for secret in entry.fields.get("secrets", ()):
            layered.pop(secret, None)
        try:
            return interpolation.expand_all(layered, known, literal=self.selection.variables.keys())
        except CycleError as error:
            cycle = " -> ".join(f"${name}" for name in error.cycle)
            why = f"the variables of {candidate.id} refer to each other in a cycle: {cycle}; write $$ for a plain $"
            self.say(self.variable_node(entry, error.cycle[0]), why)
        except interpolation.ExpansionTooLong as error:
            self.say(entry.key, f"a variable of {candidate.id}: {error}")
        return layered

    def variable_node(self, entry: Entry, name: str) -> Node:
        return entry.merged.find("variables", name) or self.workflow.variable_nodes.get(name, entry.key)

    def pool(self, entry: Entry) -> Pool:
        fields, config = entry.fields, self.context.config
        runner_pool, has_image = fields.get("runner_pool"), "image" in fields
        if (unknown := unknown_pool(runner_pool, config)) is not None:
            self.say(entry.merged.get("runner_pool"), unknown)
        pool = pool_for(runner_pool, has_image=has_image, selection=self.selection, config=config)
        if not pool.in_container and fields.get("services"):
            message = "a job on this machine can't have services; give it an `image`, or run it with --container"
            self.say(entry.merged.get("services"), message)
        if not pool.in_container and has_image:
            named = runner_pool or self.selection.on
            message = f"{named} runs jobs on this machine, without an image; remove the image, or name another pool"
            self.say(entry.merged.get("image"), message)
        return pool

    def image(self, fields: Fields, entry: Entry, pool: Pool) -> p.Image | None:
        if not pool.in_container:
            return None
        written, config = fields.get("image"), self.context.config
        if written is None:
            image = p.Image(name=config.default_image, pull=config.pull, platform=config.platform)
        else:
            image = self.image_of(written, _node_of(entry, "image"), fields)
        return replace(image, user=fields.get("user") or (written or {}).get("user"))

    def image_of(self, image: Fields, node: Node, job: Fields) -> p.Image:
        """Return the image of a job or of a service, without its user."""
        config, build = self.context.config, image.get("build")
        if build is not None:
            own, wanted = job.get("secrets", {}), build.get("secrets", ())
            for number, name in enumerate(wanted):
                if name not in own:
                    why = f"the job has no secret {name}; declare it under the job's `secrets`"
                    self.say(_below(node, "build", "secrets", number), why)
            build = p.Build(**{**build, "secrets": _secrets({name: own[name] for name in wanted if name in own})})
        return p.Image(
            name=image.get("name"),
            build=build,
            pull=image.get("pull", config.pull),
            entrypoint=image.get("entrypoint"),
            platform=image.get("platform") or config.platform,
        )

    def network(self, fields: Fields, entry: Entry) -> p.Network:
        written = fields.get("network", {})
        mode = written.get("mode") or self.context.config.network
        if fields.get("services") and mode not in (None, "default", "bridge", "none"):
            own = "mode" in written
            where = "" if own else ", which the configuration asks for,"
            self.say(
                entry.merged.get("network" if own else "services"),
                f"a job with services shares a private network with them: `network: {mode}`{where} is not possible here; "
                "remove it or the services (`none` is allowed: the private network is then isolated)",
            )
        return p.Network(mode=mode, extra_hosts=written.get("extra_hosts", {}))

    def resources(self, fields: Fields, entry: Entry) -> p.Resources:
        own = dict(fields)
        if "ulimits" in own:
            own["ulimits"] = tuple(
                p.Ulimit(name=name, soft=limit["soft"], hard=limit.get("hard", limit["soft"]))
                for name, limit in fields["ulimits"].items()
            )
        limits = builder.limits(self.context.config, **own)
        sources = {key: node.position for key, node in fields_of(entry.merged, "resources").items()}
        return replace(limits, sources={**limits.sources, **sources})

    def service(self, number: int, job: Fields, text: _Texts) -> p.Service:
        service, node = job["services"][number], _node_of(text.entry, "services", number)
        name, written = service["name"], service.get("image")
        key = _below(node, "name")
        if written is None:  # the service's name is its image
            image = self.image_of({"name": text.image_name(name, key)}, node, job)
            aliases = service.get("alias") or service_aliases(image.name or "")
        else:
            key = _below(node, "image", "name") if "name" in written else key
            image = self.image_of(written, _below(node, "image"), job)
            if image.name is None and image.build is None:
                image = replace(image, name=text.image_name(name, key))
            aliases = service.get("alias") or (name,)
        variables, secrets = service.get("variables", {}), _secrets(service.get("secrets", {}))
        for secret in secrets:
            variable = f"{secret.name}_FILE" if secret.file else secret.name
            if variable in variables:
                why = f"the secret {secret.name} sets {variable} for this service; remove one of the two"
                self.say(_below(node, "variables", variable), why)
        return p.Service(
            name=aliases[0] if written is None else name,
            aliases=aliases,
            image=image,
            secrets=secrets,
            position=f"{key.file.name}:{key.line}",
            variables=variables,
            command=service.get("command"),
            entrypoint=service.get("entrypoint"),
            user=service.get("user") or (written or {}).get("user"),
            ready=p.Ready(**_renamed(service.get("ready", {}))),
        )


class _Texts(Struct):
    """Expand texts of one job; an undefined name is a problem, because nothing can define it later."""

    builder: JobBuilder
    entry: Entry
    values: Mapping[str, str]

    def expanded(self, value: Any, node: Node, name: str = "", how: Expand | None = None) -> Any:
        """Return the parsed value of a key, with its texts expanded as `_EXPANDED` says, and lists as tuples."""
        how = _EXPANDED.get(name) or _EXPANDED.get(name.removeprefix("services:"), how)
        if isinstance(value, Mapping) and value.get("disabled") is not True:
            return {
                key: self.expanded(one, _below(node, key), f"{name}:{key}".lstrip(":"), how)
                for key, one in value.items()
            }
        if isinstance(value, list):
            return tuple(self.expanded(one, _below(node, number), name, how) for number, one in enumerate(value))
        return how(self, value, node) if how is not None and isinstance(value, str) else value

    def text(self, text: str, node: Node) -> str:
        if "$" not in text:
            return text
        secrets = self.entry.fields.get("secrets", ())
        for name in interpolation.names(text):
            if name not in self.values:
                why = "is a secret, and only steps can read secrets" if name in secrets else "has no value here"
                self.builder.say(node, f"${name} {why}; define it, or write $$ for a plain $")
        try:
            return interpolation.expand(text, self.values)
        except interpolation.ExpansionTooLong as error:
            self.builder.say(node, str(error))
            return text

    def path(self, text: str, node: Node) -> str:
        """Resolve a path below the project. `$CI_PROJECT_DIR` is the project itself, independent of its mount point."""
        if "$" not in text:
            return text
        values = {**self.values, "CI_PROJECT_DIR": ".", "LOOM_PROJECT_DIR": "."}
        expanded = _Texts(self.builder, self.entry, values).text(text, node).removeprefix("./") or "."
        if expanded.startswith(("/", "~")) or ".." in expanded.split("/"):
            self.builder.say(node, f"{expanded} is outside the project; use a path inside it")
        return expanded

    def image_name(self, text: str, node: Node) -> str:
        return self._checked(parse_reference, text, node)

    def user(self, text: str, node: Node) -> str:
        return self._checked(checked_user, text, node)

    def platform(self, text: str, node: Node) -> str:
        return self._checked(platform, text, node)

    def _checked(self, check: Callable[[str], object], text: str, node: Node) -> str:
        """Expand a text, and validate it with `check`, which raises ValueError or RequestError for an invalid one."""
        expanded = self.text(text, node)
        try:
            if "$" not in expanded:
                check(expanded)
        except ValueError as error:
            self.builder.say(node, str(error))
        except RequestError as error:
            self.builder.say(node, f"{error.message}. {error.hint}")
        return expanded


Expand = Callable[[_Texts, str, Node], str]
_EXPANDED: Mapping[str, Expand] = {
    "image:name": _Texts.image_name,
    "image:platform": _Texts.platform,
    "image:user": _Texts.user,
    "user": _Texts.user,
    **dict.fromkeys(("image:build:target", "image:build:args", "services:variables"), _Texts.text),
    **dict.fromkeys(("artifacts:name", "cache:key", "cache:fallback_keys", "resource_group"), _Texts.text),
    **dict.fromkeys(("image:build:context", "image:build:dockerfile", "cache:key:files", "cache:paths"), _Texts.path),
    **dict.fromkeys(("artifacts:paths", "artifacts:exclude", "artifacts:reports"), _Texts.path),
}
"""How the texts at these keys, and below them, are expanded; those of a service's image as those of the job's."""


def _below(node: Node, *path: str | int) -> Node:
    """Return the node at a path, or the last one on the way that is there."""
    for part in path:
        node = node.get(part) or node
    return node


def _node_of(entry: Entry, *path: str | int) -> Node:
    found = _below(entry.merged, *path)
    return entry.key if found is entry.merged else found


_SHELLS = frozenset({"auto", "bash", "sh", "dash", "ash", "ksh", "mksh", "zsh"})


def can_share_shell(shell: tuple[str, ...]) -> bool:
    """Return whether this command line starts a shell that reads its program from its standard input."""
    return PurePath(shell[0]).name in _SHELLS and not any("{0}" in word for word in shell)


def _secrets(written: Mapping[str, Fields]) -> tuple[p.Secret, ...]:
    return tuple(p.Secret(name=name, **secret) for name, secret in written.items())


def _allow_failure(written: Fields | bool | None) -> bool | frozenset[int] | None:
    return written if written is None or isinstance(written, bool) else frozenset(written["exit_codes"])


def _retry(fields: Fields | None) -> p.Retry:
    if fields is None:
        return p.Retry()
    return p.Retry(
        max=fields.get("max", 1),
        when=frozenset(fields.get("when", ("always",))),
        exit_codes=frozenset(fields.get("exit_codes", ())),
        backoff_s=fields.get("backoff", 0.0),
    )


def _renamed(fields: Fields) -> dict[str, Any]:
    """Return fields by the names that the plan has for them."""
    return {f"{key}_s" if key in ("interval", "timeout", "expire_in") else key: value for key, value in fields.items()}


def _artifacts(fields: Fields | None) -> p.Artifacts | None:
    if fields is None:
        return None
    reports = {kind: paths for kind, paths in fields.get("reports", {}).items() if paths}
    return p.Artifacts(**{**_renamed(fields), "reports": reports})


def _cache(fields: Fields) -> p.Cache:
    written = fields.get("key", {"prefix": "default"})
    key = p.CacheKeyFiles(**written) if "files" in written else written.get("prefix", "")
    return p.Cache(**{**{name: one for name, one in fields.items() if name != "disabled"}, "key": key})
