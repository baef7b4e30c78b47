"""Pages on this machine that behave badly: they redirect, never end, break off or come slowly."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit


@contextmanager
def pages(files: Mapping[str, bytes]) -> Iterator[str]:
    """The address of a server with these files below /, and /to?u=ADDRESS, /endless, /short, /slow."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Quiet."""

        def _head(self, status: int, **headers: object) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()

        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            name = asked.path[1:]
            try:
                if name == "to":
                    self._head(302, Location=parse_qs(asked.query)["u"][0])
                elif name == "endless":
                    self._head(200)
                    for _ in range(64):  # for a reader without a limit it ends, at 16 MB
                        self.wfile.write(bytes(2**18))
                elif name == "short":
                    self._head(200, Content_Length=1000)
                    self.wfile.write(b"half")
                elif name == "slow":
                    self._head(200, Content_Length=1000)
                    for _ in range(20):
                        self.wfile.write(b".")
                        time.sleep(0.1)
                elif name in files:
                    self._head(200, Content_Length=len(files[name]))
                    self.wfile.write(files[name])
                else:
                    self._head(404, Content_Length=0)
            except (BrokenPipeError, ConnectionResetError):  # the reader has had enough
                self.close_connection = True

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
