"""The specification of a job's pod."""

import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from msgspec.structs import replace

pytest.importorskip("kubernetes", reason="the extra `kubernetes` is not installed")
from loom.config.pools import Pool
from loom.errors import ServiceError
from loom.images.reference import service_aliases
from loom.plan.model import Image, Ready, Resolved, Resources, Secret, Service
from loom.providers.base import SessionRequest
from loom.providers.kubernetes.pod import spec
from loom.providers.kubernetes.pod.policies import amount
from loom.providers.kubernetes.pod.services import containers_of, variables
from loom.providers.kubernetes.pod.spec import specification


def request_of(**changes: Any) -> SessionRequest:
    return SessionRequest(
        run_id="1",
        job_id="job",
        workspace=Path("/w"),
        project_dir="/workspace",
        environment={},
        shell=(),
        **changes,
    )


def spec_with(service: Service, environment: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    there = containers_of([service], [Resolved(name="image", image_id="image")])
    found: dict[str, Any] = specification(request_of(), "name", environment, there, image="image")["spec"]
    return found


def test_the_kubelet_expands_nothing_that_loom_writes() -> None:
    service = Service(
        name="db",
        aliases=(),
        image=Image(name="image"),
        variables={"A": "$$ $(B) $x"},
        entrypoint=("sh", "$$"),
        command=("$(A)",),
        ready=Ready(command=("test", "$A")),
    )
    helper, job, db = spec_with(service, {"C": "$$"})["containers"]
    assert {"name": "C", "value": "$$$$"} in job["env"]
    assert db["env"] == [{"name": "A", "value": "$$$$ $$(B) $$x"}]
    assert db["command"] == ["sh", "$$$$"]
    assert db["args"] == ["$$(A)"]
    assert db["readinessProbe"]["exec"]["command"] == ["test", "$$A"]
    assert helper["command"][2].replace("$$", "$") == spec.helper(900, 0)[2]
    assert "kill $$$$" in job["command"][-2]


@pytest.mark.parametrize(
    ("image", "names"),
    [("postgres:16", ["postgres"]), ("registry.example/a/b:1", ["registry.example-a-b"]), ("a/b_c", [])],
)
def test_a_pod_has_those_names_of_an_image_that_are_dns_names(image: str, names: list[str]) -> None:
    aliases = service_aliases(image)
    service = Service(name=aliases[0], aliases=aliases, image=Image(name=image))
    found = spec_with(service)["hostAliases"]
    assert found == ([{"ip": "127.0.0.1", "hostnames": names}] if names else [])
    assert variables([service]).popitem()[1] == (names[0] if names else "localhost")


@pytest.mark.parametrize("alias", ["my_db", "Db", "-db", "a..b", "x" * 254])
def test_a_name_that_the_workflow_gives_and_no_pod_can_have_is_refused(alias: str) -> None:
    with pytest.raises(ServiceError, match="can't have the host name") as raised:
        spec_with(Service(name="db", aliases=(alias,), image=Image(name="postgres")))
    assert raised.value.code == "POD_UNSUPPORTED"


@pytest.mark.parametrize(
    ("http", "asked"),
    [
        ("/up", ("HTTP", 80, "/up")),
        (":81", ("HTTP", 81, "/")),
        ("https://db/x?y", ("HTTPS", 443, "/x?y")),
        ("db:x", None),
    ],
)
def test_the_kubelet_asks_at_the_address_that_a_service_names(http: str, asked: tuple[str, int, str] | None) -> None:
    service = Service(name="db", aliases=(), image=Image(name="image"), ready=Ready(http=http))
    if asked is None:
        with pytest.raises(ServiceError, match="is not an address"):
            spec_with(service)
    else:
        found = spec_with(service)["containers"][-1]["readinessProbe"]["httpGet"]
        assert (found["scheme"], found["port"], found["path"]) == asked


def test_labels_say_whose_pod_it_is() -> None:
    variables = {"CI_PROJECT_PATH": "group/an app", "CI_COMMIT_REF_NAME": f"feat/{'x' * 80}"}
    request = replace(request_of(), environment=variables)
    labels = specification(request, "name", {}, (), image="image")["metadata"]["labels"]
    assert labels["loom.repository"] == "group-an-app"
    assert labels["loom.branch"] == f"feat-{'x' * 58}"
    assert labels["loom.user"] == pwd.getpwuid(os.geteuid()).pw_name
    assert "loom.branch" not in specification(request_of(), "name", {}, (), image="image")["metadata"]["labels"]


def test_a_service_takes_no_secrets() -> None:
    secret = Secret(name="PASSWORD", ref="env://X")
    with pytest.raises(ServiceError, match="a pod can't have such a service"):
        spec_with(Service(name="db", aliases=(), image=Image(name="postgres"), secrets=(secret,)))


TEMPLATE = {"spec": {"containers": [{"name": "job", "resources": {"requests": {"cpu": "2"}}}]}}


@pytest.mark.parametrize(
    ("resources", "pool", "limits", "requests"),
    [
        (Resources(), {}, {}, {"cpu": "250m"}),
        (Resources(cpus=0.1), {}, {"cpu": "100m"}, {}),
        (Resources(), {"requests": {"cpu": 1}}, {}, {"cpu": "1"}),
        (
            Resources(cpus=0.5),
            {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"cpu": 4, "ephemeral-storage": "2Gi"}},
            {"cpu": "500m", "ephemeral-storage": "2Gi"},
            {"memory": "1Gi"},
        ),
        (Resources(cpus=2), {"requests": {"cpu": 1}}, {"cpu": "2000m"}, {"cpu": "1"}),
        (Resources(), {"pod_template": TEMPLATE}, {}, {"cpu": "2"}),
    ],
)
def test_a_job_reserves_what_the_job_the_pool_or_nobody_says(
    resources: Resources, pool: dict[str, Any], limits: dict[str, str], requests: dict[str, str]
) -> None:
    request = request_of(resources=resources, pool=Pool(provider="kubernetes", **pool))
    spec = specification(request, "name", {}, (), image="image")["spec"]
    (job,) = [one for one in spec["containers"] if one["name"] == "job"]
    assert job["resources"].get("limits", {}) == limits
    assert job["resources"].get("requests", {}) == requests


def test_a_confined_pod_keeps_to_the_level_restricted() -> None:
    template = {"spec": {"securityContext": {"runAsNonRoot": True, "runAsUser": 1000}}}
    request = request_of(pool=Pool(provider="kubernetes", pod_template=template))
    image = Image(name="image")
    services = (Service(name="first", aliases=(), image=image), Service(name="db", aliases=(), image=image))
    images = [Resolved(name="image", image_id="image")] * 2
    spec = specification(request, "name", {}, containers_of(services, images), image="image")["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    containers = [*spec["containers"], *spec["initContainers"]]
    assert len(containers) == 4
    for container in containers:
        rights = container["securityContext"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert rights.get("runAsUser", 1000) != 0
    assert all(set(volume) == {"name", "emptyDir"} for volume in spec["volumes"])


def test_quantities() -> None:
    assert [amount(text) for text in ("250m", "2", "1k", "1Ki", "1e3", "1.5Gi")] == [
        0.25,
        2,
        1000,
        1024,
        1000,
        1.5 * 2**30,
    ]
