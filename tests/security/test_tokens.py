"""The user's token goes to one server, and no server keeps loom: redirects, pages of lists, slow and large answers."""

import gzip
import json
import re
import socket
import threading
from pathlib import Path

import pytest

from loom import config
from loom.commands.project import Project
from loom.commands.record import remote
from loom.commands.servers import ServerRefused, ServerUnavailable, address_of, server_of
from loom.commands.servers.web import Door, session_of
from loom.errors import RequestError
from tests.support.ci_server import Reply, Stub, gitlab_job, gitlab_project
from tests.support.loom_process import run_loom

AT = "/api/v4/projects/group%2Fproject"
TOKEN = "glpat-of-the-user"
ROOT = Path(__file__).parents[2] / "loom"


def project(tmp_path: Path, **environ: str) -> Project:
    environ = {"HOME": str(tmp_path), "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring", **environ}
    settings = config.load(root=tmp_path, environ=environ, flags={})
    return Project(environ=environ, start=tmp_path, root=tmp_path, config=settings)


# -- whom a token of the environment is for -------------------------------------------------------------------------


def test_a_token_without_a_host_is_not_sent_to_the_server_of_an_unpacked_origin(stub: Stub, tmp_path: Path) -> None:
    gitlab_project(stub, [gitlab_job(12, "unit")])
    environ = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "GITLAB_TOKEN": TOKEN}
    (tmp_path / ".git/objects").mkdir(parents=True)
    (tmp_path / ".git/refs").mkdir()
    (tmp_path / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / ".git/config").write_text(f'[remote "origin"]\n\turl = {stub.url}/group/project.git\n')
    for command in (("reproduce", "--last"), ("diagnose", f"{stub.url}/group/project/-/jobs/12")):
        done = run_loom(command, cwd=tmp_path, environ={**environ, "LOOM_TRUST": "1"})
        assert (done.returncode, "GITLAB_TOKEN is not sent to" in done.stderr) == (2, True), done.stderr
        assert f"GITLAB_HOST={stub.host}" in done.stderr
    assert stub.asked == []


def test_the_answer_is_kept_by_host_for_every_checkout(
    stub: Stub, other: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gitlab_project(stub, [gitlab_job(12, "unit")])
    asked: list[str] = []
    monkeypatch.setattr(remote, "attended", lambda: True)
    monkeypatch.setattr(remote.typer, "confirm", lambda text: bool(asked.append(text)) or len(asked) > 1)
    url = f"{stub.url}/group/project/-/jobs/12"
    here = project(tmp_path, GITLAB_TOKEN=TOKEN)
    remote.remote_job(here, url)
    assert not any("authorization" in headers for _, headers in stub.asked)
    remote.remote_job(here, url)
    assert asked == [f"send GITLAB_TOKEN to {stub.host}?"] * 2
    assert stub.asked[-1][1]["authorization"] == f"Bearer {TOKEN}"
    (tmp_path / "another").mkdir()
    monkeypatch.setattr(remote, "attended", lambda: False)
    remote.remote_job(Project(environ=here.environ, start=tmp_path, root=tmp_path / "another", config=here.config), url)
    with pytest.raises(RequestError, match="is not sent to"):
        remote.remote_job(here, f"{other.url}/group/project/-/jobs/12")


# -- where it goes --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("where", ["{other}/api/v4/next?page=2", "{stub}.evil.example/api/v4/next?page=2"])
def test_the_next_page_of_a_list_is_of_the_same_server(stub: Stub, other: Stub, where: str) -> None:
    follow = where.format(other=other.url, stub=stub.url)
    gitlab_project(stub, [])
    run = "/api/v3/repos/o/r/actions/runs/1"
    for path, body in ((f"{AT}/pipelines/7/jobs", [gitlab_job(9, "unit", "success")]), (f"{run}/jobs", {"jobs": []})):
        stub.routes[path] = Reply(body, headers={"Link": f'<{follow}>; rel="next"'})
    for page in ("group/project/-/pipelines/7", "o/r/actions/runs/1"):
        address = address_of(f"{stub.url}/{page}")
        with pytest.raises((ServerRefused, ServerUnavailable)):
            server_of(address, TOKEN).job(address)
    assert other.asked == []


def test_an_answer_that_is_no_download_comes_from_the_server_itself(stub: Stub, other: Stub) -> None:
    stub.routes[f"{AT}/jobs/12"] = Reply(b"", 302, {"Location": f"{other.url}/job"})
    address = address_of(f"{stub.url}/group/project/-/jobs/12")
    with pytest.raises(ServerRefused, match="leads to another server"):
        server_of(address, TOKEN).job(address)
    assert other.asked == []


def test_a_store_gets_neither_token_nor_a_password_of_netrc_nor_an_unencrypted_request(
    stub: Stub, other: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    stub.routes["/log"] = Reply(b"", 302, {"Location": other.url.replace("//", "//me:hunter2@") + "/store"})
    other.routes["/store"] = Reply(b"", 302, {"Location": f"{stub.url}/again"})
    stub.routes["/again"] = Reply(b"the log")
    session = session_of(Door(stub.url, TOKEN))
    assert session.get(f"{stub.url}/log", stream=True).content == b"the log"
    assert [headers.get("authorization") for _, headers in other.asked] == [None]
    assert [headers.get("authorization") for _, headers in stub.asked] == [f"Bearer {TOKEN}"] * 2
    stub.routes["/log"] = Reply(b"", 302, {"Location": "http://git.example.invalid/log"})
    with pytest.raises(ServerRefused, match="leads to another server"):
        session.get(f"{stub.url}/log", stream=True)


# -- answers without an end -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_large_answer_is_given_up_after_it_was_unpacked_so_far(stub: Stub) -> None:
    bomb = gzip.compress(json.dumps({"name": "x" * (64 << 20)}).encode())
    stub.routes[f"{AT}/jobs/12"] = Reply(bomb, headers={"Content-Encoding": "gzip"})
    address = address_of(f"{stub.url}/group/project/-/jobs/12")
    with pytest.raises(ServerUnavailable, match="more than 32 MiB"):
        server_of(address, TOKEN).job(address)


def test_a_list_without_an_end_is_given_up(stub: Stub) -> None:
    door = Door(stub.url, most=20)
    stub.routes["/list"] = lambda query: Reply(
        [], headers={"Link": f'<{stub.url}/list?page={query["page"]}>; rel="next"'}
    )
    session, url = session_of(door), f"{stub.url}/list?page=1"
    for _ in range(20):
        url = session.get(url).links["next"]["url"]
    with pytest.raises(ServerUnavailable, match="do not end"):
        session.get(url)
    assert len(stub.asked) == 20


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["in its head", "in its content"])
def test_a_server_that_sends_a_byte_now_and_then_is_given_up(head: bytes) -> None:
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def trickle() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(head)
                while not ended.wait(0.02):
                    try:
                        connection.sendall(b"H")
                    except OSError:
                        return

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        try:
            with pytest.raises((ServerUnavailable, OSError), match=r"too slowly|^$"):
                list(session_of(Door(url, patience_s=0.2)).get(f"{url}/log", stream=True).iter_content())
        finally:
            ended.set()
            thread.join(10)


def test_every_request_to_a_server_passes_the_door() -> None:
    """Whoever speaks HTTP by itself is named here: engines, clusters, registries, services of jobs; and the door."""
    own = r"^\s*(?:import|from) (?:urllib\.request|http\.client|(?:requests|urllib3|httpx|aiohttp)\b)"
    found = {
        str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if re.search(own, path.read_text(), re.MULTILINE)
    }
    assert found == {
        "commands/servers/web.py",
        "providers/docker/services/readiness.py",
        "providers/kubernetes/cluster/client.py",
        "providers/kubernetes/images/registry.py",
    }
