"""A hub on this machine: repositories of files at commits, by the routes that `huggingface_hub` asks and uploads by."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Files = Mapping[str, bytes]
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_ABOUT = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?")
_CHANGE = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/.+")


@dataclass
class FakeHub:
    """What it holds and what it was asked.

    Attributes:
        url: for `HF_ENDPOINT`.
        commits: files by repository and commit; the last one is `main`.
        gated: repositories whose files nobody may have.
        asked: method and path of each request.
    """

    url: str = ""
    commits: dict[str, dict[str, Files]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def put(self, repository: str, files: Files) -> str:
        """A new commit with these files; its hash."""
        commits = self.commits.setdefault(repository, {})
        commit = hashlib.sha1(f"{repository} {len(commits)}".encode(), usedforsecurity=False).hexdigest()
        commits[commit] = dict(files)
        return commit

    def commit_of(self, repository: str, revision: str | None) -> str | None:
        commits = list(self.commits[repository])
        return commits[-1] if revision in (None, "main") else next((one for one in commits if one == revision), None)


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._route(self._read)

    def do_GET(self) -> None:
        self._route(self._read)

    def do_POST(self) -> None:
        self._route(self._write)

    def _route(self, route: Any) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        route(path)

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, b"{}", X_Error_Code=code, X_Error_Message=code)

    def _json(self, document: Any) -> None:
        self._answer(200, json.dumps(document).encode(), Content_Type="application/json")

    def _read(self, path: str) -> None:
        hub, about, file = self.hub, _ABOUT.fullmatch(path), _FILE.fullmatch(path)
        found = about or file
        if found is None or found[1] not in hub.commits:
            self._refuse(401, "RepoNotFound")
            return
        repository, commit = found[1], hub.commit_of(found[1], found[2])
        if commit is None:
            self._refuse(404, "RevisionNotFound")
        elif file is None:
            files = hub.commits[repository][commit]
            siblings = [{"rfilename": name, "size": len(data), "blobId": "0" * 40} for name, data in files.items()]
            self._json({"id": repository, "sha": commit, "siblings": siblings})
        elif repository in hub.gated:
            self._refuse(403, "GatedRepo")
        elif (content := hub.commits[repository][commit].get(file[3])) is None:
            self._refuse(404, "EntryNotFound")
        else:
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self._answer(200, content, ETag=etag, X_Repo_Commit=commit, Accept_Ranges="bytes")

    def _write(self, path: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        change = _CHANGE.fullmatch(path)
        if path == "/api/repos/create":
            asked = json.loads(body)
            repository = f"{asked['organization']}/{asked['name']}"
            self.hub.commits.setdefault(repository, {})
            self._json({"url": f"{self.hub.url}/{repository}"})
        elif change is None:
            self._json({})  # /api/validate-yaml
        elif change[2] == "preupload":
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            self._json({"files": [{**file, "shouldIgnore": False, "oid": None} for file in files]})
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            given = [line["value"] for line in lines if line["key"] == "file"]
            added = {file["path"]: base64.b64decode(file["content"]) for file in given}
            commit = self.hub.put(change[1], {".gitattributes": b"*.safetensors filter=lfs\n", **added})
            self._json({"commitOid": commit, "commitUrl": f"{self.hub.url}/{change[1]}/commit/{commit}"})


@contextmanager
def running() -> Iterator[FakeHub]:
    """A hub that answers while the block runs."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
