"""The credential of an address reaches the server that it is for, and nothing that somebody reads."""

import base64
import json
import pickle
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest

from loom.addresses import Address, hide_credentials
from loom.errors import LoomError

from .conftest import Victim

LOOM = Path(__file__).parents[2] / "loom"
TOKEN = "glpat-Zm9yLXRlc3Rz"
FORMS = (
    f"https://{TOKEN}@host/group/project.git",
    f"https://oauth2:{TOKEN}@host/group/project.git",
    f"https://x-access-token:{TOKEN}@host:8443/p",
    f"http://user:{TOKEN}@proxy:3128",
    f"https://us@er:p@{TOKEN}@host/p",
    f"https://user:a/{TOKEN}@host/p",
    f"ssh://git:{TOKEN}@host/p",
    f"https://host/file.yml?ref=main&private_token={TOKEN}",
    f"https://host/file?X-Amz-Signature={TOKEN}#access_token={TOKEN}",
    f"s3://key:{TOKEN}@bucket/prefix",
    f"tcp://admin:{TOKEN}@engine:2376",
)


@pytest.mark.parametrize("url", FORMS)
def test_no_form_of_an_address_shows_its_credential(url: str) -> None:
    class Document(msgspec.Struct):
        address: Address

    address = Address(url)
    shown = [
        str(address),
        repr(address),
        f"{address}",
        f"{address:>200}",
        f"{address!s} {address!r}",
        str([address]),
    ]
    shown += [repr(Document(address)), hide_credentials(f"fatal: unable to access '{url}': 403 ({url})")]
    shown.append(str(LoomError(f"{url}: refused", hint=f"see {url}")))
    assert not [text for text in shown if TOKEN in text]
    for write in (msgspec.json.encode, json.dumps, pickle.dumps):
        with pytest.raises(TypeError):
            write({"address": address})
    with pytest.raises(pydantic.PydanticSchemaGenerationError):
        type("Model", (pydantic.BaseModel,), {"__annotations__": {"address": Address}})
    assert address.revealed() == url


@pytest.mark.parametrize(
    "text",
    [
        "https://host/@scope/package",
        "http://host:8080/@scope/package",
        "ssh://git@host/group/project.git",
        "git@host:group/project.git",
        "https://host/p?ref=main",
        "see https://host, and mail me@host",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert hide_credentials(text) == text


def test_the_whole_address_is_asked_for_in_one_module() -> None:
    callers = {str(path.relative_to(LOOM)) for path in LOOM.rglob("*.py") if ".revealed()" in path.read_text()}
    assert callers == {"commands/plan/gitlab_sources.py"}


class GitServer(ThreadingHTTPServer):
    """Wants a password, and notes it and the command lines of this machine when it gets one."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[str] = []
        self.lines: list[bytes] = []


class _Handler(BaseHTTPRequestHandler):
    server: GitServer

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        self.send_response(403 if given else 401)
        if given:
            self.server.got.append(base64.b64decode(given.partition(" ")[2]).decode())
            self.server.lines += map(_content_of, Path("/proc").glob("[0-9]*/cmdline"))
        else:
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _content_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process has ended
        return b""


@pytest.fixture
def server() -> Iterator[GitServer]:
    with GitServer() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.mark.slow
def test_a_failed_include_gives_the_server_its_password_and_shows_it_nowhere(victim: Victim, server: GitServer) -> None:
    (victim.root / ".loom/workflow.yml").unlink()
    ci = "include: [{project: group/other, file: a.yml}]\njob: {script: echo}\n"
    (victim.root / ".gitlab-ci.yml").write_text(ci)
    victim.git("remote", "set-url", "origin", f"http://robot:{TOKEN}@127.0.0.1:{server.server_port}/group/project.git")
    victim.git("add", "-A")
    victim.git("commit", "-q", "-m", "a change")
    for command in ("check", "check --json", "trust --yes", "compile", "run"):
        done = victim.loom(*command.split())
        said = done.stdout + done.stderr
        assert f"http://127.0.0.1:{server.server_port}/group/other.git" in said, command
        assert TOKEN not in said, command
        assert "robot" not in said
    assert set(server.got) == {f"robot:{TOKEN}"}
    assert not [line for line in server.lines if TOKEN.encode() in line]
    assert _files_with(victim.home, TOKEN) == []


@pytest.mark.slow
@pytest.mark.parametrize("user", [TOKEN, f"oauth2:{TOKEN}"])
def test_a_token_in_origins_address_reaches_no_job_and_no_record(victim: Victim, user: str) -> None:
    victim.configure("container: false\n")
    victim.write(
        workflow="version: v1\nstages: [test]\n"
        "hello: {stage: test, script: ['echo url=$CI_REPOSITORY_URL', git remote -v, cat .git/config, env]}\n"
    )
    victim.git("remote", "set-url", "origin", f"https://{user}@git.example.invalid/group/project.git")
    victim.git("config", "submodule.s.url", f"https://{user}@git.example.invalid/group/s.git")
    for command in ("run --keep always", "run --dry-run --json", "compile", "check --json", "trust --json"):
        done = victim.loom(*command.split())
        assert done.returncode == 0, done
        assert TOKEN not in done.stdout + done.stderr, command
    assert _files_with(victim.home, "url=https://git.example.invalid/group/project.git")
    assert _files_with(victim.home, TOKEN) == []


def _files_with(folder: Path, text: str) -> list[Path]:
    wanted = re.compile(re.escape(text).encode())
    return [path for path in folder.rglob("*") if path.is_file() and wanted.search(path.read_bytes())]
