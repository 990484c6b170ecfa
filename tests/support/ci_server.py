"""A server that answers as the documentation of GitLab's and GitHub's APIs says, by real HTTP on this machine."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

SHA = "1ecfd275eff395b7beb78ba1ef2e1c48a3b8b4d1"


@dataclass
class Reply:
    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


Route = Reply | Callable[[dict[str, str]], Reply]


@dataclass
class Stub:
    """`routes`: by path. `asked`: the path and the headers of each request, in order; `posted`: path and JSON of a POST."""

    url: str
    routes: dict[str, Route] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    posted: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def pages(self, path: str, items: list[Any], size: int = 2) -> None:
        """Answer with pages, as both servers number them in `Link`."""

        def page(query: dict[str, str]) -> Reply:
            number = int(query.get("page", 1))
            more = number * size < len(items)
            follow = f'<{self.url}{path}?page={number + 1}&per_page={size}>; rel="next"'
            return Reply(items[(number - 1) * size : number * size], headers={"Link": follow} if more else {})

        self.routes[path] = page


@contextmanager
def serving() -> Iterator[Stub]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            stub.asked.append((parts.path, {name.lower(): value for name, value in self.headers.items()}))
            route = stub.routes.get(parts.path, Reply({"message": "404 Not Found"}, 404))
            reply = route if isinstance(route, Reply) else route({k: v[0] for k, v in parse_qs(parts.query).items()})
            content = reply.content
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            stub.posted.append((urlsplit(self.path).path, json.loads(self.rfile.read(size))))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        stub = Stub(url=f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield stub
        finally:
            server.shutdown()
            thread.join()


def gitlab_job(number: int, name: str, status: str = "failed", **more: Any) -> dict[str, Any]:
    """A job as `GET /projects/:id/jobs/:job_id` has it."""
    return {
        "id": number,
        "name": name,
        "stage": "test",
        "status": status,
        "ref": "main",
        "tag": False,
        "coverage": None,
        "allow_failure": False,
        "created_at": "2026-01-01T10:00:00.000Z",
        "web_url": "",
        "commit": {"id": SHA, "short_id": SHA[:8], "title": "one"},
        "pipeline": {"id": 7, "iid": 3, "project_id": 1, "sha": SHA, "ref": "main", "status": "failed"},
        "runner": None,
        "tag_list": ["docker"],
        "artifacts": [{"file_type": "trace", "size": 100, "filename": "job.log", "file_format": None}],
        **more,
    }


def gitlab_project(stub: Stub, jobs: list[dict[str, Any]], **more: Any) -> None:
    """Serve group/project with one pipeline, 7."""
    at = "/api/v4/projects/group%2Fproject"
    stub.routes[at] = Reply(
        {
            "id": 1,
            "default_branch": "main",
            "http_url_to_repo": f"{stub.url}/group/project.git",
            "path_with_namespace": "group/project",
            "namespace": {"id": 2, "kind": "group", "full_path": "group"},
            **more,
        }
    )
    stub.routes[f"{at}/pipelines/7"] = Reply(
        {"id": 7, "source": "push", "web_url": f"{stub.url}/p/7", "status": "failed"}
    )
    stub.pages(f"{at}/pipelines/7/jobs", jobs)
    stub.routes["/api/v4/groups/group/variables"] = Reply([])
    for job in jobs:
        stub.routes[f"{at}/jobs/{job['id']}"] = Reply(job)
