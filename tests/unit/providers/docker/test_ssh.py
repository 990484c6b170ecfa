"""An engine that is reached by ssh."""

from pathlib import Path

import pytest

from loom.errors import EngineUnavailable, RequestError
from loom.providers.docker.engine import ssh
from loom.providers.docker.engine.client import connect


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
