"""What each `loom` of the tests imports, imported once: see `loom_process`."""

import gc
import os
import pkgutil
from importlib import import_module

os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # as loom's own `main` does before it imports anything

import loom

for module in pkgutil.walk_packages(loom.__path__, "loom."):
    # Its library takes as long as all others together, for the few processes that need it.
    if not module.name.endswith(("__main__", "agents.mcp")):
        import_module(module.name)

# What they import late.
for name in ("docker", "jinja2", "msgspec", "rich.console", "rich.live", "rich.table", "tarfile", "yaml"):
    import_module(name)
gc.freeze()
