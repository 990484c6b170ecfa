"""`loom config show` and `loom config init`."""

from __future__ import annotations

import os
from pathlib import Path

from loom import config
from loom.commands import project
from loom.errors import RequestError
from loom.render.output import print_kind, table
from loom.util.controls import shown
from loom.util.units import meant


def show(key: str | None, *, origin: bool, form: str) -> None:
    """`loom config show`."""
    settings = project.here().config
    if key is not None and key not in config.KEYS:
        raise RequestError(f"unknown setting {key}{meant(key, config.KEYS)}", code=config.CODE)
    keys = config.KEYS if key is None else (key,)
    not_counted = project.not_counted(settings)
    if form == "json":
        values = {
            name: {
                "value": settings.text_of(name),
                "origin": settings.origins[name].layer,
                "place": settings.origins[name].place,
                "about": config.SETTINGS[name].about,
                **({"not_counted": not_counted[name]} if name in not_counted else {}),
            }
            for name in keys
        }
        print_kind("settings", {"settings": values})
        return
    if key is not None and not origin:
        print(settings.text_of(key))
        return
    rows = [(f"{name}: {settings.text_of(name)}", f"# {settings.origins[name]}") for name in keys]
    for line in table(rows) if origin else [line for line, _ in rows]:
        print(line)
    for name in keys:
        if name in not_counted:
            print(f"# {shown(not_counted[name])}")


def init(*, user: bool) -> None:
    """`loom config init`."""
    path = config.user_file(os.environ) if user else project.find_root(Path.cwd()) / config.PROJECT_FILE
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
