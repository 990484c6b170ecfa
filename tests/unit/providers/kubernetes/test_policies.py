"""Requests and limits that fit the rules of a namespace."""

from typing import Any, cast

import pytest

pytest.importorskip("kubernetes", reason="the extra `kubernetes` is not installed")
from loom.config.pools import Pool
from loom.errors import ProviderError
from loom.providers.kubernetes.pod.policies import NamespacePolicies, check_level, fit, policies_of, proposed

POOL = Pool(provider="kubernetes")
LIMITS = {"limits.memory": ("quota q (limits.memory: 1Gi)", "1Gi")}


@pytest.mark.parametrize(
    ("own", "given", "ranges", "quotas", "fitted"),
    [
        (True, {}, [], {}, {}),
        (False, {"requests": {"cpu": "250m"}}, [], {}, {"requests": {"cpu": "250m"}}),
        (False, {"requests": {"cpu": "250m"}}, [{"default": {"cpu": "100m"}}], {}, {"requests": {"cpu": "100m"}}),
        (True, {"requests": {"cpu": "10m"}}, [{"min": {"cpu": "50m"}}], {}, {"requests": {"cpu": "50m"}}),
        (
            True,
            {"limits": {"cpu": "1"}},
            [{"max": {"cpu": "2"}}, {"max": {"cpu": "500m"}}],
            {},
            {"limits": {"cpu": "500m"}},
        ),
        (True, {}, [], LIMITS, {"limits": {"memory": "256Mi"}}),
        (True, {}, [{"default": {"memory": "1Gi"}}], LIMITS, {}),
        (True, {}, [], {"requests.memory": ("q", "1Gi")}, {"requests": {"memory": "32Mi"}}),
        (
            True,
            {"requests": {"cpu": "10m"}},
            [{"default": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "4"}}],
            {},
            {"requests": {"cpu": "250m"}},
        ),
        (
            False,
            {"requests": {"cpu": "250m"}},
            [{"default": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "1.5"}}],
            {},
            {"requests": {"cpu": "667m"}},
        ),
        (True, {}, [], {"limits.memory": ("limit range r", "256Mi")}, {"limits": {"memory": "128Mi"}}),
    ],
)
def test_values_fit(
    own: bool, given: dict[str, Any], ranges: list[Any], quotas: dict[str, Any], fitted: dict[str, Any]
) -> None:
    container = {"resources": given}
    fit(container, NamespacePolicies(ranges=tuple(ranges), quotas=quotas), POOL, own=own)
    assert container["resources"] == fitted


def test_what_the_user_gave_stays_and_gets_its_limit() -> None:
    pool = Pool(provider="kubernetes", requests={"cpu": "2"})
    container: dict[str, Any] = {"resources": {"requests": {"cpu": "2"}}}
    fit(container, NamespacePolicies(ranges=({"default": {"cpu": "1"}},)), pool, own=False)
    assert container["resources"] == {"requests": {"cpu": "2"}, "limits": {"cpu": "2"}}


def test_a_limit_that_only_the_pool_can_say() -> None:
    policies = NamespacePolicies(quotas=LIMITS)
    with pytest.raises(ProviderError, match=r"quota q .* wants `limits` of memory") as raised:
        fit({}, policies, POOL, own=False)
    assert "`limits: {memory: ...}` of the pool" in (raised.value.hint or "")
    pool = proposed(POOL, policies, confined=False)
    assert (pool.limits, pool.requests) == ({"memory": "768Mi"}, {"memory": "256Mi"})
    service: dict[str, Any] = {}
    fit(service, policies, pool, own=False)
    assert service["resources"]["limits"] == {"memory": "768Mi"}


def test_rules_for_a_whole_pod_are_rules_for_its_containers() -> None:
    rules = {"limit_range": ("r", {"limits": [{"type": "Pod", "min": {"cpu": "600m"}, "max": {"memory": "512Mi"}}]})}
    rules["resource_quota"] = ("q", {"hard": {"cpu": "200m"}})
    others = {"hard": {"limits.cpu": "1"}, "scopes": ["NotTerminating"]}

    class Namespace:
        namespace = "n"

        def call(self, _: str, method: str, *__: str) -> Any:
            if method == "read_namespace":
                return {"metadata": {}}
            name, spec = rules[method.removeprefix("list_namespaced_")]
            both = [{"metadata": {"name": name}, "spec": spec}]
            return {"items": [*both, {"metadata": {"name": "other"}, "spec": others}] if "hard" in spec else both}

    policies = policies_of(cast("Any", Namespace()))
    assert set(policies.quotas) == {"limits.memory", "requests.cpu"}
    pool = proposed(POOL, policies, confined=False)
    assert (pool.limits, pool.requests) == ({"memory": "256Mi"}, {"cpu": "190m", "memory": "256Mi"})
    job: dict[str, Any] = {"resources": {"requests": {"cpu": "250m"}, "limits": dict(pool.limits)}}
    fit(job, policies, Pool(provider="kubernetes", limits=pool.limits), own=False)
    assert job["resources"]["requests"] == {"cpu": "600m"}


def test_the_level_restricted_needs_a_user() -> None:
    policies = NamespacePolicies(level="restricted")
    check_level(policies, confined=True)
    check_level(NamespacePolicies(level="baseline"), confined=False)
    with pytest.raises(ProviderError, match="restricted"):
        check_level(policies, confined=False)
    template = {"metadata": {"labels": {"team": "a"}}, "spec": {"securityContext": {"runAsUser": 7}}}
    pool = proposed(Pool(provider="kubernetes", pod_template=template), policies, confined=False)
    assert pool.pod_template["spec"]["securityContext"] | {"runAsNonRoot": True, "runAsUser": 7} == dict(
        pool.pod_template["spec"]["securityContext"]
    )
    assert pool.pod_template["metadata"] == {"labels": {"team": "a"}}


def test_defaults_that_differ_are_named_but_for_what_the_pool_gives() -> None:
    one = {"default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "1", "memory": "1Gi"}}
    other = {"default": {"cpu": "2", "memory": "1024Mi"}, "defaultRequest": {"cpu": "500m"}}
    policies = NamespacePolicies(ranges=(other, one))
    assert policies.disputed(POOL) == ["default of cpu: 1, 2", "defaultRequest of cpu: 500m, 1"]
    assert policies.disputed(Pool(provider="kubernetes", requests={"cpu": "1"})) == ["default of cpu: 1, 2"]
    assert policies.disputed(Pool(provider="kubernetes", limits={"cpu": "1"})) == []
