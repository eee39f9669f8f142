"""Files through a real kernel: while it works, after it was changed from inside, and while it dies."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import KernelBusy, KernelDied, KernelError, KernelNotResponding, NotOurs, UsageError
from bridge.kernels.registry import Kernels
from bridge.kernels.transfers import Put
from bridge.launchers.docker import DockerLauncher
from bridge.looking.files import PIECE
from bridge.outputs import Stream
from bridge.policy import built_in
from tests.integration.conftest import connected

pytestmark = pytest.mark.anyio

SOON = 30.0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "home"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def supervised(home: Path, start_host_kernel: Callable[..., Any]) -> Any:
    """A kernel that says that it is a sandbox's, as the one of compose does where there is no engine."""
    kernel = start_host_kernel()
    kernel.file.write_text(json.dumps(json.loads(kernel.file.read_text()) | {"supervised": True}))
    return kernel


@pytest.fixture
async def kernels(supervised: Any) -> AsyncIterator[Kernels]:
    found = Kernels(built_in(), DockerLauncher, username="agent")
    await connected(found, supervised)
    yield found
    await found.close()


async def source(*parts: bytes) -> AsyncIterator[bytes]:
    for each in parts:
        yield each


async def put(kernels: Kernels, path: str, *parts: bytes, replace: bool = False) -> Put:
    return await kernels.put_file(path, source(*parts), replace=replace, to_replace="say so")


async def get(kernels: Kernels, path: str) -> bytes:
    return b"".join([each.data async for each in kernels.pieces_of_file(path)])


async def run(kernels: Kernels, code: str) -> str:
    result = (await kernels.execute(code, timeout=SOON)).result
    assert result
    assert result.status == "ok", result
    return "".join(each.text for each in result.outputs if isinstance(each, Stream))


async def test_a_file_goes_in_and_out_and_belongs_to_the_kernel(kernels: Kernels, home: Path) -> None:
    content = bytes(range(256)) * 5000
    told = await put(kernels, "in/x.bin", content)
    assert told.path == f"{home}/in/x.bin"
    assert await run(kernels, "print(len(open('in/x.bin', 'rb').read()))") == f"{len(content)}\n"
    assert await get(kernels, "in/x.bin") == content


async def test_a_relative_path_means_the_same_wherever_the_user_has_gone(kernels: Kernels, home: Path) -> None:
    await run(kernels, "import os; os.mkdir('deeper'); os.chdir('deeper')")
    await put(kernels, "x", b"1")
    assert (home / "x").read_bytes() == b"1"


async def test_it_works_while_a_cell_runs_and_that_cell_goes_on(kernels: Kernels, home: Path) -> None:
    wait = (
        "import os, time\nprint('begun', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('gone')"
    )
    running = (await kernels.execute(wait, timeout=0.5)).result
    assert running
    assert running.status == "running"
    await put(kernels, "data", b"a" * (PIECE + 1))
    assert await get(kernels, "data") == b"a" * (PIECE + 1)
    assert kernels.statuses()[0].state == "busy"
    await put(kernels, "go", b"")
    ended = (await kernels.read(running.execution, wait=SOON)).result
    assert ended
    assert ended.status == "ok"


async def test_nothing_of_it_is_left_in_the_kernel_or_seen_by_others(kernels: Kernels, supervised: Any) -> None:
    opened = "[x for x in os.listdir(fds) if (os.path.realpath(fds + x) + '/').startswith(os.getcwd())]"
    look = f"print(_, len(In), sorted(n for n in globals() if n[:1] != '_'), {opened})"
    await run(
        kernels,
        "import gc, os, sys\nfds = '/proc/self/fd/'\ngc.disable()\n"
        "try: 1/0\nexcept ZeroDivisionError as e: sys.last_value = e\n'last'",
    )
    other = Kernels(built_in(), DockerLauncher, username="another")
    try:
        await connected(other, supervised)
        await put(kernels, "first", b"")  # which makes the subshell
        before = await run(kernels, look)
        for n in range(5):
            await put(kernels, f"x{n}", b"1" * (PIECE + 1))
            await get(kernels, f"x{n}")
            with pytest.raises(UsageError):
                await get(kernels, "none")
        after = await run(kernels, look)
        assert after == before.replace("last 3", "last 4")
        assert "last 3" in before
        assert before.endswith("[]\n")
        ours = "each for each in gc.get_objects() if type(each) is f and each.__code__.co_filename == '<kernel-bridge>'"
        assert await run(kernels, f"f = type(lambda: 0); print(len([{ours}]), repr(sys.last_value))") == (
            "0 ZeroDivisionError('division by zero')\n"
        )
        cells = [str(each.code) for each in (await other.activity(look=False)).cells]
        assert cells
        assert [each for each in cells if not each.startswith(("print(_, len(In)", "f = type("))] == []
    finally:
        await other.close()


async def test_what_the_user_has_put_into_builtins_and_os_is_not_used(kernels: Kernels, home: Path) -> None:
    await run(
        kernels,
        "import builtins, os, base64\ncalls = []\n"
        "def spy(*a, **k):\n    calls.append(a)\n    raise RuntimeError('spied')\n"
        "open = len = print_ = isinstance = spy\n"
        "for name in ('open', 'stat', 'listdir', 'rename', 'link', 'unlink', 'readlink', 'fstat', 'pread'):\n"
        "    setattr(os, name, spy)\n"
        "base64.b64encode = base64.b64decode = builtins.open = spy",
    )
    await put(kernels, "x", b"content")
    assert await get(kernels, "x") == b"content"
    with pytest.raises(UsageError, match=r"There is no y in .*/home\. There is: x"):
        await get(kernels, "y")
    assert await run(kernels, "print(calls)") == "[]\n"


LIES = {
    "a digest": "import hashlib\nclass H:\n    hexdigest = lambda self: '0' * 64\nhashlib.sha256 = lambda data: H()",
    "the data": "import binascii\nbinascii.b2a_base64 = lambda data, newline: b'bGllcw=='",
    "what was written": "import posix\nposix.pwrite = lambda file, content, start: len(content)",
    "JSON": "import json; real = json.dumps\n"
    "json.dumps = lambda c, *a, **k: '{}' if type(c) is dict and 'sha256' in c else real(c, *a, **k)",
    "how text is shown": "get_ipython().display_formatter.formatters['text/plain'].for_type("
    "str, lambda s, p, c: p.text('mine'))",
    "endless text": "import json; real = json.dumps\n"
    "json.dumps = lambda c, *a, **k: 'x' * 30_000_000 if type(c) is dict and 'sha256' in c else real(c, *a, **k)",
}


@pytest.mark.parametrize("what", LIES)
async def test_a_kernel_that_lies_is_told_as_one_that_does(kernels: Kernels, home: Path, what: str) -> None:
    (home / "x").write_bytes(b"content")
    await run(kernels, LIES[what])
    with pytest.raises(KernelError, match=r"not sound|cannot be read"):
        await (put(kernels, "x", b"new", replace=True) if what == "what was written" else get(kernels, "x"))
    with pytest.raises(KernelError, match=r"not sound|cannot be read"):
        await (put(kernels, "y", b"other") if what != "the data" else get(kernels, "x"))


async def test_a_kernel_without_subshells_says_that_it_is_busy(kernels: Kernels) -> None:
    session = next(iter(kernels._connected.values())).session
    session._channels.kernel_info = {**session._channels.kernel_info, "supported_features": []}
    await put(kernels, "x", b"1")
    assert await get(kernels, "x") == b"1"
    await kernels.execute("import time; time.sleep(60)", timeout=0.5)
    with pytest.raises(KernelBusy, match=r"^y: .*no subshells.*It was not written\.|^y: .*Whether it was written"):
        await put(kernels, "y", b"1")
    with pytest.raises(KernelBusy, match="no subshells"):
        await get(kernels, "x")
    await kernels.interrupt()


async def test_a_kernel_that_native_code_holds_up_is_told_in_bounded_time(kernels: Kernels, home: Path) -> None:
    hold = "import ctypes\nctypes.PyDLL(None).sleep(12)"
    await kernels.execute(f"print('begun', flush=True)\n{hold}", timeout=0.5)
    async with asyncio.timeout(SOON):
        with pytest.raises(KernelNotResponding, match="Whether it was written is not known"):
            await put(kernels, "x", b"1")


async def test_a_kernel_that_dies_meanwhile_is_told_and_the_draft_is_seen(
    kernels: Kernels, supervised: Any, home: Path
) -> None:
    async def dying() -> AsyncIterator[bytes]:
        yield b"a" * (PIECE + 1)
        while not list(home.iterdir()):
            await asyncio.sleep(0.01)
        supervised.kill()
        yield b"b" * PIECE

    async with asyncio.timeout(60):
        with pytest.raises((KernelDied, KernelNotResponding), match="x"):
            await kernels.put_file("x", dying(), replace=False, to_replace="")
    assert not (home / "x").exists()


async def test_a_cancelled_put_leaves_nothing(kernels: Kernels, home: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"a" * PIECE

    work = asyncio.create_task(kernels.put_file("x", endless(), replace=False, to_replace=""))
    async with asyncio.timeout(SOON):
        while not list(home.iterdir()):
            await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    assert list(home.iterdir()) == []


async def test_a_kernel_on_the_host_is_no_sandbox(start_host_kernel: Callable[..., Any]) -> None:
    host = Kernels(built_in(), DockerLauncher, username="agent")
    try:
        await connected(host, start_host_kernel())
        for work in (put(host, "x", b""), get(host, "x"), host.page_of_file("x", size=1)):
            with pytest.raises(NotOurs, match="kernel-test is no sandbox but a kernel on the host"):
                await work
    finally:
        await host.close()


# -- the commands, on a kernel whose file alone is known


@pytest.fixture
async def command(kernels: Kernels, supervised: Any) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `put` or `get` for that kernel, which answers by now."""

    def run_one(verb: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "bridge", verb, str(supervised.file), *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=SOON, check=False, **options)

    return run_one


async def test_a_file_that_is_larger_than_what_is_free_here_is_not_begun(
    command: Callable[..., Any], home: Path, tmp_path: Path
) -> None:
    (home / "sparse").touch()
    os.truncate(home / "sparse", 1 << 40)
    done = await asyncio.to_thread(command, "get", "sparse", str(tmp_path / "here"))
    assert done.returncode == 2
    assert "here would have 1 TiB, and where it is to be, " in done.stderr
    assert [each.name for each in tmp_path.iterdir() if "here" in each.name or "part" in each.name] == []


async def test_the_commands_follow_no_link_at_the_files_own_name(
    command: Callable[..., Any], home: Path, tmp_path: Path
) -> None:
    (home / "x").write_text("from inside")
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "data.csv").symlink_to("secret")
    (tmp_path / "result.csv").symlink_to("profile")
    put = await asyncio.to_thread(command, "put", str(tmp_path / "data.csv"), "data.csv")
    assert put.returncode == 2
    assert "data.csv is a link to secret, and is not followed; name that file itself." in put.stderr
    assert not (home / "data.csv").exists()
    (tmp_path / "loop").symlink_to("loop")
    looped = await asyncio.to_thread(command, "put", str(tmp_path / "loop/x"))
    assert "loop/x cannot be read (Too many levels of symbolic links)" in looped.stderr
    for name, force in (("result.csv", []), ("result.csv", ["--force"]), ("data.csv", ["--force"])):
        get = await asyncio.to_thread(command, "get", "x", str(tmp_path / name), *force)
        assert get.returncode == 2
        assert "is a link to" in get.stderr
    assert (tmp_path / "secret").read_text() == "mine"
    assert not (tmp_path / "profile").exists()


async def test_what_a_shell_gives_for_a_file_is_one(command: Callable[..., Any], home: Path) -> None:
    done = await asyncio.to_thread(command, "put", "/dev/stdin", "x", input="piped")
    assert done.returncode == 0, done.stderr
    assert (home / "x").read_text() == "piped"
