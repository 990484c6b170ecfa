"""Pools of the user's configuration, in which jobs run: the setting `pools`.

A workflow's `runner_pool` names a pool; only the user's own configuration defines one, so no repository chooses a cluster.
`--on` names a pool too, or a provider with an optional context (`kubernetes:prod`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Struct

from loom.util import typed
from loom.util.units import duration, nearest
from loom.values import Immutable

HERE = {"docker": True, "host": False}
"""The providers of this machine, and whether their jobs run in containers. They have no context, and no other settings."""


_Object = Mapping[str, Any] | None
_Texts = Mapping[str, str] | None
_Amounts = Mapping[str, str | int | float] | None


class _Named(Struct):
    name: str


class _Resources(Struct):
    limits: _Amounts = None
    requests: _Amounts = None


class _Container(_Named, kw_only=True):
    image: str | None = None
    command: list[str] | None = None
    args: list[str] | None = None
    env: list[_Named] | None = None
    resources: _Resources | None = None
    securityContext: _Object = None
    volumeMounts: list[_Named] | None = None


class _Metadata(Struct):
    labels: _Texts = None
    annotations: _Texts = None


class _Spec(Struct, kw_only=True):
    containers: list[_Container] | None = None
    initContainers: list[_Container] | None = None
    volumes: list[_Named] | None = None
    imagePullSecrets: list[_Named] | None = None
    tolerations: list[Mapping[str, Any]] | None = None
    hostAliases: list[Mapping[str, Any]] | None = None
    nodeSelector: _Texts = None
    securityContext: _Object = None
    affinity: _Object = None


class _PodTemplate(Struct):
    """The parts of a pod that loom's own are merged with; the cluster knows the others."""

    metadata: _Metadata | None = None
    spec: _Spec | None = None


class Pool(Immutable, forbid_unknown_fields=True):
    """The provider of jobs, with its settings. None and empty values leave the choice to the provider."""

    provider: str
    context: str | None = None
    """One of the provider's clusters: a context of the kubeconfig."""
    jobs: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """The number of its jobs that run at once."""
    namespace: str | None = None
    requests: Mapping[str, str | int | float] = {}
    """What a job's container reserves on its node, at most the job's own limits: Kubernetes' names and quantities."""
    limits: Mapping[str, str | int | float] = {}
    """The limits of a job's container, where the job sets none."""
    pod_template: Mapping[str, Any] = {}
    """A pod's `metadata` and `spec`, which loom's own values are merged over."""
    registry: str | None = None
    """The registry for the snapshot, from which the nodes pull it (`HOST:PORT/REPOSITORY`, with `http://` in front where the
    registry has no TLS); None: it is sent to each job.
    """
    registry_base: str | None = None
    """The image with `sh` and `cp` below the snapshot's layers; None: busybox of Docker Hub."""
    deadline: float | None = None
    """The time that one of its jobs may exist, in seconds; the cluster enforces it."""
    start_timeout: float | None = None
    """The time that one of its jobs may wait for a node, and then again for its images, in seconds."""
    name: str = ""
    """Its key in the configuration; empty for a provider that `--on` names."""

    @property
    def target(self) -> str:
        """The provider with its context: `Job.provider`."""
        return f"{self.provider}:{self.context}" if self.context else self.provider

    @property
    def in_container(self) -> bool:
        return HERE.get(self.provider, True)

    @property
    def elsewhere(self) -> bool:
        """Return whether it is outside this machine's own engine and processes."""
        return self.provider not in HERE


class Misplaced(ValueError):
    """An invalid value, with the keys that lead to it."""

    def __init__(self, message: str, *keys: str | int) -> None:
        super().__init__(message)
        self.keys = keys


def converted(value: Any, kind: Any, *keys: str, hook: Callable[[type, Any], Any] | None = None) -> Any:
    """Return a value as `kind`. Misplaced for one that has another form; the message names its path below `keys`."""
    try:
        return typed.convert(value, kind, dec_hook=hook)
    except msgspec.ValidationError as error:
        text, _, path_in_value = str(error).partition(" - at ")
        path = [*keys, *(int(key) if key.isdigit() else key for key in re.findall(r"\w+", path_in_value))]
        place = ".".join(map(str, path))
        raise Misplaced(": ".join(filter(None, [place, text[0].lower() + text[1:]])), *path) from error


_FIELDS = tuple(name for name in Pool.__struct_fields__ if name != "name")
_OF_CLUSTERS = frozenset(_FIELDS) - {"provider", "jobs"}


def parsed(value: Any, _: object = None) -> Mapping[str, Pool]:
    """Parse the setting. Misplaced for the first value that is wrong."""
    if not isinstance(value, dict):
        raise ValueError("expected a mapping of a pool's name to its settings")
    return {name: _pool(name, settings) for name, settings in value.items()}


def _pool(name: str, settings: Any) -> Pool:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise Misplaced(f"{name!r} can't name a pool: use letters, digits, '.', '_' and '-'", name)
    if not isinstance(settings, dict) or "provider" not in settings:
        raise Misplaced(f"{name}: expected a mapping with at least `provider`, such as `provider: kubernetes`", name)
    for key in settings.keys() - set(_FIELDS):
        close = nearest(key, _FIELDS)
        meant = f"did you mean {close}?" if close else f"the settings of a pool are {', '.join(_FIELDS)}"
        raise Misplaced(f"{name}: unknown setting {key}; {meant}", name, key)
    if settings["provider"] in HERE and (foreign := sorted(settings.keys() & _OF_CLUSTERS)):
        text = f"{name}: {foreign[0]} has no meaning for the provider {settings['provider']}; remove it"
        raise Misplaced(text, name, foreign[0])
    times = {key: _seconds(name, key, settings[key]) for key in ("deadline", "start_timeout") if key in settings}
    pool: Pool = converted({**settings, **times, "name": name}, Pool, name)
    if ":" in pool.provider:
        raise Misplaced(f"{name}: write the context of {pool.provider} under `context`", name, "provider")
    for key in pool.pod_template.keys() - {"metadata", "spec"}:
        text = f"{name}.pod_template: unknown key {key}; a template has metadata and spec"
        raise Misplaced(text, name, "pod_template", key)
    converted(pool.pod_template, _PodTemplate, name, "pod_template")
    return pool


def _seconds(name: str, key: str, value: Any) -> float | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    try:
        return duration(str(value).strip())
    except ValueError as error:
        raise Misplaced(f"{name}.{key}: {error}", name, key) from error


def named(name: str, pools: Mapping[str, Pool]) -> Pool:
    """Return the pool that `--on` names: one of `pools`, else a provider with an optional context."""
    if name in pools:
        return pools[name]
    provider, _, context = name.partition(":")
    return Pool(provider=provider, context=context or None)
