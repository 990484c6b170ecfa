"""The rules of a namespace for pods: limit ranges, quotas, the level of pod security. A pod's values are made to fit them.

They are asked for once, when the cluster has refused a pod, so that other namespaces cost no request and need no right.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping

from msgspec.structs import replace

from loom.config.pools import Pool
from loom.errors import LoomError, ProviderError
from loom.providers.kubernetes.cluster.client import Cluster, Json
from loom.values import Immutable

_OWN = {"cpu": ("10m", "1"), "memory": ("32Mi", "256Mi"), "ephemeral-storage": ("16Mi", "1Gi")}
"""Each resource that a rule may ask for, with the request and the limit of a container of loom's own."""
_PROPOSED = {"cpu": ("250m", "2"), "memory": ("256Mi", "4Gi"), "ephemeral-storage": ("1Gi", "10Gi")}
"""The requests and limits of a pool in a proposal, where the rules allow as much. A limit alone reserves as much."""
_ANY = "1P"
"""An amount that limits nothing."""
_OTHERS = frozenset({"NotTerminating", "BestEffort"})
"""The scopes of quotas that do not count loom's pods, which have a deadline and requests."""
_CONFINED = {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000}
_LEVEL = "pod-security.kubernetes.io/enforce"
_UNITS = {
    "m": 1e-3,
    **{unit: 1000.0**power for power, unit in enumerate(("", "k", "M", "G", "T", "P"))},
    **{unit: 1024.0**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi"), 1)},
}


REFUSED = ("CLUSTER_QUOTA", "CLUSTER_POD_REFUSED", "POD_INVALID")
"""The codes of errors by which a cluster says that a pod breaks a rule."""


class NamespacePolicies(Immutable):
    """The rules of one namespace; empty where it has none, or they may not be read."""

    ranges: tuple[Mapping[str, Mapping[str, str]], ...] = ()
    """The entries for containers of the limit ranges, as the cluster completes them."""
    quotas: Mapping[str, tuple[str, str]] = {}
    """For each value that a container has to have, such as `limits.cpu`: the rule, and the amount for all of them together."""
    least: Mapping[str, str] = {}
    """The requests that a pod has to have, by resource."""
    level: str = ""

    def of(self, kind: str, resource: str) -> str | None:
        """Return the strictest value of the limit ranges: `max`, `min`, `default`, `defaultRequest` or a ratio."""
        found = [one[kind][resource] for one in self.ranges if resource in (one.get(kind) or {})]
        return (max if kind == "min" else min)(found, key=amount, default=None)

    def disputed(self, pool: Pool) -> list[str]:
        """Return the defaults that limit ranges give differently, of what the pool does not give."""
        found = []
        for kind, given in (("default", pool.limits), ("defaultRequest", {**pool.limits, **pool.requests})):
            for resource in _OWN:
                texts = (one[kind][resource] for one in self.ranges if resource in (one.get(kind) or {}))
                several = {amount(text): text for text in texts}
                if len(several) > 1 and resource not in given:
                    found.append(f"{kind} of {resource}: {', '.join(several[each] for each in sorted(several))}")
        return found

    def left_of_quota(self, key: str, resource: str, own: str) -> str | None:
        """Return what is left of a quota beside a container of loom's `own`; None without a quota."""
        _, whole = self.quotas.get(f"{key}.{resource}", ("", None))
        return None if whole is None else _text(resource, amount(whole) - amount(own))


def policies_of(cluster: Cluster) -> NamespacePolicies:
    """Ask for the rules of the cluster's namespace."""

    def listed(method: str) -> list[Json]:
        try:
            return list(cluster.call("reading the namespace's rules", method)["items"])
        except LoomError:
            return []

    quotas: dict[str, tuple[str, str]] = {}

    def want(key: str, most: str, rule: str) -> None:
        if key not in quotas or amount(most) < amount(quotas[key][1]):
            quotas[key] = rule, most

    for one in listed("list_namespaced_resource_quota"):
        if _OTHERS.isdisjoint(one["spec"].get("scopes") or ()):
            for resource, most in (one["spec"].get("hard") or {}).items():
                key = f"requests.{resource}" if resource in _OWN else resource
                want(key, str(most), f"quota {one['metadata']['name']} ({resource}: {most})")
    ranges = []
    least: dict[str, str] = {}
    for one in listed("list_namespaced_limit_range"):
        rule = f"limit range {one['metadata']['name']}"
        for limit in one["spec"]["limits"]:
            if limit["type"] == "Pod":
                least |= limit.get("min") or {}
                for resource, most in (limit.get("max") or {}).items():
                    want(f"limits.{resource}", str(most), f"{rule} (max of a pod: {most})")
            if limit["type"] == "Container":
                ranges.append(limit)
                for resource, ratio in (limit.get("maxLimitRequestRatio") or {}).items():
                    want(f"limits.{resource}", _ANY, f"{rule} (maxLimitRequestRatio: {ratio})")
    try:
        namespace = cluster.call("reading the namespace's rules", "read_namespace", cluster.namespace)
    except LoomError:
        namespace = {"metadata": {}}
    return NamespacePolicies(
        ranges=tuple(ranges),
        quotas=quotas,
        least=least,
        level=(namespace["metadata"].get("labels") or {}).get(_LEVEL, ""),
    )


def amount(text: str) -> float:
    """Parse a quantity of Kubernetes."""
    found = re.fullmatch(r"([0-9.]+(?:[eE][+-]?\d+)?)([A-Za-z]*)", str(text))
    return float(found[1]) * _UNITS.get(found[2], 1.0) if found else 0.0


def fit(container: Json, policies: NamespacePolicies, pool: Pool, *, own: bool) -> None:
    """Give a container the requests and limits that the rules ask for. ProviderError where the pool has to say one.

    The values of a container of loom's `own` change as the rules want; of the others those that nobody gave.
    """
    resources = container.get("resources") or {}
    limits, wanted = ({**(resources.get(kind) or {})} for kind in ("limits", "requests"))
    for resource, (request, limit) in _OWN.items():
        least, most = policies.of("min", resource), policies.of("max", resource)
        granted = limits.get(resource) or policies.of("default", resource)
        if granted is None and f"limits.{resource}" in policies.quotas:
            granted = limits[resource] = limit if own else _pool_value(pool, "limits", resource, policies)
        if own and resource in limits:
            granted = limits[resource] = _between(least, _own_limit(resource, policies), most)
        asked = wanted.get(resource) or (None if granted else policies.of("defaultRequest", resource))
        if not own and resource in policies.least:
            least = asked = max(filter(None, (least, policies.least[resource])), key=amount)
            wanted.setdefault(resource, least)
        if asked is None and granted is None and f"requests.{resource}" in policies.quotas:
            wanted[resource] = request if own else _pool_value(pool, "requests", resource, policies)
        if resource in wanted and (own or resource not in pool.requests):
            wanted[resource] = _between(least, wanted[resource], granted)
        elif resource in wanted and granted is not None and amount(wanted[resource]) > amount(granted):
            limits[resource] = wanted[resource]
        ratio = policies.of("maxLimitRequestRatio", resource)
        if ratio is not None and granted is not None and (own or resource not in pool.requests):
            least = _text(resource, amount(granted) / amount(ratio), math.ceil)
            wanted[resource] = _between(least, wanted.get(resource, least), granted)
    container["resources"] = {key: value for key, value in (("limits", limits), ("requests", wanted)) if value}


def _between(least: str | None, value: str, most: str | None) -> str:
    value = most if most is not None and amount(value) > amount(most) else value
    return least if least is not None and amount(value) < amount(least) else value


def _own_limit(resource: str, policies: NamespacePolicies) -> str:
    """Return the limit of a container of loom's own, at most half of what all containers may have."""
    _, whole = policies.quotas.get(f"limits.{resource}", ("", _ANY))
    return _between(None, _OWN[resource][1], _text(resource, amount(whole) / 2))


def _text(resource: str, value: float, rounded: Callable[[float], int] = math.floor) -> str:
    unit, size = ("m", 1e-3) if resource == "cpu" else ("Mi", 2**20)
    return f"{rounded(round(value / size, 3))}{unit}"


def _lowest(*values: str | None) -> str:
    return min(filter(None, values), key=amount)


def _pool_value(pool: Pool, key: str, resource: str, policies: NamespacePolicies) -> str:
    given = getattr(pool, key).get(resource)
    if given is None:
        rule, _ = policies.quotas[f"{key}.{resource}"]
        raise ProviderError(
            f"the namespace's {rule} wants `{key}` of {resource} for each container",
            hint=f"set `{key}: {{{resource}: ...}}` of the pool, or the job's `resources`; "
            "`loom doctor --on POOL` prints a pool that fits",
            code="CLUSTER_QUOTA",
        )
    return str(given)


def check_level(policies: NamespacePolicies, *, confined: bool) -> None:
    """Raise ProviderError for a namespace whose level of pod security takes no pods of root's."""
    if policies.level == "restricted" and not confined:
        raise ProviderError(
            "the namespace takes only pods of the level `restricted`, and this one would be root's",
            hint="the pool needs a user in its `pod_template`: `loom doctor --on POOL` prints a pool that fits",
            code="CLUSTER_POD_REFUSED",
        )


def proposed(pool: Pool, policies: NamespacePolicies, *, confined: bool) -> Pool:
    """Return the pool with what the rules ask for besides, as far as they tell."""
    limits, requests = dict(pool.limits), dict(pool.requests)
    for resource, (request, limit) in _PROPOSED.items():
        least, most = policies.of("min", resource), policies.of("max", resource)
        if f"limits.{resource}" in policies.quotas and policies.of("default", resource) is None:
            left = policies.left_of_quota("limits", resource, _between(None, _own_limit(resource, policies), most))
            limits.setdefault(resource, _lowest(limit, most, left))
            most = str(limits[resource])
        elif f"requests.{resource}" not in policies.quotas:
            continue
        if not policies.of("maxLimitRequestRatio", resource):
            left = policies.left_of_quota("requests", resource, _OWN[resource][0])
            requests.setdefault(resource, _between(least, request, _lowest(request, most, left)))
    template = pool.pod_template
    if policies.level == "restricted" and not confined:
        spec = template.get("spec") or {}
        context = {**_CONFINED, **(spec.get("securityContext") or {})}
        template = {**template, "spec": {**spec, "securityContext": context}}
    return replace(pool, limits=limits, requests=requests, pod_template=template)


def yaml_lines(pool: Pool) -> Iterable[str]:
    """Yield the lines of a pool's configuration."""
    yield "pools:"
    yield f"  {pool.name or 'NAME'}:"
    for key in ("provider", "context", "namespace", "registry", "requests", "limits", "pod_template"):
        if value := getattr(pool, key):
            yield f"    {key}: {value if isinstance(value, str) else json.dumps(value)}"
