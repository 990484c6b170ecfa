"""What a dotenv report may hold."""

import os
from pathlib import Path

import pytest

from loom.errors import ArtifactError
from loom.plan.model import Artifacts, Cache, Image, Job, Service
from loom.plan.variables import add_reported, files_of
from loom.storage import dotenv
from loom.storage.workspace import DirectoryView


def test_a_value_is_the_rest_of_its_line() -> None:
    content = b'A=1\nB = it\'s "quoted" $HOME=x \nEMPTY=\nC=\xc3\xa9\r\n'
    assert dotenv.parsed(content, "f") == {"A": "1", "B": 'it\'s "quoted" $HOME=x', "EMPTY": "", "C": "é"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"A=1\n\nB=2\n", "f:2: the line is empty"),
        (b"# why\nA=1\n", "f:1: the line is a comment"),
        (b"A-B=1", "f:1: the line is not NAME=value"),
        (b"just text", "f:1: the line is not NAME=value"),
        (b"A=1\nloom_event=x", "f:2: loom_event is a variable of loom's own"),
        (b"A=\xff", "f: it is not UTF-8"),
        (b"A=" + b"x" * 5200, "f: a dotenv report has less than 5 KiB"),
    ],
)
def test_what_gitlab_refuses_is_refused_with_its_position(content: bytes, said: str) -> None:
    with pytest.raises(ArtifactError, match=said) as error:
        dotenv.parsed(content, "f")
    assert error.value.hint is not None
    assert error.value.hint.startswith("write one NAME=value in each line")


def test_reported_variables_stand_between_the_jobs_own_and_the_users() -> None:
    job = Job(
        id="a",
        name="a",
        stage="s",
        steps=(),
        provider="docker",
        image=Image(name="app:$TAG"),
        services=(
            Service(name="db", aliases=("db",), image=Image(name="db:${TAG}")),
            Service(name="$HOST", aliases=("$HOST", "$own-$tag", "$own__$tag"), image=Image(name="$OWN/$TAG")),
        ),
        variables={"OWN": "own", "GIVEN": "user", "URL": "http://$HOST/$OTHER", "FILE": "content"},
        given_variables=("GIVEN",),
        file_variables=("FILE",),
        artifacts=Artifacts(paths=("out/$TAG",)),
        cache=(Cache(paths=("c",), key="k-$TAG"),),
    )
    made = add_reported(job, {"OWN": "new", "GIVEN": "new", "HOST": "h", "TAG": "1"})
    assert made.variables == {
        "OWN": "new",
        "GIVEN": "user",
        "URL": "http://h/$OTHER",
        "FILE": "content",
        "HOST": "h",
        "TAG": "1",
    }
    assert (made.image, made.services[0].image.name) == (Image(name="app:1"), "db:1")
    assert (made.services[1].name, made.services[1].aliases) == ("h", ("h", "new-1", "new__1"))
    assert (made.artifacts, made.cache[0].key) == (Artifacts(paths=("out/1",)), "k-1")
    assert files_of(made, {}) == {"FILE": b"content"}


def test_a_report_that_can_not_be_read_is_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.env")
    with pytest.raises(ArtifactError) as error:
        dotenv.read(["a.env"], DirectoryView(tmp_path))
    assert "a.env: a FIFO, not a file" in error.value.message
    assert error.value.code == "DOTENV_INVALID"


def test_later_files_count_and_patterns_without_a_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.env").write_text("A=1\nB=1\n")
    (tmp_path / "b.env").write_text("A=2\n")
    assert dotenv.read(["*.env", "none"], DirectoryView(tmp_path)) == ({"A": "2", "B": "1"}, ("none",))


def test_no_more_variables_than_the_largest_plan_allows(tmp_path: Path) -> None:
    (tmp_path / "a.env").write_text("".join(f"A{number}=\n" for number in range(150)))
    (tmp_path / "b.env").write_text("A0=again\n")
    assert len(dotenv.read(["*.env"], DirectoryView(tmp_path))[0]) == 150
    (tmp_path / "b.env").write_text("A150=\n")
    with pytest.raises(ArtifactError, match="151 variables, and no plan of GitLab allows more than 150"):
        dotenv.read(["*.env"], DirectoryView(tmp_path))


def test_a_report_of_the_largest_size_is_read() -> None:
    assert dotenv.parsed(b"A=" + b"x" * (dotenv.MAX_BYTES - 3), "f") == {"A": "x" * (dotenv.MAX_BYTES - 3)}


def test_reported_variables_are_kept_beside_the_artifacts(tmp_path: Path) -> None:
    archive = tmp_path / "artifacts.tar.gz"
    assert dotenv.kept(archive) == {}
    dotenv.keep({"A": "é"}, archive)
    assert dotenv.kept(archive) == {"A": "é"}
    for damaged in ("[]", "{", '"text"'):
        (tmp_path / "variables.json").write_text(damaged)
        assert dotenv.kept(archive) == {}
