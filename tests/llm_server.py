"""A scripted server of chat completions on loopback, for faults that a real server does not produce on demand."""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def answer(text="Hello.", finish="stop", usage=USAGE, **message):
    """The body of a chat completion."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return body | ({"usage": usage} if usage else {})


def streamed(*events, done=True, **step):
    """A step that answers with server-sent events; texts are deltas of the content."""
    rows = [{"choices": [{"index": 0, "delta": {"content": row}}]} if isinstance(row, str) else row for row in events]
    lines = [f"data: {json.dumps(row, ensure_ascii=False)}\n\n" for row in rows]
    body = "".join([": hello\n\n", *lines, "data: [DONE]\n\n" if done else ""]).encode()
    return {"headers": {"Content-Type": "text/event-stream"}, "body": body, **step}


def as_stream(body):
    """The step that streams a chat completion, in pieces of seven characters."""
    (choice,) = body["choices"]
    events = []
    for key, value in choice["message"].items():
        pieces = [value]
        if isinstance(value, str | list) and key != "role":
            size = 7 if isinstance(value, str) else 1
            pieces = [value[start : start + size] for start in range(0, len(value), size)]
        events += [{"choices": [{"index": 0, "delta": {"role": "assistant", key: piece}}]} for piece in pieces]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]}
    return streamed(*events, end, {"choices": [], "usage": body.get("usage")})


def ending(reason="stop", usage=USAGE, **delta):
    """The last events of a stream: the finish, and the tokens after it."""
    end = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    return (end, {"choices": [], "usage": usage}) if usage else (end,)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Ignore clients that closed their connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Scripted:
    """Answers with the steps of the script in order, and repeats the last one; a step may be a function of the request.

    A step is a dict: `status`, `headers`, `body` (an object, or bytes sent as they are), `delay` (seconds), `drop`
    (close without an answer), `cut` (close after that many bytes of the body).
    """

    def __init__(self, *script):
        self.script = script or ({},)
        self.requests, self.headers, self.times, self.paths = [], [], [], []
        self.inside = self.most_inside = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()

    def _begin(self, body, headers):
        with self._lock:
            number = len(self.requests)
            self.requests.append(body)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
        step = self.script[min(number, len(self.script) - 1)]
        return step(body) if callable(step) else step

    def _handler(scripted):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16  # head and body in one packet

            def do_POST(self):
                data = self.rfile.read(int(self.headers["Content-Length"]))
                if not data:
                    self.close_connection = True  # the client was killed
                    return
                body = json.loads(data)
                scripted.paths.append(self.path)
                step = scripted._begin(body, {name.lower(): value for name, value in self.headers.items()})
                try:
                    time.sleep(step.get("delay", 0))
                finally:
                    with scripted._lock:
                        scripted.inside -= 1
                if step.get("drop"):
                    self.close_connection = True
                    return
                self._send(step)

            def _send(self, step):
                body = step.get("body", answer())
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                try:
                    self.send_response(step.get("status", 200))
                    for name, value in {"Content-Type": "application/json", **step.get("headers", {})}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data[: step.get("cut")])
                    self.wfile.flush()
                    self.close_connection |= "cut" in step
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the client gave up

            def log_message(self, *_):
                pass

        return Handler
