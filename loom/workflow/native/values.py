"""The value types of workflows: parsers, and their JSON Schema.

Validators raise ValueError with text for users.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from loom.util import globs
from loom.util.units import DURATION_PATTERN, PLATFORM_PATTERN, SIZE_PATTERN, duration, meant, memory, platform, size
from loom.workflow import expressions
from loom.workflow.patterns import compile_pattern
from loom.workflow.shapes import PARSERS, Parser
from loom.workflow.words import VARIABLE, UnshownValue, WrongType, line_in, shell_words, text_in

STAGE = r"^[a-z][a-z0-9_-]{0,31}$"
JOB = r"^[a-z][a-z0-9_-]{0,63}$"
TEMPLATE = r"^\.[a-z][a-z0-9_-]{0,63}$"
HOST_NAME = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
EXTRA_HOST = r"^[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$"
ULIMITS = (
    *("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue"),
    *("nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"),
)
MAX_ID = 2**31 - 1
MAX_COMBINATIONS = 256
NETWORK = r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$"


class Type(Struct, frozen=True, eq=False):
    """A type of values: `parse` returns the value. WrongType for another kind of value, ValueError with a text for users."""

    parse: Parser
    schema: dict[str, Any]


_LOWER = "lower-case letters, digits, _ and -"
_RULE = f"{_LOWER}, at most 64, and a letter first"
_DEVICE = r"/[^:\s]+(:/[^:\s]+)?(:[rwm]{1,3})?|[A-Za-z][\w.-]*/[A-Za-z][\w.-]*=[\w.:-]+"


def _like(pattern: str, why: str, of: Callable[[Any], str] = line_in) -> Type:
    """Return the type of a text that matches a pattern; `why` may name it as `{}`."""
    wanted = re.compile(pattern)

    def parse(value: Any) -> str:
        text = of(value)
        if not wanted.fullmatch(text):
            raise ValueError(why.format(repr(text)))
        return text

    return Type(parse, _matching(pattern))


def _name(kind: str, pattern: str, rule: str) -> Type:
    return _like(pattern, f"{{}} is not a valid {kind} name: {rule}", text_in)


def _seconds(value: Any) -> float:
    return duration(str(value) if isinstance(value, int | float) and not isinstance(value, bool) else text_in(value))


def _limit(value: Any) -> float:
    seconds = _seconds(value)
    if seconds <= 0:
        raise ValueError(f"expected a positive duration, found {value!r}; remove the key for no limit")
    return seconds


def _bytes(value: Any) -> int:
    return size(str(value)) if isinstance(value, int) and not isinstance(value, bool) else size(text_in(value))


def _memory(value: Any) -> int:
    _bytes(value)
    return memory(str(value))


def _script(value: Any) -> str:
    text = text_in(value)
    if not text.strip():
        raise ValueError("expected a command, found an empty text; remove it")
    return text


def _reference(value: Any) -> str:
    text = value.strip() if isinstance(value, str) else ""
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://\S[^\n]*", text):
        raise UnshownValue(
            "expected a reference such as env://NAME or keyring://service/name; a secret's value is never written here"
        )
    return text


def _relative(value: Any) -> str:
    text = line_in(value)
    if text.startswith(("/", "~")):
        raise ValueError("expected a path inside the project, relative to its root")
    if ".." in text.split("/"):
        raise ValueError("expected a path inside the project, without ..")
    globs.compile(text)
    return text


def _glob(value: Any) -> str:
    text = line_in(value)
    globs.compile(text)
    return text


def _cpus(value: Any) -> float:
    if isinstance(value, str) and re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.01 <= value <= 4096:
        raise ValueError("expected a number of processors such as 2 or 0.5")
    return float(value)


def _gpus(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return str(value)
    text = value if isinstance(value, str) else ""
    if text != "all" and not re.fullmatch(r"[1-9][0-9]*|device=[\w,.:-]+", text):
        raise ValueError("expected a number of GPUs, all, or device=ID")
    return text


def _ulimit_name(value: Any) -> str:
    name = text_in(value)
    if name not in ULIMITS:
        advice = meant(name, ULIMITS) or f"; the limits are {', '.join(ULIMITS)}"
        raise ValueError(f"unknown limit {name}{advice}")
    return name


def _tmpfs(value: Any) -> str:
    text = line_in(value)
    path = text.partition(":")[0].rstrip("/")
    if not path.startswith("/"):
        raise ValueError("expected an absolute path below /, such as /cache or /cache:size=64m")
    return text


def _address(value: Any) -> str:
    import ipaddress

    text = line_in(value)
    try:
        if text != "host-gateway":
            ipaddress.ip_address(text.replace("%", " "))  # no zone: it would be this machine's, not the container's
    except ValueError:
        raise ValueError("expected an address such as 10.0.0.1 or fd00::1, or host-gateway") from None
    return text


def user(text: str) -> str:
    """Validate a container user. ValueError names a valid form."""
    for part in text.split(":", 1):
        if re.fullmatch(r"[+-]?[0-9]+", part) and not 0 <= int(part) <= MAX_ID:
            raise ValueError(
                f"expected a user's name or a number from 0 to {MAX_ID}, such as 1000 or 1000:1000, found {text!r}"
            )
    return text


def _platform(value: Any) -> str:
    text = line_in(value)
    return text if "$" in text else platform(text)  # variables are expanded later


def _condition(value: Any) -> str:
    text = text_in(value)
    expressions.parse(text)
    return text


def _pattern(value: Any) -> str:
    text = text_in(value)
    compile_pattern(f"/{text}/")  # PatternError is a ValueError
    return text


def between(least: int, most: int | None) -> Type:
    def parse(value: Any) -> int:
        number: int = PARSERS["integer"](value)
        if number < least:
            raise ValueError(f"expected a number of at least {least}")
        if most is not None and number > most:
            raise ValueError(f"expected a number of at most {most}")
        return number

    limit = {} if most is None else {"maximum": most}
    return Type(parse, {"type": "integer", "minimum": least, **limit})


def _filled(value: Any) -> str:
    text = text_in(value).strip()
    if not text:
        raise WrongType("text")
    return text


def _probe(value: Any) -> list[str]:
    return [text_in(word) for word in value] if isinstance(value, list) else ["sh", "-c", text_in(value)]


def _matching(pattern: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern, **more}


def _any(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"anyOf": [*choices], **more}


_TEXT: dict[str, Any] = {"type": "string"}
FILLED = _matching(r"\S")
LINE = _matching(r"^\s*\S[^\n]*\s*$")
REFERENCE = _matching(r"^\s*[a-z][a-z0-9+.-]*://\S[^\n]*\s*$")
_SIZE = _matching(SIZE_PATTERN)
_DURATION = _matching(DURATION_PATTERN, examples=["90s", "10m", "1h30m"])
_ADDRESS = r"^\s*(host-gateway|[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)\s*$"
_USER = r"^\s*(?!-[0-9])(?![^:]*:-[0-9])\S[^\n]*\s*$"
_PLATFORM = rf"^\s*({PLATFORM_PATTERN}|[A-Za-z0-9_-]+|[^\n]*\$[^\n]*)\s*$"
_CPUS = _any({"type": "number", "minimum": 0.01, "maximum": 4096}, _matching(r"^[0-9]+(\.[0-9]+)?$"))
_GPUS = _any({"type": "integer", "minimum": 1}, _matching(r"^(all|[1-9][0-9]*|device=[A-Za-z0-9_,.:-]+)$"))
# All zeros and units: a zero duration.
_LIMIT = _matching(DURATION_PATTERN, examples=["10m", "1h30m"]) | {"not": {"pattern": "^[0.wdhms]*$"}}
_WORDS: dict[str, Any] = {"type": "array", "items": _TEXT, "minItems": 1}
_BYTES = _any(_SIZE, {"type": "integer", "minimum": 0}, examples=["512m", "2g"])
_MEMORY = _any(_SIZE, {"const": 0}, {"type": "integer", "minimum": 6291456}, examples=["512m", "2g"])

TYPES: dict[str, Type] = {
    "boolean": Type(PARSERS["boolean"], {"type": "boolean"}),
    "integer": Type(PARSERS["integer"], {"type": "integer"}),
    "count": between(1, None),
    "copies": between(1, MAX_COMBINATIONS),
    "retries": between(0, 10),
    "exit_code": between(0, 255),
    "port": between(1, 65535),
    "text": Type(text_in, _TEXT),
    "line": Type(line_in, LINE),
    "filled": Type(_filled, FILLED),
    "script": Type(_script, FILLED),
    "probe": Type(_probe, _any(_TEXT, {"type": "array", "items": _TEXT})),
    "reference": Type(_reference, REFERENCE),
    "seconds": Type(_seconds, _DURATION),
    "limit": Type(_limit, _LIMIT),
    "host_name": _like(HOST_NAME, "expected a host name: letters, digits, . _ and -"),
    "bytes": Type(_bytes, _BYTES),
    "path": Type(_relative, _matching(r"^\s*(?![/~\s])(?!(.*/)?\.\.(/|\s*$))[^\n]+$")),
    "glob": Type(_glob, LINE),
    "condition": Type(_condition, FILLED | {"examples": ['$CI_COMMIT_BRANCH == "main"']}),
    "shell": Type(shell_words, _any(FILLED, _WORDS, examples=["bash"])),
    "cpus": Type(_cpus, _CPUS),
    "gpus": Type(_gpus, _GPUS),
    "memory": Type(_memory, _MEMORY),
    "ulimit": Type(_ulimit_name, _matching(f"^({'|'.join(ULIMITS)})$")),
    "tmpfs": Type(_tmpfs, _matching(r"^\s*/+[^/:\s][^\n]*$")),
    "extra_host": _like(EXTRA_HOST, "{} is not a valid host name: letters, digits, . _ and -"),
    "address": Type(_address, _matching(_ADDRESS)),
    "user": Type(lambda value: user(line_in(value)), _matching(_USER)),
    "platform": Type(_platform, _matching(_PLATFORM)),
    "pattern": Type(_pattern, _TEXT),
    "device": _like(
        f"^({_DEVICE})$", "expected a device such as /dev/fuse, /dev/fuse:/dev/fuse:rw or vendor.com/class=name"
    ),
    "network": _like(NETWORK, f"expected text like {NETWORK}, found {{}}"),
    "stage": _name("stage", STAGE, f"{_LOWER}, at most 32, and a letter first"),
    "job": _name("job", JOB, _RULE),
    "template": _name("template", TEMPLATE, _RULE),
    "variable": _name("variable", VARIABLE, "letters, digits and _, no digit first"),
}
"""The types of values, by the names that shapes have for them."""
NAMES = {"ulimits": "ulimit", "extra_hosts": "extra_host"}
"""The types of the names in mappings of any names, by their keys; `variable` for all others."""
