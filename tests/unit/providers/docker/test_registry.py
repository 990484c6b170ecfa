"""A pull's progress, and what a registry's refusals mean."""

import pytest

from loom.images.reference import parse_reference
from loom.providers.docker.engine.retries import PULL
from loom.providers.docker.images.credentials import Credentials
from loom.providers.docker.images.registry import Progress, explain


def test_progress_sums_layers_and_never_goes_back() -> None:
    progress = Progress()
    for line in (
        {"status": "Pulling from library/debian", "id": "12"},
        {"status": "Pulling fs layer", "id": "a", "progressDetail": {}},
        {"status": "Pulling fs layer", "id": "b", "progressDetail": {}},
        {"status": "Already exists", "id": "c", "progressDetail": {}},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 1_000_000, "total": 4_000_000}},
        {"status": "Waiting", "id": "b"},
    ):
        progress.see(line)
    assert str(progress) == "1 of 3 layers, 1.0 MB of 4.0 MB"
    progress.see({"status": "Download complete", "id": "a"})
    assert str(progress) == "1 of 3 layers, 4.0 MB of 4.0 MB"
    progress.see({"status": "Pull complete", "id": "a"})
    progress.see({"status": "Digest: sha256:abc"})
    assert (str(progress), progress.digest) == (
        "2 of 3 layers, 4.0 MB of 4.0 MB",
        "sha256:abc",
    )


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("manifest for x:1 not found: manifest unknown: manifest unknown", "IMAGE_NOT_FOUND"),
        ("pull access denied for x, repository does not exist or may require 'docker login': denied", "IMAGE_DENIED"),
        ('Head "http://h/v2/x/manifests/1": no basic auth credentials', "IMAGE_DENIED"),
        ("unauthorized: authentication required", "IMAGE_DENIED"),
        ("toomanyrequests: You have reached your pull rate limit", "IMAGE_RATE_LIMITED"),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", "IMAGE_PLATFORM"),
        (
            "image with reference x was found but does not match the specified platform: wanted a, actual: b",
            "IMAGE_PLATFORM",
        ),
        ('Get "http://h/v2/": dial tcp 127.0.0.1:1: connect: connection refused', "IMAGE_REGISTRY_DOWN"),
        ("dial tcp: lookup h on 10.0.0.1:53: no such host", "IMAGE_REGISTRY_DOWN"),
        ("tls: failed to verify certificate: x509: certificate signed by unknown authority", "IMAGE_CERTIFICATE"),
        ("tls: failed to verify certificate: x509: certificate has expired or is not yet valid", "IMAGE_CERTIFICATE"),
        ("http: server gave HTTP response to HTTPS client", "IMAGE_CERTIFICATE"),
        ("proxyconnect tcp: dial tcp 127.0.0.1:9: connect: connection refused", "IMAGE_REGISTRY_DOWN"),
        ("net/http: TLS handshake timeout", "IMAGE_REGISTRY_DOWN"),
        ("received unexpected HTTP status: 503 Service Unavailable", "IMAGE_REGISTRY_DOWN"),
        ("failed to register layer: write /x: no space left on device", "IMAGE_DISK_FULL"),
        ("something new", "IMAGE_UNAVAILABLE"),
    ],
)
def test_every_refusal_of_a_registry_has_its_code_and_a_next_move(said: str, code: str) -> None:
    error = explain(parse_reference("h:5/x:1"), said, "linux/amd64", Credentials(source="none"))
    assert (error.code, error.exit_code) == (code, 3)
    assert error.hint
    assert said in str(error)
    is_down = code in ("IMAGE_REGISTRY_DOWN", "IMAGE_RATE_LIMITED")
    assert PULL.when(error) == (is_down and not said.endswith("no such host"))


def test_a_denial_says_which_credentials_were_refused() -> None:
    used = Credentials(source="docker-credential-x", auth={"username": "u", "password": "hush"})
    error = explain(parse_reference("x"), "unauthorized", "linux/amd64", used)
    assert "docker-credential-x were refused" in error.message
    assert "(docker login)" in (error.hint or "")
    assert "hush" not in str(error)
    assert "hush" not in repr(used)
