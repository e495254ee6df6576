"""A scripted Hugging Face Hub on loopback: the endpoints that creating a repository and uploading a folder need.

It stores what was sent to it.  Files with an ending in `LARGE` are uploaded as large files (LFS).
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LARGE = (".safetensors", ".parquet")
PREFIX = {"model": "", "dataset": "datasets/"}


class Hub:
    """`refuse` maps a part of a path to the status of its answer; `user` is the owner of every token."""

    def __init__(self, user="somebody"):
        self.user, self.refuse, self.gated = user, {}, set()
        self.repos, self.private, self.objects = {}, {}, {}
        self.requests, self.authorizations = [], []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method, path, data):
        """(status, object) of a request."""
        self.requests.append(f"{method} {path}")
        for piece, status in self.refuse.items():
            if piece in path:
                return status, {"error": "refused by the script"}
        if path == "/api/whoami-v2":
            return 200, {"type": "user", "name": self.user, "auth": {"accessToken": {"role": "write"}}}
        if path == "/api/repos/create":
            return self._create(json.loads(data))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self._batch(json.loads(data))
        if path.startswith("/lfs/"):
            self.objects[path.removeprefix("/lfs/")] = data
            return 200, {}
        match = re.fullmatch(
            r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(preupload|commit|tree|revision)/[^?]+)?(\?.*)?", path
        )
        if match is None or (match[1], match[2]) not in self.repos:
            return 404, {"error": "not found"}
        files = self.repos[match[1], match[2]]
        if match[3] == "preupload":
            return self._preupload(json.loads(data), files)
        if match[3] == "commit":
            return self._commit(match[1], match[2], data)
        listed = [{"type": "file", "path": name, "size": len(body), "oid": _blob(body)} for name, body in files.items()]
        return 200, listed if match[3] == "tree" else {
            "id": match[2],
            "sha": "1" * 40,
            "private": self.private.get((match[1], match[2]), False),
            "siblings": [{"rfilename": n} for n in files],
        }

    def _create(self, request):
        kind, name = request.get("type") or "model", f"{request.get('organization') or self.user}/{request['name']}"
        url = f"{self.url}/{PREFIX[kind]}{name}"
        if (kind, name) in self.repos:
            return 409, {"error": "You already created this repo", "url": url}
        self.repos[kind, name], self.private[kind, name] = {}, request.get("visibility") == "private"
        return 200, {"url": url}

    def _preupload(self, request, files):
        def upload_mode(file):
            mode = "lfs" if file["path"].endswith(LARGE) else "regular"
            stored = {"oid": _blob(files[file["path"]])} if file["path"] in files else {}
            return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **stored}

        return 200, {"files": [upload_mode(file) for file in request["files"]]}

    def _batch(self, request):
        upload = [
            {
                "oid": o["oid"],
                "size": o["size"],
                **({} if o["oid"] in self.objects else {"actions": {"upload": {"href": f"{self.url}/lfs/{o['oid']}"}}}),
            }
            for o in request["objects"]
        ]
        return 200, {"transfer": "basic", "objects": upload}

    def _commit(self, kind, name, data):
        files = self.repos[kind, name]
        for line in map(json.loads, data.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        return 200, {
            "success": True,
            "commitOid": "1" * 40,
            "commitUrl": f"{self.url}/{PREFIX[kind]}{name}/commit/{'1' * 40}",
        }

    def _handler(hub):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hub.authorizations.append((self.path, self.headers.get("Authorization")))
                status, body = hub.answer(self.command, self.path, data)
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = do_POST

            def do_HEAD(self):
                """Facts of a file: https://HUB/OWNER/NAME/resolve/REVISION/FILE."""
                repo, _, file = self.path[1:].partition("/resolve/main/")
                gated = repo in hub.gated
                self.send_response(403 if gated else 200 if file in hub.repos.get(("model", repo), {}) else 404)
                self.send_header("X-Error-Code", "GatedRepo" if gated else "EntryNotFound")
                self.send_header("ETag", '"1"')
                self.send_header("X-Repo-Commit", "1" * 40)
                self.send_header("Content-Length", "2")
                self.end_headers()

            def log_message(self, *_):
                pass

        return Handler


def _blob(body):
    """Git's hash of a file, by which the client skips unchanged files."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
