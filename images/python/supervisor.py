"""PID 1 of a kernel's container: starts the kernel, starts it again after every end, and says how it ended.

The one rule: nothing inside the container can end it, read it or give it orders. It obeys signals only where the
kernel of the operating system says that they come from outside the container's process namespace; it is not dumpable
(a process of the same uid could otherwise open `/proc/1/mem`); the kernel starts behind a filter that keeps it from
changing PID 1's limits and scheduling (`seal.py`); and it reads its standard input once, before any foreign code runs.
It uses the standard library only, and no threads: all signals are blocked and waited for.

`../README.md` has the contract: the line on standard input, the JSON lines on standard output, the signals.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NoReturn

PYTHON = "/opt/kernel/bin/python"
SEALED = (PYTHON, "-I", "-S", "/opt/kernel-bridge/seal.py")
KERNEL = (*SEALED, PYTHON, "-m", "ipykernel_launcher", "-f")
CONNECTION_FILE = Path("/run/kernel/connection.json")
LIFE = Path("/run/kernel-bridge/life")

STDIN_SECONDS = 60.0
STDIN_BYTES = 1 << 20
STRAYS_SECONDS = 10.0  # a killed process ends at once, unless it hangs in the operating system; then we go on without
QUICK_STARTS = 5  # so many starts in a minute are let through at once; after that something is wrong for good
QUICK_WINDOW = 60.0
SLOW_DELAY = 10.0

PASSED_ON = ("TZ", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PYTHON_CPU_COUNT")
CHANNELS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")

PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4
SI_USER = 0

Cause = Literal["exit", "signal", "oom", "restart"]


class BadOrdersError(ValueError):
    """What came on standard input cannot be used; the text says why, and never repeats it (it holds the key)."""


@dataclass(frozen=True)
class Orders:
    """What standard input said."""

    connection: Mapping[str, Any]
    environment: Mapping[str, str]

    def sockets(self) -> list[Path]:
        """The kernel's socket files; none where it listens on TCP."""
        if self.connection["transport"] != "ipc":
            return []
        return [Path(f"{self.connection['ip']}-{self.connection[channel]}") for channel in CHANNELS]


@dataclass(frozen=True)
class Ending:
    """How a kernel process ended."""

    cause: Cause
    code: int
    text: str


# Rules without any input or output, so that they can be tested alone.


def read_orders(line: bytes) -> Orders:
    """Check the line from standard input; raises `BadOrdersError`."""
    try:
        orders = json.loads(line)
    except (ValueError, RecursionError):
        raise BadOrdersError("what came on standard input is not one line of JSON") from None
    if not isinstance(orders, dict):
        raise BadOrdersError("the line on standard input is not a JSON object")
    connection, environment = orders.get("connection"), orders.get("environment", {})
    if not isinstance(connection, dict) or connection.get("transport") not in {"ipc", "tcp"}:
        raise BadOrdersError("the line on standard input has no connection with a transport of ipc or tcp")
    for name in ("ip", "key"):
        if not isinstance(connection.get(name), str) or not connection[name]:
            raise BadOrdersError(f"the connection on standard input has no {name}")
    for name in CHANNELS:
        if type(connection.get(name)) is not int or not 0 < connection[name] < 1 << 16:
            raise BadOrdersError(f"the connection on standard input has no usable {name}")
    if not isinstance(environment, dict) or not all(
        isinstance(value, str) and "\0" not in name + value and name and "=" not in name
        for name, value in environment.items()
    ):
        raise BadOrdersError("the environment on standard input is not a mapping of names to text")
    return Orders(connection=connection, environment=environment)


def from_outside(info: signal.struct_siginfo) -> bool:
    """Whether a signal was sent from outside the container.

    The operating system gives a sender that the receiver's process namespace does not hold the number 0, and lets no
    process forge a code of `SI_USER` or above (rt_sigqueueinfo(2)).
    """
    return info.si_code == SI_USER and info.si_pid == 0


def kernel_environment(own: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """The kernel's whole environment: what it always needs, limits from our own, then what was given."""
    home = own.get("HOME") or "/home/kernel"
    user = own.get("USER") or "kernel"
    environment = {
        "HOME": home,
        "USER": user,
        "LOGNAME": own.get("LOGNAME") or user,
        "LANG": "C.UTF-8",
        "PATH": f"/opt/kernel/bin:{home}/.local/bin:/usr/local/bin:/usr/bin:/bin",
    }
    return environment | {name: own[name] for name in PASSED_ON if name in own} | dict(given)


def start_delay(starts: Sequence[float], now: float) -> float:
    """Seconds to wait before the next start, given when the earlier ones were."""
    recent = [start for start in starts if now - start < QUICK_WINDOW]
    if len(recent) < QUICK_STARTS:
        return 0.0
    return max(0.0, recent[-1] + SLOW_DELAY - now)


def ending_of(status: int, *, oom_kills: int, limit: int | None) -> Ending:
    """Tell how a kernel ended.

    Args:
        status: as `waitpid` gives it.
        oom_kills: how many processes of the container ran out of memory while this kernel lived. A worker process that
            was killed for it does not make the kernel's own exit one.
        limit: the container's memory limit in bytes, None where there is none.

    """
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return Ending("exit", code, f"the kernel's process ended by itself with exit status {code}")
    number = -code
    if number == signal.SIGKILL and oom_kills > 0:
        of = "" if limit is None else f" (the limit is {limit / (1 << 20):.0f} MiB)"
        return Ending("oom", number, f"the kernel's process was killed because the container ran out of memory{of}")
    try:
        name = f" ({signal.Signals(number).name})"
    except ValueError:
        name = ""
    return Ending("signal", number, f"the kernel's process was ended by signal {number}{name}")


def oom_kills(root: Path = Path("/sys/fs/cgroup")) -> int:
    """How often a process of this container was killed for want of memory; 0 where the engine does not tell."""
    for path in (root / "memory.events", root / "memory" / "memory.oom_control"):  # cgroup v2, v1
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return 0


def memory_limit(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The container's memory limit in bytes; None where it has none."""
    for path in (root / "memory.max", root / "memory" / "memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # v2 says "max" where there is no limit
            limit = int(path.read_text())
            return limit if limit < 1 << 60 else None  # v1 says a number near 2**63
    return None


# The process.


def say(event: str, **fields: object) -> None:
    """Write one JSON line to the container's standard output; a log that is lost ends nothing."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"event": event, **fields, "time": now}) + "\n"
    with contextlib.suppress(OSError):
        os.write(1, line.encode())


def fail(text: str) -> NoReturn:
    """End the container: nothing was started, or nothing can be."""
    say("failed", text=text)
    raise SystemExit(2)


def become_unreadable() -> None:
    """Close `/proc/1/mem`, `environ` and `fd` to the container's other processes; `exec` undoes it for the kernel."""
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    if prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 or prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        fail("the engine's system does not let the supervisor make itself unreadable (prctl PR_SET_DUMPABLE)")


def receive() -> bytes:
    """Read the one line; raises `BadOrdersError`, or `SystemExit` when told to end meanwhile."""
    deadline = time.monotonic() + STDIN_SECONDS
    line = b""
    while b"\n" not in line:
        # Signals are blocked, so they do not wake the wait for input: it is cut into short ones.
        if (told := signal.sigtimedwait({signal.SIGTERM}, 0)) and from_outside(told):
            raise SystemExit(0)
        if time.monotonic() > deadline:
            raise BadOrdersError(f"no line came on standard input within {STDIN_SECONDS:.0f} seconds")
        if not select.select([0], [], [], 0.2)[0]:
            continue
        chunk = os.read(0, 1 << 16)
        line += chunk
        if not chunk:
            raise BadOrdersError("standard input ended before a whole line had come; start the container with it open")
        if len(line) > STDIN_BYTES:
            raise BadOrdersError(f"the line on standard input is longer than {STDIN_BYTES} bytes")
    return line


def listen_for_life() -> socket.socket:
    """Whoever connects here learns from the end of the stream that this process is gone; nobody is ever answered."""
    with contextlib.suppress(FileNotFoundError):
        LIFE.unlink()
    life = socket.socket(socket.AF_UNIX)
    life.bind(str(LIFE))
    life.listen(4096)
    return life


def write_connection(connection: Mapping[str, Any]) -> None:
    """Write the connection file anew: an ipykernel removes it when it ends, and code in it may have changed it."""
    with contextlib.suppress(FileNotFoundError):
        CONNECTION_FILE.unlink()
    file = os.open(CONNECTION_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as out:
        json.dump(dict(connection), out)


class Supervisor:
    """The one kernel: its process, its epoch, and when it may start next."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._environment = kernel_environment(os.environ, orders.environment)
        self._epoch = 0
        self._pid: int | None = None
        self._starts: list[float] = []
        self._oom_kills = 0

    def run(self) -> NoReturn:
        """Serve until a signal from outside ends it."""
        while True:
            wait = 3600.0
            if self._pid is None and (wait := start_delay(self._starts, time.monotonic())) == 0:
                self._start()
                continue
            info = signal.sigtimedwait({signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM}, wait)
            if info is None:
                continue
            if info.si_signo == signal.SIGCHLD:
                self._reap()
            elif from_outside(info):
                self._obey(info.si_signo)

    def _start(self) -> None:
        self._epoch += 1
        self._starts = [*self._starts[-QUICK_STARTS:], time.monotonic()]
        self._oom_kills = oom_kills()
        # If the user's site directory is not there when Python starts, what is installed into it later is not found.
        site = Path(self._environment["HOME"], f".local/lib/python{sys.version_info[0]}.{sys.version_info[1]}")
        with contextlib.suppress(OSError):
            (site / "site-packages").mkdir(parents=True, exist_ok=True)
        try:
            for path in self._orders.sockets():
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
            write_connection(self._orders.connection)
            self._pid = os.posix_spawn(
                KERNEL[0],
                (*KERNEL, str(CONNECTION_FILE)),
                self._environment,
                # Everything else that we have open is close-on-exec, as Python opens it.
                file_actions=[(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, 2, 1)],
                setsid=True,
                setsigmask=[],
                setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
            )
        except OSError as error:
            self._ended(Ending("exit", 127, f"the kernel could not be started: {error.strerror}"))
            return
        self._prefer_as_victim(self._pid)
        say("started", epoch=self._epoch, pid=self._pid)

    @staticmethod
    def _prefer_as_victim(pid: int) -> None:
        """When memory runs out, the kernel or what it started is to go, not PID 1 and with it the container."""
        score = Path(f"/proc/{pid}/oom_score_adj")
        with contextlib.suppress(OSError, ValueError):
            score.write_text(str(min(1000, int(score.read_text()) + 100)))

    def _reap(self) -> None:
        """Collect every child that has ended (a stopped one has not), and see whether the kernel is among them."""
        status, _ = self._collect()
        if status is None:
            return
        killed = oom_kills() - self._oom_kills
        self._end_strays()
        self._ended(ending_of(status, oom_kills=killed, limit=memory_limit()))

    def _collect(self) -> tuple[int | None, bool]:
        """Returns the kernel's status, if it has ended, and whether any process is left."""
        status = None
        try:
            while (child := os.waitpid(-1, os.WNOHANG))[0]:
                if child[0] == self._pid:
                    status = child[1]
        except ChildProcessError:
            return status, False
        return status, True

    def _ended(self, ending: Ending) -> None:
        self._pid = None
        say("ended", epoch=self._epoch, cause=ending.cause, code=ending.code, text=ending.text)

    def _end_strays(self) -> None:
        """Kill and collect every other process of the container: all are our children once their parents are dead."""
        deadline = time.monotonic() + STRAYS_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
            if not self._collect()[1]:
                return
            signal.sigtimedwait({signal.SIGCHLD}, 0.05)

    def _obey(self, number: int) -> None:
        if number == signal.SIGTERM:
            self._end_strays()
            raise SystemExit(0)
        if number == signal.SIGINT and self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGINT)
        if number == signal.SIGHUP:
            self._starts.clear()  # somebody asked for it: no need to slow it down
            if self._pid is not None:
                self._end_strays()
                self._ended(Ending("restart", signal.SIGKILL, "the kernel was restarted, as asked from outside"))


def main() -> NoReturn:
    """Read the orders, then keep a kernel running."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    if os.getpid() != 1:
        fail(
            "the supervisor is not the first process of its container, so it cannot tell its own processes from others"
        )
    become_unreadable()
    os.umask(0o077)
    try:
        orders = read_orders(receive())
    except BadOrdersError as error:
        fail(str(error))
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    try:
        if not stat.S_ISDIR(CONNECTION_FILE.parent.lstat().st_mode):
            fail(f"{CONNECTION_FILE.parent} is not a directory")
        life = listen_for_life()
    except OSError as error:
        fail(f"{error.filename or LIFE} cannot be used: {error.strerror}")
    with life:
        Supervisor(orders).run()


if __name__ == "__main__":
    main()
