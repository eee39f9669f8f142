"""Ctrl-C and the other signals that end a command: what is under way is taken back first.

The one rule: a signal arrives as a cancellation, at an await, and once. Python's own way raises a second Ctrl-C
wherever the program happens to be, in the middle of the clean-up too, which then leaves containers behind or hangs.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio

from bridge.cli import say

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Terminals and process managers send some of them twice; a person who means it presses again.
ONE_PRESS = 1.0


def complete(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a command's asynchronous work to its end.

    A signal cancels it and its clean-up is waited for: then `KeyboardInterrupt` is raised for Ctrl-C, `SystemExit` with
    128 + its number for another. A second one, a second later, ends the process at once.
    """
    return anyio.run(_interruptible, work)


async def _interruptible(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    loop = asyncio.get_running_loop()
    task = loop.create_task(work())
    received: list[tuple[int, float]] = []

    def on_signal(number: int) -> None:
        if not received:
            task.cancel()
        elif loop.time() - received[0][1] > ONE_PRESS:
            say("kernel-bridge: left before the clean-up was done; `kernel-bridge gc` removes what is left.")
            os._exit(128 + number)
        received.append((number, loop.time()))

    for each in SIGNALS:
        loop.add_signal_handler(each, on_signal, each)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        if received[0][0] == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + received[0][0]) from None
    finally:
        for each in SIGNALS:
            loop.remove_signal_handler(each)
            if received:
                signal.signal(each, signal.SIG_IGN)  # the process is about to end
