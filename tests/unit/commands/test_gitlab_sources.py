"""Files of other projects come from a clone that the configuration names, or by git from the server of `origin`."""

import os
import socket
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from loom import config
from loom.commands.plan.gitlab_sources import Elsewhere
from loom.commands.project import Project
from loom.workflow.sources import NotFound
from tests.support.connections import free_port
from tests.support.repository import git
from tests.support.waiting import until

pytestmark = pytest.mark.slow

COMPONENT = "spec: {inputs: {}}\n---\njob: {script: echo}\n"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The repository `group/shared` of a server, with a release 1.2.0, 1.10.0 and a branch that is newer."""
    place = tmp_path / "server/group/shared"
    (place / "templates").mkdir(parents=True)
    git(place, "init", "-qb", "main")
    for version in ("1.2.0", "1.10.0", "unreleased"):
        (place / "templates/part.yml").write_text(f"# {version}\n{COMPONENT}")
        git(place, "add", "-A")
        git(place, "commit", "-qm", version)
        if version != "unreleased":
            git(place, "tag", version)
    (place / ".git/git-daemon-export-ok").touch()
    return place


@pytest.fixture
def server(tmp_path: Path, shared: Path) -> Iterator[str]:
    """The address of the server."""
    port = free_port()
    base = tmp_path / "server"
    command = ["git", "daemon", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}", f"--base-path={base}", str(base)]
    daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(answers, while_runs=daemon)
        yield f"git://127.0.0.1:{port}"
    finally:
        os.killpg(daemon.pid, 15)
        daemon.wait()


def sources(tmp_path: Path, origin: str, settings: str = "") -> Elsewhere:
    root = tmp_path / "checkout"
    root.mkdir()
    git(root, "init", "-q")
    git(root, "remote", "add", "origin", origin)
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    (tmp_path / ".config/loom").mkdir(parents=True)
    (tmp_path / ".config/loom/config.yml").write_text(settings)
    found = config.load(root=root, environ=environ, flags={})
    return Elsewhere(Project(environ=environ, start=root, root=root, config=found))


def test_a_project_is_fetched_from_the_server_of_origin_and_kept_by_commit(
    tmp_path: Path, shared: Path, server: str
) -> None:
    elsewhere = sources(tmp_path, f"{server}/group/own")
    tree = elsewhere.project("group/shared", "1.2.0")
    assert (tree.label, tree.sha) == ("group/shared@1.2.0:", git(shared, "rev-parse", "1.2.0"))
    assert tree.read("templates/part.yml").startswith(b"# 1.2.0")
    assert list(tree.paths()) == ["templates/part.yml"]
    (shared / ".git/git-daemon-export-ok").unlink()  # the server gives nothing any longer
    assert elsewhere.project("group/shared", tree.sha).read("templates/part.yml").startswith(b"# 1.2.0")
    with pytest.raises(NotFound, match=r"git fetch .* nope: .*; name a clone in ~/.config/loom/config.yml"):
        elsewhere.project("group/shared", "nope")


@pytest.mark.parametrize(
    ("version", "chosen", "said"),
    [("1", "1.10.0", "1.10.0"), ("1.2", "1.2.0", "1.2.0"), ("~latest", "1.10.0", "1.10.0"), ("main", "unreleased", "")],
)
def test_a_components_version_is_the_newest_release_that_fits(
    tmp_path: Path, server: str, version: str, chosen: str, said: str
) -> None:
    component = sources(tmp_path, f"{server}/group/own").component("127.0.0.1", "group/shared", version)
    assert component.version == said
    assert component.tree.read("templates/part.yml").decode().startswith(f"# {chosen}")


def test_a_version_without_its_server_is_what_it_was_the_last_time(tmp_path: Path, shared: Path, server: str) -> None:
    elsewhere = sources(tmp_path, f"{server}/group/own")
    found = elsewhere.component("127.0.0.1", "group/shared", "~latest")
    assert elsewhere._checkout.unanswered == []
    (shared / ".git/git-daemon-export-ok").unlink()  # the server gives nothing any longer
    again = elsewhere.component("127.0.0.1", "group/shared", "~latest")
    assert (again.version, again.tree.sha) == ("1.10.0", found.tree.sha)
    assert again.tree.read("templates/part.yml").startswith(b"# 1.10.0")
    assert elsewhere._checkout.unanswered == [f"{server}/group/shared ({what})" for what in ("tags", "1.10.0")]
    with pytest.raises(NotFound, match=r"git ls-remote: .*; name a clone in ~/.config/loom/config.yml"):
        elsewhere.component("127.0.0.1", "group/other", "~latest")


def test_a_file_whose_server_does_not_answer_is_the_last_copy(tmp_path: Path) -> None:
    server = f"http://127.0.0.1:{free_port()}"
    elsewhere = sources(tmp_path, f"{server}/group/own.git")
    with pytest.raises(NotFound, match="with a connection, loom keeps a copy for later"):
        elsewhere.remote(f"{server}/ci.yml")
    elsewhere._keep(elsewhere._kept("remote", f"{server}/ci.yml"), b"old")
    assert (elsewhere.remote(f"{server}/ci.yml"), elsewhere._checkout.unanswered) == (b"old", [f"{server}/ci.yml"])


def test_a_version_of_two_numbers_may_be_a_tag_itself(tmp_path: Path, shared: Path) -> None:
    elsewhere = sources(
        tmp_path, "git@example.com:group/own.git", f"gitlab: {{projects: {{group/shared: {shared}}}}}\n"
    )
    git(shared, "tag", "25.5", "1.2.0")
    found = elsewhere.component("example.com", "group/shared", "25.5")
    assert (found.version, found.tree.read("templates/part.yml")[:7]) == ("", b"# 1.2.0")
    with pytest.raises(NotFound, match=r"has no 25\.6; fetch it there"):
        elsewhere.component("example.com", "group/shared", "25.6")


def test_a_clone_of_the_configuration_is_read_without_a_server(tmp_path: Path, shared: Path) -> None:
    elsewhere = sources(
        tmp_path, "git@example.com:group/own.git", f"gitlab: {{projects: {{group/shared: {shared}}}}}\n"
    )
    assert elsewhere.project("group/shared", None).read("templates/part.yml").startswith(b"# unreleased")
    assert str(elsewhere.url_of("a/b")) == "git@example.com:a/b.git"
    with pytest.raises(NotFound, match="has no v9; fetch it there"):
        elsewhere.project("group/shared", "v9")
    with pytest.raises(NotFound, match="components come from the server of this project"):
        elsewhere.component("elsewhere.example.com", "group/shared", "1")
    with pytest.raises(NotFound, match=r"name a folder with a copy of them in ~/\.config/loom/config\.yml"):
        elsewhere.template("Jobs/Build.gitlab-ci.yml")


class _Web(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://elsewhere.invalid/part.yml")
            self.end_headers()
        else:
            self.send_response(200 if self.path == "/part.yml" else 404)
            self.end_headers()
            self.wfile.write(b"a: 1\n")

    def log_message(self, *_: object) -> None:
        """Nothing: the output is the test's."""


def test_an_address_of_the_own_server_is_fetched_and_its_copy_counts_without_it(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Web) as web:
        Thread(target=web.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{web.server_port}"
        elsewhere = sources(tmp_path, f"{base}/group/own.git")
        assert elsewhere.remote(f"{base}/part.yml") == b"a: 1\n"
        with pytest.raises(
            NotFound, match=r"leads to another server, http://elsewhere\.invalid/part\.yml; include that"
        ):
            elsewhere.remote(f"{base}/away")
        with pytest.raises(NotFound, match=r"not there.*\(404\)"):
            elsewhere.remote(f"{base}/none.yml")
        with pytest.raises(NotFound, match=r"is not on the server of this repository, 127\.0\.0\.1, so loom does"):
            elsewhere.remote(base.replace("127.0.0.1", "127.0.0.1@localhost") + "/part.yml")
        web.shutdown()
    assert elsewhere.remote(f"{base}/part.yml") == b"a: 1\n"
    with pytest.raises(NotFound, match="with a connection, loom keeps a copy for later"):
        elsewhere.remote(f"{base}/other.yml")


def test_the_last_copy_of_a_branch_counts_without_its_server(tmp_path: Path, shared: Path, server: str) -> None:
    elsewhere = sources(tmp_path, f"{server}/group/own")
    assert elsewhere.project("group/shared", "main").read("templates/part.yml").startswith(b"# unreleased")
    shared.rename(shared.with_name("moved"))  # as a server that does not answer
    assert elsewhere.project("group/shared", "main").read("templates/part.yml").startswith(b"# unreleased")
