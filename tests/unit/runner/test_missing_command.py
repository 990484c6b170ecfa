"""Which package has a command that a step missed: what is asked, and which answers count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from loom.cancel import Cancel
from loom.errors import ProviderError
from loom.runner.missing_command import Ending, package_of_missing
from loom.status import Exit

from .conftest import Make, on
from .test_session import ONE, Engine

NOT_FOUND = b"sh: 1: frobnicate: not found\n"


class Inside:
    def __init__(self, answer: bytes, error: Exception | None = None) -> None:
        self.answer, self.error = answer, error
        self.asked: list[Sequence[str]] = []

    def exec(self, command: Sequence[str], on_output: Any, cancel: Cancel, **named: Any) -> Exit:
        self.asked.append(command)
        assert (named["timeout_s"], named["stdin"]) == (3.0, False)
        on_output("stdout", self.answer[:3])
        on_output("stdout", self.answer[3:])
        if self.error is not None:
            raise self.error
        return Exit(code=0)


def ending(output: bytes) -> Ending:
    found = Ending()
    passed: list[bytes] = []
    watching: Callable[..., None] = found.watching(lambda _, data: passed.append(data))
    watching("stderr", output)
    assert passed == [output]
    return found


@pytest.mark.parametrize(
    ("answer", "package"),
    [
        (b"apt command frob\n", ("apt", "command", "frob")),
        (b"apk name frob.x+1\n", ("apk", "name", "frob.x+1")),
        (b"", None),
        (b"apt command frob; rm -rf /\n", None),
        (b"yum command frob\n", None),
        (b"apt command " + b"x" * 101, None),
        (b"apt command frob" + b" " * 5000 + b"x", ("apt", "command", "frob")),
    ],
)
def test_only_a_package_is_an_answer(answer: bytes, package: tuple[str, str, str] | None) -> None:
    inside = Inside(answer)
    found = package_of_missing(ending(NOT_FOUND), lambda: inside, Cancel())  # type: ignore[arg-type, return-value]
    ((*_, name),) = inside.asked
    assert name == "frobnicate"
    if package is None:
        assert found is None
    else:
        assert found is not None
        assert (found.command, found.manager, found.by, found.package) == ("frobnicate", *package)


def test_nothing_is_asked_where_no_command_is_missing() -> None:
    inside = Inside(b"apt command frob\n")
    assert package_of_missing(ending(b"all is well\n"), lambda: inside, Cancel()) is None  # type: ignore[arg-type, return-value]
    assert inside.asked == []


@pytest.mark.parametrize("error", [ProviderError("gone"), OSError("gone")])
def test_a_place_that_does_not_answer_is_no_failure(error: Exception) -> None:
    assert package_of_missing(ending(NOT_FOUND), lambda: Inside(b"", error), Cancel()) is None  # type: ignore[arg-type, return-value]


def test_the_end_of_a_long_output_is_looked_at() -> None:
    found = ending(b"x" * 10_000 + b"\n" + NOT_FOUND)
    assert found.lines[-1] == NOT_FOUND.decode().strip()
    assert sum(map(len, found.lines)) < 4096
    found.watching(lambda *_: None)("stdout", b"more\n")
    assert found.lines[-2:] == [NOT_FOUND.decode().strip(), "more"]


@pytest.mark.parametrize(
    ("code", "image", "answer", "asks"),
    [
        (127, True, b"apt command frob\n", True),
        (127, True, b"", False),
        (127, False, b"", False),
        (3, True, b"apt command frob\n", False),
    ],
)
def test_a_job_in_a_container_asks_for_what_it_missed(
    make: Make, code: int, image: bool, answer: bytes, asks: bool
) -> None:
    text = ONE.replace("cat file; echo x >file", f"echo sh: 1: frobnicate: not found; exit {code}")
    project = make(text, file="x")
    if image:
        engine = Engine()
        opening = engine.open
        answers = Inside(answer)

        def opened(*arguments: Any) -> Any:
            context = opening(*arguments)
            entering = context.__enter__

            class Entered:
                def __enter__(self) -> Any:
                    session = entering()
                    session.inside = lambda *_, **__: answers
                    return session

                def __exit__(self, *error: Any) -> Any:
                    return context.__exit__(*error)

            return Entered()

        engine.open = opened  # type: ignore[method-assign]
        ran = project.run(container=True, tools=on(engine, "docker"), code=1)
    else:
        (project.root / ".loom/workflow.yml").write_text(f"version: v1\n{text.replace(', image: debian', '')}")
        ran = project.run(code=1)
    assert ran.statuses == {"one": "failure"}
    found = ran.facts("missing_command", "one")
    assert found == ([{"command": "frobnicate", "manager": "apt", "by": "command", "package": "frob"}] if asks else [])
