"""The Role of the documentation is enough, and a verb that is missing is named."""

import base64
import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from loom.cancel import Cancel
from loom.errors import LoomError
from loom.providers.command import Command
from loom.providers.kubernetes.cluster.client import Gone
from loom.providers.kubernetes.session.session import remove
from tests.kubernetes.conftest import Pods
from tests.support import kubernetes
from tests.support.waiting import until

pytestmark = [pytest.mark.kubernetes, pytest.mark.slow]
PAGE = Path(__file__).parents[2] / "docs/explanation/job-pod.md"


def rules() -> list[dict[str, Any]]:
    found = re.search(r"```yaml\n(apiVersion: rbac.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return list(yaml.safe_load(found[1])["rules"])


@pytest.fixture
def member(tmp_path: Path, cluster: Any) -> Iterator[Callable[[list[dict[str, Any]]], Pods]]:
    """Return pods of a service account with these rules and no others."""
    from kubernetes import client

    api_client, namespace = cluster.api.api_client, cluster.namespace
    rbac, name = client.RbacAuthorizationV1Api(api_client), f"loom-test-{time.monotonic_ns()}"
    meta = {"name": name}
    secret = {"metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": name}}}
    cluster.call("making an account", "create_namespaced_service_account", {"metadata": meta})
    token = {**secret, "type": "kubernetes.io/service-account-token"}
    cluster.call("making a token", "create_namespaced_secret", token)
    made: list[Pods] = []

    def pods(allowed: list[dict[str, Any]]) -> Pods:
        rbac.create_namespaced_role(namespace, {"metadata": meta, "rules": allowed}, _preload_content=False)
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        binding = {"metadata": meta, "roleRef": reference, "subjects": [subject]}
        rbac.create_namespaced_role_binding(namespace, binding, _preload_content=False)
        held = until(lambda: cluster.call("reading a token", "read_namespaced_secret", name).get("data"))
        made.append(Pods({**kubernetes.environ(), "KUBECONFIG": str(config(held["token"]))}, tmp_path))
        made[-1].account = name
        return made[-1]

    def config(encoded: str) -> Path:
        given = yaml.safe_load(Path(kubernetes.environ()["KUBECONFIG"]).read_text())
        context = next(one for one in given["contexts"] if one["name"] == given["current-context"])
        given["users"] = [{"name": context["context"]["user"], "user": {"token": base64.b64decode(encoded).decode()}}]
        (tmp_path / "config").write_text(json.dumps(given))
        return tmp_path / "config"

    yield pods
    for one in made:
        one.provider.close()
    rbac.delete_namespaced_role_binding(name, namespace, _preload_content=False)
    rbac.delete_namespaced_role(name, namespace, _preload_content=False)
    with contextlib.suppress(Gone):
        cluster.call("removing a token", "delete_namespaced_secret", name)
    cluster.call("removing an account", "delete_namespaced_service_account", name)


def test_the_role_of_the_documentation_is_enough(member: Callable[..., Pods]) -> None:
    pods = member(rules())
    with pods.job() as job:
        assert job.run("echo works")[1] == b"works\n"
        assert list(job.session.files().get(["."], print)) != []
        job.session.keep(time.time() + 300)
    found = pods.provider.find(pods.run_id, "job")
    assert found is not None
    assert list(found.remove()) == []


def test_a_missing_verb_is_named(member: Callable[..., Pods]) -> None:
    pods = member([one for one in rules() if "pods/exec" not in one["resources"]])
    with pytest.raises(LoomError) as raised, pods.job():
        pass
    assert raised.value.code == "CLUSTER_FORBIDDEN"
    assert "pods/exec" in raised.value.message


def test_credentials_that_end_in_mid_run(member: Callable[..., Pods], cluster: Any) -> None:
    pods = member(rules())
    began = threading.Event()
    with pods.job() as job:

        def end_them() -> None:
            began.wait(60)
            cluster.call("removing a token", "delete_namespaced_secret", pods.account)
            until(lambda: not accepted(pods))
            job.session.link.connection.abort()

        ending = threading.Thread(target=end_them)
        ending.start()
        step = Command(script="echo begins; sleep 600", shell=(), timeout_s=100)
        with pytest.raises(LoomError) as raised:
            job.session.run(step, lambda *_: began.set(), Cancel())
        ending.join()
    assert (raised.value.code, raised.value.exit_code) == ("CLUSTER_UNAUTHORIZED", 3)
    assert any(job.pod in problem for problem in pods.provider.close())
    remove(cluster, job.pod)


def accepted(pods: Pods) -> bool:
    try:
        pods.provider.check()
    except LoomError:
        return False
    return True
