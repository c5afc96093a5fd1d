"""Servers of web archives on loopback: HTTP with ranges that fails on purpose, and a real CDX server (pywb)."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PYWB = "pywb==2.10.0"
COLLECTION = "CC-MAIN-2024-10"


class Archives(http.server.ThreadingHTTPServer):
    """Files of a folder. fails(n): what happens to the n-th request, counted from 1.

    "" nothing · "503", "403", "429", "204" that answer · "after:<value>" a 503 with Retry-After · "stall" the head and half of
    the body, then silence · "close" the same, then the end of the connection · "hush", "mute" the same two without any body ·
    "ignore" the whole file instead of the range · "shifted", "bare" another range than asked for, or not said which ·
    "chunked" in chunks, without a length · "unframed" half of the file, its end not marked
    """

    daemon_threads = True

    def __init__(self, root: Path, fails: Callable[[int], str] = lambda n: "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.fails = root, fails
        self.requests: list[tuple[str, str, str]] = []  # path, range, what happened
        self.agents: set[str] = set()
        self.lock = threading.Lock()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what this is for. (Printing a traceback here parses source in this thread, which in Python
        3.11 breaks whatever the test's own thread is parsing.)"""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Archives
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            what = server.fails(len(server.requests) + 1)
            server.requests.append((self.path, self.headers.get("Range", ""), what))
            server.agents.add(self.headers.get("User-Agent", ""))
        if what[:1].isdigit() or what.startswith("after:"):
            return self.refuse(what)
        path = server.root / self.path.lstrip("/").partition("?")[0]
        if not path.is_file():
            return self.refuse("404")
        data = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None or what == "ignore":
            self.send_response(200)
            body = data
        else:
            start, stop = int(asked.group(1)), int(asked.group(2) or len(data) - 1) + 1
            if start >= len(data):
                return self.refuse("416")
            start += what == "shifted"
            body = data[start:stop]
            self.send_response(206)
            if what != "bare":
                self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(data)}")
        with contextlib.suppress(ConnectionError):
            self.send_body(body, what)

    def send_body(self, body: bytes, what: str) -> None:
        if what == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        elif what != "unframed":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if what in ("stall", "close", "unframed"):
            body = body[: len(body) // 2]
        if what not in ("hush", "mute"):
            self.wfile.write(body)
        self.wfile.flush()
        if what in ("stall", "hush"):
            self.server.over.wait(20)
        self.close_connection = what in ("stall", "close", "hush", "mute", "unframed")

    def refuse(self, what: str) -> None:
        self.send_response(int(what) if what.isdigit() else 503)
        if what.startswith("after:"):
            self.send_header("Retry-After", what.removeprefix("after:"))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None: ...


def every_third(n: int) -> str:
    """Each third request fails, in turn in each of three ways."""
    return "" if n % 3 else ("503", "stall", "close")[n // 3 % 3]


@contextlib.contextmanager
def serving(root: Path, fails: Callable[[int], str] = lambda n: "") -> Iterator[Archives]:
    server = Archives(root, fails)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def install_pywb() -> Path:
    """The folder of pywb's programs, in an environment of its own beside this one's packages: it needs older ones."""
    folder = Path(sys.prefix) / PYWB.replace("==", "-")
    if not (folder / "complete").exists():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(folder / "bin" / "python"),
            "--disable-pip-version-check",
            "--quiet",
        ]
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)], check=True)
        done = subprocess.run([*pip, "install", PYWB], capture_output=True, text=True, check=False)
        if done.returncode:
            unreachable = ("Connection", "Temporary failure", "timed out", "ProxyError")
            if any(word in done.stderr for word in unreachable):
                pytest.skip(f"the package index cannot be reached, and {PYWB} comes from it: {done.stderr.strip()[-300:]}")
            raise AssertionError(done.stderr)
        (folder / "complete").touch()
    return folder / "bin"


@contextlib.contextmanager
def cdx_server(programs: Path, work: Path, archives: list[Path], paged: bool) -> Iterator[str]:
    """The address of pywb's CDX API over the archives, as Common Crawl's is: /CC-MAIN-…-index.

    paged: the index is in compressed blocks, of which the server gives one a page; otherwise it is a text file, and it ignores
    pages.
    """
    index = work / "index"
    index.mkdir(parents=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    command = [str(programs / "cdx-indexer"), "--cdxj", "--sort", *map(str, archives)]
    done = subprocess.run(command, check=True, capture_output=True, env=environment)
    (index / "all.cdxj").write_bytes(done.stdout)
    if paged:
        _zip_index(index / "all.cdxj")
    collection = f"index_paths: {index}/\n    archive_paths: {archives[0].parent}/\n"
    (work / "config.yaml").write_text(f"cdx_api_endpoint: -index\ncollections:\n  {COLLECTION}:\n    {collection}")
    port = free_port()
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(programs / "wayback"), "-b", "127.0.0.1", "-p", str(port), "-t", "1"],
            cwd=work, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}/{COLLECTION}-index"
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}?url=nowhere.example&output=json", timeout=10).close()
                break
            assert time.monotonic() < deadline and process.poll() is None, (work / "log").read_text()[-2000:]
            time.sleep(0.1)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _zip_index(path: Path, lines_per_block: int = 5) -> None:
    """A text index as a ZipNum cluster: gzip blocks of sorted lines, and where each begins."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.unlink()
    offset, entries = 0, []
    with (path.parent / "part-0.gz").open("wb") as file:
        for i in range(0, len(lines), lines_per_block):
            block = gzip.compress(b"".join(lines[i : i + lines_per_block]))
            file.write(block)
            key = b" ".join(lines[i].split(b" ", 2)[:2]).decode()
            entries.append(f"{key}\tpart-0\t{offset}\t{len(block)}\t{i // lines_per_block + 1}\n")
            offset += len(block)
    (path.parent / "cluster.idx").write_text("".join(entries))
    (path.parent / "cluster.loc").write_text(f"part-0\t{path.parent / 'part-0.gz'}\n")
