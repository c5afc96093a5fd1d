"""The inside of the sandbox: run by path as a process of its own, with nothing but Python's standard library.

Takes one JSON request from standard input, shuts itself in, runs the program it was given, and writes the request's token to
the report pipe only when the program has run to its end. What goes wrong while shutting itself in is reported, and nothing is
run.

1. Limits: memory, CPU seconds, size of a file, open files, no core dumps; killed when the parent dies.
2. Landlock (Linux 6.2 or newer, for truncate): every change of the file system is refused outside the working folder, and from
   Linux 6.12 on every signal to others.
3. seccomp: no sockets, no new process or thread, no signals to others, no change of their priority or processors, no look into
   other processes, nothing that outlives the process (shared memory, message queues, keys), no memory that its limit does not
   count (memfd, shared mappings without a file, pages held in pipes), no change of mode, owner, time, flags or attributes of
   files and no lock on them, which Landlock does not know of, and no system call that is newer than this list. Of ioctl and
   fcntl what Python needs is allowed, and nothing else.

Shared mappings without a file are refused as a whole (mmap.mmap(-1, n) says PermissionError): they are for a second process.
A lock on a part of a file (fcntl, lockf) is granted without being taken: SQLite does not work without one, nobody else is in
the working folder, and outside of it a lock would hold up others.
"""

import ctypes
import json
import os
import platform
import resource
import struct
import sys
from typing import Any

# --- seccomp ------------------------------------------------------------------------------------------------------------

# Numbers of the calls refused, by machine. Neither is complete without NEWEST: calls above it are refused as well.
_X86_64 = {
    **{"socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "socketpair": 53, "accept4": 288},
    **{"clone": 56, "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "clone3": 435, "unshare": 272, "setns": 308},
    **{"ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "process_madvise": 440},
    **{"pidfd_open": 434, "pidfd_getfd": 438, "pidfd_send_signal": 424, "tkill": 200, "rt_sigqueueinfo": 129},
    **{"rt_tgsigqueueinfo": 297, "setpriority": 141, "ioprio_set": 251, "sched_setparam": 142, "sched_setscheduler": 144},
    **{"sched_setattr": 314, "sched_setaffinity": 203, "migrate_pages": 256, "move_pages": 279, "process_mrelease": 448},
    **{"flock": 73, "memfd_create": 319, "sendfile": 40, "splice": 275, "tee": 276, "vmsplice": 278, "futex_requeue": 456},
    **{"shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "semop": 65, "semctl": 66, "semtimedop": 220},
    **{"msgget": 68, "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "mq_open": 240, "mq_unlink": 241},
    **{"chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260, "fchmodat": 268, "fchmodat2": 452},
    **{"utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280},
    **{"setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199},
    **{"mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "move_mount": 429, "open_tree": 428, "fsopen": 430},
    **{"fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442, "swapon": 167, "swapoff": 168, "quotactl": 179},
    **{"quotactl_fd": 443, "open_by_handle_at": 304, "name_to_handle_at": 303, "acct": 163},
    **{"io_setup": 206, "io_submit": 209, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427},
    **{"bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "fanotify_init": 300, "memfd_secret": 447},
    **{"inotify_init": 253, "inotify_init1": 294, "landlock_create": 444, "landlock_add": 445, "landlock_restrict": 446},
    **{"add_key": 248, "request_key": 249, "keyctl": 250, "syslog": 103, "reboot": 169, "kexec_load": 246},
    **{"kexec_file_load": 320, "init_module": 175, "finit_module": 313, "delete_module": 176, "iopl": 172, "ioperm": 173},
    **{"settimeofday": 164, "clock_settime": 227, "adjtimex": 159, "clock_adjtime": 305, "sethostname": 170},
    **{"setdomainname": 171, "vhangup": 153, "modify_ldt": 154, "personality": 135},
    **{"setuid": 105, "setgid": 106, "setreuid": 113, "setregid": 114, "setgroups": 116, "setresuid": 117, "setresgid": 119},
    **{"setsid": 112, "setpgid": 109, "setfsuid": 122, "setfsgid": 123},
}
_AARCH64 = {
    **{"socket": 198, "socketpair": 199, "bind": 200, "listen": 201, "accept": 202, "connect": 203, "accept4": 242},
    **{"clone": 220, "execve": 221, "execveat": 281, "clone3": 435, "unshare": 97, "setns": 268},
    **{"ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "process_madvise": 440},
    **{"pidfd_open": 434, "pidfd_getfd": 438, "pidfd_send_signal": 424, "tkill": 130, "rt_sigqueueinfo": 138},
    **{"rt_tgsigqueueinfo": 240, "setpriority": 140, "ioprio_set": 30, "sched_setparam": 118, "sched_setscheduler": 119},
    **{"sched_setattr": 274, "sched_setaffinity": 122, "migrate_pages": 238, "move_pages": 239, "process_mrelease": 448},
    **{"flock": 32, "memfd_create": 279, "sendfile": 71, "splice": 76, "tee": 77, "vmsplice": 75, "futex_requeue": 456},
    **{"shmget": 194, "shmctl": 195, "shmat": 196, "semget": 190, "semctl": 191, "semtimedop": 192, "semop": 193},
    **{"msgget": 186, "msgctl": 187, "msgrcv": 188, "msgsnd": 189, "mq_open": 180, "mq_unlink": 181},
    **{"fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55, "fchmodat2": 452, "utimensat": 88},
    **{"setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16},
    **{"mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "move_mount": 429, "open_tree": 428, "fsopen": 430},
    **{"fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442, "swapon": 224, "swapoff": 225, "quotactl": 60},
    **{"quotactl_fd": 443, "open_by_handle_at": 265, "name_to_handle_at": 264, "acct": 89},
    **{"io_setup": 0, "io_submit": 2, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427},
    **{"bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "fanotify_init": 262, "memfd_secret": 447},
    **{"inotify_init1": 26, "landlock_create": 444, "landlock_add": 445, "landlock_restrict": 446},
    **{"add_key": 217, "request_key": 218, "keyctl": 219, "syslog": 116, "reboot": 142, "kexec_load": 104},
    **{"kexec_file_load": 294, "init_module": 105, "finit_module": 273, "delete_module": 106},
    **{"settimeofday": 170, "clock_settime": 112, "adjtimex": 171, "clock_adjtime": 266, "sethostname": 161},
    **{"setdomainname": 162, "vhangup": 58, "personality": 92},
    **{"setgid": 144, "setregid": 143, "setuid": 146, "setreuid": 145, "setresuid": 147, "setresgid": 149, "setgroups": 159},
    **{"setsid": 157, "setpgid": 154, "setfsuid": 151, "setfsgid": 152},
}
_NEWEST = 462  # mseal, Linux 6.10; the numbers from 424 on are the same on all machines
MACHINES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}
# Numbers of the calls whose answer depends on an argument.
_DEPENDS = {
    "x86_64": {"kill": 62, "tgkill": 234, "prlimit": 302, "ioctl": 16, "fcntl": 72, "futex": 202, "mmap": 9, "prctl": 157},
    "aarch64": {"kill": 129, "tgkill": 131, "prlimit": 261, "ioctl": 29, "fcntl": 25, "futex": 98, "mmap": 222, "prctl": 167},
}

_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_DONE, _EPERM, _ENOTTY, _ENOSYS = (0x00050000 | error for error in (0, 1, 25, 38))  # of 0: says it did, and did not
_LOAD, _AND, _EQUAL, _ABOVE, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x06  # BPF: ld abs word; and; jeq; jgt; ret
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in seccomp_data
_WORD = 0xFFFFFFFF
# The same on both machines. TCGETS and TCGETS2, FIOCLEX, FIONCLEX, FIONBIO, FIONREAD, TIOCGWINSZ.
_IOCTLS = (0x5401, 0x802C542A, 0x5451, 0x5450, 0x5421, 0x541B, 0x5413)
_FCNTLS = (0, 1030, 1, 2, 3, 5, 1032)  # F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_GETLK, F_GETPIPE_SZ
_F_SETFL, _F_SETLK, _F_SETLKW, _O_ASYNC = 4, 6, 7, 0x2000
_SHARED_ANONYMOUS = 0x21  # bits of mmap's flags; a page that is still mapped keeps all of it, which RLIMIT_AS does not see
_REQUEUES = (3, 4, 12)  # of futex: they move others' waiters, through a file that both map
_PRCTLS = (1, 4, 62)  # death signal; dumpable, without which the parent may not see its open files; core scheduling of others

_Line = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def _switch(offset: int, cases: dict[int, int | list[_Line]], otherwise: int, bits: int = _WORD) -> list[_Line]:
    """The answer, or the lines that find it, by the value of the word at `offset`, as far as `bits` go."""
    lines = [(_LOAD, 0, 0, offset), *([(_AND, 0, 0, bits)] if bits != _WORD else [])]
    for value, answer in cases.items():
        then = [(_RETURN, 0, 0, answer)] if isinstance(answer, int) else answer
        lines += [(_EQUAL, 0, len(then), value), *then]
    return [*lines, (_RETURN, 0, 0, otherwise)]


def _by_argument(pid: int) -> dict[str, list[_Line]]:
    """Of an argument its lower half is compared, which comes first. The kernel takes each of these as 32 bits, so the upper
    half lets nothing through; of mmap's flags it is the lower bits that count.
    """
    first, second, third, fourth = (_ARGUMENTS + 8 * place for place in range(4))
    itself = _switch(first, {pid: _ALLOW}, _EPERM)  # which is what abort() does
    flags = _switch(third, {0: _ALLOW}, _EPERM, bits=_O_ASYNC)
    locks = {_F_SETLK: _DONE, _F_SETLKW: _DONE}
    return {
        "kill": itself,
        "tgkill": itself,
        "prlimit": _switch(first, {0: _ALLOW, pid: _ALLOW}, _EPERM),
        "ioctl": _switch(second, dict.fromkeys(_IOCTLS, _ALLOW), _ENOTTY),
        "fcntl": _switch(second, {**dict.fromkeys(_FCNTLS, _ALLOW), **locks, _F_SETFL: flags}, _EPERM),
        "futex": _switch(second, dict.fromkeys(_REQUEUES, _EPERM), _ALLOW, bits=0x7F),
        "mmap": _switch(fourth, {_SHARED_ANONYMOUS: _EPERM}, _ALLOW, bits=_SHARED_ANONYMOUS),
        "prctl": _switch(first, dict.fromkeys(_PRCTLS, _EPERM), _ALLOW),
    }


def _filter(machine: str) -> bytes:
    """The BPF program."""
    arch, refused = MACHINES[machine]
    lines: list[_Line] = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL_PROCESS), (_LOAD, 0, 0, _NUMBER)]
    lines += [(_ABOVE, 0, 1, _NEWEST), (_RETURN, 0, 0, _ENOSYS)]  # x32's numbers, which begin at 2^30, among them
    cases: dict[int, int | list[_Line]] = dict.fromkeys(refused.values(), _EPERM)
    cases |= {_DEPENDS[machine][name]: answer for name, answer in _by_argument(os.getpid()).items()}
    lines += _switch(_NUMBER, cases, _ALLOW)
    return b"".join(struct.pack("<HBBI", *line) for line in lines)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))


def _refuse_calls(libc: ctypes.CDLL) -> None:
    code = _filter(platform.machine())
    program = _Program(len(code) // 8, code)
    pr_set_seccomp, mode_filter = 22, 2
    _check(libc.prctl(pr_set_seccomp, mode_filter, ctypes.byref(program), 0, 0), "seccomp")


# --- Landlock -----------------------------------------------------------------------------------------------------------

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_WRITE_FILE, _TRUNCATE, _DEVICES = 1 << 1, 1 << 14, 1 << 6 | 1 << 11
# write, remove, make (of every kind), move between folders, truncate: all that changes something; reading is left alone.
_CHANGES = sum(1 << bit for bit in (1, *range(4, 15)))
_IOCTL_DEVICE = 1 << 15  # from version 5 on
_SCOPES = 1 << 0 | 1 << 1  # from version 6 on: abstract sockets and processes outside are out of reach, signals among them
LANDLOCK_LEAST = 3


def landlock_version() -> int:
    """0 where the kernel has none, or it is switched off."""
    return max(0, ctypes.CDLL(None, use_errno=True).syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1)))


def _shut_in(libc: ctypes.CDLL, folder: str) -> None:
    """Changes are refused but under `folder` and to /dev/null, and signals to processes outside, where the kernel can."""
    version = landlock_version()
    handled = struct.pack("<Q", _CHANGES | (_IOCTL_DEVICE if version >= 5 else 0))
    if version >= 6:
        handled += struct.pack("<QQ", 0, _SCOPES)  # the first is of the network, where seccomp refuses all
    ruleset = libc.syscall(_CREATE, handled, ctypes.c_size_t(len(handled)), ctypes.c_uint(0))
    _check(ruleset, "Landlock")
    for path, allowed in ((folder, _CHANGES & ~_DEVICES), (os.devnull, _WRITE_FILE | _TRUNCATE)):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("<Qi", allowed, place)
        _check(libc.syscall(_ADD, ruleset, ctypes.c_int(1), rule, ctypes.c_uint(0)), f"Landlock, {path}")
        os.close(place)
    _check(libc.syscall(_RESTRICT, ruleset, ctypes.c_uint(0)), "Landlock")
    os.close(ruleset)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """What root may do beyond other users. Without them nothing here can bring them back."""
    version_3 = 0x20080522
    _check(libc.capset(struct.pack("<Ii", version_3, 0), struct.pack("<6I", *[0] * 6)), "capset")


def _check(result: int, what: str) -> None:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


# --- The program --------------------------------------------------------------------------------------------------------


_OPEN_FILES = 32  # each may keep a deleted file on disk between two looks of the parent


def _limits(request: dict[str, Any]) -> None:
    for kind, value in (
        (resource.RLIMIT_AS, request["memory"]),
        (resource.RLIMIT_CPU, request["cpu_seconds"]),
        (resource.RLIMIT_FSIZE, request["file_bytes"]),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def _enter(request: dict[str, Any]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux":
        pr_set_pdeathsig, pr_set_no_new_privs, sigkill = 1, 38, 9
        _check(libc.prctl(pr_set_pdeathsig, sigkill, 0, 0, 0), "parent death signal")
        _check(libc.prctl(pr_set_no_new_privs, 1, 0, 0, 0), "no_new_privs")
    if request["isolate"]:
        _shut_in(libc, os.getcwd())
        _drop_capabilities(libc)
    _limits(request)
    if request["isolate"]:
        _refuse_calls(libc)


def main() -> None:
    report = int(sys.argv[1])
    request = json.loads(sys.stdin.buffer.read())
    try:
        _enter(request)
    except (OSError, ValueError) as error:
        os.write(report, f"sandbox {error}".encode())
        os._exit(3)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    token, write, leave = request.pop("token").encode(), os.write, os._exit  # the program may put others in their place
    sys.argv = ["program"]
    try:
        exec(compile(request["program"], "program", "exec", dont_inherit=True), {"__name__": "__main__"})
    except BaseException as error:  # noqa: BLE001  SystemExit is no pass
        write(report, f"{type(error).__name__} {error}"[:500].encode("utf-8", "replace"))
        leave(1)
    write(report, b"ended " + token)
    leave(0)


if __name__ == "__main__":
    main()
