"""The answers of `loom mcp`: short texts, with an id to ask for the rest, and facts for programs."""

from __future__ import annotations

import secrets
from collections import OrderedDict

from pydantic import BaseModel, Field

MOST_BYTES = 2048
"""Of the text of one answer."""
KEPT_CHARACTERS = 20_000_000
"""What is kept of answers that were longer, together; the oldest go first."""


class Answer(BaseModel):
    text: str
    more: str | None = Field(default=None, description="The id of the rest, for the tool `more`; null: this is all.")
    left: int = Field(default=0, description="How many characters the rest has.")


class RunAnswer(Answer):
    run_id: str
    status: str
    exit_code: int
    proof: bool = Field(
        description="Whether this was a whole run, which alone proves that the workflow passes or fails."
    )
    failed_jobs: list[str]
    receipt: str = Field(description="The path of the receipt, which leads to all files of the run.")


class ExecAnswer(Answer):
    exit_code: int
    ended: str
    container: str | None


class LogsAnswer(Answer):
    lines: int = Field(description="How many lines were found.")


class Pages:
    """The rests of long answers, for as long as they fit."""

    def __init__(self) -> None:
        self._rests: OrderedDict[str, str] = OrderedDict()

    def cut(self, text: str) -> Answer:
        """Return the beginning of `text`, to a line end if there is one, and keep the rest."""
        beginning = text.encode()[:MOST_BYTES].decode(errors="ignore")
        if len(beginning) == len(text):
            return Answer(text=text)
        at = beginning.rfind("\n") + 1 or len(beginning)
        name = secrets.token_hex(4)
        self._rests[name] = text[at:]
        while sum(map(len, self._rests.values())) > KEPT_CHARACTERS and len(self._rests) > 1:
            self._rests.popitem(last=False)
        return Answer(text=text[:at], more=name, left=len(text) - at)

    def more(self, name: str) -> Answer | None:
        """Return the next part; None for an unknown id. The id stays valid, and gives the same part again."""
        return None if name not in self._rests else self.cut(self._rests[name])
