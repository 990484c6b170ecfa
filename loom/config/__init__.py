"""Load the runtime configuration in layers; each value has an origin.

Lowest to highest: built-in, `~/.config/loom/config.yml`, `.loom/config.yml`, `LOOM_*` variables, flags. Only `load`
reads them; the caller passes environment and flags.

The project's file is part of the repository, and its author may be a stranger. It can make the user's own settings
stricter, never looser, and names no path, no engine and no other network. Each key of `Config` states which case applies.
"""

# mypy: implicit-reexport
# ruff: noqa: F401  the names that other folders use

from loom.config.layers import choice, load, misspelt, user_file
from loom.config.settings import (
    AUTO_SHELL,
    CODE,
    KEYS,
    MAPPINGS,
    PLAIN_NETWORKS,
    PROJECT_FILE,
    SETTINGS,
    Config,
    text_of,
)
from loom.config.values import GitLabSettings, KeepassDatabase
