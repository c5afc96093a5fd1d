"""Real git servers on loopback: git daemon, and smart HTTP through git's own CGI program, dropping connections if asked."""

from __future__ import annotations

import base64
import contextlib
import http.server
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

PLAIN = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}


def git(folder: Path, *arguments: str | bytes, when: str = "2023-06-01T12:00:00+00:00", stdin: bytes = b"") -> str:
    """Run git in a folder as a fixed person at a fixed time; its output."""
    who = {"NAME": "Ada", "EMAIL": "ada@example.org", "DATE": when}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")} | PLAIN
    environment |= {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}
    done = subprocess.run(["git", *arguments], cwd=folder, env=environment, input=stdin, capture_output=True, check=True)
    return done.stdout.decode("utf-8", "replace").strip()


def make_repository(folder: Path, *commits: tuple[str, dict[str, bytes]]) -> Path:
    """A work tree with one commit per (date, {path: content})."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    for when, files in commits:
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        git(folder, "add", "--all", "--force")
        git(folder, "commit", "--quiet", "--allow-empty", "--message", when, when=when)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def git_daemon(root: Path) -> Iterator[str]:
    """git:// over every repository under `root`; the address they hang below."""
    port = free_port()
    command = ["git", "daemon", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}", f"--base-path={root}", "--export-all"]
    process = subprocess.Popen(
        [*command, str(root)],
        env=os.environ | PLAIN,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            assert time.monotonic() < deadline and process.poll() is None, "git daemon did not start"
            time.sleep(0.02)
        yield f"git://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


class SmartHttp(http.server.ThreadingHTTPServer):
    """git http-backend over a root. drop_every: that many connections, the last is closed at once. auth: the one accepted."""

    daemon_threads = True

    def __init__(self, root: Path, drop_every: int = 0, versions: bool = True, auth: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.drop_every, self.versions, self.auth = root, drop_every, versions, auth
        self.connections = self.dropped = 0
        self.lock = threading.Lock()

    def verify_request(self, request: object, client_address: object) -> bool:
        with self.lock:
            self.connections += 1
            drop = bool(self.drop_every) and self.connections % self.drop_every == 0
            self.dropped += drop
        return not drop  # False: socketserver closes the socket


class _Handler(http.server.BaseHTTPRequestHandler):
    server: SmartHttp

    def do_GET(self) -> None:
        if self.server.auth is not None and self.headers.get("Authorization") != self.server.auth:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        environment = os.environ | PLAIN
        environment |= {
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", "") if self.server.versions else "",
        }
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        out = subprocess.run(["git", "http-backend"], env=environment, input=body, capture_output=True, check=False).stdout
        head, _, content = out.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n"))
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for key, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def smart_http(
    root: Path, *, drop_every: int = 0, versions: bool = True, password: str | None = None
) -> Iterator[tuple[str, SmartHttp]]:
    """http:// over every repository under `root`: (address, server). versions=False: a server from before protocol 2."""
    auth = None if password is None else "Basic " + base64.b64encode(password.encode()).decode()
    server = SmartHttp(root, drop_every, versions, auth)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
