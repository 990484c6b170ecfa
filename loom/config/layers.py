"""Read the layers of the configuration, from built-in values to flags."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from loom.config.pools import Misplaced
from loom.config.settings import (
    CODE,
    KEYS,
    MAPPINGS,
    MEASURES,
    PROJECT_FILE,
    SETTINGS,
    Config,
    Overruled,
    ValueOrigin,
    text_of,
)
from loom.config.values import ValueContext
from loom.errors import Problem, RequestError, WorkflowError, reason_of
from loom.util.file_systems import in_memory
from loom.util.private import check_own
from loom.util.units import meant, nearest
from loom.values import Environ

if TYPE_CHECKING:
    from loom.util import yaml_file


def load(*, root: Path | None, environ: Environ, flags: Mapping[str, object]) -> Config:
    """Load the configuration of the repository at `root` (None: outside a repository).

    `flags` uses the keys' names; None means "not given". WorkflowError lists every problem of the files; RequestError
    reports a variable or flag. Both name the position and the nearest key. InfrastructureError where somebody else may
    have filled the state or cache directory.
    """
    for variable in CHOICES:
        choice(environ, variable)
    home = Path(environ["HOME"]) if environ.get("HOME") else None
    layers = _Layers(*_built_in(environ, home))
    problems: list[Problem] = []
    if (user := user_file(environ)) is not None:
        for name, value, node in _read(user, ValueContext(home, home), problems):
            layers.set(name, value, ValueOrigin(layer="user", source=node.position))
    given = list(_given(environ, flags, home))
    if root is not None:
        for name, value, node in _read(root / PROJECT_FILE, ValueContext(root, home), problems, within=root):
            layers.propose(name, value, node)
    if problems:
        raise WorkflowError(
            problems,
            hint="correct these or comment them out; `loom config show --origin` then shows the effective values",
        )
    for name, value, origin in given:
        layers.set(name, value, origin)
    layers.agree()
    if layers.origins["tmp_dir"].source == "TMPDIR" and not (tmp := layers.values["tmp_dir"]).is_dir():
        # Made by its name, it would take the workspaces of whoever has a wrong letter there.
        raise RequestError(f"TMPDIR: there is no directory {tmp}", hint="make it, or name another one", code=CODE)
    check_own(layers.values["state_dir"], "state")
    check_own(layers.values["cache_dir"], "cache")
    return Config(**layers.values, origins=layers.origins, overruled=tuple(layers.overruled.values()))


class _Layers(Struct):
    """Values with their origins; layers are applied in order."""

    values: dict[str, Any]
    origins: dict[str, ValueOrigin]
    overruled: dict[str, Overruled] = {}

    def set(self, name: str, value: Any, origin: ValueOrigin) -> None:
        self.values[name] = {**self.values[name], **value} if name == "images" else value
        self.origins[name] = origin
        if origin.layer != "project":  # the project's file can't change it any more
            self.overruled.pop(name, None)

    def propose(self, name: str, value: Any, node: yaml_file.Node) -> None:
        """Apply a line of the project's file."""
        rule, origin = SETTINGS[name].project, self.origins[name]
        if rule.refuses(value):
            variable = "" if name in MAPPINGS else f", or set LOOM_{name.upper()}"
            self._overrule(name, node, f"a repository can't set it: set it in ~/.config/loom/config.yml{variable}")
        elif origin.layer == "user" and rule.rank(value) > rule.rank(self.values[name]):
            own = text_of(name, self.values[name])
            self._overrule(name, node, f"your own configuration is stricter ({own}, {origin.source})")
        else:
            self.set(name, value, ValueOrigin(layer="project", source=node.position))

    def _overrule(self, name: str, node: yaml_file.Node, why: str) -> None:
        import json

        written = node.plain()
        text = written if isinstance(written, str) else json.dumps(written, ensure_ascii=False, sort_keys=True)
        self.overruled[name] = Overruled(name=name, text=text, position=node.position, why=why)

    def agree(self) -> None:
        """Raise RequestError for contradictory settings, and for a named network as the network of every job."""
        by = self.origins["hardened"]
        network = self.origins["network"]
        if self.values["hardened"] and network.layer == "project" and self.values["network"] != "none":
            text, self.values["network"] = str(self.values["network"]), None
            self.overruled["network"] = Overruled(
                name="network",
                text=text,
                position=network.source,
                why=f"your own configuration is stricter (hardened, {by})",
            )
            self.origins["network"] = ValueOrigin(layer="built-in")
        if self.values["hardened"] and not self.values["container"]:
            raise RequestError(
                f"{self.origins['container']}: a job on this machine can't use the hardened profile "
                f"({self.origins['hardened']})",
                hint="remove one of them; LOOM_HARDENED=0 disables the profile once",
                code=CODE,
            )


def user_file(environ: Environ) -> Path | None:
    """Return the path of the user's own configuration; None without a home directory."""
    base = _xdg(environ, "XDG_CONFIG_HOME", ".config")
    return None if base is None else base / "loom" / "config.yml"


def _xdg(environ: Environ, variable: str, below_home: str) -> Path | None:
    configured = environ.get(variable, "")
    if configured.startswith("/"):  # per the XDG specification, ignore relative paths
        return Path(configured)
    home = environ.get("HOME")
    return Path(home) / below_home if home else None


def _built_in(environ: Environ, home: Path | None) -> tuple[dict[str, Any], dict[str, ValueOrigin]]:
    values: dict[str, Any] = {name: getattr(Config(), name) for name in KEYS}
    origins = {name: ValueOrigin(layer="built-in") for name in KEYS}
    tmp = environ.get("TMPDIR") or ("/var/tmp" if _tmp_is_memory() else "/tmp")
    values["tmp_dir"] = Path(tmp).absolute()
    if environ.get("TMPDIR") == tmp:
        origins["tmp_dir"] = ValueOrigin(layer="environment", source="TMPDIR")
    values["state_dir"] = (_xdg(environ, "XDG_STATE_HOME", ".local/state") or values["tmp_dir"]) / "loom"
    values["cache_dir"] = (_xdg(environ, "XDG_CACHE_HOME", ".cache") or values["tmp_dir"]) / "loom"
    for name, color in (("FORCE_COLOR", "always"), ("NO_COLOR", "never")):
        if environ.get(name, "") not in ("", "0"):
            values["color"], origins["color"] = color, ValueOrigin(layer="environment", source=name)
    return values, origins


def _tmp_is_memory() -> bool:
    """Use /var/tmp for large files if /tmp is in memory."""
    return in_memory(Path("/tmp")) and os.access("/var/tmp", os.W_OK | os.X_OK) and not in_memory(Path("/var/tmp"))


def _read(
    path: Path, context: ValueContext, problems: list[Problem], *, within: Path | None = None
) -> Iterator[tuple[str, Any, yaml_file.Node]]:
    """Parse each key of one file; add to `problems`. RequestError for one of `within` that leads out of it."""
    if not os.path.lexists(path):
        return
    from loom.util import yaml_file  # YAML takes 10 ms, and most projects have no such file

    name = PROJECT_FILE if path.parts[-2:] == (".loom", "config.yml") else str(path)
    try:
        file = yaml_file.read(path, name, code=CODE, within=within)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RequestError(
            f"{name}: can't be read: {reason_of(error)}",
            hint="make it a file that you can read, or move it away: settings are optional",
            code=CODE,
        ) from error
    if file.root is not None and not file.root.is_mapping:
        file.problems.append(file.problem(file.root, "expected a mapping of settings", code=CODE))
    if file.root is None or not file.root.is_mapping:
        problems += file.problems
        return
    for key, node in file.root.value.items():
        if key not in SETTINGS:
            message = f"unknown setting {key}{_meant(key)}"
            file.problems.append(file.problem(file.root.keys.get(key), message, code=CODE))
            continue
        if node.kind is yaml_file.Kind.REFUSED:
            continue
        value = node.plain()
        if isinstance(value, int | float) and not isinstance(value, bool) and SETTINGS[key].parse in MEASURES:
            value = node.text
        try:
            yield key, _value(key, value, context), node
        except ValueError as error:
            keys = error.keys if isinstance(error, Misplaced) else ()
            file.problems.append(file.problem(node.find(*keys) or node, str(error), code=CODE))
    problems += sorted(file.problems, key=lambda problem: (problem.line, problem.column))


def misspelt(environ: Environ) -> Iterator[str]:
    """Yield a line for each LOOM_ variable that is ignored, and was surely meant for a setting.

    Other programs, and the jobs of loom, use the prefix too: only a name that is nearly the same counts.
    """
    for variable in environ:
        name = variable.removeprefix("LOOM_").lower()
        if name == variable.lower() or name in _NO_SETTINGS or name.startswith("test_"):
            continue
        if name in MAPPINGS:
            yield f"{variable} is ignored: `{name}` is set in ~/.config/loom/config.yml"
        elif name not in KEYS and (close := nearest(name, (*KEYS, *_NO_SETTINGS), likeness=0.8)):
            yield f"{variable} is ignored: did you mean LOOM_{close.upper()}?"


def choice(environ: Environ, variable: str) -> str:
    """Return the value of a variable that is no setting, in lower case; empty: not given. RequestError for a wrong one."""
    given, known = environ.get(variable, "").lower(), CHOICES[variable]
    if given and given not in known:
        raise RequestError(f"{variable}: expected {known[0]} or nothing, found {given!r}", code=CODE)
    return given


CHOICES = {
    "LOOM_TRUST": ("1", "true", "yes", "on", "0", "false", "no", "off"),
    "LOOM_GATE": ("off", "on"),
    "LOOM_BUNDLE": ("on-failure",),
    "LOOM_BUILDKIT": ("0", "1"),
}
"""The values of the other variables that loom reads; the first is the one that messages name."""
_NO_SETTINGS = tuple(name.removeprefix("LOOM_").lower() for name in CHOICES)


def _given(environ: Environ, flags: Mapping[str, object], home: Path | None) -> Iterator[tuple[str, Any, ValueOrigin]]:
    """Apply settings from variables, then flags. Unknown LOOM_ variables are ignored: see `misspelt`."""
    variables = {name: f"LOOM_{name.upper()}" for name in KEYS if name not in MAPPINGS}
    given: list[tuple[str, object, ValueOrigin]] = [
        (name, environ[variable], ValueOrigin(layer="environment", source=variable))
        for name, variable in variables.items()
        if environ.get(variable)
    ]
    for name, value in flags.items():
        if value is not None:
            flag = ("--no-" if value is False else "--") + ("image" if name == "images" else name.replace("_", "-"))
            given.append(
                (name, str(value) if isinstance(value, Path) else value, ValueOrigin(layer="flag", source=flag))
            )
    for name, value, origin in given:
        if name not in SETTINGS:
            raise RequestError(f"unknown setting {name}{_meant(name)}", code=CODE)
        cleared = value == "null" and SETTINGS[name].clearable
        try:
            yield name, _value(name, None if cleared else value, ValueContext(None, home)), origin
        except ValueError as error:
            raise RequestError(f"{origin.source}: {error}", code=CODE) from error


def _value(name: str, value: Any, context: ValueContext) -> Any:
    """Parse one value. ValueError names a valid alternative."""
    key = SETTINGS[name]
    return None if value is None and key.clearable else key.parse(value, context)


def _meant(name: str) -> str:
    return meant(name, KEYS) or f"; the settings are {', '.join(KEYS)}"
