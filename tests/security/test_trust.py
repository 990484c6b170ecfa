"""What a workflow asks for beyond a plain container, and whose decision that is: the user's, kept outside of the repository."""

import json
import os
import pty
import stat
import subprocess
import sys
import typing
from pathlib import Path
from types import UnionType
from typing import Any

import msgspec
import pytest

from loom.commands.project.trust_store import Trust
from loom.config.pools import Pool
from loom.plan import late, model, permissions
from loom.plan.clone import Clone
from loom.plan.permissions import PermissionRequest, TrustContext
from loom.workflow.native.keywords import TABLES

from .conftest import PLAIN, Victim

pytestmark = pytest.mark.slow

GREEDY = """\
version: v1
stages: [test]
greedy:
  stage: test
  image: debian:trixie-slim
  privileged: true
  docker_socket: true
  network: {mode: host, extra_hosts: {registry.npmjs.org: 10.0.0.1}}
  resources: {devices: [/dev/kmsg], gpus: all}
  secrets:
    SHADOW: file:///etc/shadow
    SSH: file://~/.ssh/id_ed25519
    UP: file://../outside
    LINK: file://innocent.txt
    GIT: file://.git/config
    IGNORED: file://.env
    NESTED: file://nested/.env
    OWN: file://inside.txt
    TOKEN: env://NPM_TOKEN
    KEYRING: keyring://login/me
    VAULT: keepass://team#a/b
    OP: op://vault/item/field
  script: [echo hello]
"""
SUBJECTS = [
    "device /dev/kmsg",
    "gpus all",
    "network host",
    "host registry.npmjs.org=10.0.0.1",
    "privileged",
    "docker_socket",
    "file:///etc/shadow",
    "file://~/.ssh/id_ed25519",
    "file://../outside",
    "file://innocent.txt (resolves to /etc/passwd)",
    "file://.git/config",
    "file://.env",
    "file://nested/.env",
    "env://NPM_TOKEN",
    "keyring://login/me",
    "keepass://team#a/b",
    "op://vault/item/field",
]


@pytest.fixture
def greedy(victim: Victim) -> Victim:
    (victim.root / "innocent.txt").symlink_to("/etc/passwd")
    (victim.root / "inside.txt").write_text("not the user's own")
    (victim.root / ".gitignore").write_text(".env\n")
    (victim.root / ".env").write_text("the user's own")
    nested = Victim(root=victim.root / "nested", home=victim.home)
    subprocess.run(["git", "init", "-q", str(nested.root)], check=True)
    nested.write()
    (nested.root / ".env").write_text("the user's own")
    victim.write(workflow=GREEDY)
    return victim


def listed(victim: Victim) -> dict[str, bool]:
    document = json.loads(victim.loom("trust", "--json").stdout)
    return {request["subject"]: request["allowed"] for request in document["requests"]}


HARMLESS: dict[type, frozenset[str]] = {
    model.Job: frozenset(
        {
            *("id", "name", "stage", "steps", "provider", "image", "target", "shell", "variables", "needs", "when"),
            *("allow_failure", "retry", "timeout_s", "step_timeout_s", "resources", "network", "services", "artifacts"),
            *("cache", "secrets", "matrix", "pool", "sources", "rule", "hardened", "merge_output"),
            *(
                "shared_shell",
                "file_variables",
                "given_variables",
                "referring",
                "artifacts_above",
                "ends_at_timeout",
                "after_script_timeout_s",
                "artifacts_from",
                "delay_s",
                "resource_group",
                "trigger",
            ),
            *(
                "deploys",
                "no_checkout",
                "inputs",
                "clone",
                "open_files",
                "trace",
                "refused",
                "coverage",
                "late",
                "services_at_localhost",
            ),
        }
    ),
    # A part of what the checkout has.
    Clone: frozenset(Clone.__struct_fields__),
    # Texts of what the job has anyway.
    model.Referring: frozenset({"variables", "image", "services", "artifacts", "cache"}),
    # An action runs in the job's container; expressions give texts for it alone.
    model.Step: frozenset(model.Step.__struct_fields__),
    # What is evaluated later can't add to what the plan has: expressions give texts for the job's own container.
    late.LateJob: frozenset(late.LateJob.__struct_fields__),
    late.LateCaller: frozenset(late.LateCaller.__struct_fields__),
    late.LateNeed: frozenset(late.LateNeed.__struct_fields__),
    # An action runs in the job's container.
    late.Action: frozenset(late.Action.__struct_fields__),
    # The build context stays in the workspace: docker/build.py refuses one that leads out of it.
    # Pins name base images, as the Dockerfile itself may.
    model.Build: frozenset({"context", "dockerfile", "target", "args", "secrets", "pins"}),
    model.Image: frozenset({"name", "build", "pull", "pull_else", "entrypoint", "user", "platform"}),
    # The plan that a child pipeline becomes is asked about like any other.
    model.Trigger: frozenset({"files", "depend", "variables"}),
    model.ChildFile: frozenset({"path", "job", "inputs"}),
    model.Need: frozenset({"job", "optional", "artifacts"}),
    model.AllowFailure: frozenset({"always", "exit_codes"}),
    model.Retry: frozenset({"max", "when", "exit_codes", "backoff_s"}),
    model.Ulimit: frozenset({"name", "soft", "hard"}),
    model.Resources: frozenset(
        {"cpus", "processors", "memory", "pids", "shm_size", "ulimits", "tmpfs", "volumes", "read_only", "sources"}
    ),
    model.Network: frozenset({"hostname"}),
    model.Ready: frozenset({"tcp", "command", "http", "log", "interval_s", "timeout_s"}),
    model.Service: frozenset(
        {
            "name",
            "aliases",
            "image",
            "variables",
            "command",
            "entrypoint",
            "user",
            "ready",
            "secrets",
            "needed",
            "resources",
            "ports",
            "position",
        }
    ),
    model.Artifacts: frozenset(
        {"paths", "exclude", "exclude_alone", "untracked", "when", "name", "expire_in_s", "reports"}
    ),
    model.CacheKeyFiles: frozenset({"files", "prefix"}),
    model.Cache: frozenset({"paths", "key", "fallback_keys", "policy", "when", "name", "untracked", "by_key"}),
    model.Secret: frozenset({"name", "file", "required"}),
    # The user's own configuration, which the job's `runner_pool` names.
    Pool: frozenset(Pool.__struct_fields__),
}
"""Fields that give a job no more than a container of its own and the repository's files."""


def test_every_field_of_a_job_is_judged() -> None:
    """A new field of the plan is in `permissions.ASKS`, or deliberately in `HARMLESS`."""
    found: dict[type, frozenset[str]] = {}
    waiting: list[type] = [model.Job]
    while waiting:
        kind = waiting.pop()
        hints = typing.get_type_hints(kind)
        found[kind] = frozenset(hints)
        waiting += [inner for hint in hints.values() for inner in structs_in(hint) if inner not in found]
    judged = {
        kind: names | {name for asking, name in permissions.ASKS if asking is kind} for kind, names in HARMLESS.items()
    }
    assert judged == found
    for kind in found:
        for name, hint in typing.get_type_hints(kind).items():
            inside = structs_in(hint, within=(tuple, UnionType, typing.Union))
            assert inside == structs_in(hint), f"what {kind.__name__}.{name} asks for would not be found"


def structs_in(hint: Any, within: tuple[Any, ...] | None = None) -> list[type]:
    """The structs that a hint names, or those of them that stand within these kinds of hint alone."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return [hint]
    if within is not None and typing.get_origin(hint) not in within:
        return []
    return [inner for argument in typing.get_args(hint) for inner in structs_in(argument, within)]


def test_nothing_but_jobs_and_local_files_is_in_the_language() -> None:
    """What reaches no plan is read from the repository alone; a key that brings something from elsewhere has to be judged."""
    root, included = TABLES["root"], TABLES["included"]
    assert root["include"].keys() == included["include"].keys() == {"local"}
    assert root[""].keys() == {"version", "stages", "variables", "include", "workflow"}
    assert included[""].keys() == {"version", "variables", "include"}


def test_run_refuses_with_the_whole_list_and_reads_nothing(greedy: Victim) -> None:
    ran = greedy.loom("run", "--no-container", NPM_TOKEN="s3cr3t", DOCKER_HOST="unix:///nonexistent.sock")
    assert ran.returncode == 2
    assert "TRUST_REQUIRED" in ran.stderr
    for subject in SUBJECTS:
        assert f"job greedy asks for {subject}: " in ran.stderr, subject
    assert ".loom/workflow.yml:6:15: job greedy asks for privileged" in ran.stderr
    assert ".loom/workflow.yml:11:13: job greedy asks for file:///etc/shadow" in ran.stderr
    assert "`loom trust`" in ran.stderr
    assert "--trust" in ran.stderr
    assert "inside.txt" not in ran.stderr
    assert not (greedy.state / "runs").exists()


@pytest.mark.parametrize(
    "command", [["run", "--no-container"], ["rerun"], ["resume"], ["shell"], ["exec", "greedy", "--", "id"]]
)
def test_whatever_starts_a_job_asks(victim: Victim, command: list[str]) -> None:
    victim.write(workflow=PLAIN.replace("echo hello", "exit 1"))
    assert victim.loom("run", "--no-container").returncode == 1
    wanted = PLAIN.replace("script: [echo hello]", "secrets: {T: 'env://NPM_TOKEN'}, script: [exit 1]")
    victim.write(workflow=wanted.replace("hello", "greedy"))
    assert victim.loom("run", "--no-container", "--trust", NPM_TOKEN="s3cr3t").returncode == 1
    ran = victim.loom(*command, NPM_TOKEN="s3cr3t")
    assert ran.returncode == (125 if command[0] == "exec" else 2)
    if command[0] != "shell":  # that wants a terminal before anything else
        assert "TRUST_REQUIRED" in ran.stderr
        assert "env://NPM_TOKEN" in ran.stderr


def test_check_shows_it_and_ends_as_before(greedy: Victim) -> None:
    checked = greedy.loom("check", "--strict", "--format", "json")
    assert checked.returncode == 0, checked.stdout
    document = json.loads(checked.stdout)
    assert (document["errors"], document["warnings"]) == (0, 0)
    notices = [problem for problem in document["problems"] if problem["severity"] == "notice"]
    assert {notice["code"] for notice in notices} == {"TRUST_REQUIRED"}
    assert len(notices) == len(SUBJECTS)
    assert "::notice file=.loom/workflow.yml" in greedy.loom("check", "--format", "github").stdout


def test_what_is_allowed_runs_and_what_changes_later_is_asked_again_alone(victim: Victim) -> None:
    asking = PLAIN.replace("{", "{{").replace("}", "}}").replace("script:", "secrets: {{T: 'env://{0}'}}, script:")
    victim.write(workflow=asking.format("FIRST"))
    assert victim.loom("trust").returncode == 2  # it shows the list, and has nobody to ask
    assert listed(victim) == {"env://FIRST": False}
    assert victim.loom("trust", "--yes").returncode == 0
    assert victim.loom("run", "--no-container", FIRST="tokentoken").returncode == 0
    # The same request elsewhere in the file, and another step, are nothing new.
    victim.write(workflow="# moved\n\n" + asking.format("FIRST").replace("echo hello", "echo good bye"))
    assert victim.loom("run", "--no-container", FIRST="tokentoken").returncode == 0
    victim.write(workflow=asking.format("FIRST").replace("FIRST'", "FIRST', U: 'env://SECOND'"))
    ran = victim.loom("run", "--no-container", FIRST="tokentoken", SECOND="tokentoken")
    assert ran.returncode == 2
    assert "env://SECOND" in ran.stderr
    assert "env://FIRST" not in ran.stderr
    # Another job gets nothing of what the first one was allowed.
    victim.write(workflow=asking.format("FIRST").replace("hello:", "stranger:"))
    assert "job stranger asks for env://FIRST" in victim.loom("run", "--no-container", FIRST="tokentoken").stderr
    assert victim.loom("trust", "--revoke").returncode == 0
    victim.write(workflow=asking.format("FIRST"))
    assert victim.loom("run", "--no-container", FIRST="tokentoken").returncode == 2


def test_a_link_that_is_pointed_elsewhere_later_is_asked_again(victim: Victim) -> None:
    (victim.home / "harmless").write_text("harmless")
    (victim.home / "private").write_text("private")
    (victim.root / "token").symlink_to(victim.home / "harmless")
    victim.write(workflow=PLAIN.replace("script:", "secrets: {T: 'file://token'}, script:"))
    assert victim.loom("trust", "--yes").returncode == 0
    assert victim.loom("run", "--no-container").returncode == 0
    (victim.root / "token").unlink()
    (victim.root / "token").symlink_to(victim.home / "private")
    victim.write()
    assert str(victim.home / "private") in victim.loom("run", "--no-container").stderr


@pytest.mark.parametrize("once", [{"flag": "--trust"}, {"variable": "1"}])
def test_once_for_ci(victim: Victim, once: dict[str, str]) -> None:
    victim.write(workflow=PLAIN.replace("script:", "secrets: {T: 'env://TOKEN'}, script:"))
    flags = [once["flag"]] if "flag" in once else []
    environ = {"LOOM_TRUST": once["variable"]} if "variable" in once else {}
    ran = victim.loom("run", "--no-container", *flags, TOKEN="tokentoken", **environ)
    assert ran.returncode == 0, ran.stderr
    assert listed(victim) == {"env://TOKEN": False}  # nothing was recorded
    again = victim.loom("run", "--no-container", TOKEN="tokentoken")  # with the plan that the first run has kept
    assert (again.returncode, "TRUST_REQUIRED" in again.stderr, ".loom/workflow.yml:" in again.stderr) == (
        2,
        True,
        True,
    )
    assert victim.loom("run", "--no-container", TOKEN="tokentoken", LOOM_TRUST="maybe").returncode == 2


def on_terminal(victim: Victim, answer: str, *arguments: str, **environ: str) -> tuple[int, str]:
    """`loom` with a person in front of it, who types `answer`."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(victim.root)
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(victim.home),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TMPDIR": str(victim.home / "tmp"),
            "TERM": "dumb",
            **environ,
        }
        os.execve(sys.executable, [sys.executable, "-m", "loom", *arguments], environ)
    os.write(terminal, answer.encode())
    shown = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        if not data:
            break
        shown += data
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown.decode(errors="replace")


def test_on_a_terminal_a_run_asks_once(victim: Victim) -> None:
    victim.write(workflow=PLAIN.replace("script:", "secrets: {T: 'env://TOKEN'}, script:"), config="grace: 3s\n")
    code, shown = on_terminal(victim, "n\n", "run", "--no-container", TOKEN="tokentoken")
    assert code == 2
    assert "env://TOKEN" in shown
    assert listed(victim) == {"env://TOKEN": False}
    code, shown = on_terminal(victim, "y\n", "run", "--no-container", TOKEN="tokentoken")
    assert code == 0, shown
    assert listed(victim) == {"env://TOKEN": True}
    code, shown = on_terminal(victim, "", "run", "--no-container", TOKEN="tokentoken")
    assert code == 0
    assert "env://TOKEN" not in shown


def test_decisions_are_the_users_alone(victim: Victim) -> None:
    victim.write(workflow=PLAIN.replace("script:", "secrets: {T: 'env://TOKEN'}, script:"))
    assert victim.loom("trust", "--yes").returncode == 0
    kept = victim.state / "trust.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    request = PermissionRequest(kind="secret", job="hello", subject="env://TOKEN", gives="")

    def holds() -> bool:
        return Trust(victim.state, victim.root, os.environ).allows(request)

    assert holds()
    kept.chmod(0o666)  # anybody could have written it
    assert not holds()
    kept.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(kept, 12345, 12345)  # and here somebody has
        assert not holds()
        os.chown(kept, 0, 0)
    for damage in (b"", b"[]", b"{", b'{"schema_version": 1}', b"\xff" * 10):
        whole = kept.read_bytes()
        kept.write_bytes(damage)
        assert not holds()
        kept.write_bytes(whole)
    kept.unlink()
    os.mkfifo(kept)
    assert not holds()


def test_nothing_in_the_repository_can_say_that_it_is_trusted(victim: Victim, tmp_path: Path) -> None:
    """The file of decisions, brought along: as the state directory, by git's configuration, as a copy in the repository."""
    victim.write(workflow=PLAIN.replace("script:", "secrets: {T: 'env://TOKEN'}, script:"))
    assert victim.loom("trust", "--yes").returncode == 0
    kept = victim.state / "trust.json"
    planted = victim.root / "planted"
    planted.mkdir(mode=0o700)
    (planted / kept.name).write_bytes(kept.read_bytes())
    (victim.root / ".loom" / kept.name).write_bytes(kept.read_bytes())
    kept.unlink()
    victim.write(config="state_dir: planted\n")
    ran = victim.loom("run", "--no-container", TOKEN="tokentoken")
    assert ran.returncode == 2
    assert "env://TOKEN" in ran.stderr


def test_another_checkout_and_another_origin_are_asked_for_themselves(victim: Victim, tmp_path: Path) -> None:
    victim.write(workflow=PLAIN.replace("script:", "secrets: {T: 'env://TOKEN'}, script:"))
    assert victim.loom("trust", "--yes").returncode == 0
    other = Victim(root=tmp_path / "other", home=victim.home)
    subprocess.run(["git", "clone", "-q", str(victim.root), str(other.root)], check=True)
    assert listed(other) == {"env://TOKEN": False}
    link = Victim(root=tmp_path / "link", home=victim.home)
    link.root.symlink_to(victim.root)
    assert listed(link) == {"env://TOKEN": True}  # the same checkout, by another name
    victim.git("remote", "set-url", "origin", "https://user:password@elsewhere.example/x.git")
    assert listed(victim) == {"env://TOKEN": False}
    assert "password@" not in victim.loom("trust", "--json").stdout


def test_a_workspace_has_the_trust_of_its_checkout_by_the_record_alone(victim: Victim, tmp_path: Path) -> None:
    victim.write(workflow=PLAIN.replace("script:", "secrets: {T: 'env://TOKEN'}, script:"))
    assert victim.loom("trust", "--yes").returncode == 0
    made = victim.loom("run", "--no-container", TOKEN="tokentoken")
    line = next(line for line in made.stdout.splitlines() if line.startswith("isolated workspace: "))
    workspace = Victim(root=Path(line.removeprefix("isolated workspace: ")), home=victim.home)
    assert listed(workspace) == {"env://TOKEN": True}
    victim.loom("run", "--no-container", "--mount-mode", "copy", TOKEN="tokentoken")
    jobs_own = Path(victim.loom("workspace", "last", "hello").stdout.strip())
    assert listed(Victim(root=jobs_own, home=victim.home)) == {"env://TOKEN": True}
    taken = json.loads(victim.loom("snapshot", "--json").stdout)
    assert listed(Victim(root=Path(taken["path"]), home=victim.home)) == {"env://TOKEN": True}
    # A copy of it under a workspace's name, as somebody hands one over: no record knows it.
    copy = Victim(root=tmp_path / workspace.root.name, home=victim.home)
    subprocess.run(["cp", "-a", str(workspace.root), str(copy.root)], check=True)
    assert listed(copy) == {"env://TOKEN": False}
    # A repository that a job put into the workspace does not belong to the checkout.
    inner = Victim(root=workspace.root / "cloned", home=victim.home)
    subprocess.run(["git", "clone", "-q", str(victim.root), str(inner.root)], check=True)
    assert listed(inner) == {"env://TOKEN": False}


def test_a_record_that_was_brought_along_has_no_trust(victim: Victim, tmp_path: Path) -> None:
    victim.write(workflow=PLAIN.replace("script: [echo hello]", "secrets: {T: 'env://TOKEN'}, script: [exit 1]"))
    assert victim.loom("trust", "--yes").returncode == 0
    victim.loom("run", "--no-container", TOKEN="tokentoken")
    (record,) = (victim.state / "runs").iterdir()
    copy = tmp_path / record.name
    subprocess.run(["cp", "-a", str(record), str(copy)], check=True)
    assert victim.loom("exec", record.name, "hello", "--", "true", TOKEN="tokentoken").returncode == 0
    ran = victim.loom("exec", str(copy), "hello", "--", "true", TOKEN="tokentoken")
    assert ran.returncode == 125
    assert "TRUST_REQUIRED" in ran.stderr


def test_a_plain_repository_never_meets_it(victim: Victim) -> None:
    """No question, no file, not even the module: `-X importtime` lists what a run imports."""
    ran = victim.loom("run", "--no-container", PYTHONPROFILEIMPORTTIME="1")
    assert ran.returncode == 0
    assert "loom.plan.permissions" in ran.stderr
    assert "loom.commands.project.trust_store" not in ran.stderr.replace("loom.trusting", "")
    assert not (victim.state / "trust.json").exists()
    assert "trust" not in victim.loom("check").stdout


def test_copies_of_a_matrix_ask_once_and_a_service_or_a_build_asks_for_its_job() -> None:
    secret = model.Secret(name="T", ref="env://TOKEN")
    jobs = [model.Job(id=f"t.{n}", name="t", stage="s", steps=(), provider="host", secrets=(secret,)) for n in range(3)]
    (request,) = permissions.requests_of(jobs, TrustContext(root=Path("/nowhere")))
    assert (request.job, request.subject) == ("t", "env://TOKEN")


def test_a_request_is_its_kind_its_job_and_its_subject() -> None:
    def identity(**changes: str) -> str:
        return PermissionRequest(
            **{"kind": "secret", "subject": "env://A", "gives": "x", "job": "j", "position": "p", **changes}
        ).id

    assert identity() == identity(position="q", gives="y")
    assert len({identity(), identity(kind="k"), identity(job="i"), identity(subject="env://B")}) == 4


def test_decisions_for_two_checkouts_at_the_same_time_are_both_kept(tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"]}
    roots = [tmp_path / name for name in ("one", "two")]
    for root in roots:
        root.mkdir()
    stores = [Trust(tmp_path / "state", roots[at], environ) for at in (0, 0, 1)]
    asked = [PermissionRequest(kind="secret", subject=f"env://{at}", gives="x", job="j") for at in range(3)]
    for store, request in zip(stores, asked, strict=True):
        store.allow([request])
    for root, held in zip(roots, ([True, True, False], [False, False, True]), strict=True):
        assert [Trust(tmp_path / "state", root, environ).allows(request) for request in asked] == held
    assert Trust(tmp_path / "state", roots[0], environ).revoke() == 2
    assert Trust(tmp_path / "state", roots[1], environ).allows(asked[2])


def test_trust_survives_what_it_did_not_write(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    root.mkdir()
    request = PermissionRequest(kind="secret", subject="env://A", gives="x", job="j")
    trust = Trust(tmp_path / "state", root, {"PATH": os.environ["PATH"]})
    trust.allow([request])
    assert Trust(tmp_path / "state", root, {"PATH": os.environ["PATH"]}).allows(request)
    trust.allow([PermissionRequest(kind="secret", subject="env://B", gives="x", job="j")])
    assert Trust(tmp_path / "state", root, {"PATH": os.environ["PATH"]}).allows(request)
    assert trust.revoke() == 2
    assert not Trust(tmp_path / "state", root, {"PATH": os.environ["PATH"]}).allows(request)


def test_secrets_of_services_and_of_builds_are_asked_for_like_a_jobs(victim: Victim) -> None:
    victim.write(
        workflow="version: v1\nstages: [test]\na:\n  stage: test\n  secrets: {NPM: env://NPM_TOKEN}\n"
        "  image: {build: {secrets: [NPM]}}\n  services:\n    - name: db\n      image: debian:trixie-slim\n"
        "      secrets: {PASSWORD: file://~/.pgpass}\n  script: [echo hello]\n"
    )
    assert listed(victim) == {"env://NPM_TOKEN": False, "file://~/.pgpass": False}
    ran = victim.loom("run", "--local", NPM_TOKEN="s3cr3t")
    assert ran.returncode == 2
    assert ".loom/workflow.yml:10:27: job a asks for file://~/.pgpass" in ran.stderr


def test_what_a_subfolder_holds_is_not_the_project_in_place_of_the_checkout(victim: Victim) -> None:
    victim.write(workflow=GREEDY)
    folder = victim.root / "sub"
    (folder / ".loom").mkdir(parents=True)
    (folder / ".loom/workflow.yml").write_text(PLAIN)
    asked = victim.loom("trust", "--json", cwd=folder)
    assert asked.stdout == victim.loom("trust", "--json").stdout
    assert "privileged" in asked.stdout
    assert victim.loom("check", cwd=folder).stdout == victim.loom("check").stdout


SWAPPED = """version: v1
stages: [build, test]
build: {{stage: build, script: ['{swap}']}}
test:
  stage: test
  secrets: {{CONF: 'file://{reference}'}}
  script: ['cat "$CONF" > ~/got']
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reference", "swap"),
    [
        ("conf", "rm {root}/conf; ln -s ~/id_rsa {root}/conf"),
        ("folder/id_rsa", "rm -r {root}/folder; ln -s ~ {root}/folder"),
        ("~/allowed", "rm ~/allowed; ln -s ~/id_rsa ~/allowed"),
    ],
)
def test_a_file_that_becomes_a_link_after_trust_was_given_is_not_read(
    victim: Victim, reference: str, swap: str
) -> None:
    victim.configure("container: false\n")
    (victim.home / "id_rsa").write_text("private key of the user")
    (victim.home / "allowed").write_text("what was allowed")
    (victim.root / "conf").write_text("a setting of the repository")
    (victim.root / "folder").mkdir()
    (victim.root / "folder/id_rsa").write_text("a setting of the repository")
    victim.write(workflow=SWAPPED.format(reference=reference, swap="true"))
    if reference.startswith("~"):
        victim.loom("trust", "--yes")
    assert victim.loom("run").returncode == 0
    assert (victim.home / "got").read_text().startswith(("a setting", "what was allowed"))
    (victim.home / "got").unlink()
    victim.write(workflow=SWAPPED.format(reference=reference, swap=swap.format(root=victim.root)))
    done = victim.loom("run")
    assert done.returncode == 3, done
    assert "when this run was allowed to read it, and leads to" in done.stdout + done.stderr
    assert not (victim.home / "got").exists()
