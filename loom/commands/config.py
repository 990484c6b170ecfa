"""`loom config show`."""

from __future__ import annotations

from loom import config
from loom.commands.project import not_counted, open_project
from loom.errors import RequestError
from loom.render.output import print_kind, table
from loom.util.controls import shown
from loom.util.units import meant


def show(key: str | None, *, origin: bool, form: str) -> None:
    settings = open_project().config
    if key is not None and key not in config.KEYS:
        raise RequestError(
            f"unknown setting {key}{meant(key, config.KEYS)}", hint="`loom config show` lists them", code=config.CODE
        )
    keys = config.KEYS if key is None else (key,)
    ignored = not_counted(settings)
    if form == "json":
        values = {
            name: {
                "value": settings.text_of(name),
                "origin": settings.origins[name].layer,
                "source": settings.origins[name].source,
                "about": config.SETTINGS[name].about,
                **({"not_counted": ignored[name]} if name in ignored else {}),
            }
            for name in keys
        }
        print_kind("settings", {"settings": values})
        return
    if key is not None and not origin:
        print(settings.text_of(key))
        return
    rows = [(f"{name}: {settings.text_of(name)}", f"# {settings.origins[name]}") for name in keys]
    print("\n".join(table(rows) if origin else [line for line, _ in rows]))
    for name in keys:
        if name in ignored:
            print(f"# {shown(ignored[name])}")
