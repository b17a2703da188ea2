"""A proxy for HTTP and, by CONNECT, for HTTPS, that remembers what went through it."""

from __future__ import annotations

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

direct = build_opener(ProxyHandler({}))


class ForwardProxy:
    """`seen` has method and target of each request, `credentials` what they said who they are."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.credentials: set[str | None] = set()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.note()
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name: self.headers[name] for name in ("Authorization", "Content-Type")}
                with direct.open(Request(self.path, body, headers)) as response:  # noqa: S310
                    said = response.read()
                self.send_response(response.status)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def do_CONNECT(self) -> None:
                self.note()
                target = urlsplit(f"//{self.path}")
                self.send_response(200)
                self.end_headers()
                with socket.create_connection((target.hostname, target.port)) as server:
                    threading.Thread(target=pass_on, args=(server, self.connection), daemon=True).start()
                    pass_on(self.connection, server)
                self.close_connection = True

            def note(self) -> None:
                proxy.seen.append((self.command, self.path))
                proxy.credentials.add(self.headers.get("Proxy-Authorization"))

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
