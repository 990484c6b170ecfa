"""Limits that users meet, or that keep a stranger's file from taking all: who changes one decides it, and says so here."""

from importlib import import_module

import pytest

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
GITHUB = {
    "plan.github.candidates": {"MOST_LEVELS": 10},
    "plan.github.steps": {"MOST_LEVELS": 9},
    "runner.late.files": {"MOST_SUMMARY": MIB},
    "runner.late.steps": {
        "AFTER_CANCEL_S": 300,
        "MOST_ANNOTATIONS": 10,
        "MOST_CHARACTERS": 4000,
        "MOST_LOOKED_AT": 2000,
    },
    "action_services.caches": {"_LONGEST_KEY": 512, "_SPARE": GIB},
    "action_services.requests": {"_MOST_UPLOADS": 500},
    "action_services.uploads": {"MOST_BLOCKS": 50_000},
    "workflow.github.expressions": {"MAX_LENGTH": 21_000, "MAX_RESULT": MIB},
    "workflow.job_ids": {"MOST": 256},
}
GITLAB = {
    "plan.gitlab.jobs": {"_SERVICE_WAIT_S": 30},
    "runner.steps": {"AFTER_SCRIPT_TIMEOUT_S": 300},
    "storage.dotenv": {"MAX_BYTES": 5 * KIB, "MAX_VARIABLES": 150},
    "workflow.gitlab.files": {"MAX_INCLUDES": 150},
    "workflow.gitlab.inputs": {"MAX_FUNCTIONS": 3},
    "workflow.gitlab.limits": {"MOST_INSTANCES": 200, "WEEK": 7 * 24 * 3600},
    "workflow.gitlab.loader": {"MAX_LEVELS": 10, "MAX_NAME": 255},
    "workflow.gitlab.needs": {"LIMIT": 50},
    "workflow.gitlab.references": {"MAX_DEPTH": 10},
}
LOOM = {
    "plan.hardening": {"PIDS": 1024},
    "runner.tools": {"JOBS_ELSEWHERE": 100},
    "runner.views": {"MAX_SAVED": 2_000_000_000},
    "storage.cache_keys": {"_LONGEST_KEY": 1000},
    "storage.findings": {"MAX_BYTES": 16 * MIB, "MAX_FINDINGS": 1000, "_MAX_MESSAGE": 2000, "_MAX_PATH": 1000},
    "storage.junit": {
        "MAX_BYTES": 64 * MIB,
        "MAX_FAILING": 1000,
        "_MAX_TEXT": 64 * KIB,
        "_MAX_MESSAGE": 2000,
        "_MAX_DEPTH": 200,
    },
    "action_services.server": {
        "_LARGEST_CALL": MIB,
        "_LARGEST_LIST": 7_500_000,
        "_MOST_CONNECTIONS": 512,
        "_IDLE_S": 120,
        "_LINGER": GIB,
        "_LINGER_S": 2,
    },
    "storage.unpacking": {
        "MOST_ENTRIES": 4_000_000,
        "MOST_BYTES": 128 * GIB,
        "LONGEST_PATH": 4096,
        "DEEPEST_PATH": 256,
    },
    "storage.zips": {"MOST_LISTED": 256 * MIB},
    "workflow.aliases": {"MAX_DEPTH": 100, "MAX_SHARED": 100_000},
    "workflow.expressions": {"MAX_LENGTH": 4096},
    "workflow.interpolation": {"MAX_LENGTH": MIB},
    "workflow.messages": {"MAX_PROBLEMS": 200, "MAX_COMPARISONS": 50_000},
    "workflow.native.files": {"MAX_FILES": 200},
    "workflow.native.inheritance": {"MAX_LEVELS": 32},
    "workflow.native.values": {"MAX_ID": (1 << 31) - 1, "MAX_COMBINATIONS": 256},
    "workflow.parser": {"MAX_DEPTH": 50},
    "workflow.patterns": {"MAX_LENGTH": 1000, "MOST_REPEATED": 100_000, "MAX_SEARCH_S": 1, "MAX_SEARCHES_S": 10},
    "workflow.shapes": {"MAX_LISTS": 10, "MAX_NODES": 500_000},
}


@pytest.mark.parametrize("limits", [GITHUB, GITLAB, LOOM], ids=["GitHub's", "GitLab's", "loom's"])
def test_limits_are_as_decided(limits: dict[str, dict[str, float]]) -> None:
    found = {
        module: {name: getattr(import_module(f"loom.{module}"), name) for name in names}
        for module, names in limits.items()
    }
    assert found == limits
