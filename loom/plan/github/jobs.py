"""Build a job of the plan from one of GitHub's: evaluate what the event and the matrix decide, keep the rest as it is written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from msgspec.structs import replace

from loom.config.pools import Pool
from loom.errors import Problem, RequestError
from loom.images.reference import parse_reference
from loom.plan import builder
from loom.plan import model as p
from loom.plan.github import actions
from loom.plan.github.candidates import IF_FALSE, TOKEN, GitHubCandidate, GitHubCandidates, WorkflowScope, secret_in
from loom.plan.github.containers import BadOption, ContainerOptions, add_volume, options_of
from loom.plan.github.labels import system_of
from loom.plan.github.steps import StepList, texts_of
from loom.plan.github.texts import LATE, Texts
from loom.plan.late import MINUTE_S, Action, LateCaller, LateJob, LateNeed, limit_of
from loom.plan.placement import pool_for
from loom.util.budget import spend
from loom.util.yaml_file import Node, fields_of, items_of, node_at, one_or_more, scalars_of, text_of
from loom.workflow.github import expressions
from loom.workflow.github.keywords import JOB
from loom.workflow.github.shapes import UNSUPPORTED
from loom.workflow.github.workflows import CALL
from loom.workflow.parser import InvalidExpression
from loom.workflow.words import shell_words

_OF_SERVICES = {"cpus", "memory", "pids", "shm_size", "tmpfs", "ulimits", "volumes"}
"""The fields of `Resources` that a service may have."""
_PORTS = re.compile(r"(?:[0-9.]+:)??(?:(?P<host>[0-9]+):)?(?P<port>[0-9]{1,5})(?:/(?:tcp|udp))?")
_TIMEOUT_S = 360 * MINUTE_S
"""The default of `timeout-minutes` (docs.github.com: workflow syntax), where the user's configuration has no other."""
_NAMED = {"image": "container", "timeout": "timeout-minutes"}
_LABELED = {**_NAMED, "default_image": "images"}


class GitHubJobBuilder(builder.Refusals):
    def __init__(self, candidates: GitHubCandidates, context: p.ResolveContext, selection: p.JobSelection) -> None:
        super().__init__(JOB, code=UNSUPPORTED)
        self.candidates = candidates
        self.context = context
        self.selection = selection
        self._actions: dict[tuple[str, str], actions.ActionFile | actions.BadAction] = {}
        self.there: frozenset[str] = frozenset()
        self.unexpected: dict[Problem, None] = {}
        """The warnings of inputs that actions do not have."""
        self.unreachable: list[str] = []
        """The actions and called workflows whose server does not answer, each with its position and the reason."""
        self._volumes: dict[tuple[str, str], str] = {}
        """The container that has a volume, by job and name."""

    def job(self, candidate: GitHubCandidate) -> p.Job:
        spend("jobs", candidate.entry.key, 0)
        config, node, texts = self.context.config, candidate.node, candidate.texts
        self.refuse_keywords(candidate, node)
        if candidate.unreachable:
            self.unreachable.append(f"{node.value['uses'].position}: {candidate.refusal}")
        if candidate.refusal:
            self.refuse_at(candidate, node.value["uses"], candidate.refusal)
        for at in candidate.unknown:
            self.refuse_at(
                candidate, at, f"{at.text}: the mapping or list is not known before the job starts; write it out"
            )
        pool = self._pool(candidate)
        in_container = pool.in_container
        late, alone = self._late(candidate), self._container_of(candidate) is None
        image, options = None, ContainerOptions()
        if in_container:
            image, options, late = self._container(candidate, late)
        steps = StepList(
            self._read,
            self._fetch,
            self._defaults(candidate),
            lambda at, why: self.refuse_at(candidate, at, why),
            lambda step: not self.candidates.everything and texts.condition(step.get("if")) is False,
        )
        for step in items_of(node, "steps"):
            steps.add(step)
        self.unexpected |= steps.unexpected
        self.unreachable += steps.unreachable
        written = steps.steps() or (p.Step(phase="script", number=1, script=":"),)
        services = tuple(self._services(candidate))
        self._check_ports(candidate, services)
        secrets = self._secrets(candidate, late, written)
        late = replace(late, secrets={inner: outer.name for inner, outer in secrets.items()})
        minutes = texts.value(node.get("timeout-minutes"))
        seconds = limit_of(minutes)
        job = p.Job(
            id=candidate.id,
            name=candidate.name,
            stage=candidate.stage,
            steps=written,
            provider=pool.target,
            image=image,
            shell=tuple(shell_words(config.default_shell)),
            needs=tuple(candidate.needs or ()),
            artifacts_from=(),
            when="always",  # its condition decides
            deploys=self.candidates.deploys(node, texts),
            no_checkout=not _begins_with_checkout(written),
            resource_group=self._group(candidate),
            allow_failure=p.AllowFailure(always=texts.value(node.get("continue-on-error")) is True),
            timeout_s=seconds or (config.job_timeout if "job_timeout" in config.origins else _TIMEOUT_S),
            step_timeout_s=config.step_timeout,
            resources=builder.limits(config, **options.resources),
            network=p.Network(mode=config.network, extra_hosts=options.extra_hosts, hostname=options.hostname),
            privileged=options.privileged,
            docker_socket=options.docker_socket or (alone and in_container and config.github.docker_socket),
            services=services,
            services_at_localhost=alone and any(service.ports for service in services),
            secrets=tuple({secret.name: secret for secret in secrets.values()}.values()),
            matrix=candidate.matrix,
            pool=builder.settled(pool),
            sources=builder.sources(node, config, _LABELED if self._image_of_label(candidate) else _NAMED),
            late=late if seconds else replace(late, timeout_minutes=text_of(node, "timeout-minutes")),
        )
        job = self.drop_demands(job)
        return builder.finished(job, config, lambda _, why: self.refuse_at(candidate, candidate.entry.key, why))

    def _read(self, uses: str, directory: str) -> actions.ActionFile:
        """Read an action once: one that can't be had would take its time again in each job."""
        root = Path(directory or self.candidates.workflows.directory)
        if (uses, directory) not in self._actions:
            try:
                self._actions[uses, directory] = actions.read(uses, root, self.context)
            except actions.BadAction as error:
                self._actions[uses, directory] = error
        found = self._actions[uses, directory]
        if isinstance(found, actions.BadAction):
            raise found
        return found

    def _fetch(self, inputs: Mapping[str, str]) -> Action | None:
        given = {name.lower(): value.strip() for name, value in inputs.items()}
        name, own = given.get("repository", ""), str(self.candidates.event.github["repository"])
        if not name or "${{" in name or name.lower() == own.lower():
            return None
        if "${{" in (ref := given.get("ref") or "HEAD"):
            raise actions.BadAction(f"{name}: its `ref` is not known before the job runs; write it")
        return actions.fetched(name, ref, self.context.repositories()) or Action(uses=f"{name}@{ref}", repository=name)

    def _pool(self, candidate: GitHubCandidate) -> Pool:
        pools = {name.lower(): name for name in self.context.config.pools}
        pool = next((pools[label] for label in candidate.labels or () if label in pools), None)
        has_image = self._container_of(candidate) is not None or self._image_of_label(candidate) is not None
        return pool_for(pool, has_image=has_image, selection=self.selection, config=self.context.config)

    def _image_of_label(self, candidate: GitHubCandidate) -> str | None:
        known = {label.lower(): image for label, image in self.context.config.images.items()}
        return next((known[label] for label in candidate.labels or () if label in known), None)

    # -- what is decided later ----------------------------------------------------------------------------------------

    def _late(self, candidate: GitHubCandidate) -> LateJob:
        node, scope, texts = candidate.node, candidate.scope, candidate.texts
        strategy = texts.contexts.get("strategy") or {}
        runs_on = one_or_more(node.find("runs-on", "labels") or node.get("runs-on"))
        allowed = texts.value(node.get("continue-on-error"))
        return LateJob(
            condition=_condition(candidate),
            env={**texts_of(scope.file.root, "env"), **texts_of(node, "env")},
            outputs=texts_of(node, "outputs"),
            continue_on_error="" if isinstance(allowed, bool) else text_of(node, "continue-on-error"),
            contexts={
                **texts.contexts,
                **({"job": {"container": {}}} if self._container_of(candidate) else {}),
                **({"secrets": scope.literals} if scope.literals else {}),
            },
            needs=self._needs(scope, node),
            strategy=candidate.strategy,
            name=text_of(node, "name") if candidate.strategy else "",
            shown=candidate.shown[0],
            runs_on=text_of(runs_on[0]) if candidate.labels is None and runs_on else "",
            group=candidate.group,
            fail_fast=bool(strategy.get("fail-fast", True)),
            max_parallel=int(strategy.get("max-parallel", 0.0)) if candidate.group else 0,
            caller=self._caller(scope),
        )

    def _caller(self, scope: WorkflowScope) -> LateCaller | None:
        caller = scope.caller
        if caller is None:
            return None
        return LateCaller(
            condition=_condition(caller),
            contexts=dict(caller.texts.contexts),
            needs=self._needs(caller.scope, caller.node),
            inputs=scope.inputs,
            types={name: text_of(node, "type") for name, node in scope.file.inputs(CALL).items()},
            caller=self._caller(caller.scope),
        )

    def _needs(self, scope: WorkflowScope, node: Node) -> tuple[LateNeed, ...]:
        return tuple(self._need(scope, text_of(need)) for need in one_or_more(node, "needs"))

    def _need(self, scope: WorkflowScope, name: str) -> LateNeed:
        candidates = scope.jobs.get(name, [])
        called = scope.calls.get(name)
        skipped = bool(candidates) and all(one.decision.reason.startswith(IF_FALSE) for one in candidates)
        need = LateNeed(
            name=name,
            jobs=tuple(one.id for one in candidates if one.id in self.there),
            result="skipped" if skipped else "success",
        )
        if called is None:
            return need
        on = called.file.events.get(CALL)
        outputs = {name: text_of(one, "value") for name, one in fields_of(on, "outputs").items()}
        return replace(
            need,
            inside=tuple(self._need(called, inner) for inner in called.file.jobs),
            outputs=outputs,
            contexts=dict(called.texts.contexts),
        )

    def _defaults(self, candidate: GitHubCandidate) -> dict[str, str]:
        """Return the defaults of `run`; in a container, GitHub's shell is sh, also where the image has bash."""
        found = {} if self._container_of(candidate) is None else {"shell": "sh"}
        if system_of(candidate.labels or ()) == "Windows":
            found = {"shell": "pwsh"}
        for owner in (candidate.scope.file.root, candidate.node):
            found |= texts_of(owner, "defaults", "run")
        return found

    def _group(self, candidate: GitHubCandidate) -> str | None:
        node = candidate.node.get("concurrency")
        group = candidate.texts.text(node_at(node, "group") or node)
        return None if group is LATE or not group else group

    # -- secrets ------------------------------------------------------------------------------------------------------

    def _secrets(self, candidate: GitHubCandidate, late: LateJob, steps: Iterable[p.Step]) -> dict[str, p.Secret]:
        """Return the user's secrets that texts of the job name, by the names in its scope."""
        given = {name.upper(): (name, ref) for name, ref in self.context.config.github.secrets.items()}
        if not given:
            return {}
        passed = candidate.scope.secrets
        mapped = {name: name for name in given} if passed is None else {n.upper(): o.upper() for n, o in passed.items()}
        wanted = _secrets_in(_texts(late, steps))
        names = {inner: outer for inner, outer in mapped.items() if wanted is None or inner in wanted}
        return {
            inner: p.Secret(name=given[outer][0], ref=given[outer][1], file=False, required=True)
            for inner, outer in names.items()
            if outer in given
        }

    # -- containers ---------------------------------------------------------------------------------------------------

    def _container_of(self, candidate: GitHubCandidate) -> Node | None:
        """Return the container that a job names; an empty text means none, as on GitHub."""
        node = candidate.node.get("container")
        return None if node is None or not candidate.texts.text(_image_of(node)) else node

    def _container(self, candidate: GitHubCandidate, late: LateJob) -> tuple[p.Image, ContainerOptions, LateJob]:
        """Return the image of a job's container, its options, and the job with the container's variables."""
        config, node = self.context.config, self._container_of(candidate)
        name = self._image_of_label(candidate) or config.default_image
        if node is not None:
            written = candidate.texts.text(_image_of(node))
            if written is LATE:
                late = replace(late, image=text_of(_image_of(node)))
            else:
                name = self._image_name(candidate, node, written, "container")
        options = self._options(candidate, node, "container")
        env = {**texts_of(node, "env"), **options.env}
        image = p.Image(name=name, pull=config.pull, platform=options.platform or config.platform, user=options.user)
        return image, options, replace(late, container_env=env)

    def _image_name(self, candidate: GitHubCandidate, node: Node, name: str, key: str) -> str:
        name = name.removeprefix("docker://")
        try:
            parse_reference(name)
        except RequestError as error:
            self.refuse_at(candidate, node, f"{key}: {error.message}")
        return name

    def _options(self, candidate: GitHubCandidate, node: Node | None, key: str) -> ContainerOptions:
        found = ContainerOptions()
        written = node_at(node, "options")
        if written is not None:
            text = candidate.texts.text(written)
            try:
                if text is LATE:
                    raise BadOption("options are not known before the job starts")
                found = options_of(text)
            except BadOption as error:
                self.refuse_at(candidate, written, f"{key}: {error}; remove it, or run the job in CI")
        for one in items_of(node, "volumes"):
            text = candidate.texts.text(one)
            try:
                add_volume(found, text_of(one) if text is LATE else text)
            except ValueError as error:
                self.refuse_at(candidate, one, f"{key}: volumes: {error}")
        for name in found.volumes:
            if (other := self._volumes.setdefault((candidate.id, name), key)) != key:
                why = f"{key}: volume {name} is one of {other} too; each container has its own here"
                self.refuse_at(candidate, candidate.node, why)
        return found

    def _services(self, candidate: GitHubCandidate) -> Iterator[p.Service]:
        for name, node in fields_of(candidate.node, "services").items():
            image = candidate.texts.text(_image_of(node))
            if image is LATE:
                self.refuse_at(
                    candidate, node, f"services: the image of {name} is not known before the job starts; name one"
                )
                continue
            if not image:
                continue  # GitHub starts no service without an image
            options = self._options(candidate, node, f"services: {name}")
            beyond = options.resources.keys() - _OF_SERVICES
            if options.privileged or options.docker_socket or options.extra_hosts or beyond:
                why = f"services: {name}: an option that only the container of a job can have"
                self.refuse_at(candidate, node, why)
            ports = self._ports(candidate, name, node)
            values, secrets = self._service_env(candidate, name, node)
            ready = p.Ready()
            if options.health_command is not None:
                ready = p.Ready(
                    command=("sh", "-c", options.health_command), interval_s=min(options.health_interval_s, 2.0)
                )
            yield p.Service(
                name=name,
                aliases=(name, *options.aliases, *((options.hostname,) if options.hostname else ())),
                image=p.Image(
                    name=self._image_name(candidate, node, image, f"services: {name}"),
                    pull=self.context.config.pull,
                    platform=options.platform or self.context.config.platform,
                ),
                variables={**values, **options.env},
                command=self._words(candidate, node.get("command")),
                entrypoint=options.entrypoint or self._words(candidate, node.get("entrypoint")),
                user=options.user,
                ready=ready,
                secrets=secrets,
                position=f"{node.file.name}:{node.line}",
                ports=tuple(ports),
                resources=p.Resources(**{key: one for key, one in options.resources.items() if key not in beyond}),
            )

    def _check_ports(self, candidate: GitHubCandidate, services: tuple[p.Service, ...]) -> None:
        """Refuse a job for whose services the same port would be at localhost twice."""
        node = candidate.node.get("services")
        ports = [port for service in services for port in service.ports]
        if node is not None and self._container_of(candidate) is None and len(set(ports)) < len(ports):
            twice = next(port for port in ports if ports.count(port) > 1)
            why = f"two services have port {twice}, and the job finds both at localhost; give it a `container`"
            self.refuse_at(candidate, node, f"services: ports: {why}")

    def _ports(self, candidate: GitHubCandidate, name: str, node: Node) -> Iterator[int]:
        """Yield the ports of a service; without a container of its own, a job finds them at localhost, as they are."""
        alone = self._container_of(candidate) is None
        for one in items_of(node, "ports"):
            text = candidate.texts.text(one)
            found = _PORTS.fullmatch("" if text is LATE else text)
            if found is None:
                self.refuse_at(
                    candidate, one, f"services: {name}: ports: expected HOST:CONTAINER or a port, found {text_of(one)}"
                )
            elif alone and found["host"] not in (None, found["port"]):
                why = f"here, port {found['port']} of {name} is {found['port']} at localhost too"
                also = f"give the job a `container`, which finds {name}:{found['port']}"
                advice = f"write {found['port']}:{found['port']}, or {also}"
                self.refuse_at(candidate, one, f"services: {name}: ports: {why}; {advice}")
            elif alone and found["host"] is None and not _reads_job(candidate.node):
                port = found["port"]
                why = f"{port} alone is any free port at GitHub's localhost, and the job does not ask which"
                advice = f"write {port}:{port}, or read ${{{{ job.services.{name}.ports['{port}'] }}}}"
                self.refuse_at(candidate, one, f"services: {name}: ports: {why}; {advice}")
            else:
                yield int(found["port"])

    def _words(self, candidate: GitHubCandidate, node: Node | None) -> tuple[str, ...] | None:
        text = candidate.texts.text(node)
        return tuple(shell_words(text)) if node is not None and text is not LATE and text.strip() else None

    def _service_env(
        self, candidate: GitHubCandidate, name: str, node: Node
    ) -> tuple[dict[str, str], tuple[p.Secret, ...]]:
        values: dict[str, str] = {}
        secrets: list[p.Secret] = []
        texts = self._known_env(candidate)
        for key, one in fields_of(node, "env").items():
            value = texts.text(one)
            if value is not LATE:
                values[key] = value
                continue
            secret = secret_in(text_of(one))
            given = self.context.config.github.secrets.get(secret or "")
            if secret is None:
                self.refuse_at(candidate, one, f"services: {name}: env: {key} is not known before the job starts")
            elif given is not None:
                secrets.append(p.Secret(name=key, ref=given, file=False))
            else:
                values[key] = ""
        return values, tuple(secrets)

    def _known_env(self, candidate: GitHubCandidate) -> Texts:
        """Return the texts with those variables of the workflow and the job that are known."""
        known: dict[str, str] = {}
        for owner in (candidate.scope.file.root, candidate.node):
            for name, one in fields_of(owner, "env").items():
                if (value := candidate.texts.text(one)) is not LATE:
                    known[name] = value
        return candidate.texts.having(env=known)


def _condition(candidate: GitHubCandidate) -> str:
    """Return the `if` of a job; nothing for one that is false for this event, since the job is only here if it was named."""
    node = candidate.node.get("if")
    return "" if candidate.texts.condition(node) is False else text_of(node)


def _begins_with_checkout(steps: Iterable[p.Step]) -> bool:
    """Return whether a job may have its files from the start: its first step brings them, and no other one any."""
    main = [step for step in steps if step.stage == "main"]
    alone = sum(step.kind == "checkout" for step in main) == 1
    return alone and main[0].is_whole_checkout and not main[0].condition


def _reads_job(node: Node) -> bool:
    texts = (text_of(scalar) for _, scalar in scalars_of(node))
    return any("${{" in text and re.search(r"\bjob\b", text) for text in texts)


def _image_of(container: Node) -> Node | None:
    return container.get("image") if container.is_mapping else container


def _texts(late: LateJob, steps: Iterable[p.Step]) -> Iterator[str]:
    """Yield the texts of a job that are evaluated later."""
    yield from (*late.env.values(), *late.container_env.values(), *late.outputs.values())
    for step in steps:
        yield from (step.script, step.name, step.shell, step.working_directory, step.timeout_minutes)
        yield from (step.continue_on_error, *step.env.values(), *step.inputs.values(), *step.outputs.values())
        if step.action is not None:
            yield from (*step.action.args, *step.action.env.values())


def _secrets_in(texts: Iterable[str]) -> set[str] | None:
    """Return the names of the secrets that texts read, in upper case; None if they may read any."""
    found: set[str] = set()
    for text in texts:
        try:
            parts = expressions.parts_of(text)
        except InvalidExpression:
            continue  # which the check of the file reports
        for part in parts:
            if isinstance(part, str):
                continue
            nodes = list(expressions.nodes_in(part.node))
            names = [name for node in nodes if (name := expressions.property_in(node, "secrets")) is not None]
            found.update(name.upper() for name in names)
            if any(expressions.property_in(node, "github") == "token" for node in nodes):
                found.add(TOKEN)
            if sum(isinstance(one, expressions.Context) and one.name == "secrets" for one in nodes) > len(names):
                return None
    return found
