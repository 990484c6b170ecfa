"""`loom config show`, `loom config init`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from loom.cli.record import complete_setting
from loom.render.output import print_json


class ShowFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Loom's runtime configuration.", no_args_is_help=True)
    group.command("show")(show)
    group.command("init")(init)
    app.add_typer(group, name="config")


def show(
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="Only this setting's value.", autocompletion=complete_setting)
    ] = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value came from.")] = False,
    output: Annotated[ShowFormat, typer.Option("--format", help="How the settings are shown.")] = ShowFormat.TEXT,
) -> None:
    """Print the settings that hold here."""
    import os
    from pathlib import Path

    from loom import config
    from loom.commands import trust
    from loom.commands.project import configured, find_root
    from loom.errors import RequestError
    from loom.util.controls import shown
    from loom.util.units import nearest

    settings = configured(find_root(Path.cwd()), dict(os.environ))
    if key is not None and key not in config.KEYS:
        close = nearest(key, config.KEYS)
        raise RequestError(
            f"there is no setting {key}" + (f"; did you mean {close}?" if close else ""), code=config.CODE
        )
    keys = config.KEYS if key is None else (key,)
    not_counted = trust.not_counted(settings)
    if output is ShowFormat.JSON:
        document = {
            name: {
                "value": settings.text_of(name),
                "origin": settings.origins[name].layer,
                "place": settings.origins[name].place,
                "about": config.about(name),
                **({"not_counted": not_counted[name]} if name in not_counted else {}),
            }
            for name in keys
        }
        print_json(document)
        return
    if key is not None and not origin:
        print(settings.text_of(key))
        return
    lines = [(f"{name}: {settings.text_of(name)}", str(settings.origins[name])) for name in keys]
    width = max(len(line) for line, _ in lines)
    for line, place in lines:
        print(f"{line:<{width}}  # {place}" if origin else line)
    for name in keys:
        if name in not_counted:
            print(f"# {shown(not_counted[name])}")


def init(
    user: Annotated[bool, typer.Option("--user", help="Your own configuration instead of the project's.")] = False,
) -> None:
    """Write a configuration file with every setting, commented out."""
    import os
    from pathlib import Path

    from loom import config
    from loom.commands.project import find_root
    from loom.errors import RequestError

    path = config.user_file(os.environ) if user else find_root(Path.cwd()) / config.PROJECT_FILE
    if path is None:
        raise RequestError(
            "can't tell where your configuration belongs: neither HOME nor XDG_CONFIG_HOME is set", code=config.CODE
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x") as file:
            file.write(config.template())
    except FileExistsError as error:
        raise RequestError(f"{path} is already there", hint="Edit it, or remove it first.", code=config.CODE) from error
    except OSError as error:
        raise RequestError(
            f"{path} can't be written: {(error.strerror or str(error)).lower()}", code=config.CODE
        ) from error
    print(path)
