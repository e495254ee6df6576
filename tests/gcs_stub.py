"""Google Cloud Storage on loopback, as far as the library uses it: objects by the XML API, in memory.

    python tests/gcs_stub.py PORT

No emulator of the packages that exist speaks this API.  What is stored lives as long as the process.
"""

import hashlib
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 1000

lock = threading.Lock()
objects: dict[str, bytes] = {}  # any request's thread reads and writes it, under the lock


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = self.key()
        with lock:
            # Generation 0 is that of an object that does not exist.
            if self.headers.get("x-goog-if-generation-match") == "0" and key in objects:
                return self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            objects[key] = data
        self.answer(200, etag=etag(data))

    def do_GET(self):
        if "list-type" in self.query():
            return self.list()
        with lock:
            data = objects.get(self.key())
        if data is None:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        self.answer(200, data, etag(data))

    def do_DELETE(self):
        with lock:
            found = objects.pop(self.key(), None)
        self.answer(204 if found is not None else 404)

    def list(self):
        query = self.query()
        prefix, token = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        bucket = self.key().rstrip("/") + "/"
        with lock:
            names = {key.removeprefix(bucket): data for key, data in objects.items() if key.startswith(bucket + prefix)}
        rows = {}
        for name, data in names.items():
            folder, slash, _ = name[len(prefix) :].partition("/")
            row = prefix + folder + slash
            rows[row] = None if slash and "delimiter" in query else data
        page = sorted(row for row in rows if row > token)
        text = "".join(as_xml(row, rows[row]) for row in page[:PAGE])
        if len(page) > PAGE:
            text += f"<IsTruncated>true</IsTruncated><NextContinuationToken>{escape(page[PAGE - 1])}</NextContinuationToken>"
        self.answer(200, f"<ListBucketResult><Name>lab</Name>{text}</ListBucketResult>".encode())

    def key(self):
        return unquote(urlsplit(self.path).path).lstrip("/")

    def query(self):
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    def answer(self, status, data=b"", etag=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        if etag:
            self.send_header("ETag", etag)
            self.send_header("x-goog-generation", "1")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def etag(data):
    return f'"{hashlib.md5(data).hexdigest()}"'


def as_xml(name, data):
    if data is None:
        return f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
    return (
        f"<Contents><Key>{escape(name)}</Key><Size>{len(data)}</Size><ETag>{escape(etag(data))}</ETag>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
    )


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
