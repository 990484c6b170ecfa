"""Check and plan many `.gitlab-ci.yml` files, and compare the check with GitLab's JSON Schema.

    python tests/gitlab/survey.py SCHEMA FOLDER...

SCHEMA is GitLab's published schema (`app/assets/javascripts/editor/schema/ci.json` of its source; also in the package check-jsonschema).
Each `.gitlab-ci*.yml` below a folder is a file; its includes are looked for in the repository, or the folder, that holds it. A file is planned for a push, a tag, a
schedule and a merge request. What a schema can't know (another file, another key of the file) does not count: an include that is not there,
an unknown need or stage, a cycle, a keyword that loom alone refuses. `known-differences.yml` has the reasons of the differences that are meant, by a
pattern of the message.
"""

import argparse
import json
import re
import sys
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

sys.path.insert(0, str(Path(__file__).parents[2]))

from loom.errors import LoomError, WorkflowError
from loom.plan.model import JobSelection, ResolveContext
from loom.plan.resolve import resolve
from loom.workflow.dialects import examine
from loom.workflow.gitlab.pipeline import Pipeline
from tests.support.gitlab import MERGE_REQUEST, PUSH, SCHEDULE, TAG

KNOWN = Path(__file__).parent / "known-differences.yml"
_EVENTS = {"push": PUSH, "tag": TAG, "schedule": SCHEDULE, "merge_request": MERGE_REQUEST}
_BEYOND_SHAPES = re.compile(
    r"there is no (stage|job)|need each other|extends|!reference|has no job|the file|needs: (?!expected)|dependencies: (?!expected)|not valid YAML"
)
"""Problems that no schema can know."""


class _Reference(list[str]):
    """What `!reference` names; GitLab's editor gives it to the schema as a list."""


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_constructor("!reference", lambda loader, node: _Reference(loader.construct_sequence(node)))


def files(folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        for file in sorted(folder.resolve().rglob(".gitlab-ci*.yml")):
            if file.is_file() and not re.search(r"local-(variables|inputs)", file.name):
                yield file


def checked(file: Path) -> tuple[list[str], dict[str, str]]:
    """Return the problems of a file, and the outcome of its plan for each event."""
    root = next((folder for folder in file.parents if (folder / ".git").exists()), file.parent)
    listed = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    outcomes: dict[str, str] = {}
    problems: list[str] = []
    for event, predefined in _EVENTS.items():
        context = ResolveContext(predefined=predefined, files=lambda: listed)
        try:
            examined = examine(file, root, lambda context=context: context)
            found = [problem for problem in examined.problems if problem.severity == "error"]
            if event == "push":
                problems = [f"{problem.code} {problem.message}" for problem in found]
            if found or not isinstance(examined.workflow, Pipeline):
                outcomes[event] = f"refused: {found[0] if found else 'not a file of GitLab'}"
                continue
            plan = resolve(examined.workflow, JobSelection(container=True), context)
            outcomes[event] = f"{len(plan.jobs)} jobs"
        except WorkflowError as error:
            outcomes[event] = f"refused: {error.problems[0]}"
        except LoomError as error:
            outcomes[event] = f"no pipeline: {error}"
        except Exception:  # noqa: BLE001  what is looked for
            outcomes[event] = f"TRACEBACK {traceback.format_exc()[-600:]}"
    return problems, outcomes


def said_by_schema(validator: jsonschema.Draft7Validator, file: Path) -> str:
    """Return the schema's first objection; empty if it accepts the file. The last document is the workflow."""
    try:
        content: Any = list(yaml.load_all(file.read_text(), _Loader))[-1]
    except (yaml.YAMLError, IndexError, UnicodeDecodeError) as error:
        return f"not YAML: {str(error).splitlines()[0]}"
    content = _as_json(content)
    error = jsonschema.exceptions.best_match(validator.iter_errors(content))
    if error is None:
        return ""
    found = content
    for key in error.absolute_path:
        found = found[key]
        if isinstance(found, _Reference):
            return f"a reference at {'/'.join(map(str, error.absolute_path))}"
    return f"{'/'.join(map(str, error.absolute_path))}: {error.message[:160]}"


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _as_json(one) for key, one in value.items()}
    if isinstance(value, list):
        return type(value)(_as_json(one) for one in value)
    return value if value is None or isinstance(value, (str, bool, int, float)) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("schema", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the outcome of each file")
    given = parser.parse_args()
    validator = jsonschema.Draft7Validator(json.loads(given.schema.read_text()))
    known: dict[str, str] = (yaml.safe_load(KNOWN.read_text()) or {}).get("schema") or {}
    counts: Counter[str] = Counter()
    plans: Counter[str] = Counter()
    differing: dict[str, list[str]] = defaultdict(list)
    for file in files(given.folders):
        problems, outcomes = checked(file)
        schema = said_by_schema(validator, file)
        shapes = [one for one in problems if one.startswith("GL_INVALID") and not _BEYOND_SHAPES.search(one)]
        plans.update(
            f"{event}: {outcome.partition(':')[0].lstrip('0123456789 ')}" for event, outcome in outcomes.items()
        )
        for event, outcome in outcomes.items():
            if given.verbose or outcome.startswith("TRACEBACK"):
                print(f"{file}: {event}: {outcome}")
        if any(one.startswith("GL_INCLUDE") for one in problems) and not shapes and schema:
            counts["not compared: an include is missing"] += 1
        elif bool(shapes) == bool(schema):
            counts["both accept" if not schema else "both refuse"] += 1
        else:
            why = f"schema: {schema}" if schema else f"loom: {shapes[0]}"
            reason = next((reason for pattern, reason in known.items() if re.search(pattern, why)), None)
            counts["known to differ" if reason else "DIFFER"] += 1
            differing[reason or "DIFFERS"].append(f"{file}: only {why}")
    for reason, those in sorted(differing.items()):
        print(f"{reason} ({len(those)})")
        for one in those if reason == "DIFFERS" or given.verbose else ():
            print(f"    {one}")
    for title, counter in (("plans", plans), ("schema", counts)):
        print(f"{title}: {', '.join(f'{count} {kind}' for kind, count in sorted(counter.items()))}")
    return 1 if counts["DIFFER"] or any(kind.endswith("TRACEBACK") for kind in plans) else 0


if __name__ == "__main__":
    sys.exit(main())
