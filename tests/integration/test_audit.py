"""What is done with a real kernel is in the audit before it is done, or is not done."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.audit import Who
from bridge.errors import (
    AmbiguousKernel,
    KernelBusy,
    KernelError,
    NoSuchKernel,
    NotAudited,
    NotOurs,
    PolicyRefused,
    UsageError,
)
from bridge.kernels.registry import Kernels
from bridge.launchers.docker import DockerLauncher
from bridge.policy import SandboxRequest, parse
from tests.audited import lines
from tests.integration.conftest import connected

pytestmark = pytest.mark.anyio
SOON = 30.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    directory = tmp_path / "audit"
    directory.mkdir(mode=0o700)
    return directory / "audit.jsonl"


@pytest.fixture
def make(file: Path) -> Callable[..., Kernels]:
    def made(code: str = "hash", **given: Any) -> Kernels:
        policy = parse(f"version: 1\naudit: {{file: {file}, code: {code}}}\n", origin="/etc/p.yaml")
        return Kernels(policy, DockerLauncher, username="agent", who=Who("mcp", "agent", "1"), **given)

    return made


@pytest.fixture
async def kernels(make: Callable[..., Kernels], host_kernel: Any) -> AsyncIterator[Kernels]:
    found = make()
    await connected(found, host_kernel)
    yield found
    await found.close()


def since(file: Path, before: int) -> list[tuple[str, str | None, str | None]]:
    return [(each["event"], each.get("of"), each.get("outcome")) for each in lines(file)[before:]]


async def run(kernels: Kernels, code: str, timeout: float = SOON) -> Any:
    return (await kernels.execute(code, timeout=timeout)).result


async def until(file: Path, enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    async with asyncio.timeout(SOON):
        while not enough(lines(file)):
            await asyncio.sleep(0.01)
    return lines(file)


def supervised(kernel: Any) -> Any:
    """Have a kernel's file say that it is started again after every end: so its files may be read, as in a sandbox."""
    kernel.file.write_text(json.dumps(json.loads(kernel.file.read_text()) | {"supervised": True}))
    return kernel


def unwritable(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.parent.rename(file.parent.with_name("gone"))


async def test_attaching_executing_and_leaving_are_told_with_kernel_and_code(
    make: Callable[..., Kernels], host_kernel: Any, file: Path
) -> None:
    kernels = make("text")
    await connected(kernels, host_kernel)
    before = len(lines(file))
    [attach, attached] = lines(file)[-2:]
    assert attach["event"] == "attach"
    assert attach["kernel"] == {"name": "kernel-test", "kind": "host", "file": str(host_kernel.file)}
    assert (attached["of"], attached["outcome"]) == ("attach", "ok")
    assert attached["kernel"]["process"]
    await run(kernels, "1/0")
    begun, ended = lines(file)[before:]
    assert begun["code"]["text"] == "1/0"
    assert begun["execution"] == 1
    assert begun["kernel"] == attached["kernel"]
    assert (ended["of"], ended["outcome"], ended["error"]) == ("execute", "error", "ZeroDivisionError")
    assert ended["action"] == begun["action"]
    await kernels.disconnect()
    assert since(file, before + 2) == [("disconnect", None, None), ("end", "disconnect", "ok")]
    await kernels.close()


async def test_files_are_told_with_size_and_digest_and_so_is_what_came_to_nothing(
    make: Callable[..., Kernels], start_host_kernel: Callable[..., Any], file: Path, tmp_path: Path
) -> None:
    (tmp_path / "inside").mkdir()
    with contextlib.chdir(tmp_path / "inside"):
        kernel = supervised(start_host_kernel())
    kernels = make()
    await connected(kernels, kernel)
    before = len(lines(file))

    async def source() -> AsyncIterator[bytes]:
        yield b"three"

    await kernels.put_file("x", source(), replace=False, to_replace="say so")
    await kernels.page_of_file("x", start=1, size=2)
    async with contextlib.aclosing(kernels.pieces_of_file("x")) as pieces:
        assert [each.data async for each in pieces] == [b"three"]
    with pytest.raises(UsageError):
        await kernels.page_of_file("y", size=2)
    with pytest.raises(UsageError):
        _ = [each async for each in kernels.pieces_of_file("y")]
    told = lines(file)[before:]
    assert [(each["event"], each.get("of")) for each in told] == [
        *[("put_file", None), ("end", "put_file")],
        *[("get_file", None), ("end", "get_file")] * 4,
    ]
    assert [each["path"] for each in told[::2]] == ["x", "x", "x", "y", "y"]
    assert told[1]["bytes"] == 5
    assert told[1]["sha256"] == hashlib.sha256(b"three").hexdigest()
    assert (told[3]["bytes"], told[3]["start"]) == (2, 1)
    assert told[5]["bytes"] == 5
    assert [each["outcome"] for each in told[1::2]] == ["ok", "ok", "ok", "refused", "refused"]
    unwritable(file)
    with pytest.raises(NotAudited, match="Nothing was written"):
        await kernels.put_file("z", source(), replace=False, to_replace="say so")
    with pytest.raises(NotAudited, match="Nothing was read"):
        _ = [each async for each in kernels.pieces_of_file("x")]
    assert not (tmp_path / "inside" / "z").exists()
    await kernels.close()


Call = Callable[[Kernels], Awaitable[Any]]
ASKS, RUNS = "x = input()", "import time\nwhile True: time.sleep(0.01)"


async def _connect(kernels: Kernels) -> None:
    [status] = kernels.statuses()
    await kernels.disconnect()
    await kernels.connect(status.connection_file)


async def _address(kernels: Kernels) -> None:
    await kernels.address(kernels.statuses()[0].connection_file)


async def _answer(kernels: Kernels) -> None:
    await run(kernels, ASKS)
    await kernels.answer("Ada", wait=SOON)


async def _decline(kernels: Kernels) -> None:
    asking = await run(kernels, ASKS)
    assert asking.question
    await kernels.decline("no", asking.execution, name="kernel-test", question=asking.question.id)


async def _interrupt(kernels: Kernels) -> None:
    await run(kernels, RUNS, timeout=0.1)
    await kernels.interrupt()


async def _interrupt_anyones(kernels: Kernels) -> None:
    await run(kernels, RUNS, timeout=0.1)
    assert await kernels.interrupt_anyones("kernel-test")


async def _last_error(kernels: Kernels) -> None:
    await run(kernels, "1/0")
    await kernels.last_error()


async def _put_file(kernels: Kernels) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"three"

    await kernels.put_file("x", source(), replace=True, to_replace="say so")


async def _page_of_file(kernels: Kernels) -> None:
    await _put_file(kernels)
    await kernels.page_of_file("x", size=2)


async def _pieces_of_file(kernels: Kernels) -> None:
    await _put_file(kernels)
    async with contextlib.aclosing(kernels.pieces_of_file("x")) as pieces:
        assert [each.data async for each in pieces] == [b"three"]


async def _restart(kernels: Kernels) -> None:
    with contextlib.suppress(KernelError):  # nobody starts it again
        await kernels.restart()


async def _restart_sandbox(kernels: Kernels) -> None:
    with contextlib.suppress(KernelError):
        await kernels.restart_sandbox("kernel-test")


async def _stop_sandbox(kernels: Kernels) -> None:
    with pytest.raises(NoSuchKernel):
        await kernels.stop_sandbox("nobody")


ACTS: dict[str, tuple[Call, str]] = {
    "connect": (_connect, "attach"),
    "address": (_address, "attach"),
    "execute": (lambda kernels: kernels.execute("1", timeout=SOON), "execute"),
    "answer": (_answer, "input"),
    "decline": (_decline, "interrupt"),
    "interrupt": (_interrupt, "interrupt"),
    "interrupt_anyones": (_interrupt_anyones, "interrupt"),
    "variables": (lambda kernels: kernels.variables(limit=10), "look"),
    "inspection": (lambda kernels: kernels.inspection("In"), "look"),
    "last_error": (_last_error, "look"),
    "activity": (lambda kernels: kernels.activity(), "look"),
    "put_file": (_put_file, "put_file"),
    "page_of_file": (_page_of_file, "get_file"),
    "pieces_of_file": (_pieces_of_file, "get_file"),
    "stop_sandbox": (_stop_sandbox, "stop"),
    "disconnect": (lambda kernels: kernels.disconnect(), "disconnect"),
    "close": (lambda kernels: kernels.close(), "disconnect"),
    "restart": (_restart, "restart"),
    "restart_sandbox": (_restart_sandbox, "restart"),
}
LAST = ["disconnect", "close", "restart", "restart_sandbox"]
"""Each needs a kernel of its own."""
WITH_AN_ENGINE = {"start_sandbox"}
"""Told by the launcher: see tests/e2e/test_audit.py."""


def test_every_method_that_acts_is_done_here() -> None:
    by_themselves = {"address", "pieces_of_file", "close"}
    acts = {name for name, method in inspect.getmembers(Kernels, inspect.isfunction) if hasattr(method, "__wrapped__")}
    assert set(ACTS) | WITH_AN_ENGINE == acts | by_themselves


@pytest.mark.parametrize("last", LAST)
async def test_whatever_is_done_has_its_line_and_its_end(
    make: Callable[..., Kernels], start_host_kernel: Callable[..., Any], file: Path, tmp_path: Path, last: str
) -> None:
    (tmp_path / "inside").mkdir()
    with contextlib.chdir(tmp_path / "inside"):
        kernel = supervised(start_host_kernel())
    kernels = make()
    await connected(kernels, kernel)
    for name in [*(each for each in ACTS if each not in LAST and last == LAST[0]), last]:
        act, event = ACTS[name]
        before = len(lines(file))
        await act(kernels)
        told = lines(file)[before:]
        [begun] = [each for each in told if each["event"] == event]
        [ended] = [each for each in told if each.get("action") == begun["action"] and each["event"] == "end"]
        assert begun["kernel"]["name"] == ("nobody" if name == "stop_sandbox" else "kernel-test"), name
        assert ended["outcome"] == ("not there" if name == "stop_sandbox" else "ok"), name
        # what was told with an end is not told as a refusal once more
        assert [each for each in told if each["event"] == "refused"] == [], name
    await kernels.close()


async def test_a_refusal_names_the_kernel_that_was_meant_without_a_name(
    make: Callable[..., Kernels], kernels: Kernels, start_host_kernel: Callable[..., Any], file: Path
) -> None:
    before = len(lines(file))

    async def refused() -> None:
        with pytest.raises(UsageError):
            await kernels.answer("secret", wait=1)
        with pytest.raises(NotOurs):
            await kernels.page_of_file("x", size=2)
        with pytest.raises(NotOurs):
            _ = [each async for each in kernels.pieces_of_file("x")]

    await refused()
    told = [each for each in lines(file)[before:] if each["event"] in ("refused", "failed", "end")]
    assert len(told) == 3
    assert [each["kernel"]["name"] for each in told] == ["kernel-test"] * 3
    assert told[0]["kernel"]["process"]
    await connected(kernels, start_host_kernel("kernel-other"))
    before = len(lines(file))
    with pytest.raises(AmbiguousKernel):
        await kernels.answer("secret", wait=1)
    [refusal] = lines(file)[before:]
    assert "kernel" not in refusal


async def test_what_is_not_there_to_be_looked_at_is_told_once(kernels: Kernels, file: Path) -> None:
    before = len(lines(file))
    with pytest.raises(UsageError):
        await kernels.inspection("nothere")
    assert since(file, before) == [("look", None, None), ("end", "look", "refused")]


async def test_the_line_is_there_before_the_code_runs(kernels: Kernels, file: Path) -> None:
    result = await run(kernels, f"print(open({str(file)!r}).read())")
    seen = [json.loads(each) for each in result.outputs[0].text.split("\n") if each]
    assert seen[-1]["event"] == "execute"
    assert seen[-1]["execution"] == result.execution


async def test_what_cannot_be_recorded_is_not_executed(kernels: Kernels, file: Path) -> None:
    await run(kernels, "x = 1")
    unwritable(file)
    with pytest.raises(NotAudited, match="Nothing was executed"):
        await run(kernels, "x = 2")
    for look in (kernels.variables(limit=10), kernels.inspection("x"), kernels.last_error(), kernels.activity()):
        with pytest.raises(NotAudited):
            await look
    file.parent.with_name("gone").rename(file.parent)
    assert (await run(kernels, "x")).outputs[0].data["text/plain"] == "1"


async def test_a_kernel_is_not_attached_to_where_that_cannot_be_recorded(
    make: Callable[..., Kernels], host_kernel: Any, file: Path
) -> None:
    kernels = make()
    file.parent.rmdir()
    with pytest.raises(NotAudited, match="Nothing was done"):
        await kernels.connect(str(host_kernel.file))
    with pytest.raises(NotAudited):
        await kernels.address(str(host_kernel.file))
    assert kernels.statuses() == []
    await kernels.close()


async def test_what_ends_something_is_done_all_the_same(kernels: Kernels, file: Path) -> None:
    running = await run(kernels, "import time\nwhile True: time.sleep(0.01)", timeout=0.5)
    assert running.status == "running"
    unwritable(file)
    outcome = await kernels.interrupt()
    assert outcome.result is not None
    assert outcome.result.status == "error"
    assert await kernels.disconnect() == ("kernel-test", "")
    assert kernels.statuses() == []


async def test_a_cell_that_outlives_its_call_has_its_end_when_it_ends(kernels: Kernels, file: Path) -> None:
    before = len(lines(file))
    running = await run(kernels, "import time; time.sleep(1)", timeout=0.1)
    assert running.status == "running"
    assert since(file, before) == [("execute", None, None)]
    found = await until(file, lambda told: len(told) == before + 2)
    assert (found[-1]["outcome"], found[-1]["action"]) == ("ok", found[-2]["action"])


async def test_an_interrupted_cell_is_told_as_such(kernels: Kernels, file: Path) -> None:
    before = len(lines(file))
    await run(kernels, "import time\nwhile True: time.sleep(0.01)", timeout=0.5)
    await kernels.interrupt()
    told = since(file, before)
    assert told[:2] == [("execute", None, None), ("interrupt", None, None)]
    assert set(told[2:]) == {("end", "execute", "interrupted"), ("end", "interrupt", "ok")}


async def test_a_cell_whose_kernel_died_is_told_as_lost(kernels: Kernels, host_kernel: Any, file: Path) -> None:
    before = len(lines(file))
    work = asyncio.create_task(kernels.execute("import time; time.sleep(60)", timeout=SOON))
    await until(file, lambda told: len(told) > before)
    host_kernel.kill()
    await work
    assert since(file, before) == [("execute", None, None), ("end", "execute", "lost")]


async def test_what_was_typed_is_never_told(kernels: Kernels, file: Path) -> None:
    before = len(lines(file))
    asking = await run(kernels, "x = input('Name? ')")
    assert asking.status == "asking"
    await kernels.answer("Ada-secret", wait=SOON)

    async def ask(*_: str) -> str:
        return "Ada-secret"

    assert (await kernels.execute("y = input()", timeout=SOON, ask=ask)).result
    assert [each for each in since(file, before) if each[0] != "end"] == [
        ("execute", None, None),
        ("input", None, None),
        ("execute", None, None),
        ("input", None, None),
    ]
    assert "Ada" not in file.read_text()


async def test_an_answer_that_cannot_be_recorded_is_not_sent_and_the_cell_does_not_stand_still(
    kernels: Kernels, file: Path
) -> None:
    async def ask(*_: str) -> str:
        unwritable(file)
        return "Ada"

    outcome = await kernels.execute("x = 'before'; x = input()", timeout=SOON, ask=ask)
    assert outcome.result is not None
    assert outcome.result.status == "error"
    assert any("audit" in note for note in outcome.result.notes)
    file.parent.with_name("gone").rename(file.parent)
    assert (await run(kernels, "x")).outputs[0].data["text/plain"] == "'before'"


async def test_what_is_refused_is_told_with_why(
    make: Callable[..., Kernels], kernels: Kernels, host_kernel: Any, file: Path
) -> None:
    other = make()
    await connected(other, host_kernel)
    work = asyncio.create_task(other.execute("secret = 1; import time; time.sleep(60)", timeout=SOON))
    async with asyncio.timeout(SOON):
        while "secret" not in str(kernels.statuses()[0]):  # busy alone may be with what was asked to learn that
            await asyncio.sleep(0.01)
    before = len(lines(file))
    with pytest.raises(KernelBusy):
        await kernels.execute("other_secret", timeout=0.1)
    with pytest.raises(NotOurs):
        await kernels.interrupt()
    with pytest.raises(NotOurs):
        await kernels.restart()
    with pytest.raises(NotOurs):
        await kernels.stop_sandbox("kernel-test")
    with pytest.raises(NoSuchKernel):
        await kernels.execute("other_secret", name="nobody", timeout=1)
    with pytest.raises(UsageError):
        await kernels.answer("secret answer", wait=1)
    with pytest.raises(NoSuchKernel):
        await kernels.connect("nobody.json")
    with pytest.raises(PolicyRefused):
        await kernels.start_sandbox(SandboxRequest("lab", image="evil:1", environment={"TOKEN": "secret"}))
    told = {(each.get("of"), each.get("error")): each for each in lines(file)[before:]}
    assert set(told) >= {
        ("execute", "KernelBusy"),
        ("interrupt", "NotOurs"),
        ("restart", "NotOurs"),
        ("stop", "NotOurs"),
        ("execute", "NoSuchKernel"),
        ("input", "UsageError"),
        ("attach", "NoSuchKernel"),
        ("start", "PolicyRefused"),
    }
    refused = told["start", "PolicyRefused"]
    assert "evil:1 is not among the policy's" in refused["reason"]
    assert "(sandbox.images, built in)" in refused["reason"]
    assert (refused["image"], refused["environment"]) == ("evil:1", ["TOKEN"])
    assert "secret" not in file.read_text()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await other.close()


async def test_a_connection_that_was_lost_and_is_back_is_told(
    kernels: Kernels, start_host_kernel: Callable[..., Any], host_kernel: Any, file: Path
) -> None:
    host_kernel.kill()
    before = len(lines(file))
    start_host_kernel()
    async with asyncio.timeout(SOON):
        while kernels.statuses()[0].state != "lost":
            await asyncio.sleep(0.01)
    await run(kernels, "1")
    again = [each for each in lines(file)[before:] if each["event"] == "attach"]
    assert again[0]["again"] is True


async def test_a_connection_that_cannot_be_recorded_does_not_come_back_and_the_next_call_tries_again(
    kernels: Kernels, start_host_kernel: Callable[..., Any], host_kernel: Any, file: Path
) -> None:
    host_kernel.kill()
    start_host_kernel()
    async with asyncio.timeout(SOON):
        while kernels.statuses()[0].state != "lost":
            await asyncio.sleep(0.01)
    unwritable(file)
    with pytest.raises(NotAudited):
        await run(kernels, "1")
    file.parent.with_name("gone").rename(file.parent)
    file.with_name("elsewhere").rename(file)
    assert (await run(kernels, "1")).status == "ok"


async def test_no_line_holds_the_kernels_key(kernels: Kernels, host_kernel: Any, file: Path) -> None:
    await run(kernels, "1")
    await kernels.address(str(host_kernel.file))
    assert [each for each in lines(file) if each.get("directly")]
    key = json.loads(host_kernel.file.read_text())["key"]
    assert key
    assert key not in file.read_text()


async def test_without_an_audit_nothing_is_written(host_kernel: Any, tmp_path: Path) -> None:
    kernels = Kernels(parse("version: 1\n", origin="x"), DockerLauncher)
    await connected(kernels, host_kernel)
    await run(kernels, "1")
    await kernels.close()
    assert not list(tmp_path.rglob("*audit*"))
