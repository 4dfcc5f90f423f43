"""A small Hub on the loopback device: what huggingface_hub needs to download, create and upload model repositories.

Written after the client's own requests. Weights go the way of large files: `resolve` redirects to the store, uploads
pass through batch, PUT and verify. What the client asks beyond that is recorded in `unknown` and answered with 501.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class Repository:
    """Commits by their hash, and what branches and tags point to."""

    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files: Files, branch: str = "main") -> str:
        """Add files over the branch's own and return the new commit's hash."""
        files = {**self.commits.get(self.refs.get(branch, ""), {}), **files}
        content = repr((len(self.commits), sorted(files.items())))
        sha = hashlib.sha1(content.encode()).hexdigest()
        self.commits[sha] = files
        self.refs[branch] = sha
        return sha

    def find(self, revision: str) -> str | None:
        """Return the commit that a branch, tag or hash names."""
        sha = self.refs.get(revision, revision)
        return sha if sha in self.commits else None


def is_large(path: str) -> bool:
    """Tell which files a Hub keeps in its store for large ones."""
    return path.endswith(".safetensors")


class HubServer:
    """The server and what tests set of it.

    Attributes:
        writers, readers: tokens that may write everywhere, or only read private and gated repositories.
        requests: (method, path, headers) of all requests so far.
        unknown: requests it has no answer to.
        before: called with each request's path before it is answered.
        cut_after: bytes of a large file after which its connection is cut; cuts are left `cuts` times.
        reset: whether such a cut resets the connection instead of closing it.
        page: a status and a web page that answer everything, as a proxy or a broken server do.
        stop_after_cuts: whether the server dies with the last of them.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.store: dict[str, bytes] = {}
        self.writers = {"hf_writer"}
        self.readers = {"hf_reader"}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.unknown: list[str] = []
        self.before: Callable[[str], None] = lambda path: None
        self.cut_after = 0
        self.cuts = 0
        self.reset = False
        self.stop_after_cuts = False
        self.page: tuple[int, bytes] | None = None
        self.connections: set[socket.socket] = set()
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def store_url(self) -> str:
        """Where large files are: under another host's name, as the Hub's are."""
        return f"http://localhost:{self.port}/store"

    def start(self) -> None:
        """Listen; after a stop, on the same port."""
        self._server = _Listener(("127.0.0.1", self.port), _Handler)
        self._server.hub = self
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and cut all connections."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def add(self, name: str, files: Files, **settings: Any) -> Repository:
        """Make a repository whose main branch holds `files`."""
        repository = self.repositories[name] = Repository(**settings)
        repository.commit(files)
        return repository

    def asked(self, part: str) -> list[tuple[str, str, dict[str, str]]]:
        """Return the requests whose path holds `part`."""
        return [request for request in self.requests if part in request[1]]


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    hub: HubServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that were cut on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener
    REPO: ClassVar[str] = r"(?P<repo>[\w.-]+/[\w.-]+?)"
    ROUTES: ClassVar[list[tuple[str, str, str]]] = [
        ("GET", rf"/api/models/{REPO}(?:/revision/(?P<revision>[^/]+))?", "info"),
        ("GET", rf"/api/models/{REPO}/tree/(?P<revision>[^/]+)", "tree"),
        ("GET", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "file"),
        ("GET", r"/store/(?P<oid>\w+)", "stored"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("POST", rf"/api/models/{REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/store/(?P<oid>\w+)", "upload"),
        ("POST", r"/verify", "verify"),
        ("POST", rf"/api/models/{REPO}/commit/(?P<revision>[^/]+)", "commit"),
    ]

    def setup(self) -> None:
        super().setup()
        self.hub = self.server.hub
        self.hub.connections.add(self.connection)

    def finish(self) -> None:
        self.hub.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Write nothing to the terminal."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, unquote(path), {k.lower(): v for k, v in self.headers.items()}))
        self.body = self._read_body()
        self.hub.before(path)
        if self.hub.page:
            self.answer(*self.hub.page, {"Content-Type": "text/html"})
            return
        command = "GET" if self.command == "HEAD" else self.command
        for method, pattern, name in self.ROUTES:
            if method == command and (match := re.fullmatch(pattern, path)):
                getattr(self, name)(**{k: unquote(v) if v else v for k, v in match.groupdict().items()})
                return
        self.hub.unknown.append(f"{self.command} {self.path}")
        self.fail(501, "NotImplemented")

    do_HEAD = do_POST = do_PUT = do_GET

    # Answers

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, value: Any, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def fail(self, status: int, code: str | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code} if code else {}
        self.answer(status, json.dumps({"error": code or "Invalid username or password."}).encode(), headers)

    # Rights

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def may_write(self) -> bool:
        if not self.token:
            self.fail(401)
        elif self.token not in self.hub.writers:
            self.fail(403)
        return self.token in self.hub.writers

    def find(self, repo: str, revision: str | None = None) -> tuple[Repository, str] | None:
        """Return the repository and the commit, or None after the error has been sent."""
        repository = self.hub.repositories.get(repo)
        known = self.token in self.hub.writers | self.hub.readers
        if repository is None or (repository.private and not known):
            # As the Hub does: strangers do not learn whether a repository is private or missing.
            self.fail(404 if known else 401, "RepoNotFound" if known else None)
            return None
        sha = repository.find(revision or "main")
        if sha is None:
            self.fail(404, "RevisionNotFound")
            return None
        return repository, sha

    # Downloads

    def info(self, repo: str, revision: str | None) -> None:
        if found := self.find(repo, revision):
            repository, sha = found
            siblings = [{"rfilename": path} for path in repository.commits[sha]]
            self.json({"id": repo, "modelId": repo, "sha": sha, "private": repository.private, "siblings": siblings})

    def tree(self, repo: str, revision: str) -> None:
        if found := self.find(repo, revision):
            repository, sha = found
            entries = []
            for path, content in repository.commits[sha].items():
                entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}
                if is_large(path):
                    oid = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
                entries.append(entry)
            self.json(entries)

    def file(self, repo: str, revision: str, path: str) -> None:
        found = self.find(repo, revision)
        if found is None:
            return
        repository, sha = found
        if repository.gated and self.token not in self.hub.writers | self.hub.readers:
            self.fail(403 if self.token else 401, "GatedRepo")
            return
        content = repository.commits[sha].get(path)
        if content is None:
            self.fail(404, "EntryNotFound")
            return
        headers = {"X-Repo-Commit": sha}
        if is_large(path):
            oid = hashlib.sha256(content).hexdigest()
            self.hub.store[oid] = content
            headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
            self.answer(302, b"", {**headers, "Location": f"{self.hub.store_url}/{oid}"})
        else:
            self.answer(200, content, {**headers, "ETag": f'"{_blob(content)}"'})

    def stored(self, oid: str) -> None:
        content = self.hub.store[oid]
        start = 0
        assert "Authorization" not in self.headers, "the token went to another host"
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.hub.cuts:
            self.hub.cuts -= 1
            self.wfile.write(content[start : self.hub.cut_after])
            self.wfile.flush()
            if self.hub.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            if self.hub.cuts == 0 and self.hub.stop_after_cuts:
                threading.Thread(target=self.hub.stop, daemon=True).start()
        else:
            self.wfile.write(content[start:])

    # Uploads

    def create(self) -> None:
        if self.may_write():
            body = json.loads(self.body)
            name = f"{body['organization']}/{body['name']}"
            status = 409 if name in self.hub.repositories else 200
            if status == 200:
                self.hub.add(
                    name, {".gitattributes": b""}, private=body.get("private") or body.get("visibility") == "private"
                )
            self.json({"url": f"{self.hub.url}/{name}"}, status)

    def validate_yaml(self) -> None:
        self.json({"errors": [], "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        if self.may_write() and self.find(repo, revision):
            files = json.loads(self.body)["files"]
            self.json(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "uploadMode": "lfs" if is_large(file["path"]) else "regular",
                            "shouldIgnore": False,
                        }
                        for file in files
                    ]
                }
            )

    def batch(self, repo: str) -> None:
        if self.may_write():
            objects = []
            for wanted in json.loads(self.body)["objects"]:
                answer = {"oid": wanted["oid"], "size": wanted["size"]}
                if wanted["oid"] not in self.hub.store:
                    answer["actions"] = {
                        "upload": {"href": f"{self.hub.store_url}/{wanted['oid']}"},
                        "verify": {"href": f"{self.hub.url}/verify"},
                    }
                objects.append(answer)
            self.json({"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self.fail(400, "WrongHash")
            return
        self.hub.store[oid] = self.body
        self.answer(200, b"", {"ETag": f'"{oid}"'})

    def verify(self) -> None:
        body = json.loads(self.body)
        stored = self.hub.store.get(body["oid"])
        self.json({}) if stored is not None and len(stored) == body["size"] else self.fail(404, "NotStored")

    def commit(self, repo: str, revision: str) -> None:
        if not self.may_write():
            return
        found = self.find(repo, revision)
        if found is None:
            return
        files: Files = {}
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.store[value["oid"]]
        sha = found[0].commit(files, revision)
        self.json({"commitUrl": f"{self.hub.url}/{repo}/commit/{sha}", "commitOid": sha})

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


def _blob(content: bytes) -> str:
    """Return the name git gives to a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
