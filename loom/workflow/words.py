"""Words and lines that values consist of; without the models, which plans of another language do not need."""

from __future__ import annotations

import shlex
from typing import Any

VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"


class WrongType(ValueError):
    """A value of another type; the message says which one is expected."""


class UnshownValue(ValueError):
    """The value may be a misplaced secret and must not appear in messages."""


def text_in(value: Any) -> str:
    if not isinstance(value, str):
        raise WrongType("text")
    return value


def line_in(value: Any) -> str:
    text = text_in(value)
    if not text.strip():
        raise ValueError("expected text, found an empty text")
    if "\n" in text.strip() or "\0" in text:
        raise ValueError("expected one line of text")
    return text.strip()


def shell_words(value: Any) -> list[str]:
    if isinstance(value, list):
        words = [text_in(word) for word in value]
    else:
        try:
            words = shlex.split(line_in(value))
        except ValueError as error:
            if isinstance(error, WrongType):
                raise
            raise ValueError(f"not a command line: {error}") from error
        name = words[0].rsplit("/", 1)[-1] if len(words) == 1 else ""
        if name in ("sh", "bash", "dash", "ash", "ksh", "zsh", "mksh"):
            words += ["-e", "-o", "pipefail"] if name == "bash" else ["-e"]
    if not words or not words[0]:
        raise ValueError("expected a shell such as bash, or its command line as a list")
    return words
