"""Sessions with kernels: how one is opened, replaced where it is over, and given up.

The one rule: a session that is over is replaced on the next call, and the next result says first what became of the
variables. The kernel's own session id tells: the same id is the same process, another one has an empty namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from bridge.audit import Action, Audit
from bridge.connection import load
from bridge.errors import (
    BadConnectionFile,
    BridgeError,
    EngineUnavailable,
    KernelDied,
    KernelNotResponding,
    LaunchError,
    NoSuchKernel,
    NotAudited,
)
from bridge.journal import Book, Journal
from bridge.kernels import files
from bridge.kernels.connected import Connected, ConnectedKernels, about, free_name
from bridge.kernels.files import KernelFile
from bridge.kernels.finder import Found
from bridge.kernels.heritage import Heritage, Kept, claimed, given, read_heritage
from bridge.kernels.sandboxes import Sandboxes
from bridge.launchers import Launcher
from bridge.moments import Moment
from bridge.policy import Attach
from bridge.session import Background, Loss, open_session

# A kernel that runs answers in milliseconds, also while a cell runs.
ATTACH_TIMEOUT = 4.0
# A Jupyter server that restarts a kernel on the same ports needs about a second; a dead one must be told within two.
REOPEN_TIMEOUT = 1.5
# A kernel that its supervisor starts again is there in one or two; a call does not wait for one that keeps falling.
RESTART_TIMEOUT = 20.0
# Where a cell of ours may stand still behind a lost connection that does not come back: tried again after so long, and
# then more and more seldom.
AGAIN, SELDOM = 5.0, 300.0


NOT_BACK = "The connection to it was lost while a cell of yours ran, and is not back ({})"
NOT_TOLD = "Whether your cell that runs there still asks for input is not known, for this kernel does not tell."
MAY_ASK = (
    "{} If it asks for input, the kernel stands still with it until somebody interrupts it: connect again and do that, "
    "or have the user do it."
)


class Opening:
    """Opens the sessions of the connected kernels; `username` and `launcher` are asked for each time.

    `on_activity` is called with a kernel's name when a cell of someone else begins or ends in it; `patience` is
    `open_session`'s.
    """

    def __init__(
        self,
        connected: ConnectedKernels,
        sandboxes: Sandboxes,
        *,
        launcher: Callable[[], Launcher],
        attach: Attach,
        audit: Audit,
        journal: Journal,
        username: Callable[[], str],
        on_activity: Callable[[str], None],
        patience: float,
    ) -> None:
        self._connected = connected
        self._sandboxes = sandboxes
        self._launcher = launcher
        self._attach = attach
        self._audit = audit
        self._journal = journal
        self._username = username
        self._on_activity = on_activity
        self._patience = patience
        self._handed_over: set[Path] = set()
        self._background = Background()
        # one for each kernel: a slow one must not keep others from being connected to
        self._connecting: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def hand_over(self, found: Found) -> tuple[KernelFile, str | None]:
        """Return what a client needs that connects by itself, as `Kernels.address`; the audit is told once."""
        file, sandbox = await self._where(found)
        if file.path not in self._handed_over:  # who waits for a kernel asks many times
            supervised = sandbox is not None or file.info.supervised
            named = about(sandbox or file.name, file.path, supervised=supervised)
            with self._audit.action("attach", kernel=named, directly=True):
                self._handed_over.add(file.path)
        return file, sandbox

    async def _where(self, found: Found) -> tuple[KernelFile, str | None]:
        """Return a kernel's connection file, brought back where it was lost, and its name if it is a sandbox."""
        if found.file:
            return found.file, None
        assert found.sandbox  # noqa: S101 - it is one or the other
        return await self._sandboxes.ready(found.sandbox.name), found.sandbox.name

    async def connect(self, found: Found) -> tuple[Connected, tuple[str, ...]]:
        """Connect to a kernel, unless it is connected; return it, and what is to be said first."""
        async with self._connecting[found.path]:
            connected = self._connected.at(found.path)
            if connected is None:
                return await self._connect(found), ()
        connected = await self.live(connected.name)
        return connected, (f"Already connected to {connected.name}.", *connected.take_notices())

    async def _connect(self, found: Found) -> Connected:
        file, name = await self._where(found)
        try:
            connected = await self.open(file, name, ATTACH_TIMEOUT)
        except KernelNotResponding as error:
            if _is_replaced(file):
                told = KernelNotResponding(
                    f"The connection file {file.path} was replaced while it was connected to, so it is another "
                    "kernel's by now. Nothing was connected to; connect again."
                )
            elif last := await self._sandboxes.last_ending(name) if name else None:
                told = KernelNotResponding(f"The kernel of {name} does not answer; last, {last}. ({error})")
            else:
                raise
            told.recorded = error.recorded
            raise told from None
        connected.end = found.sandbox.lifetime if found.sandbox else None
        return connected

    async def open(self, file: KernelFile, sandbox: str | None, timeout: float, *, starting: bool = False) -> Connected:
        """Open a session and register it under a name that is free by then."""
        place: list[Connected] = []

        async def explain() -> Loss:
            return await self._what_became_of(place[0]) if place else Loss("The connection to the kernel was lost.")

        book = self._book(sandbox or file.name, file)
        left = await self._heritage(file)
        supervised = sandbox is not None or file.info.supervised
        unopened = about(book.name, file.path, supervised=supervised)
        found = await asyncio.to_thread(left.unended, self._username())
        with self._audit.action("attach", kernel=unopened) as action, claimed(found) as unended:
            running = await asyncio.to_thread(unended.kept) if unended else None
            session = await open_session(
                file.info,
                username=self._username(),
                explain=explain,
                timeout=timeout,
                starting=starting,
                identity=running.cell.client.encode() if running else None,
                book=book,
                on_activity=lambda: self._on_activity(book.name),
                on_unattended=lambda: self._attend(place[0]),
                patience=self._patience,
            )
            # no await from here on until it is registered: what comes of a cell must find it, and the name is free
            name = book.name = free_name(sandbox or file.name, self._connected)
            if running and running.cell.kernel == session.kernel:
                session.adopt(*running.handed_over(self._journal, name))
            connected = Connected(
                *(name, file.path, session, session.kernel, sandbox, supervised, self._audit),
                processes={session.kernel: 1},
            )
            action.tell(kernel=connected.about())
        place.append(connected)
        await connected.reopening.acquire()  # at once; others' calls wait, so that numbers go on behind the last one
        self._connected.add(connected)
        # in the background: a caller that leaves now must leave it as it would be
        inheriting = self._background.start(self._inherit(connected, left, running))
        inheriting.add_done_callback(lambda _: connected.reopening.release())
        await asyncio.shield(inheriting)
        return connected

    async def _inherit(self, connected: Connected, left: Heritage, running: Kept | None) -> None:
        """Take over what ended bridges knew of a kernel, and what their cell asks that goes on here."""
        session = connected.session
        kept = await asyncio.to_thread(left.kept, session.kernel, self._username())
        session.executions.inherit(given(kept, self._journal, connected.name))
        await session.ask_on(running.asked if running else None)

    async def _heritage(self, file: KernelFile) -> Heritage:
        """Look for what ended bridges knew of a kernel; in a thread, for there may be a thousand files."""
        place = self._journal.parent
        return Heritage() if place is None else await asyncio.to_thread(read_heritage, place, file.info.fingerprint)

    async def live(self, name: str | None, timeout: float | None = None) -> Connected:
        """Return the connected kernel that is meant, with another session where the one it had is over."""
        connected = self._connected.one(name)
        async with connected.reopening:
            self._require(connected)
            if connected.session.lost:
                try:
                    await self._reopen(connected, RESTART_TIMEOUT if timeout is None else min(timeout, RESTART_TIMEOUT))
                except NotAudited:
                    raise  # it is still connected, and the next call tries again
                except BridgeError as error:
                    raise await self._given_up(connected, error) from None
        return connected

    def _require(self, connected: Connected) -> None:
        if not self._connected.has(connected):
            raise NoSuchKernel(f"{connected.name} was disconnected meanwhile. Nothing was executed.")

    async def _reopen(self, connected: Connected, timeout: float) -> None:
        """Open another session in the place of one that is over; where that fails, all stays as it is."""
        with connected.act("attach", again=True) as action:
            await self._open_again(connected, timeout, action)
        await connected.session.ask_on()

    async def _open_again(self, connected: Connected, timeout: float, action: Action) -> None:
        await connected.session.let_go()
        over, before = connected.session, connected.kernel
        if connected.sandbox:
            kernel_file = await self._ready(connected, connected.sandbox)
        else:
            kernel_file = files.by_path(connected.path, self._attach)
            timeout = timeout if connected.supervised else REOPEN_TIMEOUT
        connected.session = await open_session(
            kernel_file.info,
            username=self._username(),
            explain=lambda: self._what_became_of(connected),
            timeout=timeout,
            starting=True,
            before=connected.session,
            book=self._book(connected.name, kernel_file),
            on_activity=lambda: self._on_activity(connected.name),
            on_unattended=lambda: self._attend(connected),
            patience=self._patience,
        )
        action.tell(kernel=connected.about())
        connected.kernel = connected.session.kernel
        connected.opened = Moment()
        if connected.kernel == before:
            why = f" {over.reason}" if over.left == "process" else ""  # no result tells it
            connected.notices.append(
                f"The connection to {connected.name} was lost and is back; its variables are intact.{why}"
            )
            return
        connected.epoch += 1
        connected.processes[connected.kernel], connected.names = connected.epoch, None
        connected.notices.append(
            f"Kernel {connected.name} is new (epoch {connected.epoch}): all earlier variables are gone. {over.reason}"
        )

    async def _ready(self, connected: Connected, sandbox: str) -> KernelFile:
        try:
            return await self._sandboxes.ready(sandbox)
        except EngineUnavailable:
            # its process is started again by its own supervisor, so it may be there without any engine
            with contextlib.suppress(BadConnectionFile):
                return KernelFile(connected.path, load(connected.path))
            raise

    async def _given_up(self, connected: Connected, error: BridgeError) -> BridgeError:
        reason = connected.session.reason
        if connected.supervised and not isinstance(error, KernelDied):
            # the sandbox is still there, so it stays connected and the next call tries again
            name = connected.sandbox
            last = await self._sandboxes.last_ending(name, connected.opened.as_of_now()) if name else None
            why = f"last, {last}" if last else str(error)
            return KernelNotResponding(f"{reason} It is not back yet ({why}) Nothing was executed; try again.")
        self._connected.remove(connected)
        if connected.session.left == "process":
            connected.session.reason = str(error)  # by now more is known
        await connected.session.close()
        if connected.sandbox:
            with contextlib.suppress(LaunchError):
                await self._launcher().sweep()
            # how it ended is told by the engine only until it was removed
            why = reason if connected.session.left == "nothing" else str(error)
            return KernelDied(f"{why} Nothing was executed; the bridge has disconnected from it.")
        return KernelDied(
            f"{reason} ({error}) Nothing was executed; the bridge has disconnected from it: start it where it was "
            "started, then connect again."
        )

    def _attend(self, connected: Connected) -> None:
        """See to a cell of ours that may ask, and that nobody has looked at since the connection was lost."""
        self._background.start(self._attended(connected))

    async def _attended(self, connected: Connected) -> None:
        while self._is_unattended(connected):
            try:
                with connected.act("attach", again=True) as action:  # one in the audit, however often it is tried
                    await self._until_attended(connected, action)
            except BridgeError:
                await asyncio.sleep(AGAIN)

    async def _until_attended(self, connected: Connected, action: Action) -> None:
        """Try to open another session, so briefly that no call has to wait, until there is one.

        A kernel that does not come back is not given up here: that is the next call's, which says it.
        """
        pause = AGAIN
        while self._is_unattended(connected):
            async with connected.reopening:
                if self._is_unattended(connected):
                    with contextlib.suppress(BridgeError):
                        await self._open_again(connected, REOPEN_TIMEOUT, action)
                        await connected.session.ask_on()
                        break
            await asyncio.sleep(pause)
            pause = min(2 * pause, SELDOM)
        self._require(connected)

    def _is_unattended(self, connected: Connected) -> bool:
        return self._connected.has(connected) and connected.session.lost and connected.session.runs_a_cell

    async def close(self) -> None:
        """See to none any more."""
        await self._background.end()

    async def forget(self, connected: Connected) -> str:
        """Leave a kernel, once no other session is being opened with it; what runs in it goes on.

        Only what asks does not, also where the connection is lost: the session that is opened for that ends it. Returns
        a sentence on what may ask on, where there is none to be had.
        """
        async with connected.reopening:
            trouble = ""
            if connected.session.lost and connected.session.runs_a_cell:
                try:
                    await self._reopen(connected, REOPEN_TIMEOUT)
                except BridgeError as error:
                    trouble = NOT_BACK.format(error)
            if connected.session.may_ask:
                trouble = NOT_TOLD
            self._connected.remove(connected)
            await connected.session.close()
            return trouble and MAY_ASK.format(trouble)

    def _book(self, name: str, file: KernelFile) -> Book:
        return self._journal.book(name, fingerprint=file.info.fingerprint, spec=file.info.kernel_name)

    async def _what_became_of(self, connected: Connected) -> Loss:
        if connected.sandbox is None:
            kind = "kernel" if connected.supervised else "host kernel"
            return Loss(f"The {kind} {connected.name} has ended or closed its connection; its variables are gone.")
        return await self._sandboxes.what_became_of(connected.sandbox, connected.opened.as_of_now())


def _is_replaced(file: KernelFile) -> bool:
    """Tell whether there is another kernel's connection file in the place of one that was read before."""
    try:
        return load(file.path) != file.info
    except BadConnectionFile:
        return False
