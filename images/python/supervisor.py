"""PID 1 of a kernel's container: starts the kernel, starts it again after every end, and says how it ended.

The one rule: nothing inside the container can read it, give it orders or keep it from its work. It obeys signals, and
believes who says that somebody is connected, only where the kernel of the operating system says that they come from
outside the container's process namespace; it is not
dumpable (a process of the same uid could otherwise open `/proc/1/mem`); it sets a filter, which all that it starts
inherits, against what would change or signal it all the same (`seal.py`); and it reads its standard input, or the file
that is named in its stead, once, before any foreign code runs. It uses the standard library only, and no threads: all
signals are blocked and waited for.

One thing it cannot keep from code inside: to end all of the container, itself with it, by using up its memory on
purpose. The operating system ends the process with the highest score then; the kernel's is raised, but every process
may lower its own to that of its parent again.

Where it is given limits, it looks from time to time whether the sandbox is over, and ends it then (`ends.py`): so that
happens whoever else lives.

Where it is told that there is a proxy, it also keeps a forwarder to it running beside each kernel (`forwarder.py`).
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
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

sys.path.insert(0, str(Path(__file__).parent))  # -I leaves this file's directory out

import ends  # type: ignore[import-not-found]
import seal  # type: ignore[import-not-found]

KERNEL = ("/opt/kernel/bin/python", "-m", "ipykernel_launcher", "-f")
FORWARDER = ("/opt/kernel/bin/python", "-I", "-S", "/opt/kernel-bridge/forwarder.py")
CONNECTION_FILE = Path("/run/kernel/connection.json")
CERTIFICATES = Path("/run/kernel/certificates.pem")
LIFE = Path("/run/kernel-bridge/life")
CELLS = Path("/run/kernel/cells")
CELLS_FORM = struct.Struct(
    "<BBI"
)  # how many run; whether a person was there; a number that each of them changes: ipython_kernel_config.py

WAITING = 4096
HELD = 64  # connections to `LIFE` that outlive a kernel; there is one gateway
STDIN_SECONDS = 60.0
STDIN_BYTES = 1 << 20
COLLECTED = 256  # ended processes at a time, between which signals and the time are looked at
STRAYS_SECONDS = 10.0  # a killed process ends at once, unless it hangs in the operating system; then we go on without
QUICK_STARTS = 5  # so many starts in a minute are let through at once; after that something is wrong for good
QUICK_WINDOW = 60.0
SLOW_DELAY = 10.0
STARTING_SECONDS = 60.0  # on a busy machine; later a kernel that may start no more threads raises, and does not end

PASSED_ON = ("TZ", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PYTHON_CPU_COUNT")
PROXY = ("127.0.0.1", 3128)
# Programs differ in which case they read; what runs in here itself is not reached through a proxy.
THROUGH_PROXY = {
    **dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), "http://{}:{}".format(*PROXY)),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1"),
}
WITH_CERTIFICATES = dict.fromkeys(
    ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS"), str(CERTIFICATES)
)
CHANNELS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")

CGROUP = Path("/sys/fs/cgroup")
AGE = time.CLOCK_BOOTTIME  # nobody sets it, and it goes on while the machine sleeps or the container is frozen

CREDENTIALS = struct.Struct("iII")  # struct ucred: process, user, group

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
    proxy: bool = False
    """Whether there is one, behind a socket on a volume."""
    certificates: str = ""
    """What the kernel's programs are to trust, in PEM; empty leaves that to them."""
    limits: ends.Limits = field(default_factory=ends.Limits)


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
    proxy, certificates = orders.get("proxy", False), orders.get("certificates", "")
    if not isinstance(proxy, bool) or not isinstance(certificates, str):
        raise BadOrdersError("the proxy or the certificates on standard input are not true, false or text")
    return Orders(connection, environment, proxy, certificates, read_limits(orders))


def read_limits(orders: Mapping[str, Any]) -> ends.Limits:
    """Check the limits among the orders; raises `BadOrdersError`."""
    try:
        return ends.read(orders)
    except ValueError as error:
        raise BadOrdersError(str(error)) from None


def from_outside(info: signal.struct_siginfo) -> bool:
    """Whether a signal was sent from outside the container.

    The operating system gives a sender that the receiver's process namespace does not hold the number 0, and lets no
    process forge a code of `SI_USER` or above (rt_sigqueueinfo(2)). What has lost its sender for want of room looks the
    same; that nobody inside can send such a one is the filter's work (`seal.py`).
    """
    return info.si_code == SI_USER and info.si_pid == 0


def kernel_environment(own: Mapping[str, str], orders: Orders) -> dict[str, str]:
    """The kernel's whole environment: what it always needs, limits from our own, then what the orders say."""
    home = own.get("HOME") or "/home/kernel"
    user = own.get("USER") or "kernel"
    environment = {
        "HOME": home,
        "USER": user,
        "LOGNAME": own.get("LOGNAME") or user,
        "LANG": "C.UTF-8",
        "PATH": f"/opt/kernel/bin:{home}/.local/bin:/usr/local/bin:/usr/bin:/bin",
    }
    environment |= {name: own[name] for name in PASSED_ON if name in own}
    environment |= THROUGH_PROXY if orders.proxy else {}
    environment |= WITH_CERTIFICATES if orders.certificates else {}
    return environment | dict(orders.environment)


def start_delay(starts: Sequence[float], now: float) -> float:
    """Seconds to wait before the next start, given when the earlier ones were."""
    recent = [start for start in starts if now - start < QUICK_WINDOW]
    if len(recent) < QUICK_STARTS:
        return 0.0
    return max(0.0, recent[-1] + SLOW_DELAY - now)


def ending_of(
    status: int, *, oom_kills: int, limit: int | None, refused: int = 0, most: int | None = None, lived: float = 0.0
) -> Ending:
    """Tell how a kernel ended.

    Args:
        status: as `waitpid` gives it.
        oom_kills: how many processes of the container ran out of memory while this kernel lived. A worker process that
            was killed for it does not make the kernel's own exit one.
        limit: the container's memory limit in bytes, None where there is none.
        refused: how many processes and threads the container was refused meanwhile, as it had as many as it may.
        most: how many that are, None where there is no limit.
        lived: for how many seconds the kernel ran.

    """
    code = os.waitstatus_to_exitcode(status)
    is_told = refused and lived < STARTING_SECONDS
    full = "" if not is_told else f", and the container had no room for more processes and threads (pids: {most})"
    if code >= 0:
        return Ending("exit", code, f"the kernel's process ended by itself with exit status {code}{full}")
    number = -code
    if number == signal.SIGKILL and oom_kills > 0:
        of = "" if limit is None else f" (the limit is {limit / (1 << 20):.0f} MiB)"
        return Ending("oom", number, f"the kernel's process was killed because the container ran out of memory{of}")
    try:
        name = f" ({signal.Signals(number).name})"
    except ValueError:
        name = ""
    return Ending("signal", number, f"the kernel's process was ended by signal {number}{name}{full}")


def oom_kills(root: Path = CGROUP) -> int:
    """How often a process of this container was killed for want of memory; 0 where the engine does not tell."""
    return counted("oom_kill", root / "memory.events", root / "memory" / "memory.oom_control")  # cgroup v2, v1


def refused_starts(root: Path = CGROUP) -> int:
    """How often a process or thread was refused because this container has as many as it may; 0 as above."""
    return counted("max", root / "pids.events", root / "pids" / "pids.events")


def counted(event: str, *paths: Path) -> int:
    """How often something happened, by the first of the files that tells."""
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == event:
                    return int(value)
    return 0


def memory_limit(root: Path = CGROUP) -> int | None:
    """The container's memory limit in bytes; None where it has none."""
    return limit_in(root / "memory.max", root / "memory" / "memory.limit_in_bytes")


def pids_limit(root: Path = CGROUP) -> int | None:
    """How many processes and threads the container may have; None where it has no limit."""
    return limit_in(root / "pids.max", root / "pids" / "pids.max")


def limit_in(*paths: Path) -> int | None:
    """The number in the first of the files that has one."""
    for path in paths:
        with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
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


def become_untouchable() -> None:
    """Close to all that will run here what would change this process: limits, scheduling, signals."""
    try:
        seal.set_filter()
    except seal.NotSealedError as error:
        fail(f"the supervisor cannot be protected from what runs beside it, so nothing does: {error}")


def read_from(path: str) -> None:
    """Have standard input be a file; raises `BadOrdersError`."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise BadOrdersError(f"{path} cannot be read: {error.strerror}") from None
    os.dup2(file, 0)
    os.close(file)


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


class Life:
    """The socket whose connections end with this process, which is how others learn of it; nobody is ever answered.

    What the gateway says there is who is connected through it: each byte is what is so from then on.
    """

    NOBODY, SOMEBODY, STAYS = b"012"
    """`SOMEBODY` has just come, and may only ask whether a kernel answers."""

    def __init__(self) -> None:
        self._listener: socket.socket | None = None
        self._held: dict[socket.socket, int] = {}
        """What each has said last."""

    def listen(self) -> None:
        """Make the socket, anew where it was made before; who is connected stays so. Raises `OSError`.

        Code inside may have removed it, put something else there or filled its queue.
        """
        if self._listener is not None:
            self._held = {each: said for each, said in self._held.items() if not hung_up(each)}
            self._take_over(self._listener)
            self._listener.close()
            self._listener = None
        LIFE.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.settimeout(0)
        listener.bind(str(LIFE))
        listener.listen(WAITING)
        self._listener = listener

    def read(self) -> tuple[bool, bool]:
        """Return whether anybody is connected now, and whether a client has stayed since this was last asked."""
        if self._listener is not None:
            self._take_over(self._listener)
        stayed = False
        for end in list(self._held):
            try:
                said = end.recv(1 << 16)
            except BlockingIOError:
                said = bytes([self._held[end]])
            except OSError:
                said = b""
            stayed = stayed or self.STAYS in said
            if not said or hung_up(end):
                del self._held[end]
                end.close()
            else:
                self._held[end] = said[-1]
        return any(each != self.NOBODY for each in self._held.values()), stayed

    def _take_over(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # none waits any more, or the machine is short of something
            for _ in range(WAITING):  # all that waited when this began; code inside may go on to connect without an end
                end, _ = listener.accept()
                if hung_up(end) or len(self._held) == HELD or not is_outside(end):
                    end.close()
                else:
                    end.settimeout(0)
                    self._held[end] = self.NOBODY

    def close(self) -> None:
        """End all of it, as the end of this process does."""
        for each in (self._listener, *self._held):
            if each is not None:
                each.close()


def is_outside(end: socket.socket) -> bool:
    """Whether who has connected is outside the container: no process in here has the number 0."""
    process, _, _ = CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    return bool(process == 0)


class Cells:
    """What the kernel says of its cells, in a file that is made anew for each.

    It is read by the descriptor that it was made with: nothing that code inside does to the name is in the way. What it
    holds is that code's own word.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        self._begun = 0
        self._before = ends.Seen()
        """Of the kernels before, since this was last asked."""

    def renew(self) -> None:
        """Make the file; what the last one said is kept until it is asked for. Raises `OSError`."""
        if self._file is not None:
            self._before = self.read(running=False)
            os.close(self._file)
        self._file, self._begun = None, 0
        CELLS.unlink(missing_ok=True)
        file = os.open(CELLS, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)  # no link is followed
        os.write(file, bytes(CELLS_FORM.size))  # so that it has its room
        self._file = file

    def read(self, *, running: bool) -> ends.Seen:
        """Return what was seen since this was last asked; `running`: whether there is a kernel."""
        before, self._before = self._before, ends.Seen()
        said = b"" if self._file is None else os.pread(self._file, CELLS_FORM.size, 0)
        if len(said) < CELLS_FORM.size:
            return before
        run, person, begun = CELLS_FORM.unpack(said)
        used = before.used or (running and run > 0) or begun != self._begun
        self._begun = begun
        return ends.Seen(used=used, person=before.person or person > 0)


def hung_up(end: socket.socket) -> bool:
    """Whether the other side is gone, whatever it sent before."""
    poll = select.poll()
    poll.register(end, 0)  # a hang-up is always told
    return bool(poll.poll(0))


def empty(directory: Path) -> None:
    """Remove what code in the container left there: it would have the place or the room of what the kernel needs.

    From one directory to the next by descriptors, of which one is open: code makes paths that are longer than the
    system takes, and more levels than a recursion has.
    """
    directory.chmod(0o700)
    here = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        names = os.listdir(here)  # noqa: PTH208 - a descriptor is no path
        above: list[list[str]] = []
        while names or above:
            if not names:
                here, names = gone_to("..", here), above.pop()
                os.rmdir(names.pop(), dir_fd=here)
            elif stat.S_ISDIR(os.stat(names[-1], dir_fd=here, follow_symlinks=False).st_mode):
                os.chmod(names[-1], 0o700, dir_fd=here)
                here = gone_to(names[-1], here)
                above.append(names)
                names = os.listdir(here)  # noqa: PTH208
            else:
                os.unlink(names.pop(), dir_fd=here)
    finally:
        os.close(here)


def gone_to(name: str, here: int) -> int:
    """Open a directory beside an open one, in its stead; raises `OSError`, and leaves that one open then."""
    there = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
    os.close(here)
    return there


def write_anew(path: Path, text: str) -> None:
    """Write one of the kernel's files: an ipykernel removes some when it ends, and code in it may have changed any."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as out:
        out.write(text)


def spawn(command: tuple[str, ...], environment: Mapping[str, str], standard_input: tuple[Any, ...]) -> int:
    """Start a process in a session of its own, whose output is the container's standard error; raises `OSError`."""
    return os.posix_spawn(
        command[0],
        command,
        environment,
        # Everything else that we have open is close-on-exec, as Python opens it.
        file_actions=[standard_input, (os.POSIX_SPAWN_DUP2, 2, 1)],
        setsid=True,
        setsigmask=[],
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
    )


class Door:
    """The listener on the port that programs in here find the proxy on.

    This process holds it, so it is there whatever becomes of the forwarder. The forwarder has it too, and with it the
    power to spoil it for both: so each kernel gets a new one, and a forwarder that is started again where it has been
    shut down. Where code in here has the port by then, its own kernel has no way out until it is restarted.
    """

    def __init__(self) -> None:
        self._listener: socket.socket | None = None

    def fileno(self) -> int:
        """Return a descriptor that listens, of a new socket where the last one has been shut down; raises `OSError`."""
        if self._listener is not None and not self._listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            self.close()
        if self._listener is None:
            self._listener = socket.create_server(PROXY, backlog=128)
        return self._listener.fileno()

    def close(self) -> None:
        """Have the next one be a new socket."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None


class Supervisor:
    """The one kernel: its process, its epoch, and when it may start next; and its forwarder, where it has one."""

    def __init__(self, orders: Orders, life: Life) -> None:
        self._orders = orders
        self._life = life
        self._cells = Cells()
        self._ends = ends.Ends(orders.limits, time.clock_gettime(AGE))
        self._environment = kernel_environment(os.environ, orders)
        self._door = Door() if orders.proxy else None
        self._forwarder: int | None = None
        self._forwarder_starts: list[float] = []
        self._epoch = 0
        self._pid: int | None = None
        self._starts: list[float] = []
        self._oom_kills = self._refused = 0
        self._has_more = False

    def run(self) -> NoReturn:
        """Serve until a signal from outside ends it, or the sandbox is over."""
        while True:
            if time.clock_gettime(AGE) >= self._ends.next_look:
                self._look()
            start, starts = self._missing()
            wait = start_delay(starts, time.monotonic()) if start else 3600.0
            if start and wait == 0:
                start()
                continue
            wait = 0.0 if self._has_more else max(0.0, min(wait, self._ends.next_look - time.clock_gettime(AGE)))
            info = signal.sigtimedwait({signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM}, wait)
            if info is not None and info.si_signo != signal.SIGCHLD:
                if from_outside(info):
                    self._obey(info.si_signo)
            elif info is not None or self._has_more:
                self._reap()

    def _look(self) -> None:
        """See who uses the sandbox, and end it if it is over."""
        connected, stayed = self._life.read()
        cells = self._cells.read(running=self._pid is not None)
        seen = ends.Seen(connected, stayed or cells.used, cells.person)
        notice = self._ends.look(time.clock_gettime(AGE), seen)
        if notice is None:
            return
        seconds = {} if notice.seconds is None else {"seconds": notice.seconds}
        say(notice.event, limit=notice.limit, **seconds, text=notice.text)
        if notice.event == "over":
            self._end_strays()
            raise SystemExit(ends.STATUSES[notice.limit])

    def _missing(self) -> tuple[Callable[[], None] | None, Sequence[float]]:
        """Return what starts the process that is to be there and is not, and when the ones before it were started."""
        if self._pid is None:
            return self._start, self._starts
        if self._door is not None and self._forwarder is None:
            return partial(self._start_forwarder, self._door), self._forwarder_starts
        return None, ()

    def _start(self) -> None:
        self._epoch += 1
        self._forwarder_starts.clear()
        self._starts = [*self._starts[-QUICK_STARTS:], time.monotonic()]
        self._oom_kills, self._refused = oom_kills(), refused_starts()
        # If the user's site directory is not there when Python starts, what is installed into it later is not found.
        site = Path(self._environment["HOME"], f".local/lib/python{sys.version_info[0]}.{sys.version_info[1]}")
        with contextlib.suppress(OSError):
            (site / "site-packages").mkdir(parents=True, exist_ok=True)
        try:
            empty(CONNECTION_FILE.parent)
            empty(LIFE.parent)
            self._cells.renew()
            self._life.listen()
            write_anew(CONNECTION_FILE, json.dumps(dict(self._orders.connection)))
            if self._orders.certificates:
                write_anew(CERTIFICATES, self._orders.certificates)
            self._open_door()
            nothing = (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)
            self._pid = spawn((*KERNEL, str(CONNECTION_FILE)), self._environment, nothing)
        except OSError as error:
            self._ended(Ending("exit", 127, f"the kernel could not be started: {error.strerror}"))
            return
        self._prefer_as_victim(self._pid)
        say("started", epoch=self._epoch, pid=self._pid)

    def _open_door(self) -> None:
        """Before there is a kernel, so that none has the port first."""
        if self._door:
            self._door.close()
            with contextlib.suppress(OSError):  # then the forwarder's start says so
                self._door.fileno()

    def _start_forwarder(self, door: Door) -> None:
        self._forwarder_starts = [*self._forwarder_starts[-QUICK_STARTS:], time.monotonic()]
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        try:
            self._forwarder = spawn(FORWARDER, environment, (os.POSIX_SPAWN_DUP2, door.fileno(), 0))
        except OSError as error:
            say("forwarder", text=f"the way to the proxy could not be opened: {error.strerror}")

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
        killed, refused = oom_kills() - self._oom_kills, refused_starts() - self._refused
        lived = time.monotonic() - self._starts[-1]
        self._end_strays()
        self._ended(
            ending_of(status, oom_kills=killed, limit=memory_limit(), refused=refused, most=pids_limit(), lived=lived)
        )

    def _collect(self) -> tuple[int | None, bool]:
        """Returns the kernel's status, if it has ended, and whether any process is left.

        Where code inside ends processes faster than they are collected, `_has_more` is true, and this comes back soon.
        """
        status, self._has_more = None, False
        try:
            for _ in range(COLLECTED):
                child = os.waitpid(-1, os.WNOHANG)
                if not child[0]:
                    return status, True
                if os.WIFSTOPPED(child[1]):
                    continue  # it has made us its tracer (PTRACE_TRACEME), and only its end is our business
                if child[0] == self._pid:
                    status = child[1]
                elif child[0] == self._forwarder:
                    self._forwarder = None
        except ChildProcessError:
            return status, False
        self._has_more = True
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
    become_untouchable()
    os.umask(0o077)
    try:
        if sys.argv[1:]:
            read_from(sys.argv[1])
        orders = read_orders(receive())
    except BadOrdersError as error:
        fail(str(error))
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    try:
        if not stat.S_ISDIR(CONNECTION_FILE.parent.lstat().st_mode):
            fail(f"{CONNECTION_FILE.parent} is not a directory")
        life = Life()
        empty(LIFE.parent)
        life.listen()  # also before each start; here, a place that cannot be used ends the container
    except OSError as error:
        fail(f"{error.filename or LIFE} cannot be used: {error.strerror}")
    Supervisor(orders, life).run()


if __name__ == "__main__":
    main()
