"""The options of `loom run` reach what uses them by their names alone."""

import inspect

from loom.cli.run import run
from loom.config import KEYS
from loom.record.request import Request


def test_each_parameter_is_a_setting_or_a_field_of_the_options() -> None:
    parameters = set(inspect.signature(run).parameters) - {"local", "as_json"}  # `--json` is a `form`
    assert parameters <= {*KEYS, *Request.__struct_fields__}
    assert not {*KEYS} & {*Request.__struct_fields__}


def test_what_was_not_given_is_left_to_the_settings() -> None:
    options = Request.of({"names": ["a"], "jobs": 2, "container": False, "stream": None, "quiet": True})
    assert (options.names, options.quiet, options.settings) == (("a",), True, {"jobs": 2, "container": False})


def test_strict_is_nearest_to_ci_and_leaves_the_mount_mode_to_whoever_names_one() -> None:
    strict = Request.of({"strict": True, "network": "host", "frozen": False}).settings
    assert strict == {"mount_mode": "auto", "network": "none", "frozen": True}
    assert Request.of({"strict": True, "mount_mode": "copy"}).settings["mount_mode"] == "copy"
