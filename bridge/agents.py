"""The agents that one server serves, told apart, and the kernels of each.

The one rule: what an agent connects, runs and forgets is in `Kernels` of its own, on connections of its own. So no call
of another agent takes a kernel away from it or interrupts its cell, its messages carry its name, and each of them sees
the others' cells as it sees the user's.

Over stdio a server serves one agent. Over HTTP it serves many: before 2026 an agent is a session, with whose end it
leaves. Since 2026 a request brings its client's name and no session, so clients that give the same name are one agent,
which has left when it has not called for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mcp.server.context import ServerRequestContext

from bridge.authors import LONGEST
from bridge.errors import UsageError
from bridge.policy.values import IDLE_OF_AGENTS

if TYPE_CHECKING:
    from bridge.kernels.registry import Kernels

IDLE = IDLE_OF_AGENTS
"""Seconds without a call and without a cell of its own, after which an agent has left; a sandbox in which only agents
were lives as long."""
MOST = 100
"""Each has connections and a journal. More names than that are one client that makes up new ones."""

log = logging.getLogger(__name__)


class Agent:
    """One agent: its kernels, and who is to be told of them."""

    def __init__(self, make_kernels: Callable[[], Kernels]) -> None:
        self._make_kernels = make_kernels
        self._name, self._version = "", ""
        self._hears: tuple[Callable[[str], None], Callable[[], None]] | None = None
        self._staying = 0

    @functools.cached_property
    def kernels(self) -> Kernels:
        """Its kernels, made on first use: their libraries must not delay the server's first reply."""
        kernels = self._make_kernels()
        if self._name:
            kernels.introduce(self._name, self._version)
        if self._hears:
            kernels.on_activity, kernels.on_connected = self._hears
        return kernels

    def sign(self, name: str, version: str) -> None:
        """Have its messages carry this name, if it is one, and the audit this version; each request tells them anew."""
        if name and (name, version) != (self._name, self._version):
            self._name, self._version = name, version
            if self._has_kernels:
                self.kernels.introduce(name, version)

    def hear(self, on_activity: Callable[[str], None], on_connected: Callable[[], None]) -> None:
        """Have these called as `Kernels` says."""
        self._hears = (on_activity, on_connected)
        if self._has_kernels:
            self.kernels.on_activity, self.kernels.on_connected = self._hears

    def connected(self) -> list[str]:
        """Return the names of its connected kernels."""
        return [each.name for each in self.kernels.statuses()] if self._has_kernels else []

    @contextlib.contextmanager
    def staying(self) -> Iterator[None]:
        """It is there as long as the block takes: a call of its own, or one that only listens."""
        self._staying += 1
        try:
            yield
        finally:
            self._staying -= 1

    @property
    def is_there(self) -> bool:
        """Tell whether a call of its own is under way, or a cell of its own runs."""
        return self._staying > 0 or (self._has_kernels and self.kernels.run_a_cell)

    async def leave(self) -> None:
        """Leave its kernels; they live on, and what runs in them goes on."""
        if self._has_kernels:
            await self.kernels.close()

    @property
    def _has_kernels(self) -> bool:
        return "kernels" in self.__dict__


class Agents:
    """All agents of one server. `shared`: clients share it, as over HTTP, so requests tell whose they are.

    `longest_call` is how many seconds a call can take: for as long no agent is taken for one that has left.
    """

    def __init__(self, make_kernels: Callable[[], Kernels], *, shared: bool, longest_call: float) -> None:
        self._make_kernels = make_kernels
        self._shared = shared
        self._idle = IDLE + longest_call
        self.most = MOST
        """How many there may be at once."""
        # by name and session; the one that has called last stands last
        self._agents: dict[tuple[str, str], Agent] = {}
        # of those without a session
        self._timers: dict[Agent, asyncio.TimerHandle] = {}
        self._goodbyes: set[asyncio.Task[None]] = set()
        self._closed = False

    def of(self, ctx: ServerRequestContext[Any, Any]) -> Agent:
        """Return the agent that a request is from; raises `UsageError` once they have been told to leave."""
        if self._closed:
            raise UsageError("This server is being stopped. Nothing was done; kernels live on.")
        # the SDK gives handlers no public way to the connection that a request came on
        connection = ctx.session._connection  # noqa: SLF001
        name, session = _called(ctx)
        key = (name, session) if self._shared else ("", "")
        agent = self._agents.pop(key, None)
        if agent is None:
            self._make_room()
            agent = Agent(self._make_kernels)
            if session:
                connection.exit_stack.push_async_callback(self._leave, key, agent)
        self._agents[key] = agent
        agent.sign(name, _version(ctx))
        if self._shared and not session:
            self._wait_for(key, agent)
        return agent

    @contextlib.contextmanager
    def call(self, ctx: ServerRequestContext[Any, Any]) -> Iterator[Agent]:
        """Return the agent as `of`; until the block ends it is there, and its time without a call begins then."""
        agent = self.of(ctx)
        try:
            with agent.staying():
                yield agent
        finally:
            if agent in self._timers:
                self._wait_for(_called(ctx), agent)

    def by_session(self) -> dict[str, Agent]:
        """Return those that have a session, each by its session."""
        return {session: agent for (_, session), agent in self._agents.items() if session}

    async def close(self) -> None:
        """Have all leave, and none come."""
        self._closed = True
        goodbyes = [self._leave(key, agent) for key, agent in list(self._agents.items())]
        for trouble in await asyncio.gather(*goodbyes, return_exceptions=True):
            if trouble:
                log.warning("an agent's kernels were not left as they should: %s", trouble)

    def _wait_for(self, key: tuple[str, str], agent: Agent) -> None:
        """Begin anew to wait for the agent's next call."""
        self._stop_waiting_for(agent)
        self._timers[agent] = asyncio.get_running_loop().call_later(self._idle, self._not_called, key, agent)

    def _stop_waiting_for(self, agent: Agent) -> None:
        timer = self._timers.pop(agent, None)
        if timer is not None:
            timer.cancel()

    def _not_called(self, key: tuple[str, str], agent: Agent) -> None:
        if agent.is_there:
            self._wait_for(key, agent)
        else:
            self._take_leave(key, agent)

    def _make_room(self) -> None:
        """Have one leave where there are as many as there may be; raises `UsageError` where all are there."""
        if len(self._agents) < self.most:
            return
        oldest = next((each for each in self._agents.items() if not each[1].is_there), None)
        if oldest is None:
            raise UsageError(
                f"This server has no room for another agent: each of the {self.most} that it may have has a call or a "
                "cell under way. Nothing was done; try again when one has ended, or tell the user."
            )
        log.warning("there are %d agents: the one that has not called for longest makes room", self.most)
        self._take_leave(*oldest)

    def _take_leave(self, key: tuple[str, str], agent: Agent) -> None:
        task = asyncio.ensure_future(self._leave(key, agent))
        self._forget(key, agent)
        self._goodbyes.add(task)
        task.add_done_callback(self._goodbyes.discard)

    def _forget(self, key: tuple[str, str], agent: Agent) -> None:
        """From now on it is a new one if it calls again."""
        if self._agents.get(key) is agent:
            del self._agents[key]
        self._stop_waiting_for(agent)

    async def _leave(self, key: tuple[str, str], agent: Agent) -> None:
        self._forget(key, agent)
        await agent.leave()


def _version(ctx: ServerRequestContext[Any, Any]) -> str:
    client = ctx.session.client_params
    return client.client_info.version[:LONGEST] if client is not None else ""


def _called(ctx: ServerRequestContext[Any, Any]) -> tuple[str, str]:
    """Return the name that a request's client gives itself, and its session where it has one."""
    client = ctx.session.client_params
    name = client.client_info.name[:LONGEST] if client is not None else ""
    return name, ctx.session._connection.session_id or ""  # noqa: SLF001 - as in `Agents.of`
