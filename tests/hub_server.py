"""A hub of data sets and models on this machine, which answers what the hub's library asks for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

JSON = {"Content-Type": "application/json"}


@dataclass
class Repository:
    """A data set or a model of the hub.

    Attributes:
        commits: the files of each revision, a commit; the first one is `main`.
        tags: other names of commits.
        token: who may read it; None for everyone.
        gated: it asks for its terms to be accepted.
        failing: the server fails to send its data files.
    """

    commits: Mapping[str, Mapping[str, bytes]]
    tags: Mapping[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False
    failing: bool = False

    def commit(self, revision: str) -> str | None:
        names = {"main": next(iter(self.commits)), **self.tags, **{commit: commit for commit in self.commits}}
        return names.get(revision)


@contextlib.contextmanager
def hub_of(
    repositories: Mapping[str, Repository], models: Mapping[str, Repository] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Serve data sets and models; yields the address and the list of what has been asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            asked.append(path)
            kind, _, rest = path.lstrip("/").removeprefix("api/").partition("/")
            if kind not in ("datasets", "models"):  # files of a model have no such word before them
                kind, rest = "models", path.lstrip("/")
            name = "/".join(rest.split("/")[:2])
            repository = (repositories if kind == "datasets" else models or {}).get(name)
            if path == "/":
                return self.reply(200)
            if repository is None or repository.token not in (None, self.token()):
                return self.reply(401, error="RepoNotFound")
            if repository.gated:
                return self.reply(403, error="GatedRepo")
            action, _, rest = rest.removeprefix(name).lstrip("/").partition("/")
            revision, _, file = ("main", "", "") if rest == "" else rest.partition("/")
            if action == "revision":
                revision, file = rest, ""
            file, commit = unquote(file), repository.commit(unquote(revision))
            if commit is None:
                return self.reply(404, error="RevisionNotFound")
            files = repository.commits[commit]
            if action == "resolve" and repository.failing and file in files:
                return self.reply(500)
            if action == "resolve":
                return self.file(files.get(file), commit)
            if action == "tree":
                return self.tree(files, file)
            if action == "paths-info":
                wanted = json.loads(sent)["paths"]
                return self.json([entry(path, files) for path in wanted if path in files])
            about = {"id": name, "sha": commit, "private": False, "tags": [], "downloads": 0, "likes": 0}
            siblings = [{"rfilename": path, "size": len(content)} for path, content in files.items()]
            return self.json({**about, "siblings": siblings})

        do_HEAD = do_POST = do_GET  # noqa: N815 - the base class's names

        def token(self) -> str:
            return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

        def file(self, content: bytes | None, commit: str) -> None:
            if content is None:
                return self.reply(404, error="EntryNotFound", headers={"X-Repo-Commit": commit})
            tag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self.reply(200, content, headers={"ETag": tag, "X-Repo-Commit": commit})

        def tree(self, files: Mapping[str, bytes], folder: str) -> None:
            prefix = f"{folder}/" if folder else ""
            entries = {}
            for path in files:
                if path.startswith(prefix):
                    first, deeper, _ = path.removeprefix(prefix).partition("/")
                    top = prefix + first
                    entries[top] = {"type": "directory", "path": top, "oid": "0" * 40} if deeper else entry(path, files)
            if folder and not entries:
                return self.reply(404, error="EntryNotFound")
            return self.json(list(entries.values()))

        def json(self, value: object) -> None:
            self.reply(200, json.dumps(value).encode(), headers=JSON)

        def reply(
            self,
            status: int,
            body: bytes = b"",
            *,
            error: str | None = None,
            headers: Mapping[str, str] | None = None,
        ) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), **({} if error is None else {"X-Error-Code": error})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def entry(path: str, files: Mapping[str, bytes]) -> dict[str, object]:
    return {"type": "file", "path": path, "size": len(files[path]), "oid": hashlib.sha1(files[path]).hexdigest()}
