"""Attestations, by real git, ssh-keygen, gpg and jq; read by in-toto's own libraries and by the shell that CI runs."""

import json
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.v1.statement_pb2 import Statement as InTotoStatement
from msgspec.structs import replace

from loom.commands.gate.ci import SHOWN, SIGNERS
from loom.commands.gate.signing import (
    Configuration,
    Envelope,
    JobResults,
    NotSigned,
    Statement,
    Subject,
    read_envelope,
    sign,
    signers_of,
    signing_of,
)
from loom.util import jsons

pytestmark = pytest.mark.slow

WHO = "dev@example.org"


def run(*words: str, cwd: Path | None = None, **environ: str) -> str:
    done = subprocess.run(words, cwd=cwd, env={**os.environ, **environ}, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "id"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", WHO, "-f", str(path))
    return path


def ssh(key: Path) -> dict[str, str]:
    return {"gpg.format": "ssh", "user.signingkey": f"{key}.pub", "user.email": WHO}


def allowed(key: Path, options: str = "") -> str:
    return f"{WHO} {options}{key.with_name(key.name + '.pub').read_text()}"


def statement(tree: str = "1" * 40, result: str = "PASSED", **annotations: Any) -> Statement:
    told = {"event": "push", "ref": "refs/heads/topic", "architecture": platform.machine(), "unlike": [], **annotations}
    configuration = [Configuration(name="loom", digest={"gitTree": tree}, annotations=told)]
    predicate = JobResults(result=result, configuration=configuration, passed_tests=["unit", "a b"])
    return Statement(subject=[Subject(digest={"gitTree": tree})], predicate=predicate)


def test_an_envelope_is_what_in_toto_reads(key: Path) -> None:
    from securesystemslib.dsse import Envelope as LibraryEnvelope  # it brings boto3 along: a second

    line = jsons.encode_line(sign(statement(), signing_of(ssh(key))))
    theirs = LibraryEnvelope.from_dict(json.loads(line))
    ours, read = read_envelope(line) or pytest.fail("not read")
    assert (theirs.pae(), read) == (ours.signed, statement())
    parsed = json_format.Parse(theirs.payload, InTotoStatement())
    assert (parsed.type, parsed.subject[0].digest["gitTree"]) == ("https://in-toto.io/Statement/v1", "1" * 40)
    assert list(parsed.predicate["passedTests"]) == ["unit", "a b"]


def test_who_signed_is_known_by_ssh_keys(key: Path, tmp_path: Path) -> None:
    envelope = sign(statement(), signing_of(ssh(key)))
    assert signers_of(envelope, f"# people\n{allowed(key)}") == [WHO]
    assert signers_of(replace(envelope, payload=envelope.payload.replace(b"unit", b"lint")), allowed(key)) == []
    assert signers_of(replace(envelope, payload_type="text/plain"), allowed(key)) == []
    assert signers_of(envelope, allowed(key, 'namespaces="git" ')) == []
    assert signers_of(envelope, allowed(key, 'valid-before="20200101" ')) == []
    other = tmp_path / "other"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", WHO, "-f", str(other))
    assert signers_of(envelope, allowed(other)) == []
    assert signers_of(envelope, "") == []


def test_who_signed_is_known_by_openpgp_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    homes = [Path(run("mktemp", "-d", "/tmp/loom-gpg.XXXXXX")) for _ in range(2)]  # a socket's path is short
    try:
        keys = []
        for home in homes:
            words = ("--batch", "--quiet", "--passphrase", "", "--quick-gen-key", f"Dev <{WHO}>", "default", "default")
            run("gpg", *words, GNUPGHOME=str(home))
            keys.append(run("gpg", "--armor", "--export", GNUPGHOME=str(home)))
        monkeypatch.setenv("GNUPGHOME", str(homes[0]))
        envelope = sign(statement(), signing_of({"user.email": WHO}))
        assert signers_of(envelope, "\n".join(keys)) == [f"Dev <{WHO}>"]
        assert signers_of(envelope, keys[1]) == []
        assert signers_of(replace(envelope, payload=b"{}"), keys[0]) == []
    finally:
        for home in homes:
            subprocess.run(("gpgconf", "--kill", "all"), env={**os.environ, "GNUPGHOME": str(home)}, check=False)
            subprocess.run(("rm", "-rf", str(home)), check=True)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "no key"),
        ({"gpg.format": "x509", "user.email": WHO}, "x509"),
        ({"gpg.format": "ssh", "user.email": WHO, "user.signingkey": "/nowhere/id.pub"}, "/nowhere/id.pub"),
    ],
)
def test_no_way_to_sign_is_said(settings: dict[str, str], why: str) -> None:
    with pytest.raises(NotSigned, match=why):
        sign(statement(), signing_of(settings))


class Server:
    """A bare repository with the signers in `main`, a branch with one commit more, and CI's checkout of that branch."""

    def __init__(self, folder: Path, key: Path) -> None:
        self.folder, self.key, self.work, self.ci = folder, key, folder / "work", folder / "ci"
        run("git", "init", "-q", "--bare", "-b", "main", str(folder / "remote"))
        run("git", "clone", "-q", str(folder / "remote"), str(self.work))
        self.write(SIGNERS, allowed(key))
        self.git("push", "-q", "origin", "HEAD:main")
        self.write("code", "new")
        self.git("push", "-q", "origin", "HEAD:topic")
        run("git", "clone", "-q", "--depth=1", "-b", "topic", f"file://{folder}/remote", str(self.ci))

    def git(self, *words: str, at: Path | None = None) -> str:
        who = ("-c", "user.name=n", "-c", f"user.email={WHO}", "-c", "commit.gpgsign=false")
        return run("git", *who, *words, cwd=at or self.work)

    def write(self, name: str, text: str) -> None:
        path = self.work / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", name)

    @property
    def tree(self) -> str:
        return self.git("rev-parse", "HEAD^{tree}")

    def note(self, *envelopes: Envelope) -> None:
        path = self.folder / "note"
        path.write_bytes(b"".join(map(jsons.encode_line, envelopes)))
        self.git("notes", "--ref=loom", "add", "-f", "-F", str(path), "HEAD")
        self.git("push", "-q", "-f", "origin", "refs/notes/loom")

    def shown(self, **environ: str) -> list[str]:
        """Run CI's own script."""
        given = {
            "COMMIT": self.git("rev-parse", "HEAD"),
            "BRANCH": "main",
            "EVENT": "push",
            "REF": "refs/heads/topic",
            **environ,
        }
        return run("sh", "-c", SHOWN, cwd=self.ci, **given).splitlines()


@pytest.fixture
def server(tmp_path: Path, key: Path) -> Server:
    return Server(tmp_path, key)


def test_ci_knows_what_is_shown_without_loom(server: Server, key: Path, tmp_path: Path) -> None:
    assert server.shown() == []
    stranger = tmp_path / "stranger"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", WHO, "-f", str(stranger))
    good = sign(statement(server.tree), signing_of(ssh(key)))
    server.note(sign(statement(server.tree), signing_of(ssh(stranger))), good)
    assert server.shown() == ["unit", "a b"]
    assert server.shown(EVENT="pull_request") == []
    assert server.shown(BRANCH="gone") == []
    assert [server.shown(REF=ref) for ref in ("refs/heads/other", "refs/tags/topic", "topic", "")] == [[]] * 4
    quoted = """refs/heads/a/'b"$(exit)`c`"""
    server.note(sign(statement(server.tree, ref=quoted), signing_of(ssh(key))))
    assert (server.shown(REF=quoted), server.shown()) == (["unit", "a b"], [])


def of_other_tree(server: Server) -> None:
    server.note(sign(statement(), signing_of(ssh(server.key))))


def that_failed(server: Server) -> None:
    server.note(sign(statement(server.tree, "FAILED"), signing_of(ssh(server.key))))


def of_other_architecture(server: Server) -> None:
    server.note(sign(statement(server.tree, architecture="sparc"), signing_of(ssh(server.key))))


def unlike_ci(server: Server) -> None:
    server.note(sign(statement(server.tree, unlike=["a tag"]), signing_of(ssh(server.key))))


def that_names_no_ref(server: Server) -> None:
    server.note(sign(statement(server.tree, ref=None), signing_of(ssh(server.key))))


def edited_after_signing(server: Server) -> None:
    envelope = sign(statement(server.tree, "FAILED"), signing_of(ssh(server.key)))
    server.note(replace(envelope, payload=envelope.payload.replace(b"FAILED", b"PASSED")))


def of_other_kind(server: Server) -> None:
    other = replace(statement(server.tree), predicate_type="https://example.org/other")
    server.note(sign(other, signing_of(ssh(server.key))))


def signer_of_the_branch_itself(server: Server) -> None:
    stranger = server.folder / "stranger"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", WHO, "-f", str(stranger))
    server.write(SIGNERS, allowed(stranger))
    server.git("push", "-q", "origin", "HEAD:topic")
    server.git("pull", "-q", at=server.ci)
    server.note(sign(statement(server.tree), signing_of(ssh(stranger))))


def merge_with_another_tree(server: Server) -> None:
    server.note(sign(statement(server.tree), signing_of(ssh(server.key))))
    (server.ci / "code").write_text("merged")
    server.git("commit", "-q", "-a", "-m", "merge", at=server.ci)


def replayed_from_another_commit(server: Server) -> None:
    server.note(sign(statement(server.tree), signing_of(ssh(server.key))))
    note = server.git("notes", "--ref=loom", "show", "HEAD")
    server.write("code", "worse")
    server.git("push", "-q", "origin", "HEAD:topic")
    server.git("pull", "-q", at=server.ci)
    server.git("notes", "--ref=loom", "add", "-m", note, "HEAD")
    server.git("push", "-q", "-f", "origin", "refs/notes/loom")


def no_json(server: Server) -> None:
    server.git("notes", "--ref=loom", "add", "-m", 'unit\n{"payload": 3}\n[]', "HEAD")
    server.git("push", "-q", "-f", "origin", "refs/notes/loom")


@pytest.mark.parametrize(
    "attack",
    [
        of_other_tree,
        that_failed,
        of_other_architecture,
        unlike_ci,
        that_names_no_ref,
        edited_after_signing,
        of_other_kind,
        signer_of_the_branch_itself,
        merge_with_another_tree,
        replayed_from_another_commit,
        no_json,
    ],
)
def test_every_doubt_means_that_the_jobs_run(server: Server, attack: Callable[[Server], None]) -> None:
    attack(server)
    assert server.shown() == []
