"""Requests to a cluster that does not answer."""

import json
import socket
import tempfile
import threading
from base64 import b64encode
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("kubernetes", reason="the extra `kubernetes` is not installed")
from loom.errors import EngineUnavailable
from loom.providers.kubernetes.cluster import client
from loom.providers.kubernetes.cluster.client import Cluster
from loom.providers.kubernetes.images import registry


def test_a_registry_that_takes_an_upload_and_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ANSWER_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        there = registry.Repository(f"http://127.0.0.1:{silent.getsockname()[1]}/x", {})
        with pytest.raises(
            registry.RegistryError, match=r"^the registry \S+ does not answer: [^(]*[Tt]imed out\b"
        ) as raised:
            there.put_manifest("latest", b"{}")
    assert "http://" in (raised.value.hint or "")


@pytest.mark.parametrize(
    ("context", "current", "says"),
    [
        (
            "kind-kin",
            "current-context: kind-kind",
            r"has no context kind-kin; did you mean kind-kind\? \(its contexts: kind-kind\)",
        ),
        (None, "", r"has no current-context \(its contexts: kind-kind\)"),
        (None, None, "there is no file "),
        ("kind-kind", "", ""),
    ],
)
def test_the_context_is_the_one_that_is_named(
    context: str | None, current: str | None, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "config"
    if current is not None:
        file.write_text(f"""{current}
clusters: [{{name: c, cluster: {{server: "https://127.0.0.1:1"}}}}]
contexts: [{{name: kind-kind, context: {{cluster: c, user: u, namespace: n}}}}]
users: [{{name: u, user: {{}}}}]
""")
    cluster = Cluster.of(context, {"KUBECONFIG": str(file)})
    if not says:
        assert (cluster.host, cluster.namespace) == ("https://127.0.0.1:1", "n")
        return
    with pytest.raises(EngineUnavailable, match=says) as raised:
        assert cluster.host
    assert raised.value.code == "CLUSTER_NOT_CONFIGURED"


@pytest.mark.slow
def test_who_waits_for_the_end_is_not_kept_by_a_cluster_that_does_not_answer() -> None:
    cluster = Cluster.of(None, {})
    asked = threading.Event()
    calls = []

    def ask() -> None:
        calls.append(1)
        asked.set()
        raise EngineUnavailable("it does not answer", code="CLUSTER_UNAVAILABLE")

    hurrying = threading.Thread(target=lambda: asked.wait(60) and cluster.hurry())
    hurrying.start()
    # The limit is longer than the test may take.
    with pytest.raises(EngineUnavailable):
        cluster.patiently("asking", ask, 3600.0)
    hurrying.join()
    cluster.at("other").hurry()
    before = len(calls)
    with pytest.raises(EngineUnavailable):
        cluster.at("other").patiently("removing", ask, 3600.0)
    assert len(calls) > before + 1  # what has to be removed is tried more than once


@pytest.mark.slow
def test_no_certificate_and_no_key_of_a_kubeconfig_stays_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands end at once, without what the library does at a regular end."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    coded = {name: b64encode(f"{name} of {tmp_path}".encode()).decode() for name in ("authority", "certificate", "key")}
    user = {"token": "t", "client-certificate-data": coded["certificate"], "client-key-data": coded["key"]}
    told = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [
            {
                "name": "c",
                "cluster": {"server": "https://127.0.0.1:1", "certificate-authority-data": coded["authority"]},
            }
        ],
        "users": [{"name": "u", "user": user}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(told))
    # `ApiClient` reads the certificates at once, and these are none.
    monkeypatch.setattr(
        "kubernetes.client.ApiClient", lambda configuration: SimpleNamespace(configuration=configuration)
    )
    known = Cluster.of(None, {"KUBECONFIG": str(tmp_path / "kubeconfig")}).api.api_client.configuration
    assert list(temporary.iterdir()) == []
    changed = []

    def note(self: object, name: str, value: object) -> None:
        changed.extend([name] if self is known else [])
        object.__setattr__(self, name, value)

    monkeypatch.setattr(type(known), "__setattr__", note)
    for _ in range(3):
        known.api_key.clear()
        assert Path(known.ssl_ca_cert).read_text() == f"authority of {tmp_path}"
        assert Path(known.cert_file).read_text() == f"certificate of {tmp_path}"
        assert Path(known.key_file).read_text() == f"key of {tmp_path}"
        assert known.get_api_key_with_prefix("BearerToken") == "Bearer t"  # as each request does
    assert changed == []  # other threads read the paths meanwhile


@pytest.mark.slow
def test_a_connection_that_is_accepted_and_never_answered_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CALL_S", (0.1, 0.1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        kubeconfig = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{silent.getsockname()[1]}"}}],
            "users": [{"name": "u", "user": {}}],
        }
        (tmp_path / "config").write_text(json.dumps(kubeconfig))
        cluster = Cluster.of(None, {"KUBECONFIG": str(tmp_path / "config")})
        with pytest.raises(EngineUnavailable, match="does not answer"):
            cluster.websocket("pod", "job", ["true"], stdin=False, tty=False)
        cluster.close()
