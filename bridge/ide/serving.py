"""A relay's life: its kernel is joined, messages go to and fro, and an owned sandbox ends with its IDE.

The one rule: it ends with the program that started it, however that ended, and an end at any time leaves nothing that
is not found again.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bridge.connection import ConnectionInfo
from bridge.ide.joining import Joining
from bridge.ide.parent import LOOK, Parent
from bridge.ide.recorded import Recorded
from bridge.ide.relay import End, Relay
from bridge.ide.visits import Visit


async def serve(ide: ConnectionInfo, joining: Joining) -> None:
    """Relay between an IDE's ports and the kernel until either is gone; raises `BridgeError` where it is the kernel."""
    parent = Parent()
    relays: list[Relay] = []
    work = asyncio.current_task()

    def leave() -> None:
        if relays:
            relays[0].end(End())
        elif work:
            work.cancel()

    def interrupt() -> None:
        for each in relays:
            each.interrupt()

    end = End()
    with _told(parent, leave, interrupt):
        try:
            joined = await joining.join()
            visit = Visit(joining.name, parent.pid)
            recorded = Recorded(joining.audit, joining.about) if joining.audit and joining.audit.is_on else None
            relay = Relay(ide, joined, joining.rejoin, stays=joining.stays, recorded=recorded)
            if visit.is_return and not joining.owner:
                relay.notices.append(joining.was_not_restarted)
            relays.append(relay)
            end = await relay.run()
            if end.error or (end.shutdown and not end.restart):
                visit.forget()
        except asyncio.CancelledError:
            pass  # told to leave before there was anything to relay
        finally:
            await joining.leave(restart=end.restart)
    if end.error:
        raise end.error


@contextmanager
def _told(parent: Parent, leave: Callable[[], None], interrupt: Callable[[], None]) -> Iterator[None]:
    """Have signals and the parent's end call these."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, leave)
    loop.add_signal_handler(signal.SIGHUP, leave)
    # an IDE that knows no interrupt by message sends the signal
    loop.add_signal_handler(signal.SIGINT, interrupt)

    async def look() -> None:
        while not parent.has_ended():  # noqa: ASYNC110 - such a system tells no event
            await asyncio.sleep(LOOK)
        leave()

    looking = None
    if parent.descriptor is None:
        looking = loop.create_task(look())
    else:
        loop.add_reader(parent.descriptor, _once(parent.descriptor, leave))
    try:
        yield
    finally:
        if looking:
            looking.cancel()
        elif parent.descriptor is not None:
            loop.remove_reader(parent.descriptor)


def _once(descriptor: int, call: Callable[[], None]) -> Callable[[], None]:
    def called() -> None:
        asyncio.get_running_loop().remove_reader(descriptor)  # it stays readable
        call()

    return called
