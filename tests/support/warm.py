"""What each `loom` of the tests imports, imported once: see `loom_process`."""

import gc
import os
import pkgutil
from contextlib import suppress
from importlib import import_module

os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # as loom's own `main` does before it imports anything

import msgspec

import loom

for module in pkgutil.walk_packages(loom.__path__, "loom."):
    # Its library takes as long as all others together, for the few processes that need it.
    if not module.name.endswith(("__main__", "agents.mcp")):
        import_module(module.name)

# What they import late.
for name in (
    "ahocorasick_rs",
    "docker",
    "jinja2",
    "rich.console",
    "rich.live",
    "rich.table",
    "tarfile",
    "tomllib",
    "typer._click.decorators",
    "yaml",
):
    import_module(name)


def read_ahead(kind: type[msgspec.Struct]) -> None:
    """Let msgspec find out what it else does when it first reads a value of a class, in each process again."""
    for each in kind.__subclasses__():
        with suppress(TypeError, NameError):
            msgspec.json.Decoder(each)
        read_ahead(each)


read_ahead(msgspec.Struct)
gc.freeze()
