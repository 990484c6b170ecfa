"""A stranger's `.gitlab-ci.yml` names files of other servers: loom connects to none that the user has not allowed."""

import json
import os

import pytest
import requests

from loom import config
from loom.commands.plan import gitlab_sources
from loom.commands.project import Project
from loom.commands.servers import ServerRefused
from loom.commands.servers.web import Door
from loom.workflow.sources import NotFound

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
    for command in ("check", "compile", "run", "run --dry-run", "images lock"):
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
    assert victim.loom("check").returncode == 3  # this server answers nothing
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


@pytest.mark.parametrize(
    ("origin", "url", "own"),
    [
        ("https://git.example/a/b.git", "https://git.example/f.yml", True),
        ("https://git.example/a/b.git", "https://GIT.example:443/f.yml", True),
        ("https://git.example:8443/a/b.git", "https://git.example:8443/f.yml", True),
        ("http://git.example:8080/a/b.git", "http://git.example:8080/f.yml", True),
        ("git@git.example:a/b.git", "https://git.example/f.yml", True),
        ("ssh://git@git.example:2222/a/b.git", "https://git.example/f.yml", True),
        ("https://git.example/a/b.git", "https://git.example:8443/f.yml", False),
        ("https://git.example/a/b.git", "http://git.example/f.yml", False),
        ("https://git.example:8443/a/b.git", "https://git.example/f.yml", False),
        ("http://git.example/a/b.git", "https://git.example/f.yml", False),
        ("git@git.example:a/b.git", "http://git.example/f.yml", False),
        ("ssh://git@git.example:2222/a/b.git", "https://git.example:2222/f.yml", False),
        ("https://git.example/a/b.git", "https://git.example.evil/f.yml", False),
        ("/srv/b.git", "https://git.example/f.yml", False),
    ],
)
def test_only_the_very_server_of_origin_is_asked_without_a_question(
    victim: Victim, monkeypatch: pytest.MonkeyPatch, origin: str, url: str, *, own: bool
) -> None:
    """Another port, and the same one without encryption, is another server."""
    victim.git("remote", "set-url", "origin", origin)
    asked: list[str] = []

    def sent(door: Door, request: requests.PreparedRequest, **_: object) -> None:
        asked.append(str(request.url))
        raise requests.ConnectionError

    monkeypatch.setattr(Door, "send", sent)
    environ = {"PATH": os.environ["PATH"], "HOME": str(victim.home)}
    here = Project(
        environ=environ,
        start=victim.root,
        root=victim.root,
        config=config.load(root=victim.root, environ=environ, flags={}),
    )
    with pytest.raises(NotFound):
        gitlab_sources.Elsewhere(here).remote(url)
    assert bool(asked) == own


def test_a_redirection_leads_to_no_other_port_and_drops_no_encryption() -> None:
    for url in ("http://git.example/f.yml", "https://git.example:8443/f.yml", "https://other.example/f.yml"):
        with pytest.raises(ServerRefused, match="leads to another server"):
            Door("https://git.example/f.yml").check(url)
    for old in ("https://git.example/f.yml", "http://git.example/f.yml"):
        Door(old).check("https://git.example/g.yml")


def test_a_workflow_that_is_a_link_out_of_the_repository_is_shown_by_no_command(victim: Victim) -> None:
    private = victim.home / "private.yml"
    private.write_text("password: {script: [hunter2]}\n")
    (victim.root / ".loom/workflow.yml").unlink()
    (victim.root / ".gitlab-ci.yml").symlink_to(private)
    for command in ("check", "compile", "run --dry-run", "run", "trust", "images lock", "watch"):
        for named in ("", " --workflow .gitlab-ci.yml"):
            done = victim.loom(*(command + named).split())
            said = done.stdout + done.stderr
            assert done.returncode == 2, (command, named)
            assert "is a link that points outside the repository" in " ".join(said.split()), (command, named)
            assert "hunter2" not in said
            assert "password" not in said


def test_the_cache_is_closed_when_an_include_is_its_first_user(
    victim: Victim, listener: Listener, including: str
) -> None:
    victim.loom("check", LOOM_TRUST="1")
    here = gitlab_sources.Elsewhere(
        Project(
            environ={"HOME": str(victim.home)},
            start=victim.root,
            root=victim.root,
            config=config.load(root=victim.root, environ={"HOME": str(victim.home)}, flags={}),
        )
    )
    here._keep(here._kept("remote", including), b"a file")
    assert here._kept("remote", including).read_bytes() == b"a file"
    assert {(victim.home / name).stat().st_mode & 0o777 for name in (".cache", ".cache/loom")} == {0o700}
