"""The kernels that are connected, and everything that is done with a kernel by name.

The one rule: a session that is over is replaced on the next call, and the next result says first what became of the
variables. The kernel's own session id tells: the same id is the same process, another one has an empty namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio

from bridge.addresses import OutputAddress
from bridge.audit import Action, Audit, Who
from bridge.connection import load
from bridge.errors import (
    AmbiguousKernel,
    BridgeError,
    KernelDied,
    KernelError,
    KernelNotResponding,
    LaunchError,
    NameTaken,
    NoAnswer,
    NoSuchKernel,
    NotAudited,
    NotOurs,
    StartTimeout,
    UsageError,
)
from bridge.execution import Executions
from bridge.journal import IN_MEMORY, Book, Journal
from bridge.kernels import files, transfers, watching
from bridge.kernels.activity import Activity
from bridge.kernels.files import KernelFile
from bridge.kernels.finder import Finder, Found
from bridge.kernels.home import Home
from bridge.kernels.listing import Listing, Outcome, Status
from bridge.kernels.recorded import recorded, refusals_of
from bridge.kernels.sandboxes import Sandboxes, silence_under
from bridge.launchers import Launcher, Sandbox
from bridge.looking import (
    Inspection,
    Raised,
    Variables,
    error_expression,
    object_expression,
    read_error,
    read_object,
    read_variables,
    variables_expression,
)
from bridge.looking.files import Piece
from bridge.looking.names import NameChanges, Names, changes, names_expression, read_names
from bridge.outputs import Output, Result
from bridge.policy import Policy, SandboxRequest, decide
from bridge.policy.places import journal_home
from bridge.session import PATIENCE, KernelSession, OnMessage, open_session

# A kernel that runs answers in milliseconds, also while a cell runs.
ATTACH_TIMEOUT = 4.0
# A Jupyter server that restarts a kernel on the same ports needs about a second; a dead one must be told within two.
REOPEN_TIMEOUT = 1.5
# A cold sandbox on a loaded laptop takes a few seconds.
START_TIMEOUT = 60.0
# A kernel that its supervisor starts again is there in one or two; a call does not wait for one that keeps falling.
RESTART_TIMEOUT = 20.0
# Of a page of output for what is said around it.
PAGE_MARGIN = 512
# Two callers without a name of their own may choose the same one at the same time.
NAME_TRIES = 5

Looked = TypeVar("Looked", Variables, Inspection, Raised)
AskFor = Callable[[str, str], Awaitable[str | None]]
"""A session's `Ask`, with the kernel's name before the question."""


@dataclass
class _Connected:
    name: str
    path: Path
    session: KernelSession
    kernel: str
    sandbox: str | None
    """Its name as a sandbox, for the launcher; None for a kernel that is known by its file only."""
    supervised: bool
    """It is started again after every end: a sandbox of the launcher's, or one that is reached by its file."""
    epoch: int = 1
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    notices: list[str] = field(default_factory=list)
    """What the next result must say first; kept until one does."""
    reopening: asyncio.Lock = field(default_factory=asyncio.Lock)
    processes: dict[str, int] = field(default_factory=dict)
    """The epoch of each process that it was, by the process's own id."""
    names: Names | None = None
    """As they were at the last look, in the process that it is now."""

    def status(self) -> Status:
        seen = self.session.state()
        return Status(
            name=self.name,
            kind="sandbox" if self.supervised else "host",
            state=seen.state,
            running=seen.running,
            epoch=self.epoch,
            language=self.session.banner,
            connection_file=str(self.path),
            reason=self.session.reason or None,
        )

    def about(self) -> dict[str, Any]:
        """Return how the audit names it."""
        return _about(self.name, self.path, supervised=self.supervised, process=self.session.kernel)

    def take_notices(self) -> tuple[str, ...]:
        taken, self.notices = tuple(self.notices), []
        return taken


class Kernels:
    """All that one bridge does with kernels, under one policy, in the name of one agent or person, who the audit names.

    `make_launcher` is called when sandboxes first matter: finding the engine takes time that attaching must not pay.
    After `patience` seconds without an answer a cell that asks for input is interrupted. A sandbox whose kernel has not
    answered `start_timeout` seconds after its start is removed. `home` is the kernel, by any form of name, that
    `be_at_home` connects. `must_name`: a kernel is never meant without being named.
    """

    def __init__(
        self,
        policy: Policy,
        make_launcher: Callable[[], Launcher],
        *,
        username: str = "kernel-bridge",
        who: Who | None = None,
        patience: float = PATIENCE,
        start_timeout: float = START_TIMEOUT,
        home: str | None = None,
        must_name: bool = False,
    ) -> None:
        self.policy = policy
        self._patience = patience
        self._start_timeout = start_timeout
        self.username = username
        """Signs our messages for the kernel's other clients; the agent's name, once it is known."""
        self._make_launcher = make_launcher
        self._made: Launcher | None = None
        self.audit = Audit(policy, who or Who())
        """Where the policy wants one: what is done here is told there before it is done."""
        self._handed_over: set[Path] = set()
        self._sandboxes = Sandboxes(lambda: self.launcher)
        self._finder = Finder(policy.attach, lambda: self.launcher, self._sandboxes, lambda: self.username)
        self._connected: dict[str, _Connected] = {}
        calls = policy.calls
        place = None if calls.kept_output is None else journal_home()
        self.journal = Journal(place, calls.kept_output or IN_MEMORY, page=calls.max_output - PAGE_MARGIN)
        """What everyone has run in the connected kernels, as far as it was seen from here."""
        self.on_activity: Callable[[str], None] = lambda _: None
        """Called with a kernel's name when a cell of someone else begins or ends in it."""
        self.on_connected: Callable[[], None] = lambda: None
        """Called when a kernel was connected, or is so no longer."""
        self._must_name = must_name
        self._home = None if home is None else Home(home, self._connect_home, self._connected.keys())
        # one for each kernel: a slow one must not keep others from being connected to
        self._connecting: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)

    def introduce(self, name: str, version: str) -> None:
        """Have messages signed, and the audit told, with what an MCP client calls itself."""
        self.username = name
        self.audit.who = dataclasses.replace(self.audit.who, client=name, client_version=version)

    @property
    def launcher(self) -> Launcher:
        """The launcher of sandboxes."""
        if self._made is None:
            self._made = recorded(self._make_launcher(), self.audit)
        return self._made

    # -- looking

    async def listing(self) -> tuple[list[Listing], str | None]:
        """Return every kernel there is, and a sentence where the engine could not be asked for sandboxes."""
        return await self._finder.listing({each.path for each in self._connected.values()})

    def statuses(self, name: str | None = None) -> list[Status]:
        """Return the state of the connected kernels, or of the one of that name."""
        chosen = [self._one(name)] if name is not None else list(self._connected.values())
        return [each.status() for each in chosen]

    def the_only_one(self) -> dict[str, Any] | None:
        """Return how the audit names the kernel that is meant where none is named; None where that is none."""
        with contextlib.suppress(UsageError):
            return self._one(None).about()
        return None

    def why_not_at_home(self) -> str | None:
        """Tell why nothing is connected though there is a kernel that should be without being asked for."""
        return None if self._connected else self._homeless.strip() or None

    @property
    def _homeless(self) -> str:
        return self._home.problem if self._home is not None else ""

    @property
    def run_a_cell(self) -> bool:
        """A cell of ours runs or is queued, or asks."""
        return any(each.session.runs_a_cell for each in self._connected.values())

    async def settled(self, name: str) -> Status:
        """Return a connected kernel's state once it is known; a kernel that keeps silent is busy."""
        connected = self._one(name)
        await connected.session.settled()
        return connected.status()

    async def find(self, which: str) -> Found:
        """Return the one kernel that is meant, by any form of name; raises as `Finder.find`."""
        return await self._finder.find(which)

    async def address(self, which: str) -> tuple[KernelFile, str | None]:
        """Return where one kernel listens, for a client that connects by itself, and its name if it is a sandbox.

        A sandbox's gateway and file are brought back where they were lost; whether the kernel answers is not asked.
        Raises as `Finder.find`, and `KernelDied` or `KernelNotResponding` for a sandbox that has ended or is paused.
        """
        file, sandbox = await self._where(await self._finder.find(which))
        if file.path not in self._handed_over:  # who waits for a kernel asks many times
            supervised = sandbox is not None or file.info.supervised
            about = _about(sandbox or file.name, file.path, supervised=supervised)
            with self.audit.action("attach", kernel=about, directly=True):
                self._handed_over.add(file.path)
        return file, sandbox

    async def what_became_of(self, sandbox: str, since: datetime) -> str:
        """Tell, in one sentence, why the connection to a sandbox was lost that was there `since` a time."""
        return await self._sandboxes.what_became_of(sandbox, since)

    # -- connecting

    @refusals_of("attach")
    async def connect(self, which: str | None = None) -> tuple[Status, tuple[str, ...]]:
        """Connect to the kernel that `which` names, or to the only one there is; returns its status and notices."""
        found = await self._finder.find(which)
        async with self._connecting[found.path]:
            connected = next((each for each in self._connected.values() if each.path == found.path), None)
            if connected is None:
                return (await self._connect(found)).status(), ()
        connected = await self._live(connected.name)
        return connected.status(), (f"Already connected to {connected.name}.", *connected.take_notices())

    async def be_at_home(self, name: str | None = None) -> None:
        """Have the kernel connected that is to be so without being asked for, as `Home.come` says.

        Why it could not be connected is told by the errors of whatever needs it.
        """
        if self._home is not None:
            await self._home.come(name)

    async def _connect_home(self, which: str) -> str:
        return (await self.connect(which))[0].name

    async def _where(self, found: Found) -> tuple[KernelFile, str | None]:
        if found.file:
            return found.file, None
        assert found.sandbox  # noqa: S101 - it is one or the other
        return await self._sandboxes.ready(found.sandbox.name), found.sandbox.name

    async def _connect(self, found: Found) -> _Connected:
        file, name = await self._where(found)
        try:
            return await self._open(file, name, ATTACH_TIMEOUT)
        except KernelNotResponding as error:
            last = await self._sandboxes.last_ending(name) if name else None
            if last is None:
                raise
            told = KernelNotResponding(f"The kernel of {name} does not answer; last, {last}. ({error})")
            told.recorded = error.recorded
            raise told from None

    @refusals_of("disconnect")
    async def disconnect(self, name: str | None = None) -> str:
        """Forget a kernel; it and whatever runs in it go on. Returns its name."""
        connected = self._one(name)
        with self._act("disconnect", connected, ending=True):
            if self._home is not None:
                self._home.leave(connected.name)
            await self._forget(connected)
        return connected.name

    @refusals_of("start")
    async def start_sandbox(self, request: SandboxRequest) -> tuple[Sandbox, Status]:
        """Start a sandbox as far as the policy allows and connect to it; on success its kernel has answered.

        An empty name in the request means any that is free. If a step fails or the call is cancelled, nothing is left.
        """
        # a refusal needs no engine, and none is looked for in vain
        decide(self.policy, request if request.name else dataclasses.replace(request, name="sandbox"))
        for _ in range(NAME_TRIES if not request.name else 0):
            with contextlib.suppress(NameTaken):
                return await self._start(dataclasses.replace(request, name=await self._free_sandbox_name()))
        return await self._start(request)

    @refusals_of("stop")
    async def stop_sandbox(self, name: str) -> None:
        """End a sandbox of this owner and remove all that belongs to it; raises `NoSuchKernel`, `NotOurs`."""
        if self._home is not None and self._home.may_be(name):
            # its own file tells whose it is, also where there is no engine
            await self.be_at_home(name)
        connected = self._connected.get(name)
        if connected and connected.sandbox is None:
            raise NotOurs(
                f"{name} is a kernel on the host, which the bridge did not start; disconnect from it instead."
            )
        sandbox = connected.sandbox if connected and connected.sandbox else name
        if (there := await self._sandboxes.get(sandbox)) and there.composed:
            await self.launcher.stop(sandbox)  # which says whose it is, before anybody is disconnected
        for each in [each for each in self._connected.values() if each.sandbox == sandbox]:
            await self._forget(each)
        if not await self.launcher.stop(sandbox):
            error = files.none_matches(name, [each.name for each in await self.launcher.sandboxes()])
            error.recorded = True  # that it was not there
            raise error

    async def close(self) -> None:
        """Leave every kernel."""
        # first, so that a call that waits opens no other session
        left = list(self._connected.values())
        self._connected.clear()
        try:
            await asyncio.gather(*map(self._leave, left))
        finally:
            self.journal.close()
            if self._made is not None:
                self._made.close()

    async def _leave(self, connected: _Connected) -> None:
        with self._act("disconnect", connected, ending=True):
            await connected.session.close()

    # -- acting on a connected kernel

    @refusals_of("execute")
    async def execute(
        self,
        code: str,
        *,
        name: str | None = None,
        timeout: float | None,
        on_message: OnMessage | None = None,
        ask: AskFor | None = None,
    ) -> Outcome:
        """Run a cell; see `KernelSession.execute`."""
        connected = await self._live(name, timeout)
        asks = ask and partial(self._ask, ask, connected)
        run = partial(self._run, code=code, timeout=timeout, on_message=on_message, ask=asks)
        try:
            result = await run(connected)
        except KernelDied:
            if not connected.session.lost:
                raise
            # it was lost between the look and the sending: nothing was sent, so the call may begin again, once
            connected = await self._live(connected.name, timeout)
            result = await run(connected)
        return Outcome(connected.name, connected.take_notices(), result)

    async def _run(self, connected: _Connected, *, code: str, **given: Any) -> Result:
        def sending(number: int) -> Callable[[Result | None], None]:
            told = self.audit.code(code)
            return self.audit.begin("execute", kernel=connected.about(), execution=number, **told).ended

        return await connected.session.execute(code, on_send=sending if self.audit.is_on else None, **given)

    async def _ask(self, ask: AskFor, connected: _Connected, question: str) -> str | None:
        answer = await ask(connected.name, question)
        if answer is not None:
            try:
                self.audit.begin("input", kernel=connected.about()).end("ok")
            except NotAudited as error:
                raise NoAnswer(f"{error} The cell that asked was interrupted.") from None
        return answer

    async def read(
        self,
        execution: int,
        *,
        name: str | None = None,
        wait: float = 0.0,
        cursor: int | None = None,
        on_message: OnMessage | None = None,
        ask: AskFor | None = None,
    ) -> Outcome:
        """Return how far an execution is, also of a session that is over; from a cursor on, one page of its output.

        Raises `NoSuchKernel` for a number of which nothing is kept.
        """
        connected = self._one(name)
        executions, calls = connected.session.executions, self.policy.calls
        result = None
        if executions.get(execution):
            asks = ask and partial(self._ask, ask, connected)
            result = await connected.session.read(execution, wait=wait, on_message=on_message, ask=asks)
        if result is None or (cursor is not None and result.cursor is not None):
            text, size = (each - PAGE_MARGIN for each in (calls.max_output, calls.max_result))
            result = executions.page(execution, cursor or 0, text=text, size=size)
        if result is None:
            raise _not_kept(execution, executions)
        return Outcome(connected.name, (), result)

    def output(self, address: OutputAddress, *, most: int) -> Output:
        """Return one whole output; raises `NoSuchKernel` where there is none, `UsageError` for more bytes than most."""
        connected = self._one(address.kernel)
        executions = connected.session.executions
        cell = executions.cell(address.cell) if address.is_execution else address.cell
        if cell is None:
            raise _not_kept(address.cell, executions)
        if not address.is_execution and not watching.is_of(self.journal, cell, connected.name, connected.processes):
            raise NoSuchKernel(f"No cell {cell} of someone else is kept for kernel {connected.name}.")
        output, size = self.journal.output(cell, address.place, most=most)
        if output is None and size:
            raise UsageError(
                f"This output has {size} bytes, more than the {most} of one resource. Have the kernel write it to a "
                "file, or make it smaller."
            )
        if output is None:
            raise NoSuchKernel(f"Nothing is kept at place {address.place} of that cell's output.")
        return output

    @refusals_of("input")
    async def answer(
        self,
        text: str,
        execution: int | None = None,
        *,
        name: str | None = None,
        question: str | None = None,
        wait: float,
        on_message: OnMessage | None = None,
    ) -> Outcome:
        """Answer what our cell asks and wait on; see `KernelSession.answer`."""
        connected = self._one(name)
        with self._act("input", connected, execution=execution):
            result = await connected.session.answer(
                text, number=execution, question=question, wait=wait, on_message=on_message
            )
        return Outcome(connected.name, connected.take_notices(), result)

    @refusals_of("interrupt")
    async def decline(self, sentence: str, execution: int, *, name: str, question: str) -> Outcome:
        """Interrupt our cell instead of an answer; see `KernelSession.decline`."""
        connected = self._one(name)
        with self._act("interrupt", connected, ending=True, execution=execution):
            result = await connected.session.decline(sentence, number=execution, question=question)
        return Outcome(connected.name, connected.take_notices(), result)

    def untold(self, outcome: Outcome) -> None:
        """Keep the notices of an outcome that is not shown for the next one that is."""
        connected = self._connected.get(outcome.kernel)
        if connected is not None:
            connected.notices[:0] = outcome.notices

    @refusals_of("interrupt")
    async def interrupt(self, name: str | None = None) -> Outcome:
        """Interrupt our own running cell; raises `NotOurs` where what runs is someone else's."""
        connected = await self._live(name)
        with self._act("interrupt", connected, ending=True):
            result = await connected.session.interrupt()
        if result.status == "running" and connected.sandbox:
            # its control channel did not get through: the supervisor sends the signal itself
            await self.launcher.interrupt_kernel(connected.sandbox)
            result = await connected.session.read(result.execution, wait=2.0)
        return Outcome(connected.name, connected.take_notices(), result)

    @refusals_of("look")
    async def variables(self, name: str | None = None, *, limit: int, start: int = 0) -> Variables:
        """Look at the variables, also while a cell runs; nothing is executed that anybody would notice."""
        connected = await self._live(name)
        expression = variables_expression(limit=limit, start=start)
        return await self._look(connected, expression, read_variables, at="variables")

    @refusals_of("look")
    async def inspection(self, of: str, name: str | None = None, *, start: int = 0) -> Inspection:
        """Look at one object, by its name or a way from one, as `variables`; raises `UsageError` for none."""
        expression = object_expression(of, start=start)
        connected = await self._live(name)
        return await self._look(connected, expression, read_object, at="object", **self.audit.code(of))

    @refusals_of("look")
    async def last_error(self, name: str | None = None, *, frame: int | None = None) -> Raised:
        """Look at the last exception of anyone's cell, as `variables`; raises `UsageError` where there was none."""
        connected = await self._live(name)
        return await self._look(connected, error_expression(frame=frame), read_error, at="error")

    async def _look(self, connected: _Connected, expression: str, read: Callable[[str], Looked], **told: Any) -> Looked:
        """Return what a look tells, behind what the next result will say first: the kernel may be a new one."""
        with self._act("look", connected, **told):
            answer = await connected.session.look(expression)
            try:
                seen: Looked = read(answer)
            except UsageError as error:
                raise UsageError(" ".join((*connected.notices, str(error)))) from None
        return dataclasses.replace(seen, notes=(*connected.notices, *seen.notes))

    @refusals_of("put_file")
    async def put_file(
        self, path: str, source: AsyncIterator[bytes], name: str | None = None, *, replace: bool, to_replace: str
    ) -> transfers.Put:
        """Write a file in a sandbox, also while a cell runs: see `transfers.put`; `NotOurs` for a host kernel."""
        connected = self._sandboxed(name)
        with self._act("put_file", connected, path=path) as action:
            put = await transfers.put(self._look_of(connected), path, source, replace=replace, to_replace=to_replace)
            action.tell(bytes=put.size, sha256=put.sha256)
        return dataclasses.replace(put, notices=connected.take_notices())

    @refusals_of("get_file")
    async def page_of_file(self, path: str, name: str | None = None, *, start: int = 0, size: int) -> transfers.Page:
        """Return some of a file in a sandbox, or a picture as a whole; see `transfers.page`, and `put_file`."""
        connected = self._sandboxed(name)
        with self._act("get_file", connected, path=path) as action:
            piece = await transfers.page(self._look_of(connected), path, start=start, size=size)
            action.tell(bytes=len(piece.data), start=piece.start)
        return transfers.Page(connected.name, path, piece, connected.take_notices())

    async def pieces_of_file(self, path: str, name: str | None = None) -> AsyncGenerator[Piece]:
        """Return a whole file in a sandbox, piece by piece; see `transfers.pieces`, and `put_file`.

        Whoever does not take all of it closes the generator: the audit is told then.
        """
        about = {"name": name} if name else self.the_only_one()
        with self.audit.action("get_file", kernel=about, path=path) as action:
            connected = self._sandboxed(name)
            action.tell(kernel=connected.about(), bytes=0)
            async for piece in transfers.pieces(self._look_of(connected), path):
                action.tell(bytes=piece.start + len(piece.data))
                yield piece

    def _sandboxed(self, name: str | None) -> _Connected:
        connected = self._one(name)
        if not connected.supervised:
            raise NotOurs(
                f"{connected.name} is no sandbox but a kernel on the host, and its files are the host's own: read and "
                "write them there, or in the kernel by execute_code."
            )
        return connected

    def _look_of(self, connected: _Connected) -> transfers.Look:
        """Return what looks into a kernel, whichever process it is by then: a sandbox's files outlive it."""

        async def look(expression: str) -> str:
            return await (await self._live(connected.name)).session.look(expression)

        return look

    @refusals_of("look")
    async def activity(self, name: str | None = None, *, since: str | None = None, look: bool = True) -> Activity:
        """Return what the others did and do; see `watching.activity`. `look`: also what became of the names.

        What is known of a kernel is told once more where it turns out to be lost.
        """
        connected = self._one(name)
        with self._act("look", connected, at="activity"):
            return await self._activity(connected, since, look=look)

    async def _activity(self, connected: _Connected, since: str | None, *, look: bool) -> Activity:
        notes, names = [], None
        try:
            connected = await self._live(connected.name)
            if look:
                names, sentence = await self._names(connected)
                notes.extend([sentence] if sentence else [])
        except KernelError as error:
            notes.append(str(error))
        connected.session.write_what_others_printed()
        if self.journal.problem:
            notes.append(f"Not all that was run could be kept, so cells may be missing here: {self.journal.problem}.")
        watched = watching.Watched(connected.status(), connected.processes, connected.since, names, tuple(notes))
        return watching.activity(self.journal, watched, since=since, size=self.policy.calls.max_output)

    async def _names(self, connected: _Connected) -> tuple[NameChanges | None, str | None]:
        before = connected.names
        connected.names = now = read_names(await connected.session.look(names_expression()))
        if before is None:
            return None, "This was the first look at the names in this process; the next call tells what changed."
        return changes(before, now), None

    @refusals_of("restart")
    async def restart(self, name: str | None = None) -> Outcome:
        """Start a sandbox's kernel anew under the same name, ports and key; refused for a host kernel."""
        connected = self._one(name)
        if not connected.supervised:
            raise NotOurs(
                f"{connected.name} runs on the host and was not started by the bridge; restart it where it was started."
            )
        if connected.sandbox:
            # also where it does not answer, and so cannot be connected to
            await self.launcher.restart_kernel(connected.sandbox)
            if not await connected.session.until_lost(10.0):
                raise KernelError(f"The kernel of {connected.name} did not end; stop the sandbox and start another.")
        else:
            with self._act("restart", connected):
                await connected.session.end_kernel()
                if not await connected.session.until_lost(10.0):
                    raise KernelError(
                        f"{connected.name} was asked to end and did not yet: native code holds it up. As soon as that "
                        "returns it ends, with all its variables. The user can end it at once: kernel-bridge restart, "
                        "or docker compose restart kernel."
                    )
        await self._live(connected.name)
        return Outcome(connected.name, connected.take_notices())

    @refusals_of("restart")
    async def restart_sandbox(self, name: str) -> None:
        """Start a sandbox's kernel anew for the person, also one that answers nothing."""
        try:
            status, _ = await self.connect(name)
        except KernelNotResponding:
            # what answers from now on is its successor
            await self.launcher.restart_kernel(name)
            await self._open(await self._sandboxes.ready(name), name, RESTART_TIMEOUT, starting=True)
        else:
            await self.restart(status.name)

    @refusals_of("interrupt")
    async def interrupt_anyones(self, name: str) -> bool:
        """Interrupt whatever runs in a connected kernel, for the person; True if it ended."""
        connected = await self._live(name)
        with self._act("interrupt", connected, ending=True):
            ended = await connected.session.interrupt_anyones()
        if ended:
            return True
        if connected.sandbox is None:
            return False
        await self.launcher.interrupt_kernel(connected.sandbox)
        return await connected.session.interrupt_anyones()

    def _act(self, event: str, connected: _Connected, **told: Any) -> AbstractContextManager[Action]:
        """Tell the audit what is done with a kernel in a block: see `Audit.action`."""
        return self.audit.action(event, kernel=connected.about(), **told)

    # -- one session for another

    async def _live(self, name: str | None, timeout: float | None = None) -> _Connected:
        connected = self._one(name)
        async with connected.reopening:
            if self._connected.get(connected.name) is not connected:
                raise NoSuchKernel(f"{connected.name} was disconnected meanwhile. Nothing was executed.")
            if connected.session.lost:
                await connected.session.close()
                await self._reopen(connected, RESTART_TIMEOUT if timeout is None else min(timeout, RESTART_TIMEOUT))
        return connected

    async def _reopen(self, connected: _Connected, timeout: float) -> None:
        reason, before = connected.session.reason, connected.kernel
        try:
            if connected.sandbox:
                kernel_file = await self._sandboxes.ready(connected.sandbox)
            else:
                kernel_file = files.by_path(connected.path, self.policy.attach)
                timeout = timeout if connected.supervised else REOPEN_TIMEOUT
            with self._act("attach", connected, again=True) as action:
                connected.session = await open_session(
                    kernel_file.info,
                    username=self.username,
                    explain=lambda: self._what_became_of(connected),
                    timeout=timeout,
                    starting=True,
                    executions=connected.session.executions,
                    book=self._book(connected.name, kernel_file),
                    on_activity=lambda: self.on_activity(connected.name),
                    patience=self._patience,
                )
                action.tell(kernel=connected.about())
        except NotAudited:
            raise  # it is still connected, and the next call tries again
        except BridgeError as error:
            raise await self._given_up(connected, reason, error) from None
        connected.kernel, connected.since = connected.session.kernel, datetime.now(UTC)
        if connected.kernel == before:
            connected.notices.append(
                f"The connection to {connected.name} was lost and is back; its variables are intact."
            )
            return
        connected.epoch += 1
        connected.processes[connected.kernel], connected.names = connected.epoch, None
        connected.notices.append(
            f"Kernel {connected.name} is new (epoch {connected.epoch}): all earlier variables are gone. {reason}"
        )

    async def _given_up(self, connected: _Connected, reason: str, error: BridgeError) -> BridgeError:
        if connected.supervised and not isinstance(error, KernelDied):
            # the sandbox is still there, so it stays connected and the next call tries again
            name = connected.sandbox
            last = await self._sandboxes.last_ending(name, connected.since) if name else None
            why = f"last, {last}" if last else str(error)
            return KernelNotResponding(f"{reason} It is not back yet ({why}) Nothing was executed; try again.")
        self._connected.pop(connected.name, None)
        self.on_connected()
        if connected.sandbox:
            with contextlib.suppress(LaunchError):
                await self.launcher.sweep()
            return KernelDied(
                f"{error} Nothing was executed; the bridge has disconnected: start_sandbox starts another."
            )
        return KernelDied(
            f"{reason} ({error}) Nothing was executed; the bridge has disconnected from it: start it where it was "
            "started, then connect again."
        )

    async def _open(
        self, file: KernelFile, sandbox: str | None, timeout: float, *, starting: bool = False
    ) -> _Connected:
        """Open a session and register it under a name that is free by then."""
        place: list[_Connected] = []

        async def explain() -> str:
            return await self._what_became_of(place[0]) if place else "The connection to the kernel was lost."

        book = self._book(sandbox or file.name, file)
        supervised = sandbox is not None or file.info.supervised
        about = _about(book.name, file.path, supervised=supervised)
        with self.audit.action("attach", kernel=about) as action:
            session = await open_session(
                file.info,
                username=self.username,
                explain=explain,
                timeout=timeout,
                starting=starting,
                book=book,
                on_activity=lambda: self.on_activity(book.name),
                patience=self._patience,
            )
            name = book.name = _free(sandbox or file.name, self._connected)
            action.tell(kernel=_about(name, file.path, supervised=supervised, process=session.kernel))
        place.append(
            _Connected(name, file.path, session, session.kernel, sandbox, supervised, processes={session.kernel: 1})
        )
        self._connected[name] = place[0]
        self.on_connected()
        return place[0]

    def _book(self, name: str, file: KernelFile) -> Book:
        return self.journal.book(name, fingerprint=file.info.fingerprint, spec=file.info.kernel_name)

    async def _forget(self, connected: _Connected) -> None:
        async with connected.reopening:
            if self._connected.get(connected.name) is connected:
                del self._connected[connected.name]
                self.on_connected()
            await connected.session.close()

    # -- sandboxes

    async def _start(self, request: SandboxRequest) -> tuple[Sandbox, Status]:
        spec = decide(self.policy, request)
        await self.launcher.sweep()
        sandbox = await self.launcher.start(spec)
        try:
            connected = await self._first_answer(sandbox)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                why = await self._sandboxes.last_ending(sandbox.name)
                for each in [each for each in self._connected.values() if each.sandbox == sandbox.name]:
                    await self._forget(each)
                with contextlib.suppress(LaunchError):
                    await self.launcher.stop(sandbox.name)
            if isinstance(error, KernelNotResponding):
                raise StartTimeout(
                    f"The kernel of sandbox {sandbox.name} did not answer within {self._start_timeout:g} s"
                    f"{f' ({why})' if why else ''}; the sandbox was removed.{silence_under(spec.runtime)}"
                ) from None
            raise
        return sandbox, connected.status()

    async def _first_answer(self, sandbox: Sandbox) -> _Connected:
        """Connect to a kernel that still starts; raises `LaunchError` as soon as its container has ended."""
        file = KernelFile(sandbox.connection_file.resolve(), load(sandbox.connection_file))
        opening = asyncio.create_task(self._open(file, sandbox.name, self._start_timeout, starting=True))
        ending = asyncio.create_task(self.launcher.until_ended(sandbox.name))
        try:
            await asyncio.wait({opening, ending}, return_when=asyncio.FIRST_COMPLETED)
            if opening.done() or ending.exception():
                return await opening
            found = await self._sandboxes.get(sandbox.name)
            how = found.ending if found else "it was removed"
            raise LaunchError(f"Sandbox {sandbox.name} ended while its kernel was starting ({how}); it was removed.")
        finally:
            for task in (opening, ending):
                task.cancel()
            await asyncio.gather(opening, ending, return_exceptions=True)

    async def _what_became_of(self, connected: _Connected) -> str:
        if connected.sandbox is None:
            kind = "kernel" if connected.supervised else "host kernel"
            return f"The {kind} {connected.name} has ended or closed its connection; its variables are gone."
        return await self._sandboxes.what_became_of(connected.sandbox, connected.since)

    async def _free_sandbox_name(self) -> str:
        taken = {each.name for each in await self.launcher.sandboxes() if each.state != "ended"}
        return _free("sandbox", taken | set(self._connected))

    def _one(self, name: str | None) -> _Connected:
        if name is not None:
            if name in self._connected:
                return self._connected[name]
            known = ", ".join(self._connected) or "none"
            raise NoSuchKernel(
                f"{name!r} is not connected; connected are: {known}. connect_to_kernel connects to it.{self._homeless}"
            )
        if not self._connected:
            raise NoSuchKernel(
                "No kernel is connected: connect_to_kernel joins a running one, start_sandbox starts one."
                f"{self._homeless}"
            )
        if self._must_name:
            raise AmbiguousKernel(
                f"Several clients share this server, so name the kernel as `kernel`: {', '.join(self._connected)}."
            )
        if len(self._connected) == 1:
            return next(iter(self._connected.values()))
        raise AmbiguousKernel(f"Several kernels are connected, so name one as `kernel`: {', '.join(self._connected)}.")


def _about(name: str, path: Path, *, supervised: bool, process: str | None = None) -> dict[str, Any]:
    return {"name": name, "kind": "sandbox" if supervised else "host", "file": path, "process": process}


def _not_kept(execution: int, executions: Executions) -> NoSuchKernel:
    known = executions.known()
    kept = f"kept are {known[0]} to {known[1]}" if known else "none has been run yet"
    return NoSuchKernel(f"Execution {execution} is not kept for this kernel; {kept}.")


def _free(name: str, taken: set[str] | dict[str, _Connected]) -> str:
    if name not in taken:
        return name
    return next(each for number in range(2, 10_000) if (each := f"{name}-{number}") not in taken)
