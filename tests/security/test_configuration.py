"""A stranger's `.loom/config.yml`: it names no place and no engine, and undoes nothing that the user forbids."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from loom import config
from loom.cli.app import MODULES
from loom.config import Config
from loom.config.settings import THE_USERS, Rule

from .conftest import Listener, Victim


def load(tmp_path: Path, project: str, user: str = "", environ: dict[str, str] | None = None) -> Config:
    root, home = tmp_path / "repo", tmp_path / "home"
    for path, text in ((root / ".loom/config.yml", project), (home / ".config/loom/config.yml", user)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    environ = {"HOME": str(home), **(environ or {})}
    return config.load(root=root, environ=environ, flags={})


REFUSED = {
    "on": "kubernetes:theirs",
    "bucket": "s3://theirs/caches",
    "engine": "tcp://10.0.0.1:2375",
    "state_dir": "state",
    "tmp_dir": "/var/tmp/theirs",
    "cache_dir": "ci-cache",
    "cache_max_size": "1k",
    "keep_max_size": "1k",
    "auto_clean": "false",
    "keepass": "{team: {path: ~/passwords.kdbx}}",
    "network": "host",
    "container": "false",
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_names_no_place_and_no_engine(tmp_path: Path, name: str) -> None:
    line = f"{name}: {REFUSED[name]}"
    stranger, plain = load(tmp_path, line), load(tmp_path, "")
    assert getattr(stranger, name) == getattr(plain, name)
    assert stranger.origins[name].layer == "built-in"
    (overruled,) = stranger.overruled
    assert (overruled.name, overruled.position) == (name, f".loom/config.yml:1:{len(name) + 3}")
    assert "a repository can't set it" in str(overruled)
    assert getattr(load(tmp_path, "", line), name) != getattr(plain, name)


LOOSER = [
    ("frozen", "true", "false"),
    ("network", "none", "bridge"),
    ("network", "none", "host"),
    ("network", "bridge", "host"),
    ("network", "none", "container:database"),
    ("pull", "never", "always"),
    ("mount_mode", "overlay", "bind_mount"),
    ("memory", "512m", "2g"),
    ("memory", "512m", "null"),
    ("cpus", "1.5", "64.0"),
    ("pids", "100", "null"),
    ("jobs", "2", "64"),
    ("job_timeout", "10m", "null"),
    ("step_timeout", "10m", "20m"),
    ("grace", "3s", "100h"),
    ("keep", "never", "always"),
    ("keep_for", "1h", "1000h"),
    ("container", "true", "false"),
]


@pytest.mark.parametrize(("name", "own", "theirs"), LOOSER)
def test_it_makes_nothing_looser_than_the_users_own_file(tmp_path: Path, name: str, own: str, theirs: str) -> None:
    found = load(tmp_path, f"{name}: {theirs}", f"{name}: {own}")
    assert found.text_of(name) == own
    assert found.origins[name].layer == "user"
    (overruled,) = found.overruled
    assert (overruled.name, overruled.text, overruled.position) == (name, theirs, f".loom/config.yml:1:{len(name) + 3}")


@pytest.mark.parametrize(("name", "theirs", "own"), [row for row in LOOSER if row[2] not in REFUSED.values()])
def test_it_may_make_it_stricter(tmp_path: Path, name: str, theirs: str, own: str) -> None:
    found = load(tmp_path, f"{name}: {theirs}", f"{name}: {own}")
    assert found.text_of(name) == theirs
    assert found.origins[name].layer == "project"
    assert found.overruled == ()


def test_the_users_own_variables_and_flags_win_and_then_nothing_is_asked(tmp_path: Path) -> None:
    found = load(tmp_path, "engine: tcp://10.0.0.1:1\nfrozen: false", "frozen: true", {"LOOM_ENGINE": "ssh://me@mine"})
    assert found.engine == "ssh://me@mine"
    found = load(tmp_path, "frozen: false", "frozen: true", {"LOOM_FROZEN": "0"})
    assert not found.frozen
    assert found.overruled == ()


def test_every_key_says_what_the_project_may_do_with_it() -> None:
    hints: dict[str, Any] = get_type_hints(Config)
    for item in fields(Config):
        if "internal" in item.metadata:
            continue
        rule: Rule = item.metadata["project"]
        assert isinstance(rule, Rule), item.name
        never = {*REFUSED, "deploy", "pools", "protected_branches", "reported", "gitlab", "github"} - {
            "network",
            "container",
        }
        assert (rule is THE_USERS) == (item.name in never), item.name
        if get_origin(hints[item.name]) is Literal:  # each of its values has its rank
            for value in get_args(hints[item.name]):
                rule.rank(value)


EVIL = """\
engine: {engine}
state_dir: planted/state
cache_dir: planted/cache
tmp_dir: planted/tmp
keepass: {{team: {{path: planted/vault.kdbx}}}}
"""

COMMANDS = [
    ["run", "--local", "--container"],
    ["run", "--no-container"],
    ["run", "--local", "--container", "hello"],
    ["run", "--local", "--dry-run"],
    ["check"],
    ["compile"],
    ["runs"],
    ["show"],
    ["logs"],
    ["diagnose"],
    ["doctor"],
    ["clean", "--all", "--dry-run"],
    ["cache", "ls"],
    ["config", "show"],
    ["watch"],
    ["mcp"],
    ["snapshot"],
    ["verify"],
    ["shell"],
    ["exec", "hello", "--", "true"],
    ["resume"],
    ["attach"],
    ["rerun"],
    ["rerun", "--fresh"],
    ["pull"],
    ["trust"],
    ["images", "lock"],
    ["images", "pull"],
    ["artifacts"],
    ["workspace"],
    ["diff", "last", "last"],
    ["bisect", "hello", "HEAD"],
    ["bundle", "--output", "/dev/null"],
    ["replay", "loom.bundle"],
    ["reproduce", "http://127.0.0.1:9/group/project/-/jobs/1"],
    ["report"],
    ["schema"],
    ["version"],
    ["init"],
    ["jobs"],
    ["gate"],
    ["gate", "--dry-run"],
    ["gate", "install"],
    ["gate", "uninstall"],
    ["gate", "pre-push"],
    ["attest"],
    ["attest", "verify", "--signers", "README"],
    ["gate", "ci", "gitlab"],
    ["signoff"],
]


def test_every_command_is_among_those_that_are_tried() -> None:
    assert {command[0] for command in COMMANDS} == {name for names in MODULES.values() for name in names}


@pytest.mark.slow
def test_no_command_contacts_the_engine_of_a_fresh_clone_or_uses_its_places(victim: Victim, listener: Listener) -> None:
    victim.write(config=EVIL.format(engine=listener.address))
    nowhere = "unix:///nonexistent/docker.sock"  # the user's own engine, so that no command finds another
    for command in COMMANDS:
        if command == ["watch"]:
            continue  # it waits for changes; what it prepares is `run`'s
        ran = victim.loom(*command, DOCKER_HOST=nowhere)
        assert ran.returncode in (0, 1, 2, 3, 125), (command, ran.stdout, ran.stderr)
    assert listener.connections == []
    assert not (victim.root / "planted").exists()
    # And it is the engine, not the address, that was refused: the user's own is contacted.
    victim.loom("run", "--local", "--container", LOOM_ENGINE=listener.address)
    assert listener.connections != []


def test_config_show_tells_what_does_not_count_and_why(victim: Victim) -> None:
    victim.configure("frozen: true\n")
    victim.write(config="frozen: false\nengine: tcp://10.0.0.1:1\n")
    shown = victim.loom("config", "show").stdout
    assert "frozen: true\n" in shown
    assert "# .loom/config.yml:1:9: `frozen: false` is ignored: your own configuration is stricter" in shown
    assert "# .loom/config.yml:2:9: `engine: tcp://10.0.0.1:1` is ignored: a repository can't set it" in shown
    nowhere = "unix:///nonexistent/docker.sock"
    assert "setting engine: .loom/config.yml:2:9: " in victim.loom("doctor", DOCKER_HOST=nowhere).stdout
    assert "`engine: tcp://10.0.0.1:1` is ignored" in victim.loom("images", "pull", DOCKER_HOST=nowhere).stderr
    document = json.loads(victim.loom("config", "show", "--format", "json").stdout)["settings"]
    assert document["frozen"]["value"] == "true"
    assert document["frozen"]["not_counted"].startswith(".loom/config.yml:1:9: `frozen: false` is ignored")


def test_a_run_says_once_what_is_overruled(victim: Victim) -> None:
    victim.configure("grace: 1s\n")
    victim.write(config="grace: 100h\n")
    ran = victim.loom("run", "--no-container")
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count(".loom/config.yml:1:8: `grace: 100h` is ignored") == 1


@pytest.mark.parametrize("name", ["workflow.yml", "config.yml", "images.lock"])
@pytest.mark.parametrize("command", [["check"], ["run", "--no-container"], ["compile"], ["trust"]])
def test_a_link_to_a_file_of_the_users_shows_none_of_its_lines(victim: Victim, name: str, command: list[str]) -> None:
    """On a CI machine that checks what strangers push, error messages would publish it."""
    (victim.home / "credentials").write_text("aws_secret_access_key = wJalrXUtnFEMI\n")
    (victim.root / ".loom" / name).unlink(missing_ok=True)
    (victim.root / ".loom" / name).symlink_to(victim.home / "credentials")
    victim.write()
    ran = victim.loom(*command)
    assert "wJalrXUtnFEMI" not in ran.stdout + ran.stderr
    if name != "images.lock" or command[0] == "run":
        assert ran.returncode == 2
        assert f"outside the repository, to {victim.home}/credentials" in ran.stderr
