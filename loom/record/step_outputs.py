"""Step outputs for later steps in the record: without secret values, and restorable."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from loom.util.masking import Masker


def recorded(variables: Mapping[str, str], secrets: Mapping[str, bytes], masker: Masker) -> dict[str, Any]:
    """Encode `variables` for the record; `lost` names those with a secret that `restored` can't recover."""
    shown: dict[str, str] = {}
    exact: dict[str, str] = {}
    lost: list[str] = []
    for name, value in variables.items():
        raw = value.encode("utf-8", "surrogateescape")
        masked = masker.mask_bytes(raw)
        if _reveal(masked, secrets) != raw:
            lost.append(name)
        shown[name] = masked.decode("utf-8", "replace")
        if shown[name].encode() != masked:
            exact[name] = base64.b64encode(masked).decode("ascii")
    return {"variables": shown, "exact_b64": exact, "lost": lost}


def restored(fact: Mapping[str, Any], secrets: Mapping[str, bytes]) -> tuple[dict[str, str], list[str]]:
    """Decode the variables of a `recorded` fact, and the names of unrecoverable ones."""
    exact = fact.get("exact_b64", {})
    lost = set(fact.get("lost", ()))
    variables = {}
    for name, shown in fact.get("variables", {}).items():
        masked = base64.b64decode(exact[name]) if name in exact else shown.encode()
        if name not in lost:
            variables[name] = _reveal(masked, secrets).decode("utf-8", "surrogateescape")
    return variables, sorted(lost)


def _reveal(masked: bytes, secrets: Mapping[str, bytes]) -> bytes:
    for name, value in secrets.items():
        masked = masked.replace(f"[REDACTED:SECRET_{name}]".encode(), value)
    return masked
