"""Configuration: layers, origins, and mistakes that name their place."""

from pathlib import Path

import pytest

from loom import config
from loom.cli.boundary import run_app
from loom.errors import RequestError, WorkflowError
from loom.workflow.predefined import KNOWN_AT_START, KNOWN_TO_PLANS


def load(
    tmp_path: Path,
    project: str = "",
    user: str = "",
    environ: dict[str, str] | None = None,
    **flags: object,
) -> config.Config:
    root, home = tmp_path / "repo", tmp_path / "home"
    for path, text in ((root / ".loom/config.yml", project), (home / ".config/loom/config.yml", user)):
        path.parent.mkdir(parents=True, exist_ok=True)
        if text:
            path.write_text(text)
    return config.load(root=root, environ={"HOME": str(home), **(environ or {})}, flags=flags)


def test_built_in_values_and_folders_below_home(tmp_path: Path) -> None:
    found = load(tmp_path)
    assert found.default_image == "debian:trixie-slim"
    assert found.jobs is None
    assert found.state_dir == tmp_path / "home/.local/state/loom"
    assert found.cache_dir == tmp_path / "home/.cache/loom"
    assert found.tmp_dir == Path("/tmp")
    assert {str(origin) for origin in found.origins.values()} == {"built-in"}


@pytest.mark.parametrize(
    ("flag", "environ", "project", "user", "jobs", "origin"),
    [
        (None, {}, "", "jobs: 2", 2, "user"),
        (None, {}, "jobs: 1", "jobs: 2", 1, "project (.loom/config.yml:1:7)"),
        (None, {"LOOM_JOBS": "4"}, "jobs: 3", "jobs: 2", 4, "environment (LOOM_JOBS)"),
        (5, {"LOOM_JOBS": "4"}, "jobs: 3", "jobs: 2", 5, "flag (--jobs)"),
        (None, {"LOOM_JOBS": ""}, "jobs: 1", "jobs: 2", 1, "project (.loom/config.yml:1:7)"),
    ],
)
def test_a_higher_layer_wins(
    tmp_path: Path, flag: object, environ: dict[str, str], project: str, user: str, jobs: int | None, origin: str
) -> None:
    found = load(tmp_path, project, user, environ, jobs=flag)
    assert found.jobs == jobs
    assert str(found.origins["jobs"]).startswith(origin)


def test_images_of_all_layers_count_together(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        user="images: {a: user, b: user, 'node:14': user}",
        project="images: {b: project, 'node:14': project}",
        images=["node:14=node:22"],
    )
    assert found.images == {"a": "user", "b": "project", "node:14": "node:22"}
    with pytest.raises(RequestError, match=r"--image: expected NAME=IMAGE, found 'node:14'; .*loom jobs"):
        load(tmp_path, images=["node:14"])


def test_values_are_read_in_their_units(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        "",
        "grace: 1m30s\ncache_max_size: 2g\ncpus: 1.5\nmemory: 512MiB\njob_timeout: null\ntmp_dir: scratch\nkeepass: {team: {path: ~/team.kdbx}}\n",
    )
    assert (found.grace, found.cache_max_size, found.cpus, found.memory) == (90.0, 2 * 1024**3, 1.5, 512 * 1024**2)
    assert found.job_timeout is None
    assert found.tmp_dir == tmp_path / "home/scratch"
    assert found.keepass["team"].path == tmp_path / "home/team.kdbx"


def test_variables_that_are_no_settings_are_ignored(tmp_path: Path) -> None:
    environ = {"LOOM_JOB_NAME": "x", "LOOM_SOMETHING_ELSE": "x", "LOOM_MOUNTMODE": "overlay", "LOOM_KEEPASS": "x"}
    assert load(tmp_path, environ=environ) == load(tmp_path)


def test_a_variable_that_is_nearly_a_setting_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {
        "LOOM_PUL": "did you mean LOOM_PULL?",
        "LOOM_TRUTS": "did you mean LOOM_TRUST?",
        "LOOM_IMAGES": "`images` is set in ~/.config/loom/config.yml",
    }
    others = (*KNOWN_TO_PLANS, *KNOWN_AT_START, "LOOM_GATE", "LOOM_ENV", "LOOM_STEP", "LOOM_TEST_ACCEPT", "LOOM_WORK")
    for name in (*told, *others, *(f"LOOM_{key.upper()}" for key in config.KEYS if key not in config.MAPPINGS), "PUL"):
        monkeypatch.setenv(name, "x")
    assert run_app(["version"]) == 0
    assert capsys.readouterr().err.splitlines() == [f"loom: {name} is ignored: {text}" for name, text in told.items()]
    for name, value in (("_LOOM_COMPLETE", "complete_bash"), ("COMP_WORDS", "loom ver"), ("COMP_CWORD", "1")):
        monkeypatch.setenv(name, value)
    run_app([])  # nothing stands beside what TAB offers
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", [name for name in config.KEYS if name.endswith("_timeout")])
def test_each_timeout_has_a_variable(tmp_path: Path, name: str) -> None:
    assert getattr(load(tmp_path, environ={f"LOOM_{name.upper()}": "7m"}), name) == 420


def test_every_problem_of_the_files_at_once(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError) as caught:
        load(tmp_path, "mount_mod: overlay\njobs: many\ngrace: 10\nkeep: allways\nstream: &x true\n")
    assert [str(problem) for problem in caught.value.problems] == [
        ".loom/config.yml:1:1: CONFIG_INVALID /mount_mod: unknown setting mount_mod; did you mean mount_mode?",
        ".loom/config.yml:2:7: CONFIG_INVALID /jobs: expected a whole number from 1 up, found 'many'",
        ".loom/config.yml:3:8: CONFIG_INVALID /grace: expected a duration with its unit, such as 10s or 10m, found '10'",
        ".loom/config.yml:4:7: CONFIG_INVALID /keep: expected one of never, on-failure, always, auto, found 'allways'; did you mean always?",
        ".loom/config.yml:5:9: CONFIG_INVALID /: anchors are not allowed (&x); share with extends, default or variables",
    ]


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"LOOM_MEMORY": "1m"},
            "LOOM_MEMORY: expected at least 6m, the minimum of container engines, found '1m'",
        ),
        (
            {"LOOM_PLATFORM": "amiga"},
            "LOOM_PLATFORM: expected a platform such as linux/amd64, linux/arm64 or linux/arm/v7, found 'amiga'",
        ),
        ({"LOOM_TRUST": "ja"}, "LOOM_TRUST: expected 1 or nothing, found 'ja'"),
        ({"LOOM_GATE": "of"}, "LOOM_GATE: expected off or nothing, found 'of'"),
        ({"LOOM_BUNDLE": "always"}, "LOOM_BUNDLE: expected on-failure or nothing, found 'always'"),
        ({"LOOM_BUILDKIT": "classic"}, "LOOM_BUILDKIT: expected 0 or nothing, found 'classic'"),
        (
            {"LOOM_MOUNT_MODE": "bind"},
            (
                "LOOM_MOUNT_MODE: expected one of auto, bind_mount, overlay, copy, ephemeral_volume, found 'bind'; "
                "did you mean bind_mount?"
            ),
        ),
        ({"LOOM_JOBS": "0"}, "LOOM_JOBS: expected a whole number from 1 up, found '0'"),
    ],
)
def test_a_wrong_variable_is_named(tmp_path: Path, environ: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        load(tmp_path, environ=environ)
    assert caught.value.message == message


def test_the_advice_for_a_broken_file_can_be_followed_while_it_is_broken(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError) as caught:
        load(tmp_path, "qqqqqq: 1\n")
    assert caught.value.problems[0].message == f"unknown setting qqqqqq; the settings are {', '.join(config.KEYS)}"
    assert str(caught.value.hint).startswith("correct these or comment them out; `loom config show --origin`")
    assert load(tmp_path, "# qqqqqq: 1\n").jobs is None


def test_no_color_is_respected_and_a_flag_beats_it(tmp_path: Path) -> None:
    assert load(tmp_path, environ={"NO_COLOR": "1"}).color == "never"
    assert load(tmp_path, environ={"NO_COLOR": "1"}, color="always").color == "always"


def test_a_directory_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / ".loom/config.yml").mkdir(parents=True)
    with pytest.raises(RequestError, match=r"\.loom/config\.yml: can't be read: is a directory"):
        config.load(root=tmp_path, environ={}, flags={})


def test_relative_paths_outside_of_files_are_seen_from_where_loom_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    for environ in ({"TMPDIR": "tmp"}, {"LOOM_TMP_DIR": "tmp"}):
        assert load(tmp_path, environ=environ).tmp_dir == tmp_path / "tmp"


def test_a_temporary_directory_with_a_wrong_letter_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"TMPDIR: there is no directory {tmp_path}/tpm"):
        load(tmp_path, environ={"TMPDIR": str(tmp_path / "tpm")})
    assert not (tmp_path / "tpm").exists()
    assert load(tmp_path, environ={"TMPDIR": "/nowhere", "LOOM_TMP_DIR": "/x"}).tmp_dir == Path("/x")
