"""`loom schema`: the JSON Schemas of workflow files and of the documents of a record."""

from __future__ import annotations

import sys

from loom.analysis import schemas
from loom.errors import RequestError
from loom.render.output import json_text
from loom.workflow.native.schema import workflow_schema


def schema(record: str | None) -> None:
    if record is None:
        sys.stdout.write(json_text(workflow_schema()))
    elif record == "list":
        print("\n".join(schemas.NAMES))
    elif record in schemas.NAMES:
        sys.stdout.write(json_text(schemas.record_schema(record)))
    else:
        raise RequestError(f"there is no schema {record!r}", hint=f"there are: {', '.join(schemas.NAMES)}")
