"""Statements of test results, signed as git signs for this person: in-toto in a DSSE envelope, by ssh-keygen or gpg."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from loom.errors import InfrastructureError, RequestError
from loom.util import typed

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
UNLIKE = "unlike"
PAYLOAD = "application/vnd.in-toto+json"
NAMESPACE = "loom"
"""The namespace of signatures with ssh keys: the signature of a commit, which has another one, signs no result."""
_PATIENCE_S = 120.0
"""The time for a passphrase, or a touch of a key."""
_ARMOR = re.compile(r"-----BEGIN PGP PUBLIC KEY BLOCK-----.*?-----END PGP PUBLIC KEY BLOCK-----\n?", re.DOTALL)
_SSH, _PGP = b"-----BEGIN SSH SIGNATURE-----", b"-----BEGIN PGP SIGNATURE-----"


class NotSigned(RequestError):
    """git is not set up to sign, or its program did not."""

    default_code = "NOT_SIGNED"


class Configuration(Struct, frozen=True):
    """A resource descriptor of in-toto: what was run, and how."""

    name: str
    digest: dict[str, str]
    annotations: dict[str, Any] = {}


class JobResults(Struct, frozen=True, rename="camel"):
    """The predicate `test-result`, version 0.1. The tests are the names of jobs."""

    result: str
    configuration: list[Configuration]
    passed_tests: list[str] = []


class Subject(Struct, frozen=True):
    digest: dict[str, str]


class Statement(Struct, frozen=True):
    """An in-toto Statement whose subject is a commit's tree (`gitTree`)."""

    subject: list[Subject]
    predicate: JobResults
    type: str = field(name="_type", default=STATEMENT)
    predicate_type: str = field(name="predicateType", default=PREDICATE)

    def _annotation(self, name: str) -> Any:
        """Return what loom wrote beside the configuration; None where another tool wrote the statement."""
        return next((each.annotations.get(name) for each in self.predicate.configuration if each.name == "loom"), None)

    @property
    def event(self) -> str:
        return str(self._annotation("event") or "")

    @property
    def ref(self) -> str:
        """The branch or tag whose jobs these are: rules may have other ones for another."""
        return str(self._annotation("ref") or "")

    @property
    def unlike(self) -> list[str]:
        """What makes the run unlike CI."""
        found = self._annotation(UNLIKE)
        return [str(each) for each in found] if isinstance(found, list) else ["another tool than loom ran it"]

    def is_of(self, tree: str) -> bool:
        kinds = (self.type, self.predicate_type) == (STATEMENT, PREDICATE)
        return kinds and any(each.digest.get("gitTree") == tree for each in self.subject)


class Signature(Struct, frozen=True):
    sig: bytes
    keyid: str = ""
    """A hint of whose it is, which nobody need believe."""


class Envelope(Struct, frozen=True, rename={"payload_type": "payloadType"}):
    """A DSSE envelope, version 1: in JSON, bytes are base64."""

    payload: bytes
    signatures: list[Signature]
    payload_type: str = PAYLOAD

    @property
    def signed(self) -> bytes:
        """The bytes that its signatures sign ("pre-authentication encoding")."""
        kind = self.payload_type.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)


class Signing(Struct, frozen=True):
    """How git signs for this person: the program, the key, and who it is."""

    format: str
    program: str
    key: str
    who: str

    def command(self, folder: Path) -> list[str]:
        """Return the command that signs its standard input. `folder`: for a public key that the configuration holds."""
        if self.format != "ssh":
            return [self.program, "--batch", "--detach-sign", "--armor", "--local-user", self.key]
        literal = self.key.removeprefix("key::")
        if not literal.startswith(("ssh-", "ecdsa-", "sk-")):
            return [self.program, "-Y", "sign", "-n", NAMESPACE, "-f", str(Path(self.key).expanduser())]
        public = folder / "key.pub"
        public.write_text(literal + "\n")
        return [self.program, "-Y", "sign", "-n", NAMESPACE, "-U", "-f", str(public)]


def signing_of(settings: Mapping[str, str]) -> Signing:
    """Return how git signs. NotSigned without a key.

    `settings`: git's, without what a repository's own configuration may not say (`snapshot.repository`): a program, for one.
    """
    format = settings.get("gpg.format", "openpgp")
    who, key = settings.get("user.email", ""), settings.get("user.signingkey", "")
    if format not in ("ssh", "openpgp"):
        raise NotSigned(f"gpg.format is {format}; loom signs with ssh and openpgp", hint="git config gpg.format ssh")
    if not key and format == "openpgp":
        key = who
    if not key or not who:
        raise NotSigned(
            "git has no key to sign with, or no user.email",
            hint="git config --global gpg.format ssh\ngit config --global user.signingkey ~/.ssh/id_ed25519.pub",
        )
    usual = "ssh-keygen" if format == "ssh" else settings.get("gpg.program", "gpg")
    return Signing(format=format, program=settings.get(f"gpg.{format}.program", usual), key=key, who=who)


def sign(statement: Statement, signing: Signing) -> Envelope:
    """Return the envelope with the statement. NotSigned when the program fails."""
    envelope = Envelope(payload=msgspec.json.encode(statement), signatures=[])
    with tempfile.TemporaryDirectory(prefix="loom-") as folder:
        signature = _output(signing.command(Path(folder)), envelope.signed)
    return replace(envelope, signatures=[Signature(sig=signature, keyid=signing.who)])


def signers_of(envelope: Envelope, allowed: str) -> list[str]:
    """Return those of the allowed signers whose signatures of an envelope are valid.

    `allowed`: lines as in git's `gpg.ssh.allowedSignersFile`, and armored OpenPGP public keys.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="loom-") as name:
        folder = Path(name)
        (folder / "keys").write_text("".join(_ARMOR.findall(allowed)))
        (folder / "signers").write_text(_ARMOR.sub("", allowed))
        for one in envelope.signatures:
            (folder / "signature").write_bytes(one.sig)
            if one.sig.startswith(_SSH):
                found += _ssh_signers(folder, envelope.signed)
            elif one.sig.startswith(_PGP):
                found += _pgp_signers(folder, envelope.signed)
    return found


def _ssh_signers(folder: Path, signed: bytes) -> list[str]:
    files = ("-s", str(folder / "signature"), "-f", str(folder / "signers"))
    code, out, _ = _ran(["ssh-keygen", "-Y", "find-principals", *files], b"")
    names = out.decode("utf-8", "replace").splitlines() if code == 0 else []
    check = ["ssh-keygen", "-Y", "verify", "-n", NAMESPACE, *files, "-I"]
    return [name for name in names[:1] if _ran([*check, name], signed)[0] == 0]


def _pgp_signers(folder: Path, signed: bytes) -> list[str]:
    home = folder / "gnupg"
    home.mkdir(mode=0o700, exist_ok=True)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--no-autostart", "--trust-model", "always"]
    _ran([*gpg, "--import", str(folder / "keys")], b"")
    code, out, _ = _ran([*gpg, "--status-fd", "1", "--verify", str(folder / "signature"), "-"], signed)
    # Of a key that has expired or was revoked, the line is another (doc/DETAILS of GnuPG).
    good = re.findall(r"^\[GNUPG:\] GOODSIG [0-9A-F]+ (.+)$", out.decode("utf-8", "replace"), re.MULTILINE)
    return good if code == 0 and len(good) == 1 else []


def read_envelope(line: bytes) -> tuple[Envelope, Statement] | None:
    """Read one envelope, a stranger's; None for anything else."""
    try:
        envelope = typed.decode(line, Envelope)
        statement = typed.decode(envelope.payload, Statement)
    except (ValueError, RecursionError):
        return None
    return (envelope, statement) if envelope.payload_type == PAYLOAD else None


def _output(command: Sequence[str], given: bytes) -> bytes:
    code, out, why = _ran(command, given)
    if code or not out.startswith((_SSH, _PGP)):
        raise NotSigned(
            f"{command[0]} did not sign (exit code {code}): {(why.strip().splitlines() or ['it says nothing'])[-1]}",
            hint="the same must work: git commit -S --allow-empty",
        )
    return out


def _ran(command: Sequence[str], given: bytes) -> tuple[int, bytes, str]:
    """Return exit code, output and standard error."""
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=_PATIENCE_S, check=False)
    except FileNotFoundError as error:
        raise InfrastructureError(f"{command[0]} is not installed, or not on PATH", hint="install it") from error
    except subprocess.TimeoutExpired:
        return 1, b"", "it waits for a passphrase or a key"
    return done.returncode, done.stdout, done.stderr.decode("utf-8", "replace")
