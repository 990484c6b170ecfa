"""Actions of other repositories come by git from the configured server, and are kept by their commits."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from msgspec.structs import replace

from loom import config
from loom.commands.keep.trust import everything_asked
from loom.commands.plan.github_sources import LOCK_PATH, ActionRepositories, load_lock, lock_actions
from loom.commands.project import Project
from loom.errors import RequestError
from loom.plan.github import actions
from loom.plan.model import Job, Plan, ResolveContext, Step
from loom.workflow.sources import NotFetched
from tests.support.loom_process import run_loom
from tests.support.repository import git

pytestmark = pytest.mark.slow


def commit(repository: Path, **files: str) -> str:
    for name, content in files.items():
        path = repository / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "change")
    return git(repository, "rev-parse", "HEAD")


@pytest.fixture
def action(tmp_path: Path) -> Path:
    """The repository `o/a` of a server, with the tag v1."""
    place = tmp_path / "server/o/a"
    place.mkdir(parents=True)
    git(place, "init", "-qb", "main")
    (place / "action.yml").write_text(
        "runs: {using: node24, main: index.js, post: post.js}\ninputs: {x: {default: 1}}\n"
    )
    commit(place, index__js="1", sub__action="", docker__Dockerfile="FROM x\n")
    git(place, "tag", "v1")
    return place


@pytest.fixture
def here(tmp_path: Path, action: Path) -> Project:
    root = tmp_path / "project"
    root.mkdir()
    git(root, "init", "-q")
    own = tmp_path / "config"
    (own / "loom").mkdir(parents=True)
    server = f"file://{tmp_path}/server"
    (own / "loom/config.yml").write_text(
        json.dumps({"github": {"server": server}, "cache_dir": str(tmp_path / "cache")})
    )
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(own)}
    return Project(root=root, environ=environ, start=root, config=config.load(root=root, environ=environ, flags={}))


def with_settings(here: Project, **settings: object) -> Project:
    return replace(here, config=dataclasses.replace(here.config, **settings))  # type: ignore[arg-type]


def context_of(here: Project) -> ResolveContext:
    return ResolveContext(config=here.config, repositories=lambda: ActionRepositories(here))


def test_an_action_is_read_at_its_ref(here: Project, action: Path) -> None:
    found = actions.read("o/a@v1", here.root, context_of(here))
    one = found.action
    assert (one.repository, one.ref, one.using, found.main, found.post) == (
        "o/a",
        "v1",
        "node24",
        "index.js",
        "post.js",
    )
    assert one.commit == git(action, "rev-parse", "v1")
    assert (Path(one.directory) / "index/js").read_text() == "1"
    assert found.inputs == {"x": "1"}
    assert actions.read("o/a/docker@v1", here.root, context_of(here)).action.image == "Dockerfile"


def test_a_commit_is_a_ref(here: Project, action: Path) -> None:
    sha = git(action, "rev-parse", "HEAD")
    assert ActionRepositories(here).at("o/a", sha).commit == sha
    commit(action, other="2")
    action.rename(action.with_name("gone"))
    assert ActionRepositories(here).at("o/a", sha).commit == sha, "without the server"


def test_a_ref_counts_for_a_day_unless_pull_is_always(here: Project, action: Path) -> None:
    before = ActionRepositories(here).at("o/a", "main").commit
    after = commit(action, other="2")
    assert ActionRepositories(here).at("o/a", "main").commit == before
    assert ActionRepositories(with_settings(here, pull="always")).at("o/a", "main").commit == after
    newest = commit(action, other="3")
    for file in here.config.cache_dir.glob("actions-*/*/refs/loom/*"):
        os.utime(file, (0, 0))
    assert ActionRepositories(with_settings(here, pull="never")).at("o/a", "main").commit == after
    assert ActionRepositories(here).at("o/a", "main").commit == newest


def test_without_the_server_it_is_what_it_was(here: Project, action: Path) -> None:
    before = ActionRepositories(here).at("o/a", "v1").commit
    action.rename(action.with_name("gone"))
    assert ActionRepositories(with_settings(here, pull="always")).at("o/a", "v1").commit == before


def test_pull_never_fetches_nothing(here: Project) -> None:
    with pytest.raises(NotFetched, match="`pull` is never"):
        ActionRepositories(with_settings(here, pull="never")).at("o/a", "v1")


@pytest.mark.parametrize(
    "uses",
    ["o/none@v1", "o/a@none", "o/a/no@v1", "o@v1", "o/a", "../a@v1", "o/..@v1", "-o/a@v1", "o/a@--upload-pack=x"],
)
def test_what_is_not_there_is_refused_with_its_name(here: Project, uses: str) -> None:
    with pytest.raises(actions.BadAction, match=uses.split("@")[0].replace(".", r"\.")) as caught:
        actions.read(uses, here.root, context_of(here))
    assert "access rights" not in str(caught.value), "git's last line of several"


def test_nothing_is_fetched_to_check_a_file(here: Project) -> None:
    assert actions.read("o/none@v1", here.root, ResolveContext(config=here.config)).action.using == "composite"


def plan_of(*uses: str) -> Plan:
    steps = []
    for number, one in enumerate(uses, start=1):
        name, _, ref = one.partition("@")
        action = actions.Action(uses=one, repository=name, ref=ref)
        steps.append(Step(phase="script", number=number, script=one, kind="node", action=action))
    job = Job(id="a", name="a", stage="s", steps=tuple(steps), provider="docker")
    return Plan(workflow_path="x", stages=("s",), jobs=(job,))


def test_the_lock_says_what_a_ref_is(here: Project, action: Path) -> None:
    first = git(action, "rev-parse", "main")
    assert lock_actions(here, plan_of("o/a@main")) == (f"o/a@main: new -> {first}",)
    second = commit(action, other="2")
    always = with_settings(here, pull="always")
    assert ActionRepositories(always).at("o/a", "main").commit == first
    frozen = with_settings(here, frozen=True)
    assert ActionRepositories(frozen).at("o/a", "main").commit == first
    with pytest.raises(NotFetched, match=r"not in \.loom/actions\.lock"):
        ActionRepositories(frozen).at("o/a", "v1")
    assert lock_actions(here, plan_of("o/a@main")) == (f"o/a@main: {first} -> {second}",)
    assert lock_actions(here, plan_of()) == (f"o/a@main: {second} -> gone",)
    assert lock_actions(here, plan_of()) == ()
    with pytest.raises(RequestError, match="is not written"):
        lock_actions(here, plan_of("o/none@v1"))


def test_a_damaged_lock_is_an_error_with_its_path(here: Project) -> None:
    path = here.root / LOCK_PATH
    path.parent.mkdir()
    for content in ("{", "[]", '{"actions": {"a": 1}}', '{"other": 1}'):
        path.write_text(content)
        with pytest.raises(RequestError, match=r"actions\.lock"):
            load_lock(here.root)


def test_a_link_out_of_an_action_is_not_read(here: Project, action: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.yml").write_text("runs: {using: node24, main: x}\n")
    (action / "action.yml").unlink()
    (action / "action.yml").symlink_to(tmp_path / "secret.yml")
    commit(action)
    with pytest.raises((actions.BadAction, RequestError)):
        actions.read("o/a@main", here.root, context_of(here))


def test_no_credential_of_the_users_is_sent(here: Project, tmp_path: Path) -> None:
    """A job can read what was fetched, and so what only its user may would be anybody's."""
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers.get("Authorization", "") + self.headers.get("X-Own", ""))
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        (tmp_path / ".gitconfig").write_text(
            f'[credential]\n\thelper = "!f() {{ echo username=me; echo password=secret; }}; f"\n[http "{url}"]\n\textraHeader = "X-Own: secret"\n'
        )
        github = replace(here.config.github, server=url)
        with pytest.raises(NotFetched, match="127"):
            ActionRepositories(with_settings(here, github=github)).at("o/a", "v1")
        server.shutdown()
    assert asked
    assert set(asked) == {""}


def test_several_looms_fetch_at_once(here: Project, action: Path) -> None:
    commits = {ref: commit(action, other=ref) for ref in ("one", "two")}
    for ref, sha in commits.items():
        git(action, "tag", "-a", "-m", "annotated", ref, sha)
    found: list[tuple[str, str]] = []

    def fetch(ref: str) -> None:
        found.append((ref, ActionRepositories(here).at("o/a", ref).commit))

    threads = [Thread(target=fetch, args=(ref,)) for ref in (*commits, *commits, *commits)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted([*commits.items()] * 3)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("runs: {using: node24}", "no `runs.main`"),
        ("runs: {using: node10, main: x}", "node10"),
        ("runs: {}", "missing"),
        ("name: x", "no `runs`"),
        ("runs: [", "not valid YAML"),
        ("- a", "no `runs`"),
    ],
)
def test_an_action_file_that_says_too_little(here: Project, action: Path, content: str, why: str) -> None:
    (action / "action.yml").write_text(content)
    commit(action)
    with pytest.raises(actions.BadAction, match=re.escape(why)):
        actions.read("o/a@main", here.root, context_of(here))


def test_a_server_that_does_not_answer_is_asked_once(here: Project) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        repositories = ActionRepositories(with_settings(here, github=replace(here.config.github, server=url)))
        said = []
        for name in ("o/a", "o/b"):
            with pytest.raises(NotFetched) as refused:
                repositories.at(name, "v1")
            said.append(str(refused.value))
    assert said[0] == said[1]
    assert said[0].startswith(f"{url} can't be reached: ")
    assert "`github: {server: URL}`" in said[0]


def test_another_server_and_a_name_that_looks_alike_are_others(here: Project, tmp_path: Path) -> None:
    def of(place: str, text: str) -> str:
        repository = tmp_path / place
        repository.mkdir(parents=True)
        git(repository, "init", "-qb", "main")
        return commit(repository, which=text)

    own = {name: of(f"server/{name}", name) for name in ("a_b/c", "a/b_c", "a/b", "a/b.git")}
    mirrored = of("mirror/a/b", "of the mirror")
    repositories = ActionRepositories(here)
    assert {name: repositories.at(name, "main").commit for name in own} == own
    assert {name: (repositories.at(name, "main").directory / "which").read_text() for name in own} == {
        n: n for n in own
    }
    mirror = replace(here.config.github, server=f"file://{tmp_path}/mirror")
    assert ActionRepositories(with_settings(here, github=mirror)).at("a/b", "main").commit == mirrored


def test_trust_knows_what_actions_and_called_workflows_of_other_repositories_ask_for(
    here: Project, action: Path
) -> None:
    called = "on: workflow_call\njobs: {in: {runs-on: ubuntu-latest, steps: [{run: 'echo ${{ github.token }}'}]}}\n"
    (action / "action.yml").write_text(
        "inputs: {t: {default: '${{ github.token }}'}}\nruns: {using: node24, main: x}\n"
    )
    commit(action, **{".github__workflows__w.yml": called})
    (here.root / ".github/workflows").mkdir(parents=True)
    (here.root / ".github/workflows/ci.yml").write_text(
        "on: push\njobs:\n  a: {runs-on: ubuntu-latest, steps: [{uses: o/a@main}]}\n"
        "  b: {uses: o/a/.github/workflows/w.yml@main}\n  c: {runs-on: ubuntu-latest, steps: [{run: echo}]}\n"
    )
    github = replace(here.config.github, secrets={"GITHUB_TOKEN": "env://MINE"})
    asked = everything_asked(with_settings(here, github=github), None)
    assert [(one.job, one.subject) for one in asked] == [("a", "env://MINE"), ("b / in", "env://MINE")]


@pytest.mark.parametrize("with_certificate", [False, True])
def test_a_server_that_cant_be_reached_ends_a_run_before_the_first_job(
    tmp_path: Path, *, with_certificate: bool
) -> None:
    """With exit code 3 and the one line that mends it; a check goes on."""
    if with_certificate and shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if with_certificate:
            words = f"-keyout {tmp_path}/key -out {tmp_path}/certificate -subj /CN=localhost -days 1"
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *words.split()],
                check=True,
                capture_output=True,
            )
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
            secured = context.wrap_socket(server, server_side=True)

            def answer() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        with contextlib.suppress(ssl.SSLError):
                            secured.accept()[0].close()

            Thread(target=answer, daemon=True).start()
        else:
            server.close()
        config_file = tmp_path / ".config/loom/config.yml"
        config_file.parent.mkdir(parents=True)
        config_file.write_text(f"github: {{server: 'https://127.0.0.1:{port}'}}")
        root = tmp_path / "project"
        root.mkdir()
        git(root, "init", "-q")
        job = "runs-on: ubuntu-latest, container: debian:trixie-slim"
        workflow = f"on: push\njobs: {{a: {{{job}, steps: [{{run: x}}]}}, b: {{{job}, steps: [{{uses: o/a@v1}}]}}}}\n"
        commit(root, **{".github__workflows__ci.yml": workflow})
        environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DOCKER_HOST": "unix:///nonexistent"}
        own = f"http.https://127.0.0.1:{port}/.sslCAInfo"
        for command, advice in ((("run",), "http.proxy"), (("run", "b"), "the proxy in `https_proxy`")):
            proxy = {"https_proxy": f"http://127.0.0.1:{port}"} if "b" in command and not with_certificate else {}
            done = run_loom(command, cwd=root, environ={**environ, **proxy})
            assert done.returncode == 3, done.stderr
            assert "ci.yml:2:" in done.stderr
            assert (own if with_certificate else advice) in done.stderr
            assert "2 things are missing" in done.stderr
            assert "no Docker engine answers" in done.stderr
            dry = run_loom((*command, "--dry-run"), cwd=root, environ={**environ, **proxy})
            assert (dry.returncode, "ci.yml:2:" in dry.stderr, "no Docker engine" in dry.stderr) == (3, True, False)
        if with_certificate:
            secured.close()
    assert run_loom(("check",), cwd=root, environ=environ).returncode == 0
