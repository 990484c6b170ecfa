"""Write docs/reference/schemas from the documents' types. Run by `scripts/docs schemas`."""

from __future__ import annotations

from pathlib import Path

from loom.commands.record import schema as schemas
from loom.render.output import json_text

FOLDER = Path(__file__).resolve().parent.parent / "docs/reference/schemas"


def main() -> None:
    for old in FOLDER.glob("*.schema.json"):
        if old.name.removesuffix(".schema.json") not in schemas.NAMES:
            old.unlink()
    for name in schemas.NAMES:
        (FOLDER / f"{name}.schema.json").write_text(json_text(schemas.record_schema(name)))


if __name__ == "__main__":
    main()
