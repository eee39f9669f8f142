"""Work that goes on whatever becomes of its caller's loop."""

from __future__ import annotations

import asyncio
import signal
import threading

import pytest

from bridge.ide.background import background


@pytest.mark.anyio
async def test_a_result_and_an_error_come_back_to_the_callers_loop() -> None:
    async def where() -> str:
        return threading.current_thread().name

    async def fail() -> None:
        raise ValueError("so it is")

    assert await background().run(where()) == "kernel-bridge"
    with pytest.raises(ValueError, match="so it is"):
        await background().run(fail())


def test_it_serves_one_loop_after_another() -> None:
    async def answer() -> int:
        return 42

    for _ in range(2):
        assert asyncio.run(background().run(answer())) == 42


@pytest.mark.anyio
@pytest.mark.parametrize("cancellable", [True, False])
async def test_a_cancelled_caller_waits_for_the_clean_up_of_what_is_cancelled_with_it(cancellable: bool) -> None:  # noqa: FBT001
    begun, finish, cleaned = threading.Event(), threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            while not finish.is_set():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            cleaned.set()
            raise

    waiting = asyncio.ensure_future(background().run(work(), cancellable=cancellable))
    assert await asyncio.to_thread(begun.wait, 10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert cleaned.is_set() is cancellable
    finish.set()


def test_ordinary_code_waits_and_gets_a_result_or_an_error() -> None:
    async def answer() -> int:
        return 42

    async def fail() -> None:
        raise ValueError("so it is")

    assert background().wait(answer()) == 42
    with pytest.raises(ValueError, match="so it is"):
        background().wait(fail())


def test_ctrl_c_cancels_what_is_waited_for_and_waits_for_its_clean_up() -> None:
    begun, cleaned = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            cleaned.set()

    def press() -> None:
        begun.wait(10)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    person = threading.Thread(target=press)
    person.start()
    with pytest.raises(KeyboardInterrupt):
        background().wait(work())
    assert cleaned.is_set()
    person.join()
