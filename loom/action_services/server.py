"""The HTTP server of the two services, for the containers of one run.

Two kinds of requests: calls of a service (Twirp: JSON by POST, with the token of a job), and bytes at an address that such a call
gave (as Azure's blob client sends and reads them). An address is signed for its purpose; token and address are worth nothing
after the run. Only the network of the containers can connect.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from secrets import token_hex
from typing import IO, Any
from urllib.parse import parse_qs, quote, urlsplit

from loom.action_services.artifacts import ArtifactService
from loom.action_services.caches import CacheService
from loom.action_services.requests import Client, Message, ServiceStore, Uploads
from loom.action_services.uploads import MOST_BLOCKS, Refused

_LARGEST_CALL = 1 << 20
_LARGEST_LIST = MOST_BLOCKS * 150
_MOST_CONNECTIONS = 512
_IDLE_S = 120
_LINGER, _LINGER_S = 1 << 30, 2.0
_BLOCK = re.compile(r"<(?:Latest|Uncommitted|Committed)>([^<]*)</")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")

Call = Callable[[Client, Message], Message]


class ResultsServer:
    """GitHub's services for artifacts and caches, at the addresses given to `listen`, until `close`. Thread-safe."""

    def __init__(self, store: ServiceStore) -> None:
        self.uploads = Uploads(store)
        self._lock = threading.Lock()
        self._clients: dict[str, Client] = {}
        self._listening: dict[str, _Listener] = {}
        self._caches = CacheService(store, self.uploads)
        self._artifacts = ArtifactService(store, self.uploads)
        caches, artifacts = "CacheService", "ArtifactService"
        self._calls: Mapping[tuple[str, str], Call] = {
            (caches, "CreateCacheEntry"): self._caches.create,
            (caches, "FinalizeCacheEntryUpload"): self._caches.finish,
            (caches, "GetCacheEntryDownloadURL"): self._caches.find,
            (artifacts, "CreateArtifact"): self._artifacts.create,
            (artifacts, "FinalizeArtifact"): self._artifacts.finish,
            (artifacts, "ListArtifacts"): self._artifacts.listed,
            (artifacts, "GetSignedArtifactURL"): self._artifacts.found,
            (artifacts, "DeleteArtifact"): self._artifacts.delete,
        }

    def listen(self, way: str) -> str:
        """Answer at an address, for its network alone (`Provider.host_address`); return the URL. OSError where this machine does
        not have it.
        """
        with self._lock:
            if way not in self._listening:
                self._listening[way] = _Listener(self, ip_interface(way))
            return self._listening[way].url

    def admit(self, client: Client) -> str:
        """Return a token for a job. Its form is a JWT, of which the toolkit reads `scp`."""
        claims = {
            "scp": f"Actions.Results:{quote(client.pipeline, '')}:{quote(client.job_id, '')}",
            "jti": token_hex(16),
        }
        header = {"alg": "HS256", "typ": "JWT"}
        body = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        token = f"{body}.{_base64(self.uploads.signature(body))}"
        self._clients[token] = client
        return token

    def dismiss(self, token: str) -> None:
        """Forget a job that has ended, and its unfinished uploads."""
        self.uploads.drop(self._clients.pop(token))

    def close(self) -> None:
        """Stop, also in the middle of requests."""
        for listener in self._listening.values():
            listener.close()
        for token in list(self._clients):
            self.dismiss(token)

    # -- requests -----------------------------------------------------------------------------------------------------

    def call(self, service: str, method: str, token: str, body: bytes) -> Message:
        """Answer a call of a service."""
        client = self._clients.get(token)
        if client is None:
            raise Refused(401, "unauthenticated", "the token is not that of a job of this run")
        call = self._calls.get((service, method))
        if call is None:
            raise Refused(404, "bad_route", f"loom has no {service}/{method}")
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            raise Refused(400, "malformed", "expected an object in JSON")
        return call(client, request)

    def open(self, kind: str, name: str) -> IO[bytes]:
        """Open what a job downloads."""
        try:
            return self._caches.open(name) if kind == "cache" else self._artifacts.open(name)
        except OSError as error:
            raise Refused(404, "not_found", "it is gone") from error


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = _MOST_CONNECTIONS

    def __init__(self, results: ResultsServer, interface: IPv4Interface | IPv6Interface) -> None:
        self.results = results
        self._network = interface.network
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self._open = set[socket.socket]()
        if interface.version == 6:
            self.address_family = socket.AF_INET6
        super().__init__((str(interface.ip), 0), _Handler)
        host = f"[{interface.ip}]" if interface.version == 6 else str(interface.ip)
        self.url = f"http://{host}:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="results", daemon=True)
        self._thread.start()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return ip_address(client_address[0]) in self._network

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            super().shutdown_request(request)
            return
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        if request in self._open:
            self._open.discard(request)
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a connection that broke: it is its job's business."""

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    server_version = "loom"
    sys_version = ""
    timeout = _IDLE_S

    def do_POST(self) -> None:
        with self._answering(twirp=True):
            parts = urlsplit(self.path).path.strip("/").split("/")
            if len(parts) != 3 or parts[0] != "twirp":
                raise Refused(404, "bad_route", "no such path")
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
            service = parts[1].removeprefix("github.actions.results.api.v1.")
            answer = self.server.results.call(service, parts[2], token, self._body(_LARGEST_CALL))
            self._answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def do_PUT(self) -> None:
        with self._answering():
            name, asked = self._address("upload")
            upload = self.server.results.uploads.find(name)
            match asked.get("comp"):
                case "block":
                    upload.block(asked.get("blockid", ""), self.rfile, self._length())
                case "blocklist":
                    upload.joined(_BLOCK.findall(self._body(_LARGEST_LIST).decode("utf-8", "replace")))
                case None:
                    upload.whole(self.rfile, self._length())
                case other:
                    raise Refused(400, "invalid_argument", f"loom does not know comp={other}")
            self._answer(201, b"", {"ETag": '"0"', "x-ms-request-server-encrypted": "false"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        with self._answering():
            kind = "cache" if self.path.startswith("/loom/cache/") else "artifact"
            name, _ = self._address(kind)
            with self.server.results.open(kind, name) as file:
                self._send(file)

    def _send(self, file: IO[bytes]) -> None:
        size = file.seek(0, 2)
        asked = self.headers.get("x-ms-range") or self.headers.get("Range")
        first, last = _range(asked, size) if asked else (0, size - 1)
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/zip", "ETag": '"0"'}
        if asked:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        headers["Content-Length"] = str(last - first + 1)
        self._answer(206 if asked else 200, None, headers)
        if self.command == "GET" and last >= first:
            self.connection.sendfile(file, first, last - first + 1)

    def _address(self, kind: str) -> tuple[str, Mapping[str, str]]:
        """Return the name in an address that is signed for this kind of use, and its query."""
        parts = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        start = f"/loom/{kind}/"
        name = parts.path.removeprefix(start)
        if not parts.path.startswith(start):
            raise Refused(404, "bad_route", "no such path")
        self.server.results.uploads.check(kind, name, asked.get("sig", ""))
        return name, asked

    def _length(self) -> int:
        """Return the size of the body; one without is refused, since it has no limit."""
        length = self.headers.get("Content-Length") or ""
        if not (length.isascii() and length.isdecimal()) or len(length) > 18 or self.headers.get("Transfer-Encoding"):
            raise Refused(411, "malformed", "a Content-Length is needed")
        return int(length)

    def _body(self, most: int) -> bytes:
        length = self._length()
        if length > most:
            raise Refused(413, "resource_exhausted", f"the request has {length} bytes, and may have {most}")
        body = self.rfile.read(length)
        if len(body) < length:
            raise Refused(400, "malformed", "the request ended early")
        return body

    @contextmanager
    def _answering(self, *, twirp: bool = False) -> Iterator[None]:
        """Answer with the reason of a refusal. The connection ends then: the body may not have been read."""
        try:
            yield
        except Refused as error:
            self._failed(error.status, error.code, str(error), twirp=twirp)
        except (BrokenPipeError, ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as error:  # noqa: BLE001  the job's output shows it; no run ends by a request
            if not isinstance(error, OSError):
                self._failed(400, "internal", f"a bug of loom: {error!r}", twirp=twirp)
                return
            self._failed(507, "resource_exhausted", f"loom can't do it: {error.strerror}", twirp=twirp)

    def _failed(self, status: int, code: str, reason: str, *, twirp: bool) -> None:
        self.close_connection = True
        body = json.dumps({"code": code, "msg": reason}).encode() if twirp else reason.encode()
        kind = "application/json" if twirp else "text/plain; charset=utf-8"
        with suppress(OSError):
            self._answer(status, body, {"Content-Type": kind, "Connection": "close", "x-ms-error-code": code})
            self.connection.settimeout(_LINGER_S)
            self.connection.shutdown(socket.SHUT_WR)
            left = _LINGER  # a client that still sends would not see the answer if the connection broke
            while left > 0 and (data := self.rfile.read1(_LARGEST_CALL)):
                left -= len(data)

    def _answer(self, status: int, body: bytes | None, headers: Mapping[str, str]) -> None:
        """Send the head of an answer, and `body`; without one, `headers` state its length."""
        self.send_response(status, HTTPStatus(status).phrase)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        self.send_header("x-ms-request-id", token_hex(8))
        self.send_header("x-ms-version", self.headers.get("x-ms-version") or "2021-12-02")
        if body is not None:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: requests are no output of the run; what they change is in the record."""


def _range(asked: str, size: int) -> tuple[int, int]:
    """Return the first and the last byte of a range."""
    match = _RANGE.fullmatch(asked.strip())
    if match is None or not any(match.groups()):
        raise Refused(416, "invalid_argument", "expected one range of bytes")
    first, last = (int(number) if number else None for number in match.groups())
    if first is None:
        first, last = max(0, size - (last or 0)), size - 1
    if first >= size:
        raise Refused(416, "out_of_range", f"it has {size} bytes")
    return first, min(size - 1, last if last is not None else size - 1)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
