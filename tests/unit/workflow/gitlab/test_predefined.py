"""What GitLab knows of a job by its name and its environment."""

import pytest

from loom.workflow.gitlab import predefined
from loom.workflow.gitlab.durations import seconds
from tests.support.gitlab import node


@pytest.mark.parametrize(
    ("name", "tier"),
    [
        ("dev", "development"),
        ("review/x", "development"),
        ("trunk", "development"),
        ("test", "testing"),
        ("acpt", "testing"),
        ("qa-1", "testing"),
        ("quality", "testing"),
        ("stg", "staging"),
        ("staging", "staging"),
        ("model", "staging"),
        ("pre", "staging"),
        ("demo", "staging"),
        ("prod", "production"),
        ("PRD", "production"),
        ("live", "production"),
        ("elsewhere", "other"),
    ],
)
def test_the_tier_of_an_environment_follows_from_its_name(name: str, tier: str) -> None:
    assert predefined.environment_variables(node(name), {})["CI_ENVIRONMENT_TIER"] == tier


def test_an_environment_says_its_tier_and_action_itself() -> None:
    found = predefined.environment_variables(node("{name: prod $A, deployment_tier: other, action: stop}"), {"A": "b"})
    assert found["CI_ENVIRONMENT_NAME"] == "prod b"
    assert (found["CI_ENVIRONMENT_TIER"], found["CI_ENVIRONMENT_ACTION"]) == ("other", "stop")
    assert (
        predefined.environment_variables(node("$NONE"), {"NONE": ""})
        == predefined.environment_variables(None, {})
        == {}
    )
    assert predefined.environment_variables(node("prod"), {})["CI_ENVIRONMENT_ACTION"] == "start"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("90", 90),
        ("1:30", 90),
        ("1:00:05", 3605),
        ("1h 30m", 5400),
        ("2 weeks and 1 day", 15 * 86400),
        ("1.5 hours", 5400),
        (" 3 MINS ", 180),
        ("never", None),
        ("", None),
        ("5 parsecs", None),
        ("1:2:3:4", None),
        ("3 4", None),
        ("3 4s", None),
        ("1h,30m", 5400),
        *((f"2{word}", 2) for word in ("", "s", "sec", "secs", "second", "seconds")),
        *((f"2 {word}", 120) for word in ("m", "min", "mins", "minute", "minutes")),
        *((f"2 {word}", 7200) for word in ("h", "hr", "hrs", "hour", "hours")),
        *((f"2 {word}", 172_800) for word in ("d", "day", "days")),
        *((f"2 {word}", 1_209_600) for word in ("w", "wk", "wks", "week", "weeks")),
        *((f"2 {word}", 5_184_000) for word in ("mo", "mos", "month", "months")),
        *((f"2 {word}", 63_115_200) for word in ("y", "yr", "yrs", "year", "years")),
    ],
)
def test_durations(text: str, found: float | None) -> None:
    if found is None:
        with pytest.raises(ValueError, match="expected a duration such as 30 minutes"):
            seconds(text)
    else:
        assert seconds(text) == found
