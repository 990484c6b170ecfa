"""Build a job of the plan from a candidate: expand every value, fill in every default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath

from loom.errors import Problem, RequestError
from loom.images.reference import parse_reference, service_aliases
from loom.plan import builder
from loom.plan import model as p
from loom.plan.native.candidates import EntryCandidate, job_values
from loom.plan.placement import placed, unknown_pool
from loom.pools import Pool
from loom.util.toposort import CycleError
from loom.util.units import platform
from loom.util.yaml_file import Node, pointer
from loom.workflow import Entry, Workflow, interpolation
from loom.workflow.native import models
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
        text = _Texts(self, entry, {**known, **variables}, frozenset(fields.secrets or ()))
        place = self.place(entry)
        image = self.image(entry, text, place)
        job = p.Job(
            id=candidate.id,
            name=entry.name,
            stage=candidate.stage,
            steps=tuple(builder.steps(entry.merged)),
            provider=place.place,
            image=image,
            shell=tuple(fields.shell or shell_words(config.default_shell)),
            shared_shell=self.shared_shell(entry),
            merge_output=bool(fields.merge_output),
            variables=variables,
            given_variables=tuple(self.selection.variables),
            needs=None if candidate.needs is None else tuple(candidate.needs),
            when=builder.WHEN.get(candidate.decision.when, "on_success"),
            allow_failure=builder.allow_failure(candidate.decision.allow_failure, _allow_failure(fields.allow_failure)),
            retry=_retry(fields.retry),
            timeout_s=fields.timeout if fields.timeout is not None else config.job_timeout,
            step_timeout_s=fields.step_timeout if fields.step_timeout is not None else config.step_timeout,
            resources=self.resources(fields.resources, entry),
            network=self.network(fields, text),
            privileged=bool(fields.privileged),
            docker_socket=bool(fields.docker_socket),
            services=tuple(
                self.service(service, number, entry, text) for number, service in enumerate(fields.services or ())
            ),
            artifacts=self.artifacts(fields.artifacts, text),
            cache=tuple(
                self.cache(cache, number, text) for number, cache in enumerate(fields.cache or ()) if not cache.disabled
            ),
            secrets=_secrets(fields.secrets or {}),
            matrix=candidate.matrix,
            resource_group=text.maybe(fields.resource_group, "resource_group"),
            runner_pool=fields.runner_pool,
            pool=builder.settled(place),
            places=builder.places(entry.merged, config),
            rule=candidate.decision.rule,
        )
        if not config.hardened:
            return job
        from loom.plan.hardening import hardened

        return hardened(job, config, text.say)

    def shared_shell(self, entry: Entry) -> bool:
        shell = tuple(entry.fields.shell or shell_words(self.context.config.default_shell))
        if entry.fields.shared_shell and not can_share_shell(shell):
            node = entry.merged.get("shared_shell")
            message = (
                f"`{' '.join(shell)}` can't be shared by steps: it has to be a shell that reads commands from its input"
            )
            self.say(node, pointer(entry.name, "shared_shell"), f"{message}, such as bash or sh; set `shell`")
        return bool(entry.fields.shared_shell)

    def variables(self, candidate: EntryCandidate, known: Mapping[str, str]) -> dict[str, str]:
        entry = candidate.entry
        layered = {
            **self.workflow.variables,
            **self.workflow_variables,
            **(entry.fields.variables or {}),
            **candidate.matrix,
            **candidate.decision.variables,
        }
        if candidate.node_index is not None:
            layered = {
                "CI_NODE_INDEX": str(candidate.node_index),
                "CI_NODE_TOTAL": str(candidate.node_total),
                **layered,
            }
        layered |= self.selection.variables
        for secret in entry.fields.secrets or ():
            layered.pop(secret, None)
        try:
            return interpolation.expand_all(layered, known, literal=self.selection.variables.keys())
        except CycleError as error:
            cycle = " -> ".join(f"${name}" for name in error.cycle)
            node, at = self.variable_node(entry, error.cycle[0])
            self.say(
                node,
                at,
                f"the variables of {candidate.id} refer to each other in a cycle: {cycle}; write $$ for a plain $",
            )
        except interpolation.ExpansionTooLong as error:
            self.say(entry.key, pointer(entry.name, "variables"), f"a variable of {candidate.id}: {error}")
        return layered

    def variable_node(self, entry: Entry, name: str) -> tuple[Node, str]:
        """Locate a job's variable in the workflow; return the node and its pointer."""
        own = entry.merged.get("variables")
        node = own.get(name) if own is not None else None
        if node is None and name in self.workflow.variable_nodes:
            return self.workflow.variable_nodes[name], pointer("variables", name)
        return node or entry.key, pointer(entry.name, "variables", name)

    def place(self, entry: Entry) -> Pool:
        fields, config = entry.fields, self.context.config
        if (unknown := unknown_pool(fields.runner_pool, config)) is not None:
            self.say(entry.merged.get("runner_pool"), pointer(entry.name, "runner_pool"), unknown)
        has_image = fields.image is not None
        place = placed(fields.runner_pool, has_image=has_image, selection=self.selection, config=config)
        if not place.in_container and has_image:
            pool = fields.runner_pool or self.selection.on
            message = f"{pool} runs jobs on this machine, without an image; remove the image, or name another pool"
            self.say(entry.merged.get("image"), pointer(entry.name, "image"), message)
        return place

    def image(self, entry: Entry, text: _Texts, place: Pool) -> p.Image | None:
        fields, config = entry.fields, self.context.config
        image = fields.image
        if not place.in_container:
            return None
        if image is None:
            return p.Image(name=config.default_image, pull=config.pull, user=fields.user, platform=config.platform)
        build = None if image.build is None else self.build(image.build, entry, text, "image", "build")
        return p.Image(
            name=None if image.name is None else text.image_name(image.name, "image", "name"),
            build=build,
            pull=image.pull or config.pull,
            entrypoint=None if image.entrypoint is None else tuple(image.entrypoint),
            user=text.checked(
                checked_user, fields.user or image.user, *(("user",) if fields.user else ("image", "user"))
            ),
            platform=text.checked(platform, image.platform, "image", "platform") or config.platform,
        )

    def build(self, build: models.Build, entry: Entry, text: _Texts, *at: str | int) -> p.Build:
        own = entry.fields.secrets or {}
        for number, name in enumerate(build.secrets):
            if name not in own:
                place = (*at, "secrets", number)
                text.say(
                    place,
                    f"the job has no secret {name}; declare it under the job's `secrets`",
                )
        return p.Build(
            context=text.path(build.context, *at, "context"),
            dockerfile=text.path(build.dockerfile, *at, "dockerfile"),
            target=text.maybe(build.target, *at, "target"),
            args={name: text(value, *at, "args", name) for name, value in build.args.items()},
            secrets=_secrets({name: own[name] for name in build.secrets if name in own}),
        )

    def network(self, fields: models.Job, text: _Texts) -> p.Network:
        written = fields.network
        mode = (written.mode if written else None) or self.context.config.network
        if fields.services and mode not in (None, "default", "bridge", "none"):
            own = written is not None and written.mode is not None
            at = ("network",) if own else ("services",)
            where = "" if own else ", which the configuration asks for,"
            text.say(
                at,
                f"a job with services shares a private network with them: `network: {mode}`{where} is not possible here; "
                "remove it or the services (`none` is allowed: the private network is then isolated)",
            )
        return p.Network(mode=mode, extra_hosts=dict(written.extra_hosts) if written else {})

    def resources(self, fields: models.Resources | None, entry: Entry) -> p.Resources:
        config = self.context.config
        fields = fields or models.Resources()
        written = entry.merged.get("resources")
        places = {}
        for key in models.Resources.model_fields:
            if written is not None and (node := written.get(key)):
                places[key] = node.place
            elif (origin := config.origins.get(key)) is not None and origin.place:
                places[key] = origin.place
        return p.Resources(
            cpus=fields.cpus if fields.cpus is not None else config.cpus,
            memory=fields.memory if fields.memory is not None else config.memory,
            pids=fields.pids if fields.pids is not None else config.pids,
            shm_size=fields.shm_size,
            ulimits=tuple(
                p.Ulimit(name=name, soft=limit.soft, hard=limit.hard) for name, limit in fields.ulimits.items()
            ),
            tmpfs=tuple(fields.tmpfs),
            devices=tuple(fields.devices),
            gpus=fields.gpus,
            read_only=fields.read_only,
            places=places,
        )

    def service(self, service: models.Service, number: int, entry: Entry, text: _Texts) -> p.Service:
        config = self.context.config
        at = ("services", number)
        written = service.image
        name = (written.name if written is not None else None) or service.name
        # Only a host name for services with a built image.
        named = written is None or written.name is not None or written.build is None
        place = (*at, "image", "name") if written is not None and written.name is not None else (*at, "name")
        reference = text.image_name(name, *place) if named else text(name, *place)
        build = None
        if written is not None and written.build is not None:
            build = self.build(written.build, entry, text, *at, "image", "build")
        node = text.node(place)
        aliases = tuple(service.alias or (service_aliases(reference) if written is None else (service.name,)))
        return p.Service(
            name=aliases[0] if written is None else service.name,
            aliases=aliases,
            image=p.Image(
                name=reference if build is None or (written is not None and written.name) else None,
                build=build,
                pull=(written.pull if written is not None else None) or config.pull,
                entrypoint=None if written is None or written.entrypoint is None else tuple(written.entrypoint),
                platform=text.checked(platform, written.platform if written else None, *at, "image", "platform")
                or config.platform,
            ),
            secrets=self.service_secrets(service, number, text),
            once=service.run == "once",
            place=f"{node.file.name}:{node.line}",
            variables={name: text(value, *at, "variables", name) for name, value in service.variables.items()},
            command=None if service.command is None else tuple(service.command),
            entrypoint=None if service.entrypoint is None else tuple(service.entrypoint),
            user=text.checked(checked_user, service.user, *at, "user")
            or text.checked(checked_user, written.user if written else None, *at, "image", "user"),
            ready=p.Ready(
                tcp=service.ready.tcp,
                command=None if service.ready.command is None else tuple(service.ready.command),
                http=service.ready.http,
                log=service.ready.log,
                interval_s=service.ready.interval,
                timeout_s=service.ready.timeout,
            ),
        )

    def service_secrets(self, service: models.Service, number: int, text: _Texts) -> tuple[p.Secret, ...]:
        for name, secret in service.secrets.items():
            variable = f"{name}_FILE" if secret.file else name
            if variable in service.variables:
                at = ("services", number, "variables", variable)
                text.say(
                    at,
                    f"the secret {name} sets {variable} for this service; remove one of the two",
                )
        return _secrets(service.secrets)

    def artifacts(self, fields: models.ArtifactsFields | None, text: _Texts) -> p.Artifacts | None:
        if fields is None:
            return None
        return p.Artifacts(
            paths=tuple(text.path(path, "artifacts", "paths", n) for n, path in enumerate(fields.paths)),
            exclude=tuple(text.path(path, "artifacts", "exclude", n) for n, path in enumerate(fields.exclude)),
            when=fields.when,
            name=text.maybe(fields.name, "artifacts", "name"),
            untracked=fields.untracked,
            expire_in_s=fields.expire_in,
            reports={
                kind: tuple(text.path(path, "artifacts", "reports", kind, n) for n, path in enumerate(paths))
                for kind, paths in fields.reports.by_kind().items()
            },
        )

    def cache(self, fields: models.CacheFields, number: int, text: _Texts) -> p.Cache:
        at = ("cache", number)
        key: str | p.CacheKeyFiles = text(fields.key.prefix, *at, "key")
        if fields.key.files:
            files = tuple(text.path(path, *at, "key", "files", n) for n, path in enumerate(fields.key.files))
            key = p.CacheKeyFiles(files=files, prefix=str(key))
        return p.Cache(
            paths=tuple(text.path(path, *at, "paths", n) for n, path in enumerate(fields.paths)),
            key=key,
            fallback_keys=tuple(text(other, *at, "fallback_keys", n) for n, other in enumerate(fields.fallback_keys)),
            policy=fields.policy,
            when=fields.when,
            name=fields.name,
        )


class _Texts:
    """Expand texts of one job; an undefined name is a problem, because nothing can define it later."""

    def __init__(self, builder: JobBuilder, entry: Entry, values: Mapping[str, str], secrets: frozenset[str]) -> None:
        self.builder = builder
        self.entry = entry
        self.values = values
        self.secrets = secrets

    def say(self, at: tuple[str | int, ...], message: str) -> None:
        """Report a problem at this place of the job."""
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
        here = _Texts(
            self.builder, self.entry, {**self.values, "CI_PROJECT_DIR": ".", "LOOM_PROJECT_DIR": "."}, self.secrets
        )
        expanded = here(text, *at)
        expanded = expanded.removeprefix("./") or "."
        if expanded.startswith(("/", "~")) or ".." in expanded.split("/"):
            self.say(at, f"{expanded} is outside the project; use a path inside it")
        return expanded

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
    """Whether this command line starts a shell that reads its program from its standard input."""
    return PurePath(shell[0]).name in _SHELLS and not any("{0}" in word for word in shell)


def _secrets(written: Mapping[str, models.SecretFields]) -> tuple[p.Secret, ...]:
    return tuple(
        p.Secret(name=name, ref=secret.ref, file=secret.file, required=secret.required)
        for name, secret in written.items()
    )


def _allow_failure(fields: models.AllowFailureFields | None) -> bool | frozenset[int] | None:
    if fields is None:
        return None
    codes: list[int] | None = fields.exit_codes
    return True if codes is None else frozenset(codes)


def _retry(fields: models.RetryFields | None) -> p.Retry:
    if fields is None:
        return p.Retry()
    return p.Retry(
        max=fields.max, when=frozenset(fields.when), exit_codes=frozenset(fields.exit_codes), backoff_s=fields.backoff
    )
