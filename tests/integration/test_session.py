"""The rules of a shared kernel, with two sessions on one real ipykernel."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import zmq
import zmq.asyncio

from bridge.connection import ConnectionInfo, load
from bridge.errors import KernelBusy, KernelDied, KernelNotResponding, NoSuchKernel, NotOurs, UsageError
from bridge.messages import Message
from bridge.outputs import Error, ExecuteResult, Stream
from bridge.session import KernelSession, Loss, open_session

pytestmark = pytest.mark.anyio

# Where a test waits for the other side; far more than it takes, so that only a hang fails it.
SOON = 20.0


async def gone() -> Loss:
    return Loss("The kernel is gone.")


class Pair:
    """The agent's session and the person's, on one kernel."""

    def __init__(self, agent: KernelSession, person: KernelSession) -> None:
        self.agent = agent
        self.person = person

    async def value(self, expression: str) -> str:
        result = await self.person.execute(expression, timeout=SOON)
        assert isinstance(result.outputs[-1], ExecuteResult), result
        return str(result.outputs[-1].data["text/plain"])


async def connect(info: ConnectionInfo, username: str) -> KernelSession:
    return await open_session(info, username=username, explain=gone, timeout=SOON, starting=True)


@pytest.fixture
async def pair(host_kernel: Any) -> AsyncIterator[Pair]:
    agent, person = await connect(host_kernel.info, "agent"), await connect(host_kernel.info, "alice")
    yield Pair(agent, person)
    await agent.close()
    await person.close()


async def started(
    session: KernelSession, code: str, *, sign: str = "execute_input", **keywords: Any
) -> asyncio.Task[Any]:
    """Begin a cell and return once the kernel has sent the sign that it runs it."""
    running = asyncio.Event()

    def look(message: Message) -> None:
        if message.msg_type == sign:
            running.set()

    task = asyncio.create_task(session.execute(code, on_message=look, **keywords))
    async with asyncio.timeout(SOON):
        await running.wait()
    return task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.005)


async def test_both_sides_see_the_same_variables(pair: Pair) -> None:
    await pair.agent.execute("x = 41", timeout=SOON)
    await pair.person.execute("x += 1", timeout=SOON)
    result = await pair.agent.execute("print(x); x", timeout=SOON)
    assert result.outputs[0] == Stream("stdout", "42\n")
    assert result.status == "ok"


async def test_a_silent_cell_of_some_seconds_returns_its_output(pair: Pair) -> None:
    result = await pair.agent.execute("import time; time.sleep(2); print('done')", timeout=SOON)
    assert result.outputs == (Stream("stdout", "done\n"),)


async def test_attaching_takes_no_longer_while_a_long_cell_runs(host_kernel: Any, pair: Pair) -> None:
    cell = await started(pair.person, "import time; time.sleep(3)", timeout=SOON)
    before = time.monotonic()
    third = await open_session(host_kernel.info, username="agent", explain=gone, timeout=SOON)
    attached = time.monotonic()
    assert not cell.done(), "the cell ended before the attach did, so nothing was shown"
    assert third.state().state == "unknown"
    await cell
    # it attached within a small part of what the cell took, so it did not wait for the cell
    assert attached - before < 0.5 * (time.monotonic() - before)
    await third.close()


async def test_code_refused_as_busy_never_runs_later(pair: Pair) -> None:
    cell = await started(pair.person, "import time; time.sleep(1.5)", timeout=SOON)
    with pytest.raises(KernelBusy, match="Nothing was executed") as caught:
        await pair.agent.execute("y = 1", timeout=0.3)
    assert "time.sleep(1.5)" in str(caught.value)
    assert "alice" in str(caught.value)
    await cell
    assert await pair.value("'y' in globals()") == "False"


async def test_code_waits_for_the_persons_cell_and_runs_after_it(pair: Pair) -> None:
    cell = await started(pair.person, "import time; time.sleep(0.5); order = ['person']", timeout=SOON)
    await pair.agent.execute("order.append('agent')", timeout=SOON)
    assert cell.done()
    assert await pair.value("order") == "['person', 'agent']"


async def test_a_kernel_that_was_busy_at_the_attach_is_not_taken_for_free(host_kernel: Any, pair: Pair) -> None:
    cell = await started(pair.person, "import time; time.sleep(1.5)", timeout=SOON)
    third = await open_session(host_kernel.info, username="agent", explain=gone, timeout=SOON)
    with pytest.raises(KernelBusy, match="before the bridge attached"):
        await third.execute("y = 1", timeout=0.2)
    await cell
    assert await pair.value("'y' in globals()") == "False"
    await third.close()


async def test_the_agents_time_out_leaves_its_cell_running_and_its_result_can_be_read(pair: Pair) -> None:
    result = await pair.agent.execute("import time; print('a'); time.sleep(1); print('b'); z = 3", timeout=0.5)
    assert (result.status, result.outputs) == ("running", (Stream("stdout", "a\n"),))
    result = await pair.agent.read(result.execution, wait=SOON)
    assert (result.status, result.outputs) == ("ok", (Stream("stdout", "a\nb\n"),))
    assert await pair.value("z") == "3"


async def test_a_cancelled_call_interrupts_its_own_cell(pair: Pair) -> None:
    call = await started(pair.agent, "import time; time.sleep(30)", timeout=SOON)
    call.cancel()
    result = await pair.person.execute("1", timeout=SOON)
    assert result.status == "ok"
    assert call.cancelled()


async def test_whoever_cancels_a_call_is_told_no_more_of_its_cell(pair: Pair) -> None:
    seen: list[str] = []
    running = asyncio.Event()

    def look(message: Message) -> None:
        seen.append(message.msg_type)
        if message.msg_type == "execute_input":
            running.set()

    call = asyncio.create_task(pair.agent.execute("import time; time.sleep(30)", timeout=SOON, on_message=look))
    async with asyncio.timeout(SOON):
        await running.wait()
    before = list(seen)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await until(lambda: all(each.done for each in pair.agent.executions))
    assert seen == before


async def test_a_signal_that_was_dropped_because_the_cell_had_only_just_begun_is_sent_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = 0
    send = pair.agent._interrupts.send

    async def drop_the_first() -> None:
        nonlocal sent
        sent += 1
        if sent > 1:
            await send()

    # the moment in which IPython drops one cannot be met at will
    monkeypatch.setattr(pair.agent._interrupts, "send", drop_the_first)
    call = await started(pair.agent, "import time; time.sleep(30)", timeout=SOON)
    assert (await pair.agent.interrupt()).status == "error"
    await call
    assert sent == 2


async def test_a_call_cancelled_while_it_waits_neither_runs_nor_touches_the_persons_cell(pair: Pair) -> None:
    cell = await started(pair.person, "import time; time.sleep(1); w = 1", timeout=SOON)
    call = asyncio.create_task(pair.agent.execute("y = 1", timeout=SOON))
    await asyncio.sleep(0)
    call.cancel()
    assert (await cell).status == "ok"
    assert await pair.value("(w, 'y' in globals())") == "(1, False)"


async def test_the_persons_cell_is_never_interrupted_by_the_agent(pair: Pair) -> None:
    cell = await started(pair.person, "import time; time.sleep(1); w = 1", timeout=SOON)
    await until(lambda: pair.agent.state().state == "busy")
    with pytest.raises(NotOurs, match="alice"):
        await pair.agent.interrupt()
    assert (await cell).status == "ok"


async def test_an_interrupt_with_nothing_running_says_so(pair: Pair) -> None:
    # alice's request of her connecting has been answered, and the agent has seen its end before that of its own cell
    await pair.person.settled()
    await pair.agent.execute("pass", timeout=SOON)
    with pytest.raises(NotOurs, match="nothing to interrupt"):
        await pair.agent.interrupt()


@pytest.mark.parametrize(
    "code", ["import time; time.sleep(30)", "import asyncio; await asyncio.sleep(30)", "\nwhile True: pass"]
)
async def test_an_interrupt_ends_our_own_cell_soon(pair: Pair, code: str) -> None:
    # a signal that comes before the code's first line hits IPython itself, which may swallow it
    call = await started(pair.agent, f"print('on', flush=True); {code}", sign="stream", timeout=SOON)
    before = time.monotonic()
    result = await pair.agent.interrupt()
    assert result.status == "error"
    assert time.monotonic() - before < 3
    assert isinstance((await call).outputs[-1], Error)


async def test_failing_cells_do_not_abort_each_other(pair: Pair) -> None:
    cell = await started(pair.agent, "import time; time.sleep(0.7); 1/0", timeout=SOON)
    other = await pair.person.execute("v = 7; v", timeout=SOON)
    assert (await cell).status == "error"
    assert other.status == "ok"


async def test_our_cell_runs_although_the_persons_failing_cell_aborted_it(host_kernel: Any, pair: Pair) -> None:
    """An IDE sends `stop_on_error: true`; what is queued behind its failing cell is aborted unless we send it again."""
    person = pair.person._channels
    await person.send("shell", "execute_request", {"code": "import time; time.sleep(0.6); 1/0", "stop_on_error": True})
    await until(lambda: pair.agent.state().state == "busy")
    # as if the person's cell had come between the look and the sending
    pair.agent._others.requests.clear()
    result = await pair.agent.execute("v = 8; v", timeout=SOON)
    assert result.status == "ok"
    assert await pair.value("v") == "8"


async def test_a_cell_that_got_behind_another_is_told_as_queued_not_as_refused(pair: Pair) -> None:
    cell = await started(pair.person, "import time; time.sleep(1)", timeout=SOON)
    await until(lambda: pair.agent.state().state == "busy")
    pair.agent._others.requests.clear()
    result = await pair.agent.execute("q = 1", timeout=0.3)
    assert result.status == "queued"
    await cell
    assert (await pair.agent.read(result.execution, wait=SOON)).status == "ok"


async def test_a_cancelled_queued_cell_is_interrupted_when_it_starts(pair: Pair) -> None:
    cell = await started(pair.person, "import time; time.sleep(1)", timeout=SOON)
    await until(lambda: pair.agent.state().state == "busy")
    pair.agent._others.requests.clear()
    call = asyncio.create_task(pair.agent.execute("import time; time.sleep(30); q = 1", timeout=SOON))
    await until(lambda: pair.agent.runs_a_cell)
    call.cancel()
    await cell
    assert await pair.value("'q' in globals()") == "False"


async def test_the_next_call_waits_for_our_own_cell_that_went_on(pair: Pair) -> None:
    first = await pair.agent.execute("import time; time.sleep(1); n = 1", timeout=0.2)
    assert first.status == "running"
    with pytest.raises(KernelBusy, match=f"execution {first.execution}"):
        await pair.agent.execute("n = 2", timeout=0.2)
    assert (await pair.agent.execute("n + 1", timeout=SOON)).status == "ok"
    assert await pair.value("n") == "1"


async def test_parallel_calls_run_one_after_the_other_in_their_order(pair: Pair) -> None:
    await pair.agent.execute("seen = []", timeout=SOON)
    await asyncio.gather(*(pair.agent.execute(f"seen.append({each})", timeout=SOON) for each in range(10)))
    assert await pair.value("seen == list(range(10))") == "True"


async def test_many_messages_arrive_completely_while_nobody_waits_for_them(pair: Pair) -> None:
    code = "from IPython.display import display\nfor i in range(3000): display(i)"
    result = await pair.agent.execute(code, timeout=60)
    assert len(result.outputs) == 3000


FORGED = """
from IPython import get_ipython
k = get_ipython().kernel
for content in ({'data': [1]}, {'data': 5, 'metadata': 7, 'transient': 3}, ['no mapping']):
    k.session.send(k.iopub_socket, 'display_data', content, parent=k.get_parent())
"""


async def test_forged_messages_of_the_cell_end_no_channel(pair: Pair) -> None:
    await pair.agent.execute(FORGED, timeout=SOON)
    result = await pair.agent.execute("print('still heard')", timeout=SOON)
    assert (result.outputs, result.notes) == ((Stream("stdout", "still heard\n"),), ())


async def test_a_watcher_that_fails_ends_neither_the_cell_nor_the_channel(pair: Pair) -> None:
    def fail(_: Message) -> None:
        raise RuntimeError("watcher")

    result = await pair.agent.execute("print('a')", timeout=SOON, on_message=fail)
    assert result.outputs == (Stream("stdout", "a\n"),)
    assert (await pair.agent.execute("1", timeout=SOON)).status == "ok"


async def test_of_many_cells_only_the_last_are_kept_in_memory(pair: Pair) -> None:
    for number in range(15):
        await pair.agent.execute(f"{number}", timeout=SOON)
    assert [each.number for each in pair.agent.executions] == [14, 15]
    assert not pair.agent._sent._cells


async def test_our_cell_whose_idle_came_before_its_reply_is_not_taken_for_the_one_that_runs(pair: Pair) -> None:
    """Shell and iopub are two sockets; in between the other side's cell may run, which an interrupt would hit."""
    replies: list[Message] = []
    receive = pair.agent._receive

    def hold_the_reply_back(message: Message) -> None:
        if message.msg_type == "execute_reply":
            replies.append(message)
        else:
            receive(message)

    pair.agent._channels.start(hold_the_reply_back, pair.agent._disconnected)
    ours = asyncio.create_task(pair.agent.execute("1", timeout=SOON))
    await until(lambda: bool(replies) and not any(each.running for each in pair.agent.executions))
    theirs = await started(pair.person, "import time; time.sleep(1); kept = 'yes'", timeout=SOON)
    await until(lambda: pair.agent._others.run_a_cell)
    with pytest.raises(NotOurs, match="not started through this connection"):
        await pair.agent.interrupt()
    ours.cancel()
    await asyncio.gather(ours, return_exceptions=True)
    assert (await theirs).status == "ok"
    assert await pair.value("kept") == "'yes'"


async def test_a_cell_that_could_not_be_sent_leaves_the_next_one_free(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> None:
        raise KernelNotResponding("takes no requests")

    # the two look at each other's first questions
    await until(lambda: pair.agent.state().state == "idle")
    # ZMQ's queue towards a peer that is gone: it cannot be made for real without losing the connection that is watched
    with monkeypatch.context() as patch:
        patch.setattr(pair.agent._channels, "send_message", refuse)
        with pytest.raises(KernelNotResponding):
            await pair.agent.execute("x = 1", timeout=SOON)
    assert pair.agent.state().state == "idle"
    assert (await pair.agent.execute("1", timeout=SOON)).status == "ok"


async def test_code_that_no_message_can_carry_is_refused_and_the_next_cell_runs(pair: Pair) -> None:
    with pytest.raises(UsageError, match=r"\\ud800.*Nothing was executed"):
        await pair.agent.execute("print('\ud800')", timeout=SOON)
    assert (await pair.agent.execute("1", timeout=SOON)).status == "ok"


async def test_what_was_kept_is_read_on_in_the_session_that_takes_the_place_of_a_lost_one(
    host_kernel: Any, pair: Pair
) -> None:
    await pair.agent.execute("print('early')", timeout=SOON)
    await pair.agent.execute("import time; time.sleep(60)", timeout=0.5)
    pair.agent._disconnected()
    await until(pair.agent._lost.is_set)
    again = await open_session(host_kernel.info, username="agent", explain=gone, timeout=SOON, before=pair.agent)
    assert (await again.read(1, wait=0)).outputs == (Stream("stdout", "early\n"),)
    assert (await again.read(2, wait=0)).status == "lost"
    with pytest.raises(NotOurs, match="began before this connection"):
        await again.interrupt()
    assert await again.interrupt_anyones()
    assert (await again.execute("print('on')", timeout=SOON)).execution == 3
    await again.close()


async def test_an_execution_that_is_not_kept_is_told_apart(pair: Pair) -> None:
    with pytest.raises(NoSuchKernel, match="Execution 99 is not kept"):
        await pair.agent.read(99, wait=0)


async def test_exit_in_a_cell_is_recognised(pair: Pair) -> None:
    result = await pair.agent.execute("exit", timeout=SOON)
    assert result.ended_kernel
    assert await pair.agent.until_lost(SOON)


async def test_a_killed_kernel_ends_the_call_at_once_with_the_reason(host_kernel: Any, pair: Pair) -> None:
    call = await started(pair.agent, "print('so far', flush=True); import time; time.sleep(30)", timeout=SOON)
    host_kernel.process.kill()
    before = time.monotonic()
    result = await call
    assert time.monotonic() - before < 2
    assert (result.status, result.notes) == ("lost", ("The kernel is gone.",))
    with pytest.raises(KernelDied, match="Nothing was executed"):
        await pair.agent.execute("1", timeout=SOON)


async def test_a_call_that_waits_for_its_turn_learns_of_the_death_too(host_kernel: Any, pair: Pair) -> None:
    await started(pair.person, "import time; time.sleep(30)", timeout=SOON)
    call = asyncio.create_task(pair.agent.execute("1", timeout=SOON))
    await until(lambda: bool(pair.agent._requests._replies))
    host_kernel.process.kill()
    with pytest.raises(KernelDied, match="Nothing was executed"):
        await call


async def test_closing_leaves_the_kernel_and_its_running_cell_alone(host_kernel: Any, pair: Pair) -> None:
    call = await started(pair.agent, "import time; time.sleep(0.7); left = 1", timeout=SOON)
    await pair.agent.close()
    assert (await call).status == "lost"
    assert await pair.value("left") == "1"
    assert host_kernel.process.poll() is None


async def test_a_dead_port_is_told_at_once(host_kernel: Any) -> None:
    info = host_kernel.info
    session = await connect(info, "agent")
    await session.close()
    host_kernel.kill()
    before = time.monotonic()
    with pytest.raises(KernelNotResponding, match="Nothing listens"):
        await open_session(info, username="agent", explain=gone, timeout=SOON)
    assert time.monotonic() - before < 2


async def test_a_wrong_key_is_told_apart(host_kernel: Any) -> None:
    await (await connect(host_kernel.info, "agent")).close()
    wrong = dataclasses.replace(host_kernel.info, key="not-the-key")
    with pytest.raises(KernelNotResponding, match="not its key") as caught:
        await open_session(wrong, username="agent", explain=gone, timeout=3)
    assert "not-the-key" not in str(caught.value)


async def test_a_program_that_is_no_kernel_is_told_apart(host_kernel: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        ports = dict.fromkeys(("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port"), port)
        info = dataclasses.replace(host_kernel.info, **ports)
        with pytest.raises(KernelNotResponding, match="another program"):
            await open_session(info, username="agent", explain=gone, timeout=1)


async def test_a_stopped_kernel_process_is_no_false_connection(host_kernel: Any) -> None:
    await (await connect(host_kernel.info, "agent")).close()
    os.kill(host_kernel.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(KernelNotResponding):
            await open_session(host_kernel.info, username="agent", explain=gone, timeout=1)
    finally:
        os.kill(host_kernel.process.pid, signal.SIGCONT)


async def test_a_kernel_over_unix_sockets_works_alike(start_host_kernel: Callable[..., Any], tmp_path: Path) -> None:
    kernel = start_host_kernel("kernel-ipc", "--transport=ipc", f"--ip={tmp_path}/k")
    session = await connect(load(kernel.file), "agent")
    assert session.info.transport == "ipc"
    assert (await session.execute("1 + 1", timeout=SOON)).status == "ok"
    call = await started(session, "import time; time.sleep(30)", timeout=SOON)
    kernel.process.kill()
    assert (await call).status == "lost"
    await session.close()


async def test_a_connection_that_is_given_up_by_its_caller_leaves_no_socket_open(host_kernel: Any) -> None:
    """Under anyio, as in an MCP server, whoever was cancelled may not wait any more, not even to clean up."""

    def still_open() -> set[int]:
        return {id(each) for each in gc.get_objects() if isinstance(each, zmq.asyncio.Socket) and not each.closed}

    before = still_open()
    host_kernel.process.send_signal(signal.SIGSTOP)
    with anyio.move_on_after(0.2) as scope:
        await connect(host_kernel.info, "agent")
    assert scope.cancelled_caught
    assert still_open() <= before
