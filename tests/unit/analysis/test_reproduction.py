"""The command that reproduces: every option and setting of `loom run` is in it, or is left out on purpose."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from loom import config
from loom.analysis.reproduction import WITH_OPTION, reproduce_command
from loom.cli.app import app_for
from loom.commands.plan.plan_run import repeatable
from loom.commands.project import Project
from loom.record.documents import plain
from loom.record.request import NOT_REPEATED, Request, setting_of
from loom.util import typed

COMMAND = typer.main.get_command(app_for(["run"])).commands["run"]  # type: ignore[attr-defined]
PARAMETERS = [parameter for parameter in COMMAND.params if parameter.name not in ("help", "names")]


def parsed(command: str) -> dict[str, Any]:
    words = shlex.split(command)
    assert words[:2] == ["loom", "run"]
    given: dict[str, Any] = COMMAND.make_context("run", words[2:]).params
    return {name: [*value] if isinstance(value, tuple) else value for name, value in given.items()}


def example(parameter: Any) -> list[Any]:
    """Values that differ from the default; both for a switch that has two sides."""
    if parameter.is_flag:
        return [True, False] if parameter.secondary_opts else [True]
    special = {"event": "tag", "jobs": 7, "repeat": 7, "event_file": "/-x=a b", "secret_file": "/-x=a b"}
    return [special.get(parameter.name, "-x=a b")]


def here(**flags: object) -> Project:
    settings = config.load(root=None, environ={}, flags=flags)
    return Project(environ={}, start=Path(), root=Path(), config=settings)


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda parameter: parameter.name)
def test_each_option_survives_or_is_left_out_on_purpose(parameter: Any) -> None:
    name = parameter.name
    for value in example(parameter):
        given = [value] if parameter.multiple else value
        again = parsed(reproduce_command(Request.of({} if name in ("local", "as_json") else {name: given}), None))
        if name in NOT_REPEATED:
            assert again == parsed("loom run")
        else:
            assert (str(again[name]) if name == "workflow" else again[name]) == given


def test_a_setting_without_an_option_is_repeated_as_a_variable() -> None:
    """As `loom mcp` gives it to the runs of an agent."""
    assert {parameter.name for parameter in PARAMETERS} & {*config.KEYS} == WITH_OPTION
    of_agent = Request.of({"names": ("a",), "container": True, "network": "none", "keep": "on-failure"})
    command = reproduce_command(of_agent, "a")
    assert command == "LOOM_NETWORK=none loom run --container a"


@pytest.mark.parametrize("name", [key for key in config.KEYS if key not in config.MAPPINGS])
def test_each_variable_survives_or_is_left_out_on_purpose(name: str) -> None:
    variable = f"LOOM_{name.upper()}"
    assert setting_of(variable) == name
    command = reproduce_command(Request(environment={variable: "a b"}), None)
    assert command == ("loom run" if name in NOT_REPEATED else f"{variable}='a b' loom run")


def test_what_is_left_out_exists() -> None:
    assert {*config.KEYS, *(parameter.name for parameter in COMMAND.params)} > NOT_REPEATED


def test_options_are_saved_as_they_were_given() -> None:
    given = {
        "container": False,
        "var": ["A=1"],
        "workflow": Path("x.yml"),
        "quiet": False,
        "event": "tag",
        "names": ["a"],
    }
    saved = repeatable(Request.of(given), here())
    assert plain(saved) == {
        "var": ("A=1",),
        "workflow": "x.yml",
        "event": "tag",
        "names": ("a",),
        "flags": {"container": False},
    }
    assert typed.convert(plain(saved), Request) == saved


def test_settings_of_the_environment_are_saved() -> None:
    settings = config.load(
        root=None,
        environ={"LOOM_NETWORK": "none", "LOOM_GRACE": "2m", "NO_COLOR": "1", "LOOM_JOBS": "3"},
        flags={"jobs": 2},
    )
    saved = repeatable(Request.of({"jobs": 2}), Project(environ={}, start=Path(), root=Path(), config=settings))
    assert saved == Request(flags={"jobs": 2}, environment={"LOOM_NETWORK": "none", "LOOM_GRACE": "2m"})
    assert saved.repeated.settings == {"jobs": 2, "network": "none", "grace": "2m"}


@pytest.mark.parametrize(
    ("options", "job", "words"),
    [
        ({"names": ["a", "b"], "stage": ["s"]}, "b", "b"),
        ({"names": ["a", "b"]}, None, "a b"),
        ({"names": ["a", "b"], "needs": True}, "b", "--needs b"),
        ({"names": ["a", "b"], "needs": False}, "b", "--no-needs a b"),
        ({"from_job": "a"}, "b", "--from a"),
        ({"no_cache": True, "names": ["b"]}, "b", "--no-cache b"),
        ({}, None, ""),
    ],
)
def test_the_selection(options: dict[str, Any], job: str | None, words: str) -> None:
    command = reproduce_command(Request.of(options), job)
    assert command == f"loom run {words}".strip()
