"""The one way to ask a server over HTTP: its token goes to it alone, and every answer ends.

`Door` is the transport of each session: redirects pass it, too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any, BinaryIO, TypeVar
from urllib.parse import parse_qsl, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError as TransportError

from loom.addresses import Address
from loom.commands.screen import progress_line
from loom.commands.servers import MOST_JOBS, ServerBusy, ServerRefused, ServerUnavailable, is_here, place_of
from loom.util.retrying import Policy, retrying
from loom.util.units import rough_size
from loom.util.within import within

PATIENCE_S = 60.0
"""The time for a connection, for the first line of an answer, and for each part of it."""
SLOWEST = 16 << 10
"""Bytes a second: an answer that comes more slowly, after PATIENCE_S, is given up."""
LARGEST_ANSWER = 32 << 20
LARGEST_LOG = 1 << 30
LARGEST_ARCHIVE = 16 << 30
MOST_REQUESTS = 2_000
LONGEST_S = 900.0
"""The time for all answers of a server but downloads."""
_BUSY = (429, 502, 503, 504)
_REFUSED = {
    401: "the token is not valid, or has expired",
    403: "{} may not read it",
    404: "not there, or {} may not read it",
    410: "it has expired",
}
T = TypeVar("T")

_AGAIN = Policy(
    when=lambda error: isinstance(error, ServerBusy),
    attempts=4,
    limit_s=90.0,  # servers ask for up to a minute
    first_wait_s=1.0,
    asked_s=lambda error: getattr(error, "pause_s", None),
)


class Door(HTTPAdapter):
    """Sends requests, with the token to `server` alone, and bounds their answers.

    Only a download may lead to another server, and only by https. A status from 400 on raises HTTPError.
    """

    def __init__(
        self,
        server: str,
        token: str | None = None,
        *,
        patience_s: float = PATIENCE_S,
        largest: int = LARGEST_ANSWER,
        most: int = MOST_REQUESTS,
    ) -> None:
        super().__init__(max_retries=0)
        self._server = server
        self._home = place_of(server)
        self._token = token
        self._patience_s = patience_s
        self._largest = largest
        self._left = most
        self._left_s = LONGEST_S

    def send(self, request: requests.PreparedRequest, stream: bool = False, *_: Any, **more: Any) -> requests.Response:
        url = request.url or ""
        self.check(url, is_download=stream)
        request.headers.pop("Authorization", None)  # of an address, or of the user's netrc
        if self._token is not None and place_of(url) == self._home:
            request.headers["Authorization"] = f"Bearer {self._token}"
        options = {**more, "stream": True, "timeout": self._patience_s}
        try:
            answer = within(self._patience_s * 2, lambda: super(Door, self).send(request, **options))
        except TimeoutError as error:
            raise requests.Timeout(request=request) from error
        if answer.status_code >= 400:
            answer.close()
            raise requests.HTTPError(response=answer)
        answer.iter_content = lambda *_, **__: self._bounded(answer, is_download=stream)  # type: ignore[method-assign]
        return answer

    def check(self, url: str, *, is_download: bool = False) -> None:
        """Raise ServerRefused for an address of another server, ServerUnavailable for one request too many."""
        here, (scheme, host, _) = place_of(url), self._home
        same = here in (self._home, ("https", host, 443))
        elsewhere = here[0] == "https" or (scheme == "http" and is_here(host) and is_here(here[1]))
        if not same and not (is_download and elsewhere):
            raise ServerRefused(f"{Address(self._server)} leads to another server, {Address(url)}")
        self._left -= 1
        if self._left < 0 or self._left_s < 0:
            raise ServerUnavailable(f"{host}: its answers do not end", hint="name the address of one job")

    def _bounded(self, answer: requests.Response, *, is_download: bool) -> Iterator[bytes]:
        """Yield the content, unpacked, as it arrives. ServerUnavailable for too much of it, or too slow a server."""
        began, size, most = time.monotonic(), 0, LARGEST_ARCHIVE if is_download else self._largest
        host = urlsplit(answer.url).netloc
        try:
            while piece := answer.raw.read1(1 << 18, decode_content=True):
                size += len(piece)
                if size > most:
                    raise ServerUnavailable(f"{host}: its answer has more than {most >> 20} MiB")
                if time.monotonic() - began > self._patience_s + size / SLOWEST:
                    raise ServerUnavailable(f"{host}: its answer comes too slowly", hint="try again later")
                yield piece
        finally:
            answer.close()
            self._left_s -= 0.0 if is_download else time.monotonic() - began


def session_of(door: Door) -> requests.Session:
    """Return a session whose every request passes the door."""
    session = requests.Session()
    session.headers["User-Agent"] = "loom"
    for scheme in ("https://", "http://"):
        session.mount(scheme, door)
    return session


class Web:
    """The API of one server, asked with one token; paths are below its address."""

    def __init__(self, api: str, token: str | None, *, advice: str) -> None:
        self._api = api
        self._session = session_of(Door(api, token))
        self._host = urlsplit(api).netloc
        self._who = "this token" if token is not None else "anybody without a token"
        self._advice = advice

    def get(self, what: str, path: str) -> Any:
        """Return an answer. ServerRefused, ServerUnavailable."""
        return self._asked(what, lambda: self._answer(path)[0])

    def listed(self, what: str, path: str, key: str = "", *, most: int = MOST_JOBS, **which: str) -> list[Any]:
        """Return the first items of a list, of all its pages; `key`: where in an answer they are. Errors as of `get`."""

        def items() -> Iterator[Any]:
            query = {"per_page": str(min(most, 100)), **which}
            while query:
                page, next_url = self._answer(path, query)
                yield from page[key] if key else page
                following = dict(parse_qsl(urlsplit(next_url).query))  # a server behind a proxy names another host
                query = following and query | following

        return self._asked(what, lambda: [*islice(items(), most)])

    def post(self, what: str, path: str, values: Mapping[str, str]) -> None:
        """Create something. Errors as of `get`."""
        self._asked(what, lambda: self._session.post(f"{self._api}/{path}", json=values))

    def _answer(self, path: str, query: Mapping[str, str] | None = None) -> tuple[Any, str]:
        """Return an answer, and the address of the next page."""
        found = self._session.get(f"{self._api}/{path}", params=query)
        return json.loads(found.content), found.links.get("next", {}).get("url", "")

    def _asked(self, what: str, ask: Callable[[], T]) -> T:
        """Return what `ask` returns, which is asked again while the server is busy."""

        def once() -> T:
            with self._errors(what):
                return ask()

        with progress_line(at_once=True) as show:
            return retrying(once, _AGAIN, tell=lambda why: show(f"{why}; loom asks again"))

    def download(self, what: str, path: str, file: BinaryIO, most: int) -> None:
        """Write what is at a path, or where it leads, to a file, with progress on a terminal.

        ServerUnavailable beyond the size limit.
        """
        pieces = self._asked(what, lambda: self._session.get(f"{self._api}/{path}", stream=True).iter_content())
        size = 0
        with progress_line() as show, self._errors(what):
            for piece in pieces:
                size += len(piece)
                if size > most:
                    hint = "download it, and name the file"
                    raise ServerUnavailable(f"{what} has more than {most >> 20} MiB", hint=hint)
                file.write(piece)
                show(f"{what}: {rough_size(size)}")

    def _errors(self, what: str) -> AbstractContextManager[None]:
        return errors(f"{self._host}: {what}", self._who, self._advice)


@contextmanager
def errors(what: str, who: str = "anybody without a token", advice: str = "") -> Iterator[None]:
    """Raise ServerRefused and ServerUnavailable for the errors of the transport, and for an answer of another form."""
    try:
        yield
    except requests.HTTPError as error:
        raise _error(what, error.response, who, advice) from None
    except (requests.RequestException, TransportError) as error:
        raise unanswered(what, error) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"the server's answer is not as documented ({type(error).__name__})"
        raise ServerUnavailable(f"{what}: {why}") from None


def _error(what: str, answer: requests.Response, who: str, advice: str) -> ServerRefused | ServerUnavailable:
    code, headers = answer.status_code, answer.headers
    pause = headers.get("retry-after", "")
    limited = code == 429 or headers.get("x-ratelimit-remaining") == "0"
    if code in _REFUSED and not limited and not pause:
        hint = "run the job there again, or the present one here: loom run JOB" if code == 410 else advice
        refused = ServerRefused(f"{what}: {_REFUSED[code].format(who)} ({code})", hint=hint)
        refused.status = code
        return refused
    kind = ServerBusy if code in _BUSY or pause.isdecimal() else ServerUnavailable
    wait = f"wait as long as it asks for, and try again; or {advice}"
    found = kind(
        f"{what}: {'too many requests' if limited else code}",
        hint=wait if limited else "the server's own error; ask again",
    )
    if isinstance(found, ServerBusy) and pause.isdecimal():
        found.pause_s = float(pause)
    return found


def unanswered(what: str, error: Exception) -> ServerUnavailable:
    """Return the error of a server that could not be asked."""
    if isinstance(error, requests.exceptions.SSLError):
        hint = "name a file with its authority: REQUESTS_CA_BUNDLE=FILE (on Debian /etc/ssl/certs/ca-certificates.crt)"
        return ServerUnavailable(f"{what}: its certificate is not trusted", hint=hint)
    kinds = (("Proxy", "the proxy does not answer"), ("Timeout", "no answer in time"), ("Connection", "no connection"))
    name = type(error).__name__
    why = next((words for kind, words in kinds if kind in name), name)
    return ServerUnavailable(f"{what}: {why}", hint="check the address and the connection (proxy: HTTPS_PROXY)")
