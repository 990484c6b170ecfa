"""Build a job of the plan from a candidate: expand every value, fill in every default."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath

from msgspec.structs import replace

from loom.config.pools import Pool
from loom.errors import Problem, RequestError
from loom.images.reference import parse_reference, service_aliases
from loom.plan import builder
from loom.plan import model as p
from loom.plan.native.candidates import EntryCandidate, job_values
from loom.plan.placement import pool_for, unknown_pool
from loom.util.toposort import CycleError
from loom.util.units import platform
from loom.util.yaml_file import Node, fields_of, pointer
from loom.workflow import interpolation
from loom.workflow.native.inheritance import Entry
from loom.workflow.native.loader import Workflow
from loom.workflow.native.shapes import Fields
from loom.workflow.native.values import user as checked_user
from loom.workflow.words import shell_words

_EMPTY_WHEN_UNSET = frozenset({"CI_COMMIT_BRANCH", "CI_COMMIT_TAG", "CI_COMMIT_DESCRIPTION"})


class JobBuilder:
    """Build jobs; `problems` collects errors in their values."""

    def __init__(
        self,
        workflow: Workflow,
        selection: p.JobSelection,
        context: p.ResolveContext,
        workflow_variables: Mapping[str, str],
    ) -> None:
        self.workflow = workflow
        self.selection = selection
        self.context = context
        self.workflow_variables = workflow_variables
        self.problems: list[Problem] = []

    def say(self, node: Node | None, at: str, message: str) -> None:
        if node is not None:
            self.problems.append(node.file.problem(node, at, message))

    def job(self, candidate: EntryCandidate) -> p.Job:
        entry, fields, config = candidate.entry, candidate.entry.fields, self.context.config
        known = {
            **dict.fromkeys(_EMPTY_WHEN_UNSET, ""),
            **self.context.predefined,
            **job_values(self.workflow, self.selection, self.context, entry, candidate.id),
        }
        variables = self.variables(candidate, known)
        text = _Texts(self, entry, {**known, **variables}, frozenset(fields.get("secrets", ())))
        pool = self.pool(entry)
        image = self.image(entry, text, pool)
        job = p.Job(
            id=candidate.id,
            name=entry.name,
            stage=candidate.stage,
            steps=tuple(builder.steps(entry.merged)),
            provider=pool.target,
            image=image,
            shell=tuple(fields.get("shell") or shell_words(config.default_shell)),
            shared_shell=self.shared_shell(entry),
            merge_output=fields.get("merge_output", False),
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
            network=self.network(fields, text),
            privileged=fields.get("privileged", False),
            docker_socket=fields.get("docker_socket", False),
            services=tuple(
                self.service(service, number, entry, text) for number, service in enumerate(fields.get("services", ()))
            ),
            artifacts=self.artifacts(fields.get("artifacts"), text),
            cache=tuple(
                self.cache(cache, number, text)
                for number, cache in enumerate(fields.get("cache", ()))
                if not cache.get("disabled")
            ),
            secrets=_secrets(fields.get("secrets", {})),
            matrix=candidate.matrix,
            resource_group=text.maybe(fields.get("resource_group"), "resource_group"),
            runner_pool=fields.get("runner_pool"),
            pool=builder.settled(pool),
            sources=builder.sources(entry.merged, config),
            rule=candidate.decision.rule,
        )
        return builder.finished(job, config, text.say)

    def shared_shell(self, entry: Entry) -> bool:
        shell = tuple(entry.fields.get("shell") or shell_words(self.context.config.default_shell))
        shared: bool = entry.fields.get("shared_shell", False)
        if shared and not can_share_shell(shell):
            node = entry.merged.get("shared_shell")
            message = (
                f"`{' '.join(shell)}` can't be shared by steps: it has to be a shell that reads commands from its input"
            )
            self.say(node, pointer(entry.name, "shared_shell"), f"{message}, such as bash or sh; set `shell`")
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
            self.say(*self.variable_node(entry, error.cycle[0]), why)
        except interpolation.ExpansionTooLong as error:
            self.say(entry.key, pointer(entry.name, "variables"), f"a variable of {candidate.id}: {error}")
        return layered

    def variable_node(self, entry: Entry, name: str) -> tuple[Node, str]:
        """Locate a job's variable in the workflow; return the node and its pointer."""
        node = entry.merged.find("variables", name)
        if node is None and name in self.workflow.variable_nodes:
            return self.workflow.variable_nodes[name], pointer("variables", name)
        return node or entry.key, pointer(entry.name, "variables", name)

    def pool(self, entry: Entry) -> Pool:
        fields, config = entry.fields, self.context.config
        runner_pool, has_image = fields.get("runner_pool"), "image" in fields
        if (unknown := unknown_pool(runner_pool, config)) is not None:
            self.say(entry.merged.get("runner_pool"), pointer(entry.name, "runner_pool"), unknown)
        pool = pool_for(runner_pool, has_image=has_image, selection=self.selection, config=config)
        if not pool.in_container and fields.get("services"):
            message = "a job on this machine can't have services; give it an `image`, or run it with --container"
            self.say(entry.merged.get("services"), pointer(entry.name, "services"), message)
        if not pool.in_container and has_image:
            target = runner_pool or self.selection.on
            message = f"{target} runs jobs on this machine, without an image; remove the image, or name another pool"
            self.say(entry.merged.get("image"), pointer(entry.name, "image"), message)
        return pool

    def image(self, entry: Entry, text: _Texts, pool: Pool) -> p.Image | None:
        fields, config = entry.fields, self.context.config
        image = fields.get("image")
        if not pool.in_container:
            return None
        if image is None:
            user = fields.get("user")
            return p.Image(name=config.default_image, pull=config.pull, user=user, platform=config.platform)
        at = ("user",) if "user" in fields else ("image", "user")
        return replace(
            self.image_of(image, entry, text, "image"),
            user=text.checked(checked_user, fields.get("user") or image.get("user"), *at),
        )

    def image_of(self, image: Fields, entry: Entry, text: _Texts, *at: str | int) -> p.Image:
        """Return the image of a job or of a service, without its user."""
        config = self.context.config
        entrypoint, build = image.get("entrypoint"), image.get("build")
        return p.Image(
            name=text.image_name(image["name"], *at, "name") if "name" in image else None,
            build=None if build is None else self.build(build, entry, text, *at, "build"),
            pull=image.get("pull", config.pull),
            entrypoint=None if entrypoint is None else tuple(entrypoint),
            platform=text.checked(platform, image.get("platform"), *at, "platform") or config.platform,
        )

    def build(self, build: Fields, entry: Entry, text: _Texts, *at: str | int) -> p.Build:
        own = entry.fields.get("secrets", {})
        secrets = build.get("secrets", ())
        for number, name in enumerate(secrets):
            if name not in own:
                why = f"the job has no secret {name}; declare it under the job's `secrets`"
                text.say((*at, "secrets", number), why)
        return p.Build(
            context=text.path(build.get("context", "."), *at, "context"),
            dockerfile=text.path(build.get("dockerfile", "Dockerfile"), *at, "dockerfile"),
            target=text.maybe(build.get("target"), *at, "target"),
            args={name: text(value, *at, "args", name) for name, value in build.get("args", {}).items()},
            secrets=_secrets({name: own[name] for name in secrets if name in own}),
        )

    def network(self, fields: Fields, text: _Texts) -> p.Network:
        written = fields.get("network", {})
        mode = written.get("mode") or self.context.config.network
        if fields.get("services") and mode not in (None, "default", "bridge", "none"):
            own = "mode" in written
            where = "" if own else ", which the configuration asks for,"
            text.say(
                ("network",) if own else ("services",),
                f"a job with services shares a private network with them: `network: {mode}`{where} is not possible here; "
                "remove it or the services (`none` is allowed: the private network is then isolated)",
            )
        return p.Network(mode=mode, extra_hosts=written.get("extra_hosts", {}))

    def resources(self, fields: Fields, entry: Entry) -> p.Resources:
        own = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        if "ulimits" in own:
            own["ulimits"] = tuple(
                p.Ulimit(name=name, soft=limit["soft"], hard=limit.get("hard", limit["soft"]))
                for name, limit in fields["ulimits"].items()
            )
        limits = builder.limits(self.context.config, **own)
        sources = {key: node.position for key, node in fields_of(entry.merged.get("resources")).items()}
        return replace(limits, sources={**limits.sources, **sources})

    def service(self, service: Fields, number: int, entry: Entry, text: _Texts) -> p.Service:
        at = ("services", number)
        written = service.get("image")
        if written is None:  # the service's name is its image
            path: tuple[str | int, ...] = (*at, "name")
            image = self.image_of({"name": service["name"]}, entry, text, *at)
            aliases = tuple(service.get("alias") or service_aliases(image.name or ""))
        else:
            path = (*at, "image", "name") if "name" in written else (*at, "name")
            image = self.image_of(written, entry, text, *at, "image")
            if image.name is None and image.build is None:
                image = replace(image, name=text.image_name(service["name"], *path))
            aliases = tuple(service.get("alias") or (service["name"],))
        ready = service.get("ready", {})
        node = text.node(path)
        return p.Service(
            name=aliases[0] if written is None else service["name"],
            aliases=aliases,
            image=image,
            secrets=self.service_secrets(service, number, text),
            position=f"{node.file.name}:{node.line}",
            variables={
                name: text(value, *at, "variables", name) for name, value in service.get("variables", {}).items()
            },
            command=_words(service.get("command")),
            entrypoint=_words(service.get("entrypoint")),
            user=text.checked(checked_user, service.get("user"), *at, "user")
            or text.checked(checked_user, (written or {}).get("user"), *at, "image", "user"),
            ready=p.Ready(
                **{key: ready[key] for key in ("tcp", "http", "log") if key in ready},
                command=_words(ready.get("command")),
                interval_s=ready.get("interval", 1.0),
                timeout_s=ready.get("timeout", 60.0),
            ),
        )

    def service_secrets(self, service: Fields, number: int, text: _Texts) -> tuple[p.Secret, ...]:
        secrets = _secrets(service.get("secrets", {}))
        for secret in secrets:
            variable = f"{secret.name}_FILE" if secret.file else secret.name
            if variable in service.get("variables", {}):
                at = ("services", number, "variables", variable)
                text.say(at, f"the secret {secret.name} sets {variable} for this service; remove one of the two")
        return secrets

    def artifacts(self, fields: Fields | None, text: _Texts) -> p.Artifacts | None:
        if fields is None:
            return None
        return p.Artifacts(
            paths=text.paths(fields.get("paths"), "artifacts", "paths"),
            exclude=text.paths(fields.get("exclude"), "artifacts", "exclude"),
            when=fields.get("when", "on_success"),
            name=text.maybe(fields.get("name"), "artifacts", "name"),
            untracked=fields.get("untracked", False),
            expire_in_s=fields.get("expire_in"),
            reports={
                kind: text.paths(paths, "artifacts", "reports", kind)
                for kind, paths in fields.get("reports", {}).items()
                if paths
            },
        )

    def cache(self, fields: Fields, number: int, text: _Texts) -> p.Cache:
        at = ("cache", number)
        written = fields.get("key", {"prefix": "default"})
        key: str | p.CacheKeyFiles = text(written.get("prefix", ""), *at, "key")
        if "files" in written:
            key = p.CacheKeyFiles(files=text.paths(written["files"], *at, "key", "files"), prefix=str(key))
        others = fields.get("fallback_keys", ())
        return p.Cache(
            paths=text.paths(fields["paths"], *at, "paths"),
            key=key,
            fallback_keys=tuple(text(other, *at, "fallback_keys", n) for n, other in enumerate(others)),
            policy=fields.get("policy", "pull-push"),
            when=fields.get("when", "on_success"),
            name=fields.get("name"),
        )


class _Texts:
    """Expand texts of one job; an undefined name is a problem, because nothing can define it later."""

    def __init__(self, builder: JobBuilder, entry: Entry, values: Mapping[str, str], secrets: frozenset[str]) -> None:
        self.builder = builder
        self.entry = entry
        self.values = values
        self.secrets = secrets

    def say(self, at: tuple[str | int, ...], message: str) -> None:
        self.builder.say(self.node(at), pointer(self.entry.name, *at), message)

    def __call__(self, text: str, *at: str | int) -> str:
        if "$" not in text:
            return text
        for name in interpolation.names(text):
            if name not in self.values:
                why = "is a secret, and only steps can read secrets" if name in self.secrets else "has no value here"
                self.say(at, f"${name} {why}; define it, or write $$ for a plain $")
        try:
            return interpolation.expand(text, self.values)
        except interpolation.ExpansionTooLong as error:
            self.say(at, str(error))
            return text

    def path(self, text: str, *at: str | int) -> str:
        """Resolve a path below the project. `$CI_PROJECT_DIR` is the project itself, independent of its mount point."""
        if "$" not in text:
            return text
        values = {**self.values, "CI_PROJECT_DIR": ".", "LOOM_PROJECT_DIR": "."}
        expanded = _Texts(self.builder, self.entry, values, self.secrets)(text, *at).removeprefix("./") or "."
        if expanded.startswith(("/", "~")) or ".." in expanded.split("/"):
            self.say(at, f"{expanded} is outside the project; use a path inside it")
        return expanded

    def paths(self, written: Sequence[str] | None, *at: str | int) -> tuple[str, ...]:
        return tuple(self.path(text, *at, number) for number, text in enumerate(written or ()))

    def image_name(self, text: str, *at: str | int) -> str:
        expanded = self(text, *at)
        try:
            if "$" not in expanded:
                parse_reference(expanded)
        except RequestError as error:
            self.say(at, f"{error.message}. {error.hint}")
        return expanded

    def maybe(self, text: str | None, *at: str | int) -> str | None:
        return None if text is None else self(text, *at)

    def checked(self, check: Callable[[str], str], text: str | None, *at: str | int) -> str | None:
        """Validate an expanded text with `check`, which raises ValueError for invalid text."""
        expanded = self.maybe(text, *at)
        try:
            return expanded if expanded is None or "$" in expanded else check(expanded)
        except ValueError as error:
            self.say(at, str(error))
            return expanded

    def node(self, at: tuple[str | int, ...]) -> Node:
        node = self.entry.merged
        for part in at:
            child = node.get(part)
            if child is not None:
                node = child
        return self.entry.key if node is self.entry.merged else node


_SHELLS = frozenset({"auto", "bash", "sh", "dash", "ash", "ksh", "mksh", "zsh"})


def can_share_shell(shell: tuple[str, ...]) -> bool:
    """Return whether this command line starts a shell that reads its program from its standard input."""
    return PurePath(shell[0]).name in _SHELLS and not any("{0}" in word for word in shell)


def _words(written: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if written is None else tuple(written)


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
