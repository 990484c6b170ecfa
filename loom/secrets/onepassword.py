"""`op://vault/item/[section/]field`: 1Password, through the `op` command."""

from __future__ import annotations

import re
import shutil
import subprocess

from loom.errors import SecretError
from loom.secrets.base import Surroundings, not_found, unavailable

_TOKEN = "OP_SERVICE_ACCOUNT_TOKEN"
_TIMEOUT_S = 60.0
_MISSING = re.compile(
    r"isn't an item|isn't a vault|isn't a field|no item|not found|could not find|couldn't find|does not have a field|"
    r"doesn't exist|no (?:matching|such)|no vault|no section",
    re.IGNORECASE,
)


class OnePassword:
    def check(self, reference: str) -> str | None:
        parts = reference.partition("?")[0].split("/")
        if len(parts) in (3, 4) and all(parts):
            return None
        return "expected op://vault/item/field or op://vault/item/section/field"

    def read(self, reference: str, around: Surroundings) -> bytes:
        whole = f"op://{reference}"
        command = shutil.which("op", path=around.environ.get("PATH", ""))
        if command is None:
            raise unavailable(
                "1Password can't be queried: the `op` command is not installed",
                f"Install 1Password's command line, and sign in (`op signin`) or set {_TOKEN}.",
            )
        value = _by_command(command, whole, around)
        if not value:
            raise not_found(f"the 1Password value at {whole} is empty")
        return value


def _by_command(command: str, reference: str, around: Surroundings) -> bytes:
    try:
        done = subprocess.run(
            [command, "read", "--no-newline", reference],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=dict(around.environ),
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise unavailable(
            f"`op read` did not answer within {_TIMEOUT_S:.0f} seconds", "Unlock 1Password, or run `op signin` first."
        ) from error
    except OSError as error:
        raise unavailable(f"{command} can't be started: {error.strerror}") from error
    if done.returncode == 0:
        return done.stdout
    raise _refusal(
        done.stderr.decode("utf-8", "replace").strip() or f"`op read` exited with code {done.returncode}", reference
    )


def _refusal(reply: str, reference: str) -> SecretError:
    last = reply.splitlines()[-1]
    reply = re.sub(r"^\[ERROR\] [\d/]+ [\d:]+ ", "", last)
    if _MISSING.search(reply):
        return not_found(f"1Password has nothing at {reference}: {reply}")
    return unavailable(f"1Password can't be queried: {reply}", f"Run `op signin`, or set {_TOKEN}.")
