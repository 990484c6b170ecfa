"""A registry over its HTTP API: blobs and manifests in and out, with the user's credentials and without an engine."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from typing import IO, Any
from urllib.parse import urljoin

import requests

from loom.errors import ProviderError
from loom.providers.docker.engine.errors import explanation
from loom.providers.docker.images.credentials import credentials_for
from loom.values import Environ

_CONNECT_S, _ANSWER_S = 10.0, 30.0
_STORED_A_SECOND = 10e6
"""Bytes of a blob that a registry has stored when it answers: each adds to the time that its answer may take."""
_CHUNK = 1 << 20
_HUB = "registry-1.docker.io"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = (MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")


class RegistryError(ProviderError):
    """The registry does not answer, or refuses."""

    default_code = "REGISTRY_UNAVAILABLE"


class Repository:
    """One repository (`[http://]HOST[:PORT]/NAME`). Thread-safe."""

    def __init__(self, address: str, environ: Environ) -> None:
        plain = address.removeprefix("https://")
        scheme = "http" if plain.startswith("http://") else "https"
        self.host, _, self.name = plain.removeprefix("http://").partition("/")
        if not self.name:
            raise RegistryError(
                f"{address!r} is no repository of a registry",
                hint="write HOST:PORT/NAME, or http://HOST:PORT/NAME for a registry without TLS",
                code="REGISTRY_INVALID",
            )
        self._base = f"{scheme}://{_HUB if self.host == 'docker.io' else self.host}/v2/"
        self._auth = credentials_for(self.host, environ).auth
        self._local = threading.local()
        self._token: str | None = None
        self.sent = 0
        """The bytes of blobs that were uploaded."""

    def reference(self, digest: str) -> str:
        """Return the name by which a node pulls."""
        return f"{self.host}/{self.name}@{digest}"

    def has(self, digest: str) -> bool:
        return self._ask("HEAD", f"{self.name}/blobs/{digest}", allowed=(404,)).status_code == 200

    def blob(self, digest: str) -> Iterator[bytes]:
        answer: Iterator[bytes] = self._ask("GET", f"{self.name}/blobs/{digest}", stream=True).iter_content(_CHUNK)
        return answer

    def put_blob(self, digest: str, content: IO[bytes], size: int) -> None:
        """Upload a blob from its beginning, unless it is there."""
        if self.has(digest):
            return
        content.seek(0)
        begun = self._ask("POST", f"{self.name}/blobs/uploads/", headers={"Content-Length": "0"})
        location = urljoin(begun.url, begun.headers["Location"])
        location += f"{'&' if '?' in location else '?'}digest={digest}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        self._ask("PUT", location, data=content, headers=headers)
        self.sent += size

    def manifest(self, reference: str, platform: str) -> dict[str, Any]:
        """Return the manifest of an image for `platform`."""
        accept = {"Accept": ", ".join((*_MANIFESTS, *_INDEXES))}
        found: dict[str, Any] = self._ask("GET", f"{self.name}/manifests/{reference}", headers=accept).json()
        if "manifests" not in found:
            return found
        system, _, architecture = platform.partition("/")
        for one in found["manifests"]:
            made_for = one.get("platform") or {}
            if (made_for.get("os"), made_for.get("architecture")) == (system, architecture.partition("/")[0]):
                return self.manifest(str(one["digest"]), platform)
        raise RegistryError(f"{self.host}/{self.name}:{reference} has no image for {platform}", code="REGISTRY_REFUSED")

    def put_manifest(self, reference: str, content: bytes) -> None:
        self._ask("PUT", f"{self.name}/manifests/{reference}", data=content, headers={"Content-Type": MANIFEST})

    def _ask(
        self,
        method: str,
        path: str,
        *,
        allowed: tuple[int, ...] = (),
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> requests.Response:
        """Send a request. RegistryError for an answer with a status from 400 up that is not `allowed`."""
        url = urljoin(self._base, path)
        try:
            answer = self._send(method, url, dict(headers or {}), more)
            if answer.status_code == 401 and self._log_in(answer):
                if hasattr(more.get("data"), "seek"):
                    more["data"].seek(0)
                answer = self._send(method, url, dict(headers or {}), more)
        except requests.RequestException as error:
            raise RegistryError(
                f"the registry {self.host} does not answer: {explanation(error)}",
                hint="see the pool's `registry`; one without TLS needs http:// in front",
            ) from error
        if answer.status_code >= 400 and answer.status_code not in allowed:
            raise RegistryError(
                f"the registry {self.host} refuses {method} of {self.name}: {answer.status_code} {answer.reason}",
                hint=f"{answer.text[:200].strip()}\n`docker login {self.host}` gives loom your credentials".strip(),
                code="REGISTRY_REFUSED",
            )
        return answer

    def _send(self, method: str, url: str, headers: dict[str, str], more: Mapping[str, Any]) -> requests.Response:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        token, user = self._token, self._auth.get("username")
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        auth = (user, self._auth["password"]) if user and token is None else None
        answer_s = _ANSWER_S + int(headers.get("Content-Length", "0")) / _STORED_A_SECOND
        return session.request(method, url, headers=headers, auth=auth, timeout=(_CONNECT_S, answer_s), **more)

    def _log_in(self, refused: requests.Response) -> bool:
        """Get a token where the registry names a service for it; return whether to ask again."""
        kind, _, rest = refused.headers.get("WWW-Authenticate", "").partition(" ")
        asked = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if kind.lower() != "bearer" or "realm" not in asked:
            return False
        user = self._auth.get("username")
        answer = requests.get(
            asked.pop("realm"),
            params={"scope": f"repository:{self.name}:pull,push", **asked},
            auth=(user, self._auth["password"]) if user else None,
            timeout=(_CONNECT_S, _ANSWER_S),
        )
        if not answer.ok:
            return False
        document = answer.json()
        self._token = document.get("token") or document.get("access_token")
        return self._token is not None
