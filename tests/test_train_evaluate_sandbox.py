"""Programs that a model wrote: what they try is really tried, and what passes has run to its end."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corpus.errors import ConfigError, InputError
from train import sandbox, sandbox_child
from train.functional import pass_at_k, program_of, read_tasks, run_tasks
from train.sandbox import Limits, Outcome, run_program, run_programs

SHORT = Limits(seconds=20.0)

pytestmark = pytest.mark.skipif(bool(sandbox.missing()), reason=sandbox.missing() or "can be shut in")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder the program is not in, with a file."""
    (tmp_path / "precious").write_text("as it was")
    return tmp_path


def refused(program: str, says: str = "not permitted") -> None:
    outcome = run_program(program, SHORT)
    assert not outcome.passed and says in outcome.why, outcome


def test_a_program_passes_when_it_runs_to_its_end() -> None:
    outcome = run_program("import re, json, math\nprint('hello', flush=True)", SHORT)
    assert outcome.passed and outcome.why == "passed" and outcome.output == "hello\n"
    assert run_program("raise ValueError('nö')", SHORT).why == "ValueError nö"
    assert "SyntaxError" in run_program("def f(:", SHORT).why
    assert run_program("assert __name__ == '__main__'", SHORT).passed


@pytest.mark.parametrize(
    "program",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "exit()",
        "raise SystemExit",
        "import os; os.closerange(0, 100); os._exit(0)",
        "import os, sys; os.write(int(sys.orig_argv[-1]), b'ended '); os._exit(0)",
        "import os; os._exit = lambda code: None; os.write = lambda *a: 0; raise SystemExit(0)",
    ],
)
def test_an_exit_before_the_end_is_no_pass(program: str) -> None:
    outcome = run_program(program + "\nraise AssertionError('the tests')", SHORT)
    assert not outcome.passed and outcome.why == "exited"


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        yield listening


def test_no_network(server: socket.socket) -> None:
    port = server.getsockname()[1]
    connect = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)"
    with socket.create_connection(("127.0.0.1", port)):  # there is somebody to talk to
        server.accept()[0].close()
    refused(connect)
    with pytest.raises(TimeoutError):
        server.accept()
    assert run_program(connect, SHORT, unsafe=True).passed  # the refusal is the sandbox's
    refused("import socket\nsocket.socketpair()")
    refused("import socket\nsocket.socket(socket.AF_UNIX)")


@pytest.mark.parametrize(
    "attempt",
    [
        "open(p + '/new', 'w')",
        "open(p + '/precious', 'a')",
        "open(p + '/precious', 'r+').truncate()",
        "os.truncate(p + '/precious', 0)",
        "os.open(p + '/precious', os.O_RDONLY | os.O_TRUNC)",
        "os.remove(p + '/precious')",
        "os.rename(p + '/precious', p + '/gone')",
        "os.rename(p + '/precious', 'here')",
        "os.link(p + '/precious', 'here'); open('here', 'w')",
        "os.symlink(p + '/precious', 'here'); open('here', 'w')",
        "os.mkdir(p + '/folder')",
        "os.rmdir(p)",
        "os.chmod(p + '/precious', 0)",
        "os.utime(p + '/precious', (0, 0))",
        "os.chdir(p); open('new', 'w')",
        "os.mknod('device', 0o600 | 0o060000, os.makedev(7, 0))",
    ],
)
def test_nothing_outside_changes(attempt: str, outside: Path) -> None:
    before = (outside / "precious").stat()
    outcome = run_program(f"import os\np = {str(outside)!r}\n{attempt}", SHORT)
    assert not outcome.passed
    assert any(word in outcome.why for word in ("Permission", "cross-device", "not permitted")), outcome
    assert [path.name for path in outside.iterdir()] == ["precious"] and (outside / "precious").read_text() == "as it was"
    after = (outside / "precious").stat()
    assert (before.st_mode, before.st_mtime_ns, before.st_nlink) == (after.st_mode, after.st_mtime_ns, after.st_nlink)


def test_its_own_folder_is_its_own_and_goes_away() -> None:
    program = "import os, tempfile\nopen('a', 'w').write('x')\nos.mkdir('b'); os.rename('a', 'b/a'); tempfile.mkdtemp()\n"
    outcome = run_program(program + "open(os.devnull, 'w').write('x'); print(os.getcwd())", SHORT)
    assert outcome.passed, outcome
    folder = Path(outcome.output.strip())
    assert folder.is_absolute() and not folder.exists()
    nested = "import os\nfor _ in range(3000):\n    os.mkdir('d'); os.chdir('d')"
    assert run_program(nested, SHORT).why == "disk"
    assert not list(folder.parent.glob("program-*/d/d"))


def test_no_second_process_or_thread() -> None:
    refused("import os\nos.fork()")
    refused("import subprocess\nsubprocess.run(['true'])")
    refused("import os\nos.execv('/bin/true', ['true'])")
    refused("import threading\nthreading.Thread(target=print).start()", "can't start new thread")
    bomb = (
        "import os\nfor _ in range(1000):\n    try:\n        os.fork()\n    except OSError:\n        pass\nprint(os.getpid())"
    )
    outcome = run_program(bomb, SHORT)
    assert outcome.passed and len(outcome.output.splitlines()) == 1  # a thousand tries, one process


def test_no_hand_on_other_processes() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        for call in (f"os.kill({other.pid}, 9)", f"os.killpg({os.getpgrp()}, 0)", "os.kill(-1, 0)", "os.kill(os.getppid(), 9)"):
            refused(f"import os\n{call}")
        refused(f"import os, signal\nsignal.pidfd_send_signal(os.pidfd_open({other.pid}), 9)")
        refused(f"import resource\nresource.prlimit({other.pid}, resource.RLIMIT_CPU, (1, 1))", "")
        refused(f"open('/proc/{other.pid}/environ').read()", "Permission")
        assert other.poll() is None
        other.kill()
    assert run_program("import os; os.abort()", SHORT).why == f"signal {signal.SIGABRT.value}"


def test_time_and_memory_end() -> None:
    started = time.monotonic()
    brief = Limits(seconds=1.0)
    assert run_program("while True: pass", brief).why == "time"
    assert run_program("import time; time.sleep(1000)", brief).why == "time"
    stubborn = "import signal, os\nfor s in (1, 2, 3, 15, 24): signal.signal(s, signal.SIG_IGN)\n"
    assert run_program(stubborn + "os.closerange(0, 100)\nwhile True: pass", brief).why == "time"
    assert time.monotonic() - started < 15
    assert run_program("x = bytearray(2 << 30)", SHORT).why == "memory"
    assert run_program("x = [0]\nwhile True: x += x", SHORT).why == "memory"


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize(
    "call",
    [
        "fcntl.fcntl(r, fcntl.F_SETOWN, PID)",
        "fcntl.fcntl(r, 15, struct.pack('ii', 1, PID))",  # F_SETOWN_EX
        "fcntl.fcntl(r, fcntl.F_SETSIG, 9)",
        "fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)",
        "fcntl.fcntl(r, fcntl.F_SETLEASE, fcntl.F_UNLCK)",
        "fcntl.fcntl(os.open('.', 0), fcntl.F_NOTIFY, 1)",
        "fcntl.fcntl(r, 1031, 1 << 20)",  # F_SETPIPE_SZ
        "fcntl.fcntl(r, 37, struct.pack('hhqqi4x', 0, 0, 0, 0, 0))",  # F_OFD_SETLK
        "os.sched_setaffinity(PID, {0})",
        "os.sched_setaffinity(0, os.sched_getaffinity(0))",  # as of others; of root's the kernel refuses by itself
        "fcntl.flock(open(p), fcntl.LOCK_EX)",
        "os.memfd_create('x')",
        "os.splice(r, w, 1)",
        "os.sendfile(w, os.open(p, 0), 0, 1)",
        "mmap.mmap(-1, 4096)",
    ],
)
def test_other_ways_to_others_and_past_limits_are_refused(call: str, outside: Path, other: subprocess.Popen[bytes]) -> None:
    setup = f"import fcntl, mmap, os, struct\nr, w = os.pipe()\np = {str(outside / 'precious')!r}\nPID = {other.pid}\n"
    refused(setup + call)
    assert other.poll() is None


def test_ioctl_is_refused_but_for_what_python_needs(outside: Path) -> None:
    path = str(outside / "precious")
    for request in (
        0x40086602,
        0x80086601,
        0x5452,
        0x8901,
        0x8902,
    ):  # FS_IOC_SETFLAGS, GETFLAGS; FIOASYNC, FIOSETOWN, SIOCSPGRP
        refused(f"import fcntl\nfcntl.ioctl(open({path!r}), {request}, bytes(8))", "Inappropriate ioctl")
    allowed = (
        "import fcntl, os\nr, w = os.pipe(); os.write(w, b'abc'); os.set_blocking(r, False); os.set_inheritable(r, True)\n"
    )
    assert run_program(allowed + "assert fcntl.ioctl(r, 0x541B, bytes(4))[0] == 3; os.isatty(r)", SHORT).passed


def test_a_lock_on_a_part_of_a_file_is_granted_and_not_taken(outside: Path) -> None:
    program = f"import fcntl, os\nf = open({str(outside / 'precious')!r}); fcntl.lockf(f, fcntl.LOCK_SH)\n"
    assert run_program(program + "assert f' {os.getpid()} ' not in open('/proc/locks').read()", SHORT).passed
    database = """
import sqlite3
with sqlite3.connect("a") as a:
    a.execute("create table t (x)")
    a.execute("insert into t values (1)")
assert sqlite3.connect("a").execute("select x from t").fetchall() == [(1,)]
"""
    assert run_program(database, SHORT).passed


@pytest.mark.skipif(sandbox_child.landlock_version() < 6, reason="Landlock keeps signals in from version 6 on")
def test_landlock_keeps_signals_in() -> None:
    program = """
import ctypes, os, sys
from train import sandbox_child
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
sandbox_child._shut_in(libc, os.getcwd())
os.kill(os.getpid(), 0)
try:
    os.kill(os.getppid(), 0)
except PermissionError:
    print("kept in")
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "kept in\n"


def answer(machine: str, call: str, *arguments: int) -> int:
    """What the filter of a machine says to a call: 0 for allowed, or an error number; -1 for one that did nothing."""
    number = {**sandbox_child.MACHINES[machine][1], **sandbox_child._DEPENDS[machine]}[call]
    data = struct.pack("<iIQ6Q", number, sandbox_child.MACHINES[machine][0], 0, *arguments, *[0] * (6 - len(arguments)))
    lines = list(struct.iter_unpack("<HBBI", sandbox_child._filter(machine)))
    word = at = 0
    while True:
        code, true, false, constant = lines[at]
        at += 1
        if code == 0x20:
            word = struct.unpack_from("<I", data, constant)[0]
        elif code == 0x54:
            word &= constant
        elif code in (0x15, 0x25):
            at += true if (word == constant if code == 0x15 else word > constant) else false
        else:
            return 0 if constant == 0x7FFF0000 else (constant & 0xFFFF or -1)


@pytest.mark.parametrize("machine", sandbox_child.MACHINES)
@pytest.mark.parametrize("upper", [0, 1 << 32, 0xFFFFFFFF << 32])
def test_the_filter_looks_at_what_the_kernel_looks_at(machine: str, upper: int) -> None:
    """Of most arguments the kernel takes the lower half: what is in the upper one lets nothing through."""
    own = os.getpid()
    assert [answer(machine, "fcntl", 3, upper | command) for command in (8, 10, 15, 37, 1024, 1026, 1031)] == [1] * 7
    assert [answer(machine, "fcntl", 3, upper | command) for command in (0, 1, 2, 3, 1030)] == [0] * 5
    assert [answer(machine, "fcntl", 3, upper | command) for command in (6, 7)] == [-1, -1]
    assert answer(machine, "fcntl", 3, upper | 4, upper | 0x2800) == 1 and answer(machine, "fcntl", 3, upper | 4, 0x800) == 0
    assert answer(machine, "ioctl", 3, upper | 0x40086602) == 25 and answer(machine, "ioctl", 3, upper | 0x5401) == 0
    for call in ("kill", "tgkill", "prlimit"):
        assert [answer(machine, call, upper | pid) for pid in (own, 1, own + 1, 0xFFFFFFFF)] == [0, 1, 1, 1]
    assert [answer(machine, "futex", 1 << 20, upper | do) for do in (3, 4, 0x84, 12)] == [1] * 4
    assert [answer(machine, "futex", 1 << 20, upper | do) for do in (0, 1, 0x80, 0x189)] == [0] * 4
    assert [answer(machine, "mmap", 0, 9, 3, upper | flags) for flags in (0x21, 0x23, 0x8021, 0x22, 1, 2)] == [1, 1, 1, 0, 0, 0]
    assert [answer(machine, "prctl", upper | option) for option in (1, 4, 62, 15)] == [1, 1, 1, 0]


def test_both_machines_refuse_the_same() -> None:
    """But for calls that only the older one has."""
    older = {"fork", "vfork", "chmod", "chown", "lchown", "utime", "utimes", "futimesat", "iopl", "ioperm", "modify_ldt"}
    assert set(sandbox_child._X86_64) - set(sandbox_child._AARCH64) == older | {"inotify_init"}
    assert set(sandbox_child._AARCH64) <= set(sandbox_child._X86_64)
    for machine in sandbox_child.MACHINES:
        assert {answer(machine, call) for call in sandbox_child.MACHINES[machine][1]} == {1}


KEEP = {
    "open": "f = open('f', 'wb'); os.unlink('f'); f.write(bytes(900_000)); f.flush(); kept.append(f)",
    "never named": "f = tempfile.TemporaryFile(dir='.'); f.write(bytes(900_000)); f.flush(); kept.append(f)",
    "mapped": "f = open('f', 'wb+'); f.write(bytes(900_000)); m(None, 4096, 1, 2, f.fileno(), 0); os.unlink('f'); f.close()",
}


@pytest.mark.parametrize("way", KEEP)
def test_deleted_files_that_are_still_held_count(way: str) -> None:
    few = Limits(seconds=30.0, folder_bytes=1 << 20)
    program = "import ctypes, os, tempfile, time\nm, kept = ctypes.CDLL(None).mmap, []\n"
    program += "m.argtypes = (ctypes.c_void_p,) + (ctypes.c_size_t,) * 5\n"
    assert run_program(f"{program}for _ in range(3):\n    {KEEP[way]}\ntime.sleep(60)", few).why == "disk"


def test_a_temporary_file_that_is_mapped_is_fine() -> None:
    program = "import mmap, tempfile, time\nf = tempfile.TemporaryFile(); f.write(bytes(9000)); f.flush()\n"
    program += "m = mmap.mmap(f.fileno(), 9000); f.close(); time.sleep(0.5)"
    assert run_program(program, Limits(seconds=30.0, folder_bytes=1 << 20)).passed


def test_the_folder_is_looked_at_after_the_pipes_are_closed() -> None:
    program = (
        "import os, time\nfor i in range(3): open(f'{i}', 'wb').write(bytes(900_000))\nos.closerange(0, 30); time.sleep(60)"
    )
    assert run_program(program, Limits(seconds=30.0, folder_bytes=1 << 20)).why == "disk"


def test_a_folder_that_may_not_be_read_is_endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may write into a folder that it may enter and nobody may list."""
    monkeypatch.chdir(tmp_path)
    os.mkdir("closed", 0o300)
    user = os.geteuid()
    if user == 0:  # who may list all
        os.chmod(".", 0o755)
        os.seteuid(65534)
    try:
        assert sandbox._size(Path(".")) == sys.maxsize
    finally:
        os.seteuid(user)


def test_few_files_are_open_at_a_time() -> None:
    refused("kept = [open('f', 'w') for _ in range(40)]", "Too many open files")


def test_floods_end() -> None:
    flood = run_program("for _ in range(20000): print('x' * 999)\nprint('last')", Limits(seconds=60.0))
    assert flood.passed and len(flood.output) <= 2000 and flood.output.endswith("last\n")
    assert (
        run_program("import os, sys\nwhile True: os.write(int(sys.orig_argv[-1]), b'x' * 9999)", Limits(seconds=1)).why
        == "time"
    )
    small = Limits(seconds=60.0, folder_bytes=1 << 20)
    assert "too large" in run_program("open('big', 'wb').write(bytes(2 << 20))", small).why
    assert run_program("for i in range(10**9): open(f'{i}', 'w')", small).why == "disk"
    assert run_program("for i in range(3): open(f'{i}', 'wb').write(bytes(900_000))", small).why == "disk"


def test_nothing_of_the_environment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_USER", "12345")
    outcome = run_program("import os; print(dict(os.environ)); import sys; print(sys.stdin.read())", SHORT)
    assert outcome.passed and "12345" not in outcome.output and str(Path.home()) not in outcome.output


def test_what_a_kernel_cannot_guarantee_is_said_and_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sandbox_child, "landlock_version", lambda: 1)
    assert "Landlock version 1; 3 or newer" in sandbox.missing()
    with pytest.raises(ConfigError, match=r"not run here.*Landlock version 1.*--unsafe"):
        run_programs([f"open({str(tmp_path / 'ran')!r}, 'w')"], workers=1)
    assert not (tmp_path / "ran").exists()
    assert run_programs(["1"], workers=1, unsafe=True)[0].passed


def test_many_at_a_time_keep_their_order() -> None:
    programs = [f"import time; time.sleep(0.0{9 - i}); print({i}); assert {i} % 2" for i in range(8)]
    outcomes = run_programs(programs, SHORT, workers=4)
    assert [outcome.output.split("\n")[0] for outcome in outcomes] == [str(i) for i in range(8)]
    assert [outcome.passed for outcome in outcomes] == [i % 2 == 1 for i in range(8)]
    assert all(isinstance(outcome, Outcome) for outcome in outcomes)


# --- pass@k ---------------------------------------------------------------------------------------------------------------


def test_the_estimator_is_the_share_of_subsets_with_a_pass() -> None:
    for n in range(1, 8):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            subsets = list(itertools.combinations(range(n), k))
            expected = sum(any(i < c for i in subset) for subset in subsets) / len(subsets)
            assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-12)
    assert pass_at_k(100_000, 1, 1) == pytest.approx(1e-5, rel=1e-9)
    with pytest.raises(ConfigError, match="pass@5 of 3 samples"):
        pass_at_k(3, 1, 5)


TASK = {"task_id": "t", "prompt": "def f(x):\n", "entry_point": "f", "test": "def check(c):\n    assert c(2) == 4\n"}


def test_a_task_counts_what_passes() -> None:
    right, wrong, cheat = "    return 2 * x", "    return x", "    return 4\nimport sys\nsys.exit(0)"
    items = run_tasks([TASK], [[right, wrong, cheat, right]], ks=(1, 2), limits=SHORT, workers=2)
    assert [(item.task, item.key, item.score) for item in items] == [
        ("pass@1", "t", 0.5),
        ("pass@2", "t", pytest.approx(1 - 1 / 6)),
    ]
    assert items[0].more["why"] == ["passed", "AssertionError", "exited", "passed"]


def test_the_real_human_eval(corpus_data: Path) -> None:
    """Every eighth canonical solution passes; a solution that does nothing passes nowhere."""
    tasks = read_tasks(corpus_data / "benchmarks" / "humaneval.jsonl.gz")
    assert len(tasks) == 164
    some = tasks[::8]
    right = [[task["canonical_solution"], "    pass\n"] for task in some]
    items = run_tasks(some, right, ks=(1,), limits=SHORT, workers=2)
    assert {item.score for item in items} == {0.5}, [(i.key, i.more["why"]) for i in items if i.score != 0.5]


def test_files_that_are_no_tasks(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    for text, says in (
        ("", "is empty"),
        ("{", "line 1 is not JSON"),
        ('\n{"task_id": "a"}', "line 2 has no text prompt, entry_point, test"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=says):
            read_tasks(path)
    with pytest.raises(InputError, match="no file"):
        read_tasks(tmp_path / "nowhere")
    assert "check(f)" in program_of(TASK, "")
