"""A local stub of a hub: repositories with commits, read and written over HTTP."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(dict):
    """{"/path": bytes} of single files, and repositories that can be pushed to."""

    def __init__(self):
        super().__init__()
        self.repositories = {}  # {name: {commit, "main" or a tag: {path: bytes}}}
        self.asked = []  # (method, path)
        self.tokens = set()

    def found(self, path):
        """(content, commit) of a path, or (None, COMMIT)."""
        if path in self:
            return self[path], COMMIT
        owner, name, *rest = path.lstrip("/").split("/")
        if len(rest) < 3 or rest[0] != "resolve":
            return None, COMMIT
        commits = self.repositories.get(f"{owner}/{name}", {})
        tree = commits.get(rest[1], {})
        commit = next((c for c, value in commits.items() if len(c) == 40 and value is tree), COMMIT)
        return tree.get("/".join(rest[2:])), commit

    def commit(self, name, revision, files):
        """Adds files on top of a branch; returns the commit."""
        commits = self.repositories[name]
        tree = commits.get(revision, {}) | files
        commit = hashlib.sha1(repr(sorted(tree.items())).encode()).hexdigest()
        commits[commit] = commits[revision] = tree
        return commit


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self):
        self._file(with_content=False)

    def do_GET(self):
        self._file(with_content=True)

    def do_POST(self):
        path = urlsplit(unquote(self.path)).path
        self.hub.asked.append(("POST", path))
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)) if self._plain() else b""
        body = body or self._chunks()
        self.hub.tokens.add(self.headers.get("Authorization"))
        if self.headers.get("Authorization") == "Bearer wrong":
            return self._answer(401, {"error": "Invalid credentials"})
        if path == "/api/repos/create":
            told = json.loads(body)
            name = "/".join(filter(None, (told.get("organization"), told["name"])))
            self.hub.repositories.setdefault(name, {})
            return self._answer(200, {"url": f"{self._here()}/{name}"})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        name, revision = "/".join(path.split("/")[3:5]), path.split("/")[-1]
        if "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        if "/commit/" in path:
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            commit = self.hub.commit(name, revision, files)
            url = f"{self._here()}/{name}/commit/{commit}"
            return self._answer(200, {"commitUrl": url, "commitOid": commit})
        self._answer(404, {"error": path})

    def _here(self):
        return f"http://{self.headers['Host']}"

    def _plain(self):
        return "chunked" not in self.headers.get("Transfer-Encoding", "")

    def _chunks(self):
        """The body of a chunked request."""
        body = b""
        while not self._plain() and (size := int(self.rfile.readline().strip(), 16)):
            body += self.rfile.read(size)
            self.rfile.readline()
        return body

    def _file(self, with_content):
        path = urlsplit(unquote(self.path)).path
        self.hub.asked.append((self.command, path))
        content, commit = self.hub.found(path)
        self.send_response(404 if content is None else 200)
        content = content or b""
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hash(content) & 0xFFFFFFFF:x}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if with_content:
            self.wfile.write(content)

    def _answer(self, status, told):
        content = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A `Hub` on the loopback address, which huggingface_hub is made to use."""
    constants = pytest.importorskip("huggingface_hub.constants")
    stub = Hub()
    handler = type("Handler", (Handler,), {"hub": stub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    yield stub
    server.shutdown()
