"""The app behind a socket."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from noticeboard.app import App, Request


def serve(app: App, port: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(b"")

        def do_POST(self) -> None:
            self.answer(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

        def answer(self, body: bytes) -> None:
            response = app.handle(Request(self.command, self.path, body))
            self.send_response(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(response.body)))
            self.end_headers()
            self.wfile.write(response.body)

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
