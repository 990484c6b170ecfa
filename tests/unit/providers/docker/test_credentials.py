"""The user's credentials for a registry."""

import base64
import json
from pathlib import Path

import pytest
from docker.auth import INDEX_URL

from loom.providers.docker.images.credentials import credentials_for


def configured(folder: Path, config: object) -> dict[str, str]:
    (folder / "config.json").write_text(json.dumps(config))
    return {"DOCKER_CONFIG": str(folder), "PATH": "/nowhere"}


BASIC = base64.b64encode(b"user:pass:word").decode()


def test_credentials_of_docker_hub_in_its_spellings(tmp_path: Path) -> None:
    for key in (INDEX_URL, "docker.io", "index.docker.io"):
        found = credentials_for("docker.io", configured(tmp_path, {"auths": {key: {"auth": BASIC}}}))
        assert dict(found.auth) | {"email": None} == {
            "username": "user",
            "password": "pass:word",
            "email": None,
            "serveraddress": INDEX_URL,
        }
    assert credentials_for("quay.io", configured(tmp_path, {"auths": {INDEX_URL: {"auth": BASIC}}})).auth == {}


def test_tokens(tmp_path: Path) -> None:
    found = credentials_for("h", configured(tmp_path, {"auths": {"h": {"identitytoken": "t"}}}))
    assert found.auth == {"IdentityToken": "t", "serveraddress": "h"}


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"auths": {"h": {"auth": "%%%"}}}, "config.json can't be read"),
        ({"auths": {"h": {"auth": base64.b64encode(b"nocolon").decode()}}}, "config.json can't be read"),
        ({"credsStore": "x"}, "docker-credential-x not installed"),
        ({"credHelpers": {"h": "y"}}, "docker-credential-y not installed"),
    ],
)
def test_configured_and_not_to_be_had(tmp_path: Path, config: object, problem: str) -> None:
    found = credentials_for("h", configured(tmp_path, config))
    assert found.auth == {}
    assert problem in (found.problem or "")


@pytest.mark.parametrize(
    "config", [{}, {"auths": {}}, {"auths": {"h": {}}}, {"auths": None}, {"credHelpers": {"other": "x"}}]
)
def test_nothing_configured_is_no_problem(tmp_path: Path, config: object) -> None:
    found = credentials_for("h", configured(tmp_path, config))
    assert (found.auth, found.problem) == ({}, None)


def test_no_configuration_at_all(tmp_path: Path) -> None:
    found = credentials_for("h", {"HOME": str(tmp_path)})
    assert (found.auth, found.problem) == ({}, None)
