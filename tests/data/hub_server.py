"""A small Hugging Face hub on 127.0.0.1: the tree listing, HEAD and GET of files with ranges, LFS hashes.

It can misbehave on purpose: `drop_after` closes the connection after so many bytes of a file (once per entry),
`corrupt` serves wrong bytes under the right hash so many times; `refusals` are answered first, one a request: (status,
X-Error-Code, further headers). What is pushed lands in `files`; `created` holds what was asked of the repository.
`requests` lists what was asked: (method, path, Range
header).
"""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LFS_FROM_BYTES = 1000  # larger files are LFS files: listed with a sha256


class Hub:
    """One repository at one revision. `files`: relative path -> bytes."""

    def __init__(self, repository: str, revision: str, files: dict[str, bytes]):
        self.repository, self.revision, self.files = repository, revision, files
        self.drop_after: dict[str, list[int]] = {}
        self.corrupt: dict[str, int] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.address = ""
        self.branches: dict[str, str] = {}  # name -> commit
        self.refusals: list[tuple[int, str, dict[str, str]]] = []
        self.created: dict = {}
        self.objects: dict[str, bytes] = {}  # sha256 -> LFS content

    def fetched(self) -> list[str]:
        """The files whose bytes were asked for, in order."""
        asked = [path for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]
        return [path.rpartition(f"/resolve/{self.revision}/")[2] for path in asked]

    def tree(self) -> list[dict]:
        return [self.entry(path, content) for path, content in sorted(self.files.items())]

    def entry(self, path: str, content: bytes) -> dict:
        listed = {"type": "file", "path": path, "size": len(content), "oid": git_blob(content)}
        if is_lfs(content):
            listed["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return listed

    def pushed(self, path: str, content: bytes) -> dict:
        """The answer to a POST of a client that uploads a folder."""
        if path == "/api/repos/create":
            self.created = json.loads(content)
            return {"url": f"{self.address}/{self.repository}", "name": self.repository}
        if path.endswith("/info/lfs/objects/batch"):
            return {"transfer": "basic", "objects": [self.upload_of(one) for one in json.loads(content)["objects"]]}
        if "/preupload/" in path:
            wanted = json.loads(content)["files"]
            modes = [{"path": one["path"], "uploadMode": mode_of(one["size"]), "shouldIgnore": False} for one in wanted]
            return {"files": modes}
        if "/commit/" in path:
            self.commit([json.loads(line) for line in content.splitlines()])
            address = f"{self.address}/{self.repository}/commit/{self.revision}"
            return {"success": True, "commitOid": self.revision, "commitUrl": address}
        return {"errors": [], "warnings": []}  # the check of a card's head; that an object has arrived

    def upload_of(self, one: dict) -> dict:
        """What is here already is not sent again."""
        href = {"href": f"{self.address}/objects/{one['oid']}"}
        return one | ({} if one["oid"] in self.objects else {"actions": {"upload": href, "verify": href}})

    def commit(self, operations: list[dict]) -> None:
        for one in operations:
            if one["key"] == "file":
                self.files[one["value"]["path"]] = base64.b64decode(one["value"]["content"])
            elif one["key"] == "lfsFile":
                self.files[one["value"]["path"]] = self.objects[one["value"]["oid"]]


def mode_of(size: int) -> str:
    return "lfs" if size >= LFS_FROM_BYTES else "regular"


def is_lfs(content: bytes) -> bool:
    return len(content) >= LFS_FROM_BYTES


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def do_POST(self):
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            hub.requests.append(("POST", path, ""))
            if not self.refused(body=True):
                self.send_json(hub.pushed(path, content))

        def do_PUT(self):
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hub.requests.append(("PUT", self.path, ""))
            hub.objects[hashlib.sha256(content).hexdigest()] = content
            self.send(200, b"", {}, True)

        def send_json(self, value):
            self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, True)

        def refused(self, body: bool) -> bool:
            if not hub.refusals:
                return False
            status, code, more = hub.refusals.pop(0)
            headers = {"Content-Type": "application/json"} | ({"X-Error-Code": code} if code else {}) | more
            self.send(status, b"{}", headers, body)
            return True

        def answer(self, body: bool):
            path = self.path.partition("?")[0]
            hub.requests.append((self.command, path, self.headers.get("Range", "")))
            if self.refused(body):
                return
            name = path.removeprefix(f"/{hub.repository}/resolve/{hub.revision}/")
            branch = path.removeprefix(f"/api/models/{hub.repository}/revision/")
            if branch in hub.branches:
                self.send(
                    200,
                    json.dumps({"id": hub.repository, "sha": hub.branches[branch]}).encode(),
                    {"Content-Type": "application/json"},
                    body,
                )
            elif path.startswith(f"/api/models/{hub.repository}/tree/{hub.revision}"):
                self.send(200, json.dumps(hub.tree()).encode(), {"Content-Type": "application/json"}, body)
            elif name in hub.files:
                self.send_file(name, body)
            else:
                self.send(404, b"{}", {"X-Error-Code": "RepoNotFound", "Content-Type": "application/json"}, body)

        def send_file(self, name: str, body: bool):
            content = hub.files[name]
            etag = hashlib.sha256(content).hexdigest() if is_lfs(content) else git_blob(content)
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": hub.revision, "Accept-Ranges": "bytes"}
            if body and hub.corrupt.get(name, 0) > 0:
                hub.corrupt[name] -= 1
                content = content[:-1] + bytes([content[-1] ^ 1])
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            drop = hub.drop_after[name].pop(0) if body and hub.drop_after.get(name) else None
            self.send(206 if start else 200, content[start:], headers, body, drop)

        def send(self, code: int, content: bytes, headers: dict[str, str], body: bool, drop: int | None = None):
            self.send_response(code)
            for key, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content[:drop])
            if drop is not None:
                self.wfile.flush()
                self.close_connection = True

    return Handler


@contextmanager
def serve(repository: str, revision: str, files: dict[str, bytes]):
    """Runs a hub for the length of a `with` block; `hub.address` is what HF_ENDPOINT must say."""
    hub = Hub(repository, revision, files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
