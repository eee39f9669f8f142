"""Files in pieces through looks that are taken here, and what becomes of one that does not get through."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import IPython
import pytest

from bridge.errors import KernelDied, KernelNotResponding, UsageError
from bridge.kernels.transfers import PICTURE, Put, page, pieces, put
from bridge.looking.files import PIECE

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x09\x00\x00\x00\x09"


class Looks:
    """What a kernel answers, without one; `before` is called with each number of a look, and may raise."""

    def __init__(self) -> None:
        self.count = 0
        self.before: Callable[[int], Any] = lambda _: None

    async def __call__(self, expression: str) -> str:
        self.count += 1
        await asyncio.sleep(0)
        self.before(self.count)
        return repr(eval(expression, {}))  # noqa: S307 - as IPython does


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(starting_dir=str(tmp_path)))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def look(home: Path) -> Looks:
    return Looks()


async def source(*parts: bytes) -> AsyncIterator[bytes]:
    for each in parts:
        yield each


async def sent(look: Looks, *parts: bytes, replace: bool = False) -> Put:
    return await put(look, "x", source(*parts), replace=replace, to_replace="say so")


async def fetched(look: Looks | Liar) -> bytes:
    return b"".join([each.data async for each in pieces(look, "x")])


SIZES = [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 5]


@pytest.mark.parametrize("size", SIZES)
async def test_a_file_of_any_size_comes_back_as_it_was(look: Looks, size: int) -> None:
    content = (hashlib.sha256(b"seed").digest() * (size // 32 + 1))[:size]
    told = await sent(look, content)
    assert (told.size, told.sha256) == (size, hashlib.sha256(content).hexdigest())
    assert await fetched(look) == content
    assert look.count == 2 * max(1, -(-size // PIECE))


async def test_parts_of_any_sizes_are_the_same_file(look: Looks, home: Path) -> None:
    parts = [b"a" * 5, b"", b"b" * (3 * PIECE), b"c"]
    await sent(look, *parts)
    assert (home / "x").read_bytes() == b"".join(parts)


async def test_no_parts_at_all_are_an_empty_file(look: Looks, home: Path) -> None:
    await sent(look)
    assert (home / "x").read_bytes() == b""


def fail(number: int, error: BaseException) -> Callable[[int], None]:
    def at(count: int) -> None:
        if count == number:
            raise error

    return at


@pytest.mark.parametrize(
    ("number", "became"), [(2, "It was not written."), (3, "Whether it was written is not known.")]
)
async def test_a_kernel_that_falls_silent_leaves_no_half(look: Looks, home: Path, number: int, became: str) -> None:
    (home / "x").write_text("old")
    look.before = fail(number, KernelNotResponding("No answer."))
    with pytest.raises(KernelNotResponding, match=f"^x: No answer. {became}$"):
        await sent(look, b"a" * (2 * PIECE + 1), replace=True)
    assert [each.name for each in home.iterdir()] == ["x"]
    assert (home / "x").read_text() == "old"


async def test_where_even_the_rest_cannot_be_removed_the_first_error_is_told(look: Looks) -> None:
    def dead(count: int) -> None:
        if count > 1:
            raise KernelDied(f"Dead at {count}.")

    look.before = dead
    with pytest.raises(KernelDied, match="Dead at 2"):
        await sent(look, b"a" * (2 * PIECE))


async def test_a_source_that_fails_leaves_no_half(look: Looks, home: Path) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"a" * (PIECE + 1)
        raise UsageError("The disk is gone.")

    with pytest.raises(UsageError, match="The disk is gone"):
        await put(look, "x", failing(), replace=False, to_replace="")
    assert list(home.iterdir()) == []
    assert look.count == 2


async def test_a_put_that_its_client_cancels_leaves_no_half(look: Looks, home: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"a" * (PIECE + 1)
        assert len(list(home.iterdir())) == 1
        scope.cancel()
        await asyncio.Event().wait()

    async with asyncio.timeout(10):
        with anyio.CancelScope() as scope:
            await put(look, "x", endless(), replace=False, to_replace="")
    assert scope.cancelled_caught
    assert list(home.iterdir()) == []


async def test_a_cancelled_put_leaves_no_half(look: Looks, home: Path) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"a" * (PIECE + 1)
        begun.set()
        await asyncio.Event().wait()

    work = asyncio.create_task(put(look, "x", endless(), replace=False, to_replace=""))
    async with asyncio.timeout(10):
        await begun.wait()
        assert len(list(home.iterdir())) == 1
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    assert list(home.iterdir()) == []


async def test_the_draft_of_a_killed_put_is_removed_by_a_later_one_into_the_same_directory(
    look: Looks, home: Path
) -> None:
    with pytest.raises(SystemExit):
        await put(look, "x", killed(look), replace=False, to_replace="")
    [draft] = home.iterdir()
    look.before = lambda _: None
    await sent(look, b"1")
    assert draft.exists()
    os.utime(draft, (0, draft.stat().st_mtime - 3700))
    await sent(look, b"2", replace=True)
    assert [each.name for each in home.iterdir()] == ["x"]


async def killed(look: Looks) -> AsyncIterator[bytes]:
    """Begin, and let nothing more get through to the kernel."""

    def dead(_: int) -> None:
        raise KernelDied("It is dead.")

    yield b"a" * (PIECE + 1)
    look.before = dead
    raise SystemExit


@pytest.mark.parametrize("change", ["grows", "shrinks", "is written over", "becomes another"])
async def test_a_file_that_changes_while_it_is_read_is_not_taken(look: Looks, home: Path, change: str) -> None:
    (home / "x").write_bytes(b"a" * (2 * PIECE))

    def changing(count: int) -> None:
        if count != 2:
            return
        if change == "becomes another":
            (home / "y").write_bytes(b"b" * (2 * PIECE))
            (home / "y").rename(home / "x")
            return
        with (home / "x").open("r+b") as file:
            if change == "shrinks":
                file.truncate(PIECE + 1)
            else:
                file.seek(0, 2 if change == "grows" else 0)
                file.write(b"b")

    look.before = changing
    with pytest.raises(UsageError, match="x was changed while it was read, so it was not taken"):
        await fetched(look)


async def test_a_page_is_no_more_than_was_asked_for(look: Looks, home: Path) -> None:
    (home / "x").write_bytes(b"0123456789")
    found = await page(look, "x", start=3, size=4)
    assert (found.data, found.start, found.size) == (b"3456", 3, 10)
    assert (await page(look, "x", start=10, size=4)).data == b""
    assert (await page(look, "x", start=99, size=4)).data == b""
    (home / "x").write_bytes(b"a" * (2 * PIECE))
    assert len((await page(look, "x", start=0, size=4 * PIECE)).data) == PIECE


async def test_a_picture_is_whole_up_to_a_size(look: Looks, home: Path) -> None:
    (home / "x").write_bytes(PNG + bytes(2 * PIECE))
    assert len((await page(look, "x", start=0, size=100)).data) == 2 * PIECE + len(PNG)
    assert len((await page(look, "x", start=1, size=100)).data) == 100
    with (home / "x").open("r+b") as file:
        file.truncate(PICTURE + 1)
    assert len((await page(look, "x", start=0, size=100)).data) == 100


class Liar:
    """A kernel that tells of a picture, at each look with the next of some sizes; of its first look `first` bytes."""

    def __init__(self, *sizes: int, first: int = PIECE) -> None:
        self.sizes, self.first = sizes, first
        self.count = 0

    async def __call__(self, _: str) -> str:
        size = self.sizes[min(self.count, len(self.sizes) - 1)]
        self.count += 1
        await asyncio.sleep(0)
        data = (PNG + bytes(PIECE))[: self.first if self.count == 1 else PIECE]
        told = {"size": size, "version": "1", "data": base64.b64encode(data).decode()}
        return repr(json.dumps({**told, "sha256": hashlib.sha256(data).hexdigest()}))


@pytest.mark.parametrize("later", [PICTURE + PIECE, 1 << 50])
async def test_a_picture_that_grows_after_its_first_look_is_not_held_in_memory(later: int) -> None:
    look = Liar(PICTURE, later, first=100)
    async with asyncio.timeout(10):
        with pytest.raises(UsageError, match="was changed while it was read"):
            await page(look, "x", start=0, size=100)
    assert look.count == 2


async def test_of_a_file_never_more_is_taken_than_was_first_told() -> None:
    look = Liar(2 * PIECE, 1 << 50)
    async with asyncio.timeout(10):
        with pytest.raises(UsageError, match="was changed while it was read"):
            await fetched(look)
    assert look.count == 2
