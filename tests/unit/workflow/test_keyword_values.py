"""What each type of loom's own language makes of many values, beside this file.

`LOOM_TEST_ACCEPT=1 pytest tests/unit/workflow/test_keyword_values.py` writes the present ones; read them before you commit them.
"""

import os
import re
from pathlib import Path

from loom.workflow.native.values import TYPES, Type
from loom.workflow.words import WrongType

NATIVE: tuple[object, ...] = (
    *(True, 0, 1, 3, 11, 256, 70_000, 1.5, 0.001, 5000.0, -1, None, [], ["sh", "-c"], ["a", 1], {}),
    *("", " ", "x", " x ", "X Y", "two\nlines", "a/b", "a/../b", "/a", "~/a", "/a:size=1m", "/", "a*", "[", "$X", "1x"),
    *("all", "2", "02", "device=0,1", "1.5", "1.", "0", "0s", "90s", "1h30m", "512m", "1k", "env://X", "ENV:x", "x://"),
    *("nofile", "nofiles", "10.0.0.1", "::1", "fe80::1%1", "host-gateway", "nowhere", "1000", "0:-1", "me:4294967296"),
    *("linux/amd64", "amd", "a/b/c/d", "(", "bash", "/bin/sh", "sh -e", "sh 'x", "/dev/fuse", "/dev/x:/y:rw", "v/c=n"),
    *("my-net", ".x", "x" * 33, "x" * 65, "A_B", "1a", "a.b", '$A == "b"', "$A ==", "junit"),
)


def test_what_a_type_of_looms_language_makes_of_each_value() -> None:
    said = ""
    for name, kind in TYPES.items():
        made: dict[str, list[str]] = {}
        for value in NATIVE:
            made.setdefault(parsed(kind, value), []).append(repr(value))
        most = max(made, key=lambda result: len(made[result]))
        rest = (f"  {result}: {', '.join(made[result])}\n" for result in made if result != most)
        said += f"{name}: {most}, except\n" + "".join(rest)
    beside = Path(__file__).with_name("native_values.txt")
    if os.environ.get("LOOM_TEST_ACCEPT"):
        beside.write_text(said)
    assert said == beside.read_text()


def parsed(kind: Type, value: object) -> str:
    """Return what a type makes of a value, with {} for the value itself, or why it refuses it."""
    try:
        found = kind.parse(value)
    except WrongType as error:
        return f"expected {error}"
    except ValueError as error:
        reason = re.split(r", found|; |,? such as|(?<=unknown limit)", str(error))[0]
        return re.sub(rf"^(?:{re.escape(repr(value))}|{re.escape(str(value))}|'.') ", "{} ", reason)
    if repr(found) == repr(value):
        return "as it is"
    if isinstance(found, list):
        return str(["{}" if each == value else each for each in found])
    return repr(found) if isinstance(found, bool | int | float | str) else type(found).__name__
