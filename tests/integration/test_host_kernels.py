"""Host kernels by every form of name, and what becomes of a connection when they die; with real ipykernels."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import (
    AmbiguousKernel,
    BadConnectionFile,
    KernelDied,
    KernelNotResponding,
    NoSuchKernel,
    NotOurs,
    PolicyRefused,
)
from bridge.kernels.registry import Kernels
from bridge.launchers.docker import DockerLauncher
from bridge.outputs import ExecuteResult, Stream
from bridge.policy import Policy, parse

pytestmark = pytest.mark.anyio

SOON = 20.0


def policy(text: str = "") -> Policy:
    return parse(f"version: 1\n{text}", origin="test")


@pytest.fixture
async def kernels(runtime: Path) -> AsyncIterator[Kernels]:
    made = Kernels(policy(), DockerLauncher, username="agent")
    yield made
    await made.close()


def edit(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


async def ready(kernels: Kernels, which: str | None = None) -> str:
    """Connect; a kernel that was only just started may need a moment until it listens."""
    async with asyncio.timeout(SOON):
        while True:
            try:
                status, _ = await kernels.connect(which)
            except (KernelNotResponding, NoSuchKernel) as error:
                if "not answering" in str(error) or "Nothing" in str(error) or "No kernel runs" in str(error):
                    continue
                raise
            return status.name


async def test_the_walk_through_of_the_predecessor(kernels: Kernels, host_kernel: Any) -> None:
    """Connect by its file, set a variable, read it from the other side, disconnect; the kernel lives on."""
    name = await ready(kernels, str(host_kernel.file))
    await kernels.execute("x = 42", timeout=SOON)
    other = Kernels(policy(), DockerLauncher, username="alice")
    await other.connect(str(host_kernel.file))
    outcome = await other.execute("print(x)", timeout=SOON)
    assert outcome.result
    assert outcome.result.outputs == (Stream("stdout", "42\n"),)
    assert await kernels.disconnect() == (name, "")
    assert (await other.execute("x", timeout=SOON)).result
    assert host_kernel.process.poll() is None
    await other.close()


@pytest.mark.parametrize("form", ["path", "file name", "stem", "kernel id", "notebook", "notebook name", "left out"])
async def test_a_kernel_is_found_by_every_form_of_name(
    kernels: Kernels, start_host_kernel: Callable[..., Any], tmp_path: Path, form: str
) -> None:
    kernel = start_host_kernel("kernel-0a1b2c3d")
    notebook = tmp_path / "analysis.ipynb"
    edit(kernel.file, jupyter_session=str(notebook))
    forms = {
        "path": str(kernel.file),
        "file name": "kernel-0a1b2c3d.json",
        "stem": "kernel-0a1b2c3d",
        "kernel id": "0a1b2c3d",
        "notebook": str(notebook),
        "notebook name": "analysis.ipynb",
        "left out": None,
    }
    assert await ready(kernels, forms[form]) == "kernel-0a1b2c3d"


async def test_vs_codes_own_kernel_file_is_found_by_its_name(
    kernels: Kernels, start_host_kernel: Callable[..., Any]
) -> None:
    start_host_kernel("kernel-v3f00dcafe")
    assert await ready(kernels, "kernel-v3f00dcafe.json") == "kernel-v3f00dcafe"


async def test_a_part_of_a_name_is_not_a_name(kernels: Kernels, start_host_kernel: Callable[..., Any]) -> None:
    start_host_kernel("kernel-0a1b2c3d")
    with pytest.raises(NoSuchKernel, match="kernel-0a1b2c3d"):
        await kernels.connect("0a1b")


async def test_several_kernels_are_listed_and_none_is_guessed(
    kernels: Kernels, start_host_kernel: Callable[..., Any]
) -> None:
    first, second = start_host_kernel("kernel-one"), start_host_kernel("kernel-two")
    await ready(kernels, str(first.file))
    await ready(kernels, str(second.file))
    with pytest.raises(AmbiguousKernel, match=r"kernel-two.*kernel-one|kernel-one.*kernel-two"):
        await kernels.connect()
    with pytest.raises(AmbiguousKernel, match="name one as `kernel`"):
        await kernels.execute("1", timeout=SOON)
    assert (await kernels.execute("1", name="kernel-two", timeout=SOON)).kernel == "kernel-two"


async def test_two_kernels_of_one_notebooks_name_are_ambiguous(
    kernels: Kernels, start_host_kernel: Callable[..., Any]
) -> None:
    for each in ("one", "two"):
        edit(start_host_kernel(f"kernel-{each}").file, jupyter_session=f"/home/{each}/same.ipynb")
    with pytest.raises(AmbiguousKernel, match=r"/home/one/same\.ipynb"):
        await kernels.connect("same.ipynb")


async def test_without_any_kernel_the_error_says_how_to_start_one(kernels: Kernels) -> None:
    with pytest.raises(NoSuchKernel, match="ipython kernel"):
        await kernels.connect()
    with pytest.raises(NoSuchKernel, match="connect_to_kernel"):
        await kernels.execute("1", timeout=1)


async def test_connecting_twice_is_one_connection(kernels: Kernels, host_kernel: Any) -> None:
    await ready(kernels, str(host_kernel.file))
    status, notices = await kernels.connect(str(host_kernel.file))
    assert notices == (f"Already connected to {status.name}.",)
    assert len(kernels.statuses()) == 1


async def test_the_listing_tells_the_living_from_the_dead_and_names_the_notebook(
    kernels: Kernels, start_host_kernel: Callable[..., Any], runtime: Path
) -> None:
    alive, dead = start_host_kernel("kernel-alive"), start_host_kernel("kernel-dead")
    edit(alive.file, jupyter_session="/home/a/nb.ipynb")
    await ready(kernels, str(alive.file))
    dead.kill()
    (runtime / "jpserver-1.json").write_text('{"url": "http://localhost/"}')
    listed, _ = await kernels.listing()
    states = {each.name: (each.state.split(":")[0], each.notebook, each.connected) for each in listed}
    assert states == {
        "kernel-alive": ("alive", "/home/a/nb.ipynb", True),
        "kernel-dead": ("not answering", None, False),
    }


async def test_a_dead_kernels_file_is_no_connection(kernels: Kernels, host_kernel: Any) -> None:
    host_kernel.kill()
    before = time.monotonic()
    with pytest.raises(KernelNotResponding, match="Nothing listens"):
        await kernels.connect(str(host_kernel.file))
    assert time.monotonic() - before < 3
    assert kernels.statuses() == []


async def test_a_file_outside_the_allowed_directories_is_refused_also_through_a_symlink(
    kernels: Kernels, host_kernel: Any, runtime: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text(host_kernel.file.read_text())
    (runtime / "link.json").symlink_to(outside)
    for path in (outside, runtime / "link.json"):
        with pytest.raises(PolicyRefused, match=str(runtime)):
            await kernels.connect(str(path))
    with pytest.raises(NoSuchKernel):
        await kernels.connect("link")


async def test_an_allowed_directory_of_the_policy_is_searched_too(host_kernel: Any, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o700)
    (shared / "kernel-there.json").write_text(host_kernel.file.read_text())
    kernels = Kernels(policy(f"attach: {{directories: ['{shared}']}}"), DockerLauncher, username="agent")
    assert await ready(kernels, "kernel-there") == "kernel-there"
    await kernels.close()


async def test_a_kernel_that_listens_beyond_loopback_is_refused(kernels: Kernels, host_kernel: Any) -> None:
    edit(host_kernel.file, ip="10.1.2.3")
    with pytest.raises(PolicyRefused, match=r"10\.1\.2\.3"):
        await kernels.connect(str(host_kernel.file))


async def test_a_policy_that_lists_no_address_allows_none(host_kernel: Any) -> None:
    kernels = Kernels(policy("attach: {addresses: []}"), DockerLauncher, username="agent")
    with pytest.raises(PolicyRefused, match="none"):
        await kernels.connect(str(host_kernel.file))


async def test_what_was_lost_is_said_with_the_next_result_although_a_refusal_came_between(
    kernels: Kernels, start_host_kernel: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.kernels.opening.REOPEN_TIMEOUT", SOON)
    kernel = start_host_kernel("kernel-same")
    await ready(kernels, str(kernel.file))
    await asyncio.to_thread(kernel.kill)
    await asyncio.to_thread(start_host_kernel, "kernel-same")
    with pytest.raises(NotOurs, match="nothing to interrupt"):
        await kernels.interrupt()
    outcome = await kernels.execute("1", timeout=SOON)
    assert "all earlier variables are gone" in outcome.notices[0]
    assert (await kernels.execute("1", timeout=SOON)).notices == ()


async def test_connecting_at_the_same_time_is_one_connection(kernels: Kernels, host_kernel: Any) -> None:
    await ready(kernels)
    await kernels.disconnect()
    await asyncio.gather(*(kernels.connect(str(host_kernel.file)) for _ in range(5)))
    assert len(kernels.statuses()) == 1


async def test_files_of_one_name_in_two_directories_are_two_connections(
    start_host_kernel: Callable[..., Any], tmp_path: Path, runtime: Path
) -> None:
    first, second = start_host_kernel("kernel-x"), start_host_kernel("kernel-y")
    other = tmp_path / "other"
    other.mkdir()
    (other / "kernel-x.json").write_text(second.file.read_text())
    kernels = Kernels(policy(f"attach: {{directories: [runtime, '{other}']}}"), DockerLauncher, username="agent")
    assert await ready(kernels, str(first.file)) == "kernel-x"
    assert await ready(kernels, str(other / "kernel-x.json")) == "kernel-x-2"
    await kernels.execute("where = 1", name="kernel-x", timeout=SOON)
    outcome = await kernels.execute("'where' in globals()", name="kernel-x-2", timeout=SOON)
    assert outcome.result
    assert outcome.result.outputs == (ExecuteResult({"text/plain": "False"}, {}, 1),)
    await kernels.close()


async def test_a_spoilt_file_in_the_directory_breaks_no_listing(
    kernels: Kernels, host_kernel: Any, runtime: Path
) -> None:
    content = json.loads(host_kernel.file.read_text())
    spoilt = [{"signature_scheme": "hmac-foo"}, {"key": "\ud800"}, {"ip": "\ud800"}]
    for number, change in enumerate(spoilt):
        (runtime / f"kernel-{number}.json").write_text(json.dumps(content | change))
    (runtime / "kernel-deep.json").write_text("[" * 16_000)
    await ready(kernels, str(host_kernel.file))
    listed, _ = await kernels.listing()
    assert [each.name for each in listed] == [host_kernel.file.stem]


async def test_a_policy_without_host_kernels_shows_and_connects_none(host_kernel: Any) -> None:
    kernels = Kernels(policy("attach: {allowed: false}"), DockerLauncher, username="agent")
    for which in (str(host_kernel.file), host_kernel.file.stem):
        with pytest.raises(PolicyRefused, match=r"attach\.allowed"):
            await kernels.connect(which)
    assert (await kernels.listing())[0] == []


async def test_another_users_file_is_refused(kernels: Kernels, host_kernel: Any) -> None:
    if os.geteuid() != 0:
        pytest.fail("this test changes a file's owner: run the tests as root, as CI does")
    os.chown(host_kernel.file, 12345, 12345)
    with pytest.raises(BadConnectionFile, match="uid 12345"):
        await kernels.connect(str(host_kernel.file))


async def test_a_dead_host_kernel_is_told_and_the_next_call_does_not_hang(kernels: Kernels, host_kernel: Any) -> None:
    await ready(kernels, str(host_kernel.file))
    call = asyncio.create_task(kernels.execute("import time; time.sleep(30)", timeout=SOON))
    async with asyncio.timeout(SOON):
        while kernels.statuses()[0].state != "busy":
            await asyncio.sleep(0.01)
    host_kernel.kill()
    outcome = await call
    assert outcome.result
    assert outcome.result.status == "lost"
    assert "has ended" in outcome.result.notes[0]
    with pytest.raises(KernelDied, match="disconnected"):
        await kernels.execute("1", timeout=SOON)
    assert kernels.statuses() == []


async def test_a_host_kernel_that_came_back_at_its_ports_is_new_and_says_so_first(
    kernels: Kernels, start_host_kernel: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Jupyter server restarts a kernel on the same ports with the same key."""
    monkeypatch.setattr("bridge.kernels.opening.REOPEN_TIMEOUT", SOON)
    kernel = start_host_kernel("kernel-same")
    await ready(kernels, str(kernel.file))
    await kernels.execute("x = 1", timeout=SOON)
    await asyncio.to_thread(kernel.kill)
    await asyncio.to_thread(start_host_kernel, "kernel-same")
    outcome = await kernels.execute("'x' in globals()", timeout=SOON)
    assert "all earlier variables are gone" in outcome.notices[0]
    assert outcome.result
    assert outcome.result.outputs == (ExecuteResult({"text/plain": "False"}, {}, 1),)
    assert kernels.statuses()[0].epoch == 2


async def test_a_host_kernel_is_neither_restarted_nor_stopped(kernels: Kernels, host_kernel: Any) -> None:
    name = await ready(kernels, str(host_kernel.file))
    with pytest.raises(NotOurs, match="restart it where it was started"):
        await kernels.restart(name)
    with pytest.raises(NotOurs, match="did not start"):
        await kernels.stop_sandbox(name)
    assert (await kernels.execute("1", timeout=SOON)).result


@pytest.fixture
async def hung_engine(tmp_path: Path) -> AsyncIterator[Path]:
    """An engine that lets everybody in and never answers."""
    waiting = asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await waiting.wait()
        writer.close()

    server = await asyncio.start_unix_server(say_nothing, tmp_path / "hung.sock")
    yield tmp_path / "hung.sock"
    waiting.set()
    server.close()


async def test_a_host_kernel_does_not_wait_for_an_engine_that_hangs(host_kernel: Any, hung_engine: Path) -> None:
    kernels = Kernels(policy(), lambda: DockerLauncher(f"unix://{hung_engine}"), username="agent")
    await ready(kernels, str(host_kernel.file))
    await kernels.disconnect()
    for which in ("kernel-test", "kernel-test.json", None):
        before = time.monotonic()
        await kernels.connect(which)
        assert time.monotonic() - before < 10
        await kernels.disconnect()
    listed, trouble = await kernels.listing()
    assert [each.state for each in listed] == ["alive"]
    assert trouble
    assert "did not answer within 2 s" in trouble


async def test_a_notebook_whose_kernel_crashed_and_was_started_again_means_the_living_one(
    kernels: Kernels, start_host_kernel: Callable[..., Any], tmp_path: Path
) -> None:
    notebook = str(tmp_path / "work.ipynb")
    dead, alive = start_host_kernel("kernel-dead"), start_host_kernel("kernel-alive")
    await ready(kernels, str(dead.file))
    await ready(kernels, str(alive.file))
    await kernels.close()
    # the dead one's file stays, as after a server that crashed
    content = dead.file.read_text()
    await asyncio.to_thread(dead.kill)
    dead.file.write_text(content)
    for each in (dead, alive):
        edit(each.file, jupyter_session=notebook)
    status, _ = await kernels.connect("work.ipynb")
    assert status.connection_file == str(alive.file)
    await kernels.disconnect()
    await asyncio.to_thread(alive.kill)
    edit(alive.file, jupyter_session=notebook)
    with pytest.raises(AmbiguousKernel, match=r"does not answer.*does not answer"):
        await kernels.connect("work.ipynb")


@pytest.mark.parametrize(
    ("which", "sentence"),
    [
        ("~nobody-of-that-name/kernel.json", "no such user's home directory"),
        ("~nobody-of-that-name/x.ipynb", "No kernel is called"),
        ("/tmp/\0.json", "NUL character"),
        ("{tmp}/circle/kernel.json", "circle"),
    ],
)
async def test_what_is_no_path_is_told_in_a_sentence(
    kernels: Kernels, host_kernel: Any, tmp_path: Path, which: str, sentence: str
) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises((BadConnectionFile, NoSuchKernel), match=sentence):
        await kernels.connect(which.format(tmp=tmp_path))
