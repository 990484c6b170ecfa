"""The help at narrow and wide terminals, and what loom says to words of other programs."""

import re
from pathlib import Path

import pytest
import typer.main

from loom.cli.app import app_for
from loom.cli.boundary import run_app
from loom.cli.familiar import COMMANDS, OPTIONS

GUIDES = Path(__file__).parents[3] / "docs/guides"
ROOT = typer.main.get_group(app_for([]))


@pytest.mark.parametrize("said", [*OPTIONS.values(), *COMMANDS.values()])
def test_a_suggestion_names_what_loom_has(said: str) -> None:
    for words in re.findall(r"`loom ([^`]*)`", said):
        name, *rest = words.split()
        if name in ("COMMAND", "--help", "--version", "--install-completion"):
            continue
        command = ROOT.commands[name]
        known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
        assert {word for word in rest if word.startswith("-")} <= known
        if isinstance(command, typer.core.TyperGroup):
            assert rest[0] in command.commands


def test_no_word_has_two_suggestions() -> None:
    for table in (OPTIONS, COMMANDS):
        words = [word for names in table for word in names.split()]
        assert sorted(words) == sorted(set(words))
    assert not {word for names in COMMANDS for word in names.split()} & set(ROOT.commands)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("run -P ubuntu-latest=x", "loom run --image"),
        ("-l", "loom jobs"),
        ("check ci.yml", "loom check --workflow PATH"),
        ("run --env-file=x", "--var NAME=value"),
        ("run -j unit", "loom run JOB"),
        ("-n", "loom run -n"),
        ("-j unit", "loom run JOB"),
        ("run --lf", "loom resume"),
        ("run --qiuet", "did you mean --quiet?"),
        ("run --workflw x", "did you mean --workflow?"),
        ("logs --stage x", "--stage is an option of `loom run`"),
        ("list", "loom jobs"),
        ("ps", "loom runs"),
        ("rnu", "did you mean `loom run`?"),
        ("config set pull never", "~/.config/loom/config.yml"),
        ("config shw", "did you mean `loom config show`?"),
        ("-v", "loom --version"),
        ("--run unit", "without dashes: `loom run`"),
        ("cache clear", "`loom cache` has ls, rm"),
        ("frobnicate", "loom run frobnicate"),
        ("unit run", "`loom run unit`"),
        ("show 1 2", "`loom show` takes [RUN] and no more"),
        ("schema run", "`loom schema` takes options alone"),
        ("show --run 1", "RUN is written without --run: `loom show RUN`"),
        ("run --event pul_request", "did you mean pull_request?"),
        ("run --event pr", "did you mean pull_request?"),
        ("run --timeout 5m", "LOOM_JOB_TIMEOUT"),
        ("config --list", "`loom config` has show"),
        ("bisect", "`loom bisect JOB GOOD [BAD]`"),
        ("report --format html", "`loom report` has --output; --format is"),
        ("run --skip lint", "loom run JOB JOB"),
        ("run --image", "--image NAME=IMAGE: Run IMAGE"),
        ("logs --timestamps=3", "--timestamps: Print"),
        ("version --short", "`loom version` has --"),
    ],
)
def test_a_mistake_has_a_next_move(typed: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(typed.split()) == 2
    error, advice = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith("Error: ")
    assert "Possible options" not in error
    assert expected in advice


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_help_fits_the_terminal_and_has_every_word(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for arguments, there in (
        (["--help"], [*ROOT.commands]),
        (["run", "--help"], [max(param.opts, key=len) for param in ROOT.commands["run"].params]),
    ):
        assert run_app(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if len(line) > columns or line.endswith(("-", "/"))] == []
        assert [
            name for name in there if name != "names" and not re.search(rf"^  .*{name}\b", "\n".join(lines), re.M)
        ] == []
        assert "..." not in "".join(lines).replace("[ARGS]...", "").replace("JOB...", "")


@pytest.mark.parametrize("program", ["act", "gitlab-ci-local"])
def test_each_option_of_the_guides_is_answered(program: str) -> None:
    rows = re.findall(r"^\| (.*?) \|", (GUIDES / f"from-{program}.md").read_text(), re.MULTILINE)
    options = {option for row in rows for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", row, re.IGNORECASE)}
    assert len(options) > 30
    own = {name for param in ROOT.commands["run"].params for name in (*param.opts, *param.secondary_opts)}
    known = own | {name for names in OPTIONS for name in names.split()}
    unknown = options - known
    assert [one for one in unknown if not (one.endswith("-") and any(name.startswith(one) for name in known))] == []
