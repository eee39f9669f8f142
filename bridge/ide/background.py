"""A thread with an event loop of its own, in which the provisioners of this process, and a test's sandboxes, do their
work.

The one rule: nothing here stands still or waits because the caller does. jupyter_client runs a provisioner in whatever
loop it has at hand: a server's, which must not wait for an engine, or that of a synchronous KernelManager, which runs
only while a call is under way, so that nothing could be watched in it.

What is still open when the process ends is closed then: as soon as the main thread is over, while Python waits for this
one. An `atexit` function would come too late, since no thread can be started then any more. Where the process is killed
instead, a `Guard` does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, Protocol, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
# Of closing everything when the process ends: a sandbox is stopped in half a second, also a few at once.
LAST_CLEAN_UP = 30.0


class Closable(Protocol):
    """What must not be left open when the process ends."""

    async def close(self) -> None:
        """Close it, in the background's loop."""
        ...


class Background:
    """The thread; made by `background`, and there until the process ends."""

    def __init__(self) -> None:
        self.kept: set[Closable] = set()
        """What is closed when the process ends; touched in the background's loop only."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._over = asyncio.Event()
        ready: Future[asyncio.AbstractEventLoop] = Future()
        threading.Thread(target=lambda: asyncio.run(self._serve(ready)), name="kernel-bridge", daemon=False).start()
        self._loop = ready.result()
        threading.Thread(target=self._wait_for_the_end, name="kernel-bridge end", daemon=True).start()

    async def run(self, work: Coroutine[Any, Any, T], *, cancellable: bool = False) -> T:
        """Do the work in the background and return what came of it.

        Where the caller is cancelled, the work goes on; if it is `cancellable`, it is cancelled too, and what it cleans
        up is waited for.
        """
        outcome: Future[T] = Future()
        tasks: list[asyncio.Task[T]] = []
        self.begin(work, outcome, tasks)
        waiting = asyncio.wrap_future(outcome)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if cancellable and not waiting.done():
                self._soon(lambda: tasks[0].cancel())  # noqa: PLW0108 - it is made in that thread
                await asyncio.wait([waiting])
            if waiting.done() and not waiting.cancelled():
                waiting.exception()  # taken note of
            raise

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work and wait for it in a thread without a loop.

        Where the waiting is interrupted, as by Ctrl-C, the work is cancelled, and what it cleans up is waited for.
        """
        outcome: Future[T] = Future()
        tasks: list[asyncio.Task[T]] = []

        def take_back() -> None:
            if tasks:
                tasks[0].cancel()
            else:  # the interrupt came before it was begun
                work.close()
                outcome.cancel()

        try:
            self.begin(work, outcome, tasks)
            return outcome.result()
        except BaseException:
            if not outcome.done():
                self._soon(take_back)
                wait([outcome], LAST_CLEAN_UP)
            raise

    def begin(
        self,
        work: Coroutine[Any, Any, T],
        outcome: Future[T] | None = None,
        tasks: list[asyncio.Task[T]] | None = None,
    ) -> None:
        """Begin the work without waiting for it."""

        def begin_there() -> None:
            task = self._loop.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(partial(self._done, outcome))
            if tasks is not None:
                tasks.append(task)

        try:
            self._soon(begin_there)
        except RuntimeError:
            work.close()
            raise

    def _done(self, outcome: Future[T] | None, task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if outcome is None:
            if error is not None and not task.cancelled():
                log.error("work in the background failed", exc_info=error)
        elif error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(task.result())

    def _soon(self, call: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(call)

    async def _serve(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        ready.set_result(asyncio.get_running_loop())
        await self._over.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_CLEAN_UP):
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                await asyncio.gather(*(each.close() for each in self.kept), return_exceptions=True)

    def _wait_for_the_end(self) -> None:
        threading.main_thread().join()
        with contextlib.suppress(RuntimeError):
            self._soon(self._over.set)


_making = threading.Lock()
_made: Background | None = None


def background() -> Background:
    """Return the one of this process."""
    global _made  # noqa: PLW0603 - one for each process
    with _making:
        if _made is None:
            _made = Background()
        return _made


def _forget() -> None:
    """In a child that was forked there is no thread, and what it did is the parent's."""
    global _made, _making
    _made, _making = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
