"""IPython's configuration for every kernel of the image: what one client runs must not take the kernel from the others.

The one rule: only the person can undo it. A `profile_default/ipython_kernel_config.py` in HOME comes after this file.
"""

import contextlib
import json
import mmap
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from ipykernel.zmqshell import ZMQInteractiveShell
from jupyter_client import session
from jupyter_client.jsonutil import json_clean, json_default
from traitlets.config import get_config

SENTENCE = (
    "exit and quit() do not end this kernel: others may be using it. "
    "Close your client to leave, or stop it with: kernel-bridge stop NAME"
)


def pack(message: Any) -> bytes:
    """Serialize as Jupyter does, but with a replacement character for each lone surrogate.

    UTF-8 has no form for one. Jupyter's own packer then raises in the thread that sends all output: the output is lost,
    and the thread may never wake again (seen with ipykernel 7.4 and jupyter_client 8.10).
    """
    try:
        return session.json_packer(message)
    except UnicodeEncodeError:
        text = json.dumps(json_clean(message), default=json_default, ensure_ascii=False, allow_nan=False)
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


# A kernel that is told to end has this long for its own end; a cell that runs on would keep it from that for ever.
SHUTDOWN_SECONDS = 5.0


def do_shutdown(kernel: IPythonKernel, restart: bool) -> Any:  # noqa: FBT001 - ipykernel's signature
    """End as ipykernel does, and if that takes too long, at once."""
    last = threading.Timer(SHUTDOWN_SECONDS, os._exit, (0,))
    last.daemon = True
    last.start()
    return shut_down(kernel, restart)  # type: ignore[no-untyped-call]


class OutOfMemory:
    """Tells, in the output of a cell, of processes that were killed for want of memory: nobody else would notice.

    The kernel itself goes on, and its cell sees a worker that is gone, for no reason that Python could tell.
    """

    # cgroup v2, v1
    COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))
    LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

    def __init__(self) -> None:
        self.before = self.kills()

    def kills(self) -> int:
        """How often it happened in this container; 0 where the engine does not tell."""
        for path in self.COUNTERS:
            with contextlib.suppress(OSError, ValueError, KeyError):
                return int(dict(line.split() for line in path.read_text().splitlines())["oom_kill"])
        return 0

    def limit(self) -> str:
        """The container's limit in words."""
        for path in self.LIMITS:
            with contextlib.suppress(OSError, ValueError):
                return f"{int(path.read_text()) / (1 << 20):.0f} MiB"
        return "not known"

    def tell(self, *_: Any) -> None:
        """Called at the end of each cell."""
        kills = self.kills()
        new, self.before = kills - self.before, kills
        if new > 0:
            what = "a process was" if new == 1 else f"{new} processes were"
            print(
                f"In this sandbox {what} killed: out of memory (the limit is {self.limit()} for all of it together). "
                "The kernel and its variables are there. Use less at once, or start a sandbox with more memory.",
                file=sys.stderr,
            )


def init_events(shell: ZMQInteractiveShell) -> None:
    """Have the end of each cell heard; what a client runs silently, such as a look at the variables, is none."""
    begin_events(shell)  # type: ignore[no-untyped-call]
    shell.events.register("post_run_cell", OutOfMemory().tell)


class Cells:
    """What the supervisor is told of the kernel's cells (`supervisor.py` has the form), so that it ends nothing in use.

    A memory that both have: telling it costs nothing, and can neither fail nor wait.
    """

    def __init__(self, place: str = "/run/kernel/cells") -> None:
        self._running: set[int] = set()
        self._changes = 0
        self._told: bytearray | mmap.mmap = bytearray(6)
        with contextlib.suppress(OSError, ValueError):  # where no supervisor has made the file, nobody looks
            file = os.open(place, os.O_RDWR | os.O_NOFOLLOW)
            try:
                self._told = mmap.mmap(file, 6, trackfd=False)  # type: ignore[call-arg]
            finally:
                os.close(file)

    def seen(self, session: str) -> None:
        """Tell of a person, unless it is a bridge's session: then it is an agent's."""
        if not session.startswith("kernel-bridge-"):
            self._told[1] = 1

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Have it told that a cell runs as long as the block takes. Each thread runs one at a time."""
        thread = threading.get_ident()
        try:
            self._running.add(thread)
            self._tell()
            yield
        finally:
            self._running.discard(thread)
            self._tell()

    def _tell(self) -> None:
        """Without a lock, which an interrupt may leave locked: whoever has written last has looked again."""
        self._changes += 1
        self._told[2:6] = (self._changes & 0xFFFF_FFFF).to_bytes(4, "little")
        while self._told[0] != (running := min(255, len(self._running))):
            self._told[0] = running


cells = Cells()


async def execute_request(kernel: IPythonKernel, stream: Any, ident: Any, parent: Any) -> None:
    """Run a cell as ipykernel does, and tell of it; one without code is a look."""
    content = parent.get("content")
    if not isinstance(content, dict) or not str(content.get("code", "")).strip():
        return await run_cell(kernel, stream, ident, parent)  # type: ignore[no-any-return,no-untyped-call]
    with cells.one():
        return await run_cell(kernel, stream, ident, parent)  # type: ignore[no-any-return,no-untyped-call]


def should_handle(kernel: Any, stream: Any, message: Any, idents: Any) -> Any:
    """Decide as ipykernel does, and tell whose request it was."""
    cells.seen(str(message["header"].get("session", "")))
    return decide(kernel, stream, message, idents)  # type: ignore[no-untyped-call]


# Each cell asks where temporary files go. Python tries the places out by writing, and where everything is full it finds
# none: then no cell runs, also none that would make room.
tempfile.tempdir = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - in the container, it is the kernel's own

c = get_config()
c.IPKernelApp.exec_lines.append(f"get_ipython().ask_exit = lambda: print({SENTENCE!r})")
# Its advice at every start, on a terminal that is not there and a path that is not the host's, would fill the log.
IPKernelApp.log_connection_info = lambda _: None  # type: ignore[method-assign]
# In a thread of its own, control, so also while a cell runs.
shut_down, IPythonKernel.do_shutdown = IPythonKernel.do_shutdown, do_shutdown  # type: ignore[method-assign]
begin_events, ZMQInteractiveShell.init_events = ZMQInteractiveShell.init_events, init_events  # type: ignore[method-assign,assignment]
run_cell, IPythonKernel.execute_request = IPythonKernel.execute_request, execute_request  # type: ignore[method-assign]
decide, IPythonKernel.should_handle = IPythonKernel.should_handle, should_handle  # type: ignore[method-assign]
# The setting takes a name that can be imported, and this file is no module.
vars(session)["well_formed_packer"] = pack
c.Session.packer = "jupyter_client.session.well_formed_packer"
