"""Texts for URLs."""

from __future__ import annotations

import re


def slug(text: str) -> str:
    """Write a text as GitLab does for URLs: lower case, `-` for all but letters and digits, 63 characters."""
    return re.sub(r"[^a-z0-9]", "-", text.lower())[:63].strip("-")
