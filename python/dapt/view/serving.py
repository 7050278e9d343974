"""Serve a page on this machine, to this machine only."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dapt.errors import DaptError

LOOPBACK = "127.0.0.1"


def server(page: bytes, port: int) -> ThreadingHTTPServer:
    """Create a server, not yet started, that serves a single page at /.

    Args:
        page: The HTML document.
        port: The port; 0 for any free one.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self._is_local():
                self.send_error(403)
            elif self.path != "/":
                self.send_error(404)
            else:
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(page)))
                self.send_header("X-Content-Type-Options", "nosniff")
                self.send_header("X-Frame-Options", "DENY")
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(page)

        def _is_local(self) -> bool:
            """Whether the request names this machine; another name suggests DNS rebinding."""
            host = self.headers.get("Host", "").rpartition(":")[0]
            return host in (LOOPBACK, "localhost")

        def log_message(self, *_) -> None:
            pass

    try:
        return ThreadingHTTPServer((LOOPBACK, port), Handler)
    except OSError as error:
        raise DaptError(f"cannot serve on port {port}: {error.strerror or error}") from None


def serve(page: bytes, port: int) -> None:
    """Serve a page until Ctrl-C.

    Args:
        page: The HTML document.
        port: The port; 0 for any free one.
    """
    with server(page, port) as running:
        print(f"http://{LOOPBACK}:{running.server_port}/ until Ctrl-C", flush=True)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print()
