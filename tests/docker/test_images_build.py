"""Builds: both builders, what goes in, what is skipped, what goes wrong."""

import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG

import docker
import pytest

from loom.cancel import Cancel
from loom.errors import ImageError
from loom.plan.model import Build, Image, Secret
from loom.providers.base import ResolveRequest, SecretValues
from loom.providers.docker.container.cleanup import prune_builds
from loom.providers.docker.engine.client import Engine, connect
from loom.providers.docker.images.buildx import find_buildx
from loom.providers.docker.images.images import Images
from loom.providers.docker.images.named import ResolvedImage
from tests.support.waiting import promptly, until

pytestmark = pytest.mark.docker

BASE = "debian:trixie-slim"
BUILDERS = ["buildkit", "classic"]


class Builder:
    """Builds in a folder as one run after the other would, and forgets what it made at the end."""

    def __init__(self, folder: Path, client: docker.DockerClient) -> None:
        self.folder = folder
        self.client = client
        self.cancel = Cancel()
        self.said = ""
        self.made: list[str] = []
        self.known = True

    def write(self, **files: str) -> "Builder":
        return self.write_all(files)

    def write_all(self, files: dict[str, str]) -> "Builder":
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return self

    def __call__(
        self,
        build: Build | None = None,
        *,
        builder: str = "buildkit",
        name: str | None = None,
        secrets: dict[str, bytes] | None = None,
    ) -> ResolvedImage:
        environ = {**os.environ, "DOCKER_BUILDKIT": "0" if builder == "classic" else "1"}
        engine = Engine(environ)
        images = Images(engine)
        if self.known:
            images.identity_of = self.identity
        self.said = ""
        try:
            image = images.resolve(
                Image(name=name, build=build or Build()),
                ResolveRequest(
                    workspace=self.folder,
                    on_output=self._hear,
                    cancel=self.cancel,
                    secrets=SecretValues(own=secrets or {}),
                ),
            )
        finally:
            engine.close()
        self.made += self.client.api.inspect_image(image.image_id)["RepoTags"]
        return image

    def identity(self, folder: str) -> str:
        """What a snapshot says of its files."""
        contents = [
            (str(path), path.lstat().st_mode, path.read_bytes() if S_ISREG(path.lstat().st_mode) else b"")
            for path in sorted((self.folder / folder).rglob("*"))
        ]
        return hashlib.sha256(repr(contents).encode()).hexdigest()

    def _hear(self, _stream: str, data: bytes) -> None:
        self.said += data.decode()

    @property
    def skipped(self) -> bool:
        return "nothing that goes into" in self.said

    def shell(self, image: ResolvedImage, script: str) -> str:
        out = self.client.containers.run(image.image_id, ["sh", "-c", script], remove=True, network_mode="none")
        return bytes(out).decode()


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Builder]:
    client = connect(os.environ)
    (tmp_path / "context").mkdir()
    builder = Builder(tmp_path / "context", client)
    yield builder
    for name in set(builder.made):
        try:
            client.api.remove_image(name, force=True)
        except docker.errors.ImageNotFound:
            pass
    client.close()


@pytest.mark.parametrize("builder", BUILDERS)
def test_an_image_is_built_and_the_second_time_found(build: Builder, builder: str) -> None:
    build.write(Dockerfile=f"FROM {BASE}\nARG WHO=nobody\nCOPY . /src\nRUN echo $WHO >/who\nUSER games\n", a="1")
    who = uuid.uuid4().hex
    image = build(Build(args={"WHO": who}), builder=builder)
    assert not build.skipped
    assert (image.built, image.digest) == (True, "")
    assert image.name.startswith("loom-build:")
    assert build.shell(image, "cat /who /src/a; echo; whoami") == f"{who}\n1\ngames\n"
    assert build(Build(args={"WHO": who}), builder=builder).image_id == image.image_id
    assert build.skipped
    build.write(a="2")
    changed = build(Build(args={"WHO": who}), builder=builder)
    assert not build.skipped
    assert changed.image_id != image.image_id


@pytest.mark.parametrize("builder", BUILDERS)
def test_the_context_is_what_dockerignore_leaves_and_never_looms_record(build: Builder, builder: str) -> None:
    rules = ["*.log", "!keep.log", "d/**/x", "out", "!out/back", "/top", "# no", "Dockerfile"]
    files = {
        "Dockerfile": f"# {uuid.uuid4()}\nFROM {BASE}\nCOPY . /ctx\n",
        ".dockerignore": "\n".join(rules),
        ".git/HEAD": "sha",
        ".git/loom/record": "never",
        ".loom/.runtime/r": "never",
        ".loom/workflow.yml": "",
    }
    names = "a.log keep.log d/x d/e/x d/e/y out/a out/back out/back2/z top sub/top sub/a.log '# no' 'with space' naïve"
    files |= {name.strip("'"): name for name in ("# no", "with space", *names.replace("'", "").split())}
    build.write_all(files)
    (build.folder / "link").symlink_to("/nowhere")
    (build.folder / "d/tool").write_text("")
    (build.folder / "d/tool").chmod(0o755)
    image = build(builder=builder)
    seen = build.shell(image, "cd /ctx && find . ! -type d -printf '%P\\n'").splitlines()
    out = ["a.log", "d/x", "d/e/x", "out/a", "out/back2/z", "top", "Dockerfile", ".git/loom/record", ".loom/.runtime/r"]
    assert sorted(seen) == sorted({*files, "link", "d/tool"} - set(out))
    assert "keep.log" in seen
    assert ".git/HEAD" in seen
    assert not [path for path in seen if "record" in path or "runtime" in path]
    assert build.shell(image, "stat -c %a /ctx/d/tool; readlink /ctx/link") == "755\n/nowhere\n"


@pytest.mark.parametrize(
    ("rules", "path", "builder"),
    [
        (["**", "!x/y/**", "x/*.md"], "x/y/changed", "classic"),
        (["[!a]*"], "b-changed", "buildkit"),  # no negation to BuildKit, which has [^a] for that
    ],
)
def test_a_file_that_the_builder_sees_is_a_reason_to_build(
    build: Builder, rules: list[str], path: str, builder: str
) -> None:
    """Whatever the rules are: there is no second reading of them that could differ from the builder's."""
    dockerfile = f"FROM {BASE}\nCOPY . /ctx\nRUN find /ctx -name '*changed' -exec cat {{}} + >/seen\n"
    build.write_all({"Dockerfile": dockerfile, ".dockerignore": "\n".join(rules), path: "1", "b": "", "x/n.md": ""})
    assert build.shell(build(builder=builder), "cat /seen") == "1"
    build.write_all({path: "2"})
    assert build.shell(build(builder=builder), "cat /seen") == "2"


def test_where_nobody_knows_the_files_the_builder_is_asked(build: Builder) -> None:
    build.known = False
    build.write_all({"Dockerfile": f"FROM {BASE}\nCOPY a /a\n", "a": uuid.uuid4().hex})
    first = build()
    assert build().image_id == first.image_id
    assert not build.skipped
    build.write(a="2")
    assert build.shell(build(), "cat /a") == "2"


def test_files_that_are_left_out_change_nothing(build: Builder) -> None:
    build.write_all({"Dockerfile": f"FROM {BASE}\nCOPY a /a\n", "a": uuid.uuid4().hex, ".dockerignore": "noise\n"})
    first = build()
    for number in range(4):
        build.write(noise=str(number))
        assert build().image_id == first.image_id
    assert not build.skipped


SECRET = Secret(name="TOKEN", ref="env://TOKEN")


def test_a_secret_is_there_while_the_image_is_built_and_nowhere_afterwards(build: Builder, tmp_path: Path) -> None:
    value = f"s3cret-{uuid.uuid4().hex}\n\0\xff".encode("latin-1")
    build.write(
        Dockerfile=f"FROM {BASE}\nRUN --mount=type=secret,id=TOKEN cp /run/secrets/TOKEN /dev/shm/t && "
        f"sha256sum </dev/shm/t >/sum; : {uuid.uuid4()}\n"
    )
    image = build(Build(secrets=(SECRET,)), secrets={"TOKEN": value, "OTHER": b"not asked for"})
    assert build.shell(image, "cut -c1-64 /sum").strip() == hashlib.sha256(value).hexdigest()
    assert build.shell(image, "ls -A /run/secrets 2>/dev/null; true") == ""
    needle = value[:20]
    history = json.dumps(build.client.api.history(image.image_id)) + json.dumps(
        build.client.api.inspect_image(image.image_id)
    )
    assert needle.decode() not in history
    archive = b"".join(build.client.images.get(image.image_id).save())
    assert needle not in archive
    assert needle.decode() not in build.said
    # Another value of the same secret is no other image: BuildKit says so too.
    assert build(Build(secrets=(SECRET,)), secrets={"TOKEN": b"another"}).image_id == image.image_id


def test_a_secret_of_a_build_needs_buildkit(build: Builder) -> None:
    build.write(Dockerfile=f"FROM {BASE}\nRUN echo {uuid.uuid4()}\n")
    with pytest.raises(ImageError, match=r"the secrets of a build \(TOKEN\) need BuildKit") as refused:
        build(Build(secrets=(SECRET,)), builder="classic", secrets={"TOKEN": b"value"})
    assert (refused.value.code, refused.value.exit_code) == ("IMAGE_NEEDS_BUILDKIT", 3)


def test_buildkit_features_build(build: Builder) -> None:
    build.write(
        Dockerfile=f"FROM {BASE} AS one\n"
        "RUN --mount=type=cache,target=/cache <<EOF\n"
        "echo heredoc >/heredoc\n"
        "EOF\n"
        "COPY --chmod=600 <<EOF /inline\n"
        "inline\n"
        "EOF\n"
        "FROM one AS unwanted\nRUN false\n"
        "FROM one AS two\nCOPY --link data /data\n",
        data=uuid.uuid4().hex,
    )
    image = build(Build(target="two"))
    assert build.shell(image, "cat /heredoc /inline; stat -c %a /inline") == "heredoc\ninline\n600\n"


def test_the_classic_builder_names_the_other_one_where_it_fails(build: Builder) -> None:
    build.write(Dockerfile=f"FROM {BASE}\nRUN true\nRUN --mount=type=cache,target=/c true\n")
    with pytest.raises(ImageError, match="--mount option requires BuildKit") as refused:
        build(builder="classic")
    assert refused.value.code == "IMAGE_BUILD_FAILED"
    assert "buildx" in (refused.value.hint or "")


@pytest.mark.parametrize("builder", BUILDERS)
def test_a_failing_build_is_an_image_error_with_its_last_words(build: Builder, builder: str) -> None:
    build.write(Dockerfile=f"FROM {BASE}\nRUN echo about-to-fail; exit 7\n")
    with pytest.raises(ImageError, match=r"^Dockerfile(:2)?: the build failed at `RUN echo") as failed:
        build(builder=builder)
    assert failed.value.exit_code == 3
    assert "7" in failed.value.message
    assert "about-to-fail" in build.said
    build.write(Dockerfile=f"FROM {BASE}\nNONSENSE\n")
    with pytest.raises(ImageError, match=r"(?i)unknown instruction"):
        build(builder=builder)


def test_inputs_that_are_not_there(build: Builder) -> None:
    build.write(Dockerfile=f"FROM {BASE} AS only\n")
    (build.folder / "binary").write_bytes(b"\xff\xfe")
    (build.folder / "link").symlink_to("/etc")
    for build_of, reason in (
        (Build(context="../outside"), "leads out of the workspace"),
        (Build(context="link"), "leads out of the workspace"),
        (Build(context="absent"), "context absent is not in the snapshot"),
        (Build(dockerfile="Absent"), "Dockerfile Absent is not in the snapshot"),
        (Build(dockerfile="binary"), "can't be read"),
        (Build(target="absent"), "has no stage named absent"),
    ):
        with pytest.raises(ImageError, match=reason) as refused:
            build(build_of)
        assert (refused.value.code, build.made) == ("IMAGE_BUILD_INPUT", [])


def test_a_dockerfile_beside_its_context_and_one_below_it(build: Builder) -> None:
    build.write_all(
        {
            "docker/app/Dockerfile": f"FROM {BASE}\nCOPY x /x\n",
            "docker/app/x": uuid.uuid4().hex,
            "other/x": uuid.uuid4().hex,
        }
    )
    image = build(Build(context="docker/app"))
    assert build.shell(image, "cat /x") == (build.folder / "docker/app/x").read_text()
    image = build(Build(context="other", dockerfile="docker/app/Dockerfile"))
    assert build.shell(image, "cat /x") == (build.folder / "other/x").read_text()


def test_a_built_image_gets_its_name_also_when_nothing_was_built(build: Builder) -> None:
    build.write(Dockerfile=f"FROM {BASE}\nCOPY a /a\n", a=uuid.uuid4().hex)
    name = f"loom-test-{uuid.uuid4().hex[:8]}"
    image = build(name=name)
    assert image.name == f"{name}:latest"
    build.client.api.remove_image(name)
    again = build(name=f"{name}:2")
    assert build.skipped
    assert build.client.api.inspect_image(f"{name}:2")["Id"] == again.image_id == image.image_id


def test_a_base_that_changed_is_a_reason_to_build(build: Builder) -> None:
    base = f"loom-test-{uuid.uuid4().hex[:8]}"
    build.write_all(
        {"base/Dockerfile": f"FROM {BASE}\nCOPY v /v\n", "base/v": "1", "Dockerfile": f"FROM {base}\nRUN true\n"}
    )
    first = build(Build(context="base"), name=base)
    (build.folder / ".dockerignore").write_text("base\n")
    assert build.shell(build(), "cat /v") == "1"
    build.write_all({"base/v": "2"})
    assert build(Build(context="base"), name=base).image_id != first.image_id
    assert build.shell(build(), "cat /v") == "2"
    assert not build.skipped


@pytest.mark.parametrize("builder", BUILDERS)
def test_a_cancel_ends_a_build(build: Builder, builder: str) -> None:
    mark = str(uuid.uuid4())
    build.write(Dockerfile=f"FROM {BASE}\nRUN echo {mark}; sleep 601.5\n")

    def cancel_when_it_runs() -> None:
        until(lambda: build.said.count(mark) > 1)  # the instruction, and its output
        build.cancel.request()

    threading.Thread(target=cancel_when_it_runs, daemon=True).start()
    with promptly(), pytest.raises(ImageError, match="canceled while building") as ended:
        build(builder=builder)
    assert ended.value.code == "CANCELED"
    until(lambda: not running(mark))


def running(mark: str) -> bool:
    """Whether a process on this machine has this in its command line; the engine's are, where it is local."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes() and b"sleep" in path.read_bytes():
                return True
        except OSError:
            continue
    return False


def test_buildx_is_found_where_dockers_packages_put_it_and_hidden_on_request() -> None:
    assert find_buildx({**os.environ, "DOCKER_BUILDKIT": "0"}) is None
    assert find_buildx(os.environ) is not None


def test_prune_removes_only_what_was_not_used_lately(build: Builder) -> None:
    build.write(Dockerfile=f"FROM {BASE}\nCOPY a /a\n", a=uuid.uuid4().hex)
    old = build()
    time.sleep(0.1)
    between = time.time()
    build.write(a=uuid.uuid4().hex)
    new = build()
    # Other builds on this engine are not this test's to remove.
    removed = prune_builds(Only(build.client, {old.image_id, new.image_id}), before=between)  # type: ignore[arg-type]
    assert [one.name for one in removed] == [old.name]
    # Used again without being built: that counts as use.
    later = time.time()
    time.sleep(0.05)
    assert build().image_id == new.image_id
    assert prune_builds(Only(build.client, {new.image_id}), before=later) == ()  # type: ignore[arg-type]


class Only:
    """The engine as if it had no other images than these."""

    def __init__(self, client: docker.DockerClient, ids: set[str]) -> None:
        self.api = self
        self._api = client.api
        self._ids = ids

    def images(self, name: str) -> list[dict[str, str]]:
        return [image for image in self._api.images(name) if image["Id"] in self._ids]

    def __getattr__(self, name: str) -> object:
        return getattr(self._api, name)
