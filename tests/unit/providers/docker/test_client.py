"""Which engine, how it is reached, and what its errors become; no engine is needed for any of it."""

import errno
import hashlib
import json
import socket
from pathlib import Path

import docker.credentials.errors
import docker.errors
import pytest
import requests
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import EngineUnavailable, ImageError, LoomError, ProviderError, RequestError
from loom.providers.docker import client, endpoint, errors, retries, ssh
from loom.providers.docker.client import connect
from loom.providers.docker.endpoint import Endpoint, endpoint_of
from loom.providers.docker.errors import ours, translated
from loom.providers.docker.retries import HICCUP, retrying

QUICKLY = replace(HICCUP, first_wait_s=0.001)


def make_context(home: Path, name: str, host: str, *, tls: bool = False) -> None:
    digest = hashlib.sha256(name.encode()).hexdigest()
    meta = home / ".docker" / "contexts" / "meta" / digest
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": host}}}))
    if tls:
        files = home / ".docker" / "contexts" / "tls" / digest / "docker"
        files.mkdir(parents=True)
        for part in ("ca", "cert", "key"):
            (files / f"{part}.pem").write_text("")


def test_docker_host_wins_over_contexts(tmp_path: Path) -> None:
    make_context(tmp_path, "far", "tcp://far:2376")
    environ = {"HOME": str(tmp_path), "DOCKER_HOST": "/run/x.sock", "DOCKER_CONTEXT": "far"}
    assert endpoint_of(environ) == Endpoint(url="unix:///run/x.sock", source="DOCKER_HOST")


def test_the_current_context_is_the_engine(tmp_path: Path) -> None:
    make_context(tmp_path, "far", "tcp://far:2376", tls=True)
    (tmp_path / ".docker" / "config.json").write_text('{"currentContext": "far"}')
    endpoint = endpoint_of({"HOME": str(tmp_path)})
    assert (endpoint.url, endpoint.source, endpoint.tls, endpoint.local) == (
        "tcp://far:2376",
        "context far",
        True,
        False,
    )


def test_docker_context_wins_over_the_current_one(tmp_path: Path) -> None:
    make_context(tmp_path, "near", "unix:///run/near.sock")
    (tmp_path / ".docker" / "config.json").write_text('{"currentContext": "far"}')
    endpoint = endpoint_of({"HOME": str(tmp_path), "DOCKER_CONTEXT": "near"})
    assert endpoint.url == "unix:///run/near.sock"
    assert endpoint.local


@pytest.mark.parametrize("config", ["", "{", "[]", "{}", '{"currentContext": "default"}'])
def test_without_a_context_the_default_socket(tmp_path: Path, config: str) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text(config)
    assert endpoint_of({"HOME": str(tmp_path)}).url == endpoint.DEFAULT_SOCKET


def test_an_unknown_context_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="'nowhere' can't be read") as caught:
        endpoint_of({"HOME": str(tmp_path), "DOCKER_CONTEXT": "nowhere"})
    assert "docker context ls" in (caught.value.hint or "")


def test_a_missing_socket_says_so_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="its socket is not there") as caught:
        connect({"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
    assert "DOCKER_HOST" in (caught.value.hint or "")


def test_a_dead_socket_says_so(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "dead.sock"))
    with pytest.raises(EngineUnavailable, match="nobody listens there"):
        connect({"DOCKER_HOST": f"unix://{tmp_path}/dead.sock"})


def test_another_engine_on_this_machine_is_offered(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        (tmp_path / "podman").mkdir()
        listener.bind(str(tmp_path / "podman" / "podman.sock"))
        listener.listen()
        with pytest.raises(EngineUnavailable) as caught:
            connect({"DOCKER_HOST": f"unix://{tmp_path}/none.sock", "XDG_RUNTIME_DIR": str(tmp_path)})
    assert f"podman listens at {tmp_path}/podman/podman.sock: DOCKER_HOST=unix://" in (caught.value.hint or "")


def test_a_hanging_socket_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_ANSWER_S", 1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "hangs.sock"))
        listener.listen()
        with pytest.raises(EngineUnavailable, match="timed out"):
            connect({"DOCKER_HOST": f"unix://{tmp_path}/hangs.sock"})


def test_every_error_of_the_sdk_is_in_the_table() -> None:
    for module in (docker.errors, docker.credentials.errors):
        for name, kind in vars(module).items():
            if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == module.__name__:
                ancestry = {f"{ancestor.__module__}.{ancestor.__qualname__}" for ancestor in kind.__mro__}
                direct = f"{kind.__module__}.{kind.__qualname__}" in errors.OUR_ERROR
                by_store = "docker.credentials.errors.StoreError" in ancestry
                assert direct or by_store, f"{module.__name__}.{name} has no place in OUR_ERROR"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (docker.errors.ImageNotFound("x"), ImageError),
        (docker.errors.NotFound("x"), ProviderError),
        (docker.errors.APIError("x"), ProviderError),
        (requests.exceptions.ConnectionError("x"), EngineUnavailable),
        (ConnectionResetError(errno.ECONNRESET, "x"), EngineUnavailable),
    ],
)
def test_an_error_becomes_ours_and_keeps_its_cause(error: Exception, kind: type[LoomError]) -> None:
    with pytest.raises(kind, match="starting the job: ") as caught, translated("starting the job"):
        raise error
    assert type(caught.value) is kind
    assert caught.value.__cause__ is error


def test_our_own_bugs_pass_untouched() -> None:
    with pytest.raises(KeyError), translated("anything"):
        raise KeyError("x")
    assert ours(KeyError("x"), "anything") is None


def test_hiccups_are_retried_and_nothing_else() -> None:
    calls: list[int] = []

    def flaky() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise requests.exceptions.ConnectionError("reset")
        return "answer"

    assert retrying(flaky, QUICKLY) == "answer"
    calls.clear()

    def broken() -> str:
        calls.append(1)
        raise docker.errors.NotFound("no")

    with pytest.raises(docker.errors.NotFound):
        retrying(broken)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("said", "again"),
    [
        # A container's start, whose connections are dead then.
        ("runc create failed: waiting for init preliminary setup: read init-p: connection reset by peer", False),
        ("context deadline exceeded", True),
        ("exec: no such file or directory", False),
    ],
)
def test_a_failure_of_the_engines_own_is_tried_again(said: str, again: bool) -> None:
    answer = requests.Response()
    answer.status_code = 500
    tries = []

    def start() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise docker.errors.APIError("x", response=answer, explanation=said)
        return "started"

    if again:
        assert retrying(start, QUICKLY) == "started"
    else:
        with pytest.raises(docker.errors.APIError):
            retrying(start)


def refusal(said: str) -> docker.errors.APIError:
    answer = requests.Response()
    answer.status_code = 500
    return docker.errors.APIError("x", response=answer, explanation=said)


@pytest.mark.parametrize(
    ("error", "starts"),
    [
        (refusal("read init-p: connection reset by peer"), ["1", "1", "2", "2", "3", "3"]),
        (requests.exceptions.ConnectionError("reset"), ["1", "2", "3"]),  # it may run: it is not started twice
        (requests.exceptions.ReadTimeout("Read timed out."), ["1"]),
        (refusal("no such file or directory"), ["1"]),
    ],
)
def test_a_failed_start_means_a_new_container(error: Exception, starts: list[str]) -> None:
    made: list[str] = []
    started: list[str] = []
    removed: list[str] = []

    def make() -> str:
        made.append(str(len(made) + 1))
        return made[-1]

    def start(container: str) -> None:
        started.append(container)
        raise retries.start_failed(error, "starting") or error

    with pytest.raises(type(retries.start_failed(error, "starting") or error)):
        retries.starting(make, start, removed.append, Cancel())
    assert started == starts
    assert removed == (made if len(made) > 1 else [])


def test_a_hiccup_that_stays_is_raised() -> None:
    def down() -> None:
        raise requests.exceptions.ConnectionError("reset")

    with pytest.raises(requests.exceptions.ConnectionError):
        retrying(down, QUICKLY)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ssh://host", "-- host docker system dial-stdio"),
        ("ssh://me@host:2222", "-l me -p 2222 -- host docker system dial-stdio"),
        ("ssh://me@host/run/d.sock", "-l me -- host docker --host unix:///run/d.sock system dial-stdio"),
        ("ssh://[::1]:22/", "-p 22 -- ::1 docker system dial-stdio"),
    ],
)
def test_an_ssh_address_becomes_the_ssh_command(url: str, words: str) -> None:
    said = " ".join(ssh.command(url))
    assert said.startswith("ssh -T -o BatchMode=yes ")
    assert said.endswith(words)


@pytest.mark.parametrize("url", ["ssh://", "ssh:///run/d.sock", "ssh://-oProxyCommand=x", "ssh://host:port"])
def test_what_is_no_ssh_address_is_the_users_mistake(url: str) -> None:
    with pytest.raises(RequestError, match=r"DOCKER_HOST: "):
        connect({"DOCKER_HOST": url})


def test_a_password_in_an_ssh_address_is_refused_and_not_shown() -> None:
    with pytest.raises(RequestError, match="a password") as caught:
        connect({"DOCKER_HOST": "ssh://me:hunter2@host"})
    assert "hunter2" not in str(caught.value)


def test_a_missing_ssh_command_says_so(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="ssh command can't be run") as caught:
        connect({"DOCKER_HOST": "ssh://me@host", "PATH": str(tmp_path)})
    assert "openssh-client" in (caught.value.hint or "")
