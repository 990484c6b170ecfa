"""An engine that is reached by ssh: its address, and an ssh command that fails."""

from pathlib import Path

import pytest

from loom.errors import EngineUnavailable, RequestError
from loom.providers.docker.engine.client import connect
from loom.providers.docker.engine.endpoint import endpoint_of, unavailable


@pytest.mark.parametrize(
    "url",
    [
        *("ssh://", "ssh:///run/d.sock", "ssh://-oProxyCommand=x", "ssh://-l@host", "ssh://host:port", "ssh://a b"),
        *("ssh://me:hunter2@host", "ssh://@host", "ssh://[::1", "ssh://host:123456"),
    ],
)
def test_an_invalid_address_is_refused_and_a_password_is_not_shown(url: str) -> None:
    with pytest.raises(RequestError, match=r"^DOCKER_HOST: expected .* ssh://USER@HOST:PORT/SOCKET") as caught:
        connect({"DOCKER_HOST": url})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["ssh://host", "ssh://me.x-y@host.example:22/run/d.sock", "ssh://[::1]:22/"])
def test_an_engine_behind_ssh_does_not_see_the_files(url: str) -> None:
    assert not endpoint_of({"DOCKER_HOST": url}).local


@pytest.mark.parametrize("script", ["", "#!/bin/sh\necho 'me@host: Permission denied (publickey).' >&2; exit 255\n"])
def test_an_ssh_command_that_fails_says_why_and_what_to_do(tmp_path: Path, script: str) -> None:
    (tmp_path / "sh").symlink_to("/bin/sh")
    (tmp_path / "rm").symlink_to("/bin/rm")
    if script:
        (tmp_path / "ssh").write_text(script)
        (tmp_path / "ssh").chmod(0o755)
    with pytest.raises(EngineUnavailable) as caught:
        connect({"DOCKER_HOST": "ssh://me@host", "PATH": str(tmp_path)})
    reason, move = ("Permission denied (publickey)", "ssh-add") if script else ("can't be run", "openssh-client")
    assert reason in caught.value.message
    assert move in (caught.value.hint or "")


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), ConnectionError("closed")])
def test_a_socket_that_leads_nowhere_is_not_the_fault_of_ssh(error: OSError) -> None:
    found = unavailable(endpoint_of({"DOCKER_HOST": "ssh://host"}), {}, error)
    assert "start Docker there, or name its socket" in (found.hint or "")
