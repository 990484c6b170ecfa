"""The command tree: every command group's module registers itself here."""

from __future__ import annotations

import typer

from loom.results import ExitCode

app = typer.Typer(
    name="loom",
    help="Run your CI workflow on your own machine: same input, same place, and a short way to the failure.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def exit_code_of_usage_error(error: Exception) -> int | None:
    """Show a command-line mistake as the parser words it; its exit code, or None when `error` is no such mistake."""
    show = getattr(error, "show", None)
    if callable(show) and hasattr(error, "exit_code"):
        show()
        return ExitCode.REQUEST
    if type(error).__name__ == "Abort":
        typer.echo("interrupted", err=True)
        return ExitCode.INTERRUPTED
    return None


@app.callback(help=app.info.help)
def _root() -> None:
    # A callback keeps `loom COMMAND` a command group, however many commands there are.
    pass


from loom.cli import cache, check, config, images, record, report, run, shell, snapshot, version  # noqa: E402

for _group in (
    run,
    record,
    report,
    check,
    config,
    images,
    cache,
    snapshot,
    shell,
    version,
):
    _group.register(app)
