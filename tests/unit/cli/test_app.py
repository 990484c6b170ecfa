"""The command tree: as much of it as the command line needs."""

import importlib
import inspect
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import get_args

import pytest
import typer.main

import loom.cli
from loom.cli.app import MODULES, app_for
from loom.cli.command import done_by, option


def commands_of(app: typer.Typer, path: str = "") -> Iterator[tuple[str, Callable[..., None]]]:
    for info in app.registered_commands:
        assert info.callback is not None
        yield f"{path}{info.name}", info.callback
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from commands_of(group.typer_instance, f"{path}{group.name} ")


SIGNATURES = dict(commands_of(app_for([])))


def test_no_module_of_commands_is_left_out() -> None:
    names = {module.name for module in pkgutil.iter_modules(loom.cli.__path__)}
    assert names - set(MODULES) == {"boundary", "command", "familiar", "help", "options"}


@pytest.mark.parametrize("name", [name for name, signature in SIGNATURES.items() if hasattr(signature, "module")])
def test_a_signature_and_the_function_that_does_the_work_have_the_same_parameters(name: str) -> None:
    signature = SIGNATURES[name]
    function = getattr(importlib.import_module(f"loom.commands.{signature.module}"), signature.__name__)  # type: ignore[attr-defined]
    given = set(inspect.signature(signature).parameters)
    given -= {"as_json"} if "form" in given else set()
    given = {"command" if parameter == "context" else parameter for parameter in given}
    takes = inspect.signature(function).parameters
    named = {each.name for each in takes.values() if each.kind is not each.VAR_KEYWORD}
    assert named == (given if len(named) == len(takes) else given & named)


def test_all_commands_but_these_are_signatures_alone() -> None:
    assert {name for name, one in SIGNATURES.items() if not hasattr(one, "module")} == {"version"}


def test_json_is_asked_for_in_one_way() -> None:
    """`--json` as `as_json`; `--format` as `form`, with `--json` beside it where JSON is one of the forms."""
    for name, signature in SIGNATURES.items():
        parameters = inspect.signature(signature, eval_str=True).parameters
        options = {
            option: parameter
            for parameter, declared in parameters.items()
            for option in getattr(declared.default, "param_decls", None) or ()
        }
        assert options.get("--json", "as_json") == "as_json", name
        if "--format" in options:
            assert options["--format"] == "form", name
            forms = parameters["form"].annotation
            assert ("json" in (get_args(forms) or list(forms))) == ("--json" in options), name


def test_a_command_may_have_forms_without_json(monkeypatch: pytest.MonkeyPatch) -> None:
    @done_by("record.report")
    def report(form: str = option("--format", "Output format.", default="html")) -> None:
        pass

    monkeypatch.setattr("loom.commands.record.report.report", lambda form: {"html": 0, "markdown": 5}[form])
    with pytest.raises(SystemExit) as ended:
        report(form="markdown")
    assert ended.value.code == 5


@pytest.mark.slow
def test_one_command_is_described_when_one_is_given_and_all_when_none_is() -> None:
    assert set(typer.main.get_group(app_for(["run", "--local"])).commands) == {"run"}
    everything = {command for commands in MODULES.values() for command in commands}
    for arguments in ([], ["--help"], ["rnu"]):
        assert set(typer.main.get_group(app_for(arguments)).commands) == everything


@pytest.mark.slow
def test_help_explains_each_argument() -> None:
    done = subprocess.run([sys.executable, "-m", "loom", "logs", "--help"], capture_output=True, text=True, check=True)
    explained = done.stdout.partition("Arguments:\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in explained.splitlines() if line[2] != " "] == ["RUN", "JOB", "STEP"]


def test_the_exit_code_and_all_output_get_out() -> None:
    code = (
        "import sys; sys.argv = ['loom', 'version', '--nonsense']; print('x' * 100_000);"
        "from loom.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stdout) == 100_001
    assert "--nonsense" in done.stderr


@pytest.mark.slow
def test_a_thread_that_is_still_at_work_is_waited_for() -> None:
    code = (
        "import sys, threading; sys.argv = ['loom', 'version'];"
        "threading.Thread(target=lambda: (threading.main_thread().join(), print('done'))).start();"
        "from loom.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.endswith("done\n")


@pytest.mark.slow
def test_an_interrupt_while_loom_is_being_loaded_leaves_no_traceback() -> None:
    code = (
        "import os, signal, sys; sys.argv = ['loom', 'version']\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from loom.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.slow
def test_the_version_is_a_flag_too() -> None:
    command = [sys.executable, "-m", "loom"]
    told = [
        subprocess.run([*command, word], capture_output=True, text=True, check=True).stdout
        for word in ("version", "--version")
    ]
    assert told[0] == told[1] != ""


def test_the_frame_of_a_command_has_room_for_those_that_it_calls() -> None:
    """Else Python maps and unmaps a block for each call at some depth: an eighth of a run's processor time."""
    assert loom.cli.main.__code__.co_stacksize * 8 >= 1 << 18
