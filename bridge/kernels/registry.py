"""All that is done with kernels, by name: what the tools, the commands and the IDE side call.

The one rule: each method finds the kernel that is meant, has its refusal told in the audit, and leaves the work to the
module that owns it: `opening`, `lifecycle`, `cells`, `looks`, on what is `connected`.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import datetime
from typing import Any

from bridge.addresses import OutputAddress
from bridge.audit import Audit, Who
from bridge.errors import KernelNotResponding
from bridge.journal import Journal
from bridge.journal_file import IN_MEMORY, LOCKED
from bridge.kernels import cells, transfers
from bridge.kernels.activity import Activity
from bridge.kernels.cells import PAGE_MARGIN, AskFor
from bridge.kernels.connected import Connected, ConnectedKernels
from bridge.kernels.files import KernelFile
from bridge.kernels.finder import Finder, Found
from bridge.kernels.home import Home
from bridge.kernels.lifecycle import START_TIMEOUT, Lifecycle
from bridge.kernels.listing import Listing, Outcome, Status
from bridge.kernels.looks import Looks
from bridge.kernels.opening import Opening
from bridge.kernels.recorded import recorded, refusals_of
from bridge.kernels.sandboxes import Sandboxes
from bridge.launchers import Launcher, Sandbox
from bridge.looking import Inspection, Raised, Variables
from bridge.looking.files import Piece
from bridge.outputs import Output
from bridge.policy import Policy, SandboxRequest
from bridge.policy.places import journal_home
from bridge.session import PATIENCE, OnMessage

NOT_KEPT = (
    "Not all that runs here is kept on disk: {}. Results come as ever, but `kernel-bridge export` and a later server "
    "may not have it. Make room there, and start this server anew when it suits."
)
NOT_KEPT_MEANWHILE = (
    f"Not all that runs here is kept on disk: {LOCKED}. Results come as ever, but `kernel-bridge export` and a later "
    "server may not have what came meanwhile. What comes after it is kept again; find what locks it if it goes on."
)


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
        self.username = username
        """Signs our messages for the kernel's other clients; the agent's name, once it is known."""
        self._make_launcher = make_launcher
        self._made: Launcher | None = None
        self.audit = Audit(policy, who or Who())
        """Where the policy wants one: what is done here is told there before it is done."""
        calls = policy.calls
        place = None if calls.kept_output is None else journal_home()
        self.journal = Journal(place, calls.kept_output or IN_MEMORY, page=calls.max_output - PAGE_MARGIN)
        """What everyone has run in the connected kernels, as far as it was seen from here."""
        self._told_of_disk: set[str] = set()
        self.on_activity: Callable[[str], None] = lambda _: None
        """Called with a kernel's name when a cell of someone else begins or ends in it."""
        self.on_connected: Callable[[], None] = lambda: None
        """Called when a kernel was connected, or is so no longer."""
        self._connected = ConnectedKernels(
            must_name=must_name,
            homeless=lambda: self._homeless,
            on_change=lambda: self.on_connected(),  # noqa: PLW0108 - it is set later
        )
        self._home = None if home is None else Home(home, self._connect_home, self._connected.keys())

        def launcher() -> Launcher:
            return self.launcher

        self._sandboxes = Sandboxes(launcher)
        self._finder = Finder(policy.attach, launcher, self._sandboxes, lambda: self.username)
        self._opening = Opening(
            self._connected,
            self._sandboxes,
            launcher=launcher,
            attach=policy.attach,
            audit=self.audit,
            journal=self.journal,
            username=lambda: self.username,
            on_activity=lambda name: self.on_activity(name),  # noqa: PLW0108 - as above
            patience=patience,
        )
        self._looks = Looks(self._connected, self._opening, self.audit, self.journal)
        self._lifecycle = Lifecycle(
            *(policy, self._connected, self._sandboxes, self._opening), launcher=launcher, start_timeout=start_timeout
        )

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
        chosen = [self._connected.one(name)] if name is not None else list(self._connected.values())
        return [each.status() for each in chosen]

    def the_only_one(self) -> dict[str, Any] | None:
        """Return how the audit names the kernel that is meant where none is named; None where that is none."""
        return self._connected.only()

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
        connected = self._connected.one(name)
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
        return await self._opening.hand_over(await self._finder.find(which))

    async def what_became_of(self, sandbox: str, since: datetime) -> str:
        """Tell, in one sentence, why the connection to a sandbox was lost that was there `since` a time."""
        return (await self._sandboxes.what_became_of(sandbox, since)).sentence

    # -- connecting

    @refusals_of("attach")
    async def connect(self, which: str | None = None) -> tuple[Status, tuple[str, ...]]:
        """Connect to the kernel that `which` names, or to the only one there is; returns its status and notices."""
        connected, notices = await self._opening.connect(await self._finder.find(which))
        return connected.status(), notices

    async def be_at_home(self, name: str | None = None) -> None:
        """Have the kernel connected that is to be so without being asked for, as `Home.come` says.

        Why it could not be connected is told by the errors of whatever needs it.
        """
        if self._home is not None:
            await self._home.come(name)

    async def _connect_home(self, which: str) -> str:
        return (await self.connect(which))[0].name

    @refusals_of("disconnect")
    async def disconnect(self, name: str | None = None) -> tuple[str, str]:
        """Forget a kernel; it and whatever runs in it go on. Returns its name, and what may ask on as `forget` says."""
        connected = self._connected.one(name)
        with connected.act("disconnect", ending=True):
            if self._home is not None:
                self._home.leave(connected.name)
            trouble = await self._opening.forget(connected)
        return connected.name, trouble

    @refusals_of("start")
    async def start_sandbox(self, request: SandboxRequest) -> tuple[Sandbox, Status]:
        """Start a sandbox as far as the policy allows and connect to it; on success its kernel has answered.

        An empty name in the request means any that is free. If a step fails or the call is cancelled, nothing is left.
        """
        return await self._lifecycle.start(request)

    @refusals_of("stop")
    async def stop_sandbox(self, name: str) -> None:
        """End a sandbox of this owner and remove all that belongs to it; raises `NoSuchKernel`, `NotOurs`."""
        if self._home is not None and self._home.may_be(name):
            # its own file tells whose it is, also where there is no engine
            await self.be_at_home(name)
        await self._lifecycle.stop(name)

    async def close(self) -> None:
        """Leave every kernel."""
        # first, so that a call that waits opens no other session
        left = self._connected.take_all()
        await self._opening.close()
        try:
            await asyncio.gather(*map(self._leave, left))
        finally:
            self.journal.close()
            if self._made is not None:
                self._made.close()

    async def _leave(self, connected: Connected) -> None:
        with connected.act("disconnect", ending=True):
            await connected.session.close(hands_on=True)

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
        outcome = await cells.execute(self._opening, name, code, timeout=timeout, on_message=on_message, ask=ask)
        return self._with_what_is_not_kept(outcome)

    def _with_what_is_not_kept(self, outcome: Outcome) -> Outcome:
        """Say once why not all is kept on disk; a result of which some is missing says so by itself."""
        why = self.journal.problem
        if why is None or why in self._told_of_disk:
            return outcome
        self._told_of_disk.add(why)
        if outcome.result and any(why in each for each in outcome.result.notes):
            return outcome
        told = NOT_KEPT_MEANWHILE if why == LOCKED else NOT_KEPT.format(why)
        return dataclasses.replace(outcome, notices=(*outcome.notices, told))

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
        connected, trouble = self._connected.one(name), ""
        if connected.session.is_adrift(execution):
            connected, trouble = await cells.followed_on(self._opening, connected, wait)
        result = await cells.read(
            *(connected, execution, self.policy.calls), wait=wait, cursor=cursor, on_message=on_message, ask=ask
        )
        return Outcome(connected.name, (trouble,) if trouble else (), result)

    def output(self, address: OutputAddress, *, most: int) -> Output:
        """Return one whole output; raises `NoSuchKernel` where there is none, `UsageError` for more bytes than most."""
        return cells.output(self._connected.one(address.kernel), self.journal, address, most=most)

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
        connected = await self._asking(name)
        with connected.act("input", execution=execution):
            result = await connected.session.answer(
                text, number=execution, question=question, wait=wait, on_message=on_message
            )
        return Outcome(connected.name, connected.take_notices(), result)

    @refusals_of("interrupt")
    async def decline(self, sentence: str, execution: int, *, name: str, question: str) -> Outcome:
        """Interrupt our cell instead of an answer; see `KernelSession.decline`."""
        connected = await self._asking(name)
        with connected.act("interrupt", ending=True, execution=execution):
            result = await connected.session.decline(sentence, number=execution, question=question)
        return Outcome(connected.name, connected.take_notices(), result)

    async def _asking(self, name: str | None) -> Connected:
        """Return the kernel that is meant, connected anew where its cell may ask on though the connection was lost."""
        connected = self._connected.one(name)
        is_adrift = connected.session.lost and connected.session.runs_a_cell
        return await self._opening.live(connected.name) if is_adrift else connected

    def untold(self, outcome: Outcome) -> None:
        """Keep the notices of an outcome that is not shown for the next one that is."""
        connected = self._connected.get(outcome.kernel)
        if connected is not None:
            connected.notices[:0] = outcome.notices

    @refusals_of("interrupt")
    async def interrupt(self, name: str | None = None) -> Outcome:
        """Interrupt our own running cell; raises `NotOurs` where what runs is someone else's."""
        connected = await self._opening.live(name)
        with connected.act("interrupt", ending=True):
            result = await connected.session.interrupt()
        if result.status == "running" and connected.sandbox:
            # its control channel did not get through: the supervisor sends the signal itself
            await self.launcher.interrupt_kernel(connected.sandbox)
            result = await connected.session.read(result.execution, wait=2.0)
        return Outcome(connected.name, connected.take_notices(), result)

    @refusals_of("look")
    async def variables(self, name: str | None = None, *, limit: int, start: int = 0) -> Variables:
        """Look at the variables, also while a cell runs; nothing is executed that anybody would notice."""
        return await self._looks.variables(name, limit=limit, start=start)

    @refusals_of("look")
    async def inspection(self, of: str, name: str | None = None, *, start: int = 0) -> Inspection:
        """Look at one object, by its name or a way from one, as `variables`; raises `UsageError` for none."""
        return await self._looks.inspection(of, name, start=start)

    @refusals_of("look")
    async def last_error(self, name: str | None = None, *, frame: int | None = None) -> Raised:
        """Look at the last exception of anyone's cell, as `variables`; raises `UsageError` where there was none."""
        return await self._looks.last_error(name, frame=frame)

    @refusals_of("put_file")
    async def put_file(
        self, path: str, source: AsyncIterator[bytes], name: str | None = None, *, replace: bool, to_replace: str
    ) -> transfers.Put:
        """Write a file in a sandbox, also while a cell runs: see `transfers.put`; `NotOurs` for a host kernel."""
        return await self._looks.put_file(path, source, name, replace=replace, to_replace=to_replace)

    @refusals_of("get_file")
    async def page_of_file(self, path: str, name: str | None = None, *, start: int = 0, size: int) -> transfers.Page:
        """Return some of a file in a sandbox, or a picture as a whole; see `transfers.page`, and `put_file`."""
        return await self._looks.page_of_file(path, name, start=start, size=size)

    def pieces_of_file(self, path: str, name: str | None = None) -> AsyncGenerator[Piece]:
        """Return a whole file in a sandbox, piece by piece; see `transfers.pieces`, and `put_file`.

        Whoever does not take all of it closes the generator: the audit is told then.
        """
        return self._looks.pieces_of_file(path, name)

    @refusals_of("look")
    async def activity(self, name: str | None = None, *, since: str | None = None, look: bool = True) -> Activity:
        """Return what the others did and do; see `watching.activity`. `look`: also what became of the names.

        What is known of a kernel is told once more where it turns out to be lost.
        """
        return await self._looks.activity(name, since=since, size=self.policy.calls.max_output, look=look)

    @refusals_of("restart")
    async def restart(self, name: str | None = None) -> Outcome:
        """Start a sandbox's kernel anew under the same name, ports and key; refused for a host kernel."""
        connected = self._connected.one(name)
        await self._lifecycle.restart(connected)
        return Outcome(connected.name, connected.take_notices())

    @refusals_of("restart")
    async def restart_sandbox(self, name: str) -> None:
        """Start a sandbox's kernel anew for the person, also one that answers nothing."""
        try:
            status, _ = await self.connect(name)
        except KernelNotResponding:
            await self._lifecycle.restart_silent(name)
        else:
            await self.restart(status.name)

    @refusals_of("interrupt")
    async def interrupt_anyones(self, name: str) -> bool:
        """Interrupt whatever runs in a connected kernel, for the person; True if it ended."""
        connected = await self._opening.live(name)
        with connected.act("interrupt", ending=True):
            ended = await connected.session.interrupt_anyones()
        if ended:
            return True
        if connected.sandbox is None:
            return False
        await self.launcher.interrupt_kernel(connected.sandbox)
        return await connected.session.interrupt_anyones()
