"""The command tree: as much of it as the command line needs."""

import importlib
import pkgutil
import signal
import subprocess
import sys

import typer.main

import loom.cli
from loom.cli.app import MODULES, app_for


def test_every_module_registers_the_commands_that_the_table_says() -> None:
    for name, commands in MODULES.items():
        app = typer.Typer()
        app.callback()(lambda: None)
        importlib.import_module(f"loom.cli.{name}").register(app)
        assert tuple(typer.main.get_group(app).commands) == commands, name


def test_no_module_of_commands_is_left_out() -> None:
    names = [module.name for module in pkgutil.iter_modules(loom.cli.__path__)]
    registering = {name for name in names if hasattr(importlib.import_module(f"loom.cli.{name}"), "register")}
    assert registering == set(MODULES)


def test_one_command_is_described_when_one_is_given_and_all_when_none_is() -> None:
    assert set(typer.main.get_group(app_for(["run", "--local"])).commands) == {"run"}
    everything = {command for commands in MODULES.values() for command in commands}
    for arguments in ([], ["--help"], ["rnu"]):
        assert set(typer.main.get_group(app_for(arguments)).commands) == everything


def test_the_exit_code_and_all_output_get_out() -> None:
    code = (
        "import sys; sys.argv = ['loom', 'version', '--nonsense']; print('x' * 100_000);"
        "from loom.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stdout) == 100_001
    assert "--nonsense" in done.stderr


def test_a_thread_that_is_still_at_work_is_waited_for() -> None:
    code = (
        "import sys, threading; sys.argv = ['loom', 'version'];"
        "threading.Thread(target=lambda: (threading.main_thread().join(), print('done'))).start();"
        "from loom.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.endswith("done\n")


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


def test_the_version_is_a_flag_too() -> None:
    command = [sys.executable, "-m", "loom"]
    told = [
        subprocess.run([*command, word], capture_output=True, text=True, check=True).stdout
        for word in ("version", "--version")
    ]
    assert told[0] == told[1] != ""
