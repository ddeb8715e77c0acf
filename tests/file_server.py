"""A local HTTP server of one file that can break off, forget Range, answer with errors, or redirect."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Behaviour:
    """What the server does.

    Attributes:
        content: the file.
        etag: its ETag, empty: none.
        ranges: whether Range is understood.
        break_after: bytes of the body after which a request ends, one for each request, then none.
        statuses: status codes of the first requests; 200 serves the file.
        location: place of a redirect.
        chunked: without Content-Length.
        requests: (path, Range, If-Range) of each request, as they came.
    """

    content: bytes
    etag: str = '"one"'
    ranges: bool = True
    break_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    location: str = ""
    chunked: bool = False
    requests: list[tuple] = field(default_factory=list)


@contextmanager
def file_server(behaviour: Behaviour) -> Iterator[str]:
    """The server's address, `http://127.0.0.1:PORT`."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words):
            pass

        def do_HEAD(self):
            with lock:
                behaviour.requests.append((self.path, None, None))
            headers = {"Content-Length": str(len(behaviour.content)), "Accept-Ranges": "bytes"}
            self._head(200, headers)

        def do_GET(self):
            with lock:
                wanted = self.headers.get("Range")
                behaviour.requests.append((self.path, wanted, self.headers.get("If-Range")))
                status = behaviour.statuses.pop(0) if behaviour.statuses else 200
                limit = behaviour.break_after.pop(0) if behaviour.break_after else None
            self.close_connection = True
            if 300 <= status < 400 and self.path != "/moved.ckpt":
                self._head(status, {"Location": behaviour.location, "Content-Length": "0"})
            elif status >= 400:
                self._head(status, {"Content-Length": "0"})
            else:
                self._file(wanted, limit)

        def _head(self, status, headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def _file(self, wanted, limit):
            content, start, status = behaviour.content, 0, 200
            headers = {"ETag": behaviour.etag} if behaviour.etag else {}
            same = self.headers.get("If-Range") in (None, behaviour.etag)
            if wanted and behaviour.ranges and same:
                start, end = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted).groups()
                start, end = int(start), int(end or len(content) - 1)
                if start >= len(content):
                    self._head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
                    return
                status = 206
                headers["Content-Range"] = f"bytes {start}-{min(end, len(content) - 1)}/{len(content)}"
                content = content[: end + 1]
            body = content[start:]
            if behaviour.chunked:
                headers["Transfer-Encoding"] = "chunked"
            else:
                headers["Content-Length"] = str(len(body))
            self._head(status, headers)
            sent = body if limit is None else body[:limit]
            if behaviour.chunked:
                for place in range(0, len(sent), 1000):
                    part = sent[place : place + 1000]
                    self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                self.wfile.write(b"0\r\n\r\n" if limit is None else b"")
            else:
                self.wfile.write(sent)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda request, client: (
        None
    )  # a client that leaves early is what some tests are about
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
