"""A session's bookkeeping under whatever a kernel may send; a mock stands for it: no real one sends all that."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import KernelError, KernelNotResponding
from bridge.execution import LONGEST_PROMPT, Execution, Executions
from bridge.journal import Journal
from bridge.looking.questions import Standing
from bridge.messages import Channel, Message
from bridge.outputs import Result, Stream
from bridge.session import PATIENCE, KernelSession, Loss, kernel
from bridge.session.questions import UNCERTAIN

SOON = 5.0


class Wire:
    """The channels of a kernel that answers when the test says so, and records what it was sent."""

    session = "ours"
    kernel = "kernel"

    def __init__(self, info: Any = None) -> None:
        self.kernel_info = info or {}
        self.sent: list[tuple[Channel, str, str]] = []
        self.waiting: dict[str, asyncio.Event] = {}
        self._ids = itertools.count()

    def start(self, handler: Any, _: Any) -> None:
        self.receive = handler

    def new_message(self, msg_type: str, content: dict[str, Any]) -> dict[str, Any]:
        header = {"msg_id": f"{msg_type}-{next(self._ids)}", "msg_type": msg_type, "username": "agent"}
        return {"header": header, "content": content}

    async def send_message(self, channel: Channel, message: dict[str, Any]) -> None:
        kind, msg_id = message["header"]["msg_type"], message["header"]["msg_id"]
        self.sent.append((channel, kind, msg_id))
        self.waiting.setdefault(kind, asyncio.Event()).set()
        if kind == "kernel_info_request":
            asyncio.get_running_loop().call_soon(self.answer, msg_id, channel, "kernel_info_reply", {})

    async def next_sent(self, kind: str) -> str:
        """Return the id of the newest request of a type, as soon as there is one that was not asked for before."""
        waiting = self.waiting.setdefault(kind, asyncio.Event())
        async with asyncio.timeout(SOON):
            await waiting.wait()
        waiting.clear()
        return next(msg_id for _, sent, msg_id in reversed(self.sent) if sent == kind)

    async def close(self) -> None:
        pass

    def answer(self, msg_id: str, channel: Channel, msg_type: str, content: Any, *, session: str = "ours") -> None:
        message = Message(
            channel, msg_type, "kernel", content, {}, msg_id, "execute_request", session, "alice", in_subshell=False
        )
        try:
            self.receive(message)
        except Exception as error:
            raise AssertionError(f"{msg_type} {content} was dropped") from error


async def gone() -> Loss:
    return Loss("The kernel is gone.")


def opened(wire: Wire) -> KernelSession:
    return KernelSession(wire, gone, Executions(), None, None, None, PATIENCE)  # type: ignore[arg-type]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)
contents = st.dictionaries(
    st.sampled_from(["status", "execution_state", "code", "execution_count", "payload", "text", "data", "traceback"]),
    json_values | st.sampled_from(["busy", "idle", "ok", "error"]),
    max_size=4,
)
garbage = st.tuples(
    st.sampled_from(["cell", "theirs", "also theirs", "no such", ""]),
    st.sampled_from(["shell", "iopub", "stdin", "control"]),
    st.sampled_from(["status", "execute_input", "stream", "display_data", "error", "kernel_info_reply", "comm_msg"]),
    contents,
    st.sampled_from(["ours", "theirs", ""]),
)


@given(before=st.lists(garbage, max_size=8), during=st.lists(garbage, max_size=8))
def test_whatever_a_kernel_sends_beside_them_its_reply_and_idle_end_the_cell(
    before: list[Any], during: list[Any]
) -> None:
    async def scenario() -> Result:
        wire = Wire()
        session = opened(wire)
        ids: dict[str, str] = {}

        def say(messages: list[Any]) -> None:
            for name, channel, kind, content, parent in messages:
                wire.answer(ids.get(name, name), channel, kind, content, session=parent)

        say(before)
        call = asyncio.create_task(session.execute("code", timeout=SOON))
        ids["cell"] = await wire.next_sent("execute_request")
        wire.answer(ids["cell"], "iopub", "status", {"execution_state": "busy"})
        say(during)
        wire.answer(ids["cell"], "shell", "execute_reply", {"status": "ok"})
        wire.answer(ids["cell"], "iopub", "status", {"execution_state": "idle"})
        result = await call
        assert session.state().state in {"idle", "busy"}
        str(session.banner)
        await session.close()
        assert not session._sent._cells
        return result

    assert asyncio.run(scenario()).status == "ok"


@pytest.mark.parametrize("odd", [[], [1], 5, "python", {"name": [1], "version": {}}, {"name": "\ud800\x1b[31m" * 999}])
def test_a_kernel_that_tells_nonsense_of_itself_has_a_banner_of_one_line(odd: Any) -> None:
    async def scenario() -> str:
        session = opened(Wire({"language_info": odd}))
        banner = session.banner
        await session.close()
        return banner

    banner = asyncio.run(scenario())
    assert banner
    assert banner.isprintable()
    assert len(banner) <= 200


def test_a_subshell_is_asked_for_only_once_the_kernel_has_answered_in_turn() -> None:
    async def scenario() -> None:
        wire = Wire({"supported_features": ["kernel subshells"]})
        session = opened(wire)
        look = asyncio.create_task(session.look("1"))
        await wire.next_sent("create_subshell_request")
        assert session.state().state == "idle"
        look.cancel()
        await asyncio.gather(look, return_exceptions=True)
        await session.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("odd", [None, [], [1], 5, {"look": 5}, {"look": [1]}, {"look": {"status": "ok", "data": 5}}])
@pytest.mark.parametrize("features", [5, None, "kernel subshells", ["kernel subshells"], {"a": 1}])
def test_a_look_that_is_answered_with_nonsense_is_told_in_a_sentence(odd: Any, features: Any) -> None:
    async def scenario() -> None:
        wire = Wire({"supported_features": features})
        session = opened(wire)
        look = asyncio.create_task(session.look("1"))
        if isinstance(features, list):
            wire.answer(await wire.next_sent("create_subshell_request"), "control", "create_subshell_reply", {})
        msg_id = await wire.next_sent("execute_request")
        wire.answer(msg_id, "shell", "execute_reply", {"status": "ok", "user_expressions": odd})
        try:
            with pytest.raises(KernelError, match="could not be looked into"):
                await look
        finally:
            await session.close()

    asyncio.run(scenario())


def test_what_others_run_is_told_of_in_bounded_words_however_much_and_odd_it_is() -> None:
    async def scenario() -> tuple[str, ...]:
        wire = Wire()
        session = opened(wire)
        for number in range(1000):
            wire.answer(str(number), "iopub", "status", {"execution_state": "busy"}, session="theirs")
            wire.answer(str(number), "iopub", "execute_input", {"code": "\x1b[2J\ud800" * 5000}, session="theirs")
        running = session.state().running
        await session.close()
        return running

    running = asyncio.run(scenario())
    assert sum(map(len, running)) < 5000
    assert "\x1b" not in "".join(running)
    assert "".join(running).encode()


def test_a_cell_that_others_clear_from_the_queue_is_sent_again_but_not_for_ever() -> None:
    async def scenario() -> tuple[Result, Result]:
        wire = Wire()
        session = opened(wire)
        call = asyncio.create_task(session.execute("code", timeout=SOON))
        for _ in range(3):
            wire.answer(await wire.next_sent("execute_request"), "shell", "execute_reply", {"status": "aborted"})
        msg_id = await wire.next_sent("execute_request")
        wire.answer(msg_id, "iopub", "status", {"execution_state": "busy"})
        wire.answer(msg_id, "iopub", "stream", {"name": "stdout", "text": "a"})
        wire.answer(msg_id, "shell", "execute_reply", {"status": "ok"})
        wire.answer(msg_id, "iopub", "status", {"execution_state": "idle"})
        ran = await call
        call = asyncio.create_task(session.execute("code", timeout=SOON))
        for _ in range(5):
            wire.answer(await wire.next_sent("execute_request"), "shell", "execute_reply", {"status": "aborted"})
        aborted = await call
        await session.close()
        return ran, aborted

    ran, aborted = asyncio.run(scenario())
    assert (ran.status, ran.outputs) == ("ok", (Stream("stdout", "a"),))
    assert aborted.status == "aborted"


def test_a_cell_that_cannot_be_sent_holds_up_none_behind_it() -> None:
    async def scenario() -> Result:
        wire, blocked = Wire(), asyncio.Event()
        send = wire.send_message

        async def send_or_fail(channel: Channel, message: dict[str, Any]) -> None:
            if message["header"]["msg_type"] == "execute_request" and not blocked.is_set():
                await blocked.wait()
                raise KernelNotResponding("full")
            await send(channel, message)

        wire.send_message = send_or_fail  # type: ignore[method-assign]
        session = opened(wire)
        first = asyncio.create_task(session.execute("first", timeout=None))
        while not session.runs_a_cell:
            await asyncio.sleep(0)
        second = asyncio.create_task(session.execute("second", timeout=None))
        for _ in range(10):  # until it waits
            await asyncio.sleep(0)
        blocked.set()
        with pytest.raises(KernelNotResponding):
            await first
        msg_id = await wire.next_sent("execute_request")
        for kind, content in (("status", {"execution_state": "busy"}), ("status", {"execution_state": "idle"})):
            wire.answer(msg_id, "iopub", kind, content)
        wire.answer(msg_id, "shell", "execute_reply", {"status": "ok"})
        async with asyncio.timeout(SOON):
            return await second

    assert asyncio.run(scenario()).status == "ok"


@pytest.fixture
def journal() -> Iterator[Journal]:
    made = Journal(None)
    yield made
    made.close()


def adopted(wire: Wire, journal: Journal) -> KernelSession:
    """Open a session that follows on a cell of a bridge before, which runs."""
    session = opened(wire)
    record = journal.book("lab").begin(kernel="kernel", msg_id="cell", code="", client="", username="agent")
    execution = Execution(1, "cell", "code", record=record)
    execution.resume(1, ())
    session.adopt(execution, record)
    return session


@pytest.mark.parametrize("prompt", ["who? ", None], ids=["question", "password"])
def test_a_cell_of_which_only_a_dead_bridge_says_that_it_asks_is_asked_and_never_interrupted(
    journal: Journal, prompt: str | None
) -> None:
    async def scenario() -> None:
        wire = Wire()
        session = adopted(wire, journal)
        await session.ask_on(Standing("cell", prompt))
        execution = session.executions.get(1)
        assert execution
        assert execution.status == ("running" if prompt is None else "asking")
        session._questions._nobody_answered()
        async with asyncio.timeout(SOON):
            while UNCERTAIN not in execution.notes:
                await asyncio.sleep(0.01)
        await session.close()
        assert "interrupt_request" not in [kind for _, kind, _ in wire.sent]

    asyncio.run(scenario())


def test_a_cell_of_which_only_a_dead_bridge_says_that_it_asks_is_interrupted_where_the_user_declines(
    journal: Journal,
) -> None:
    async def scenario() -> None:
        wire = Wire()
        session = adopted(wire, journal)
        await session.ask_on(Standing("cell", "who? "))
        execution = session.executions.get(1)
        assert execution
        assert execution.question
        declining = asyncio.create_task(session.decline("No.", number=1, question=execution.question.id))
        await wire.next_sent("interrupt_request")
        declining.cancel()
        await asyncio.gather(declining, return_exceptions=True)
        await session.close()

    asyncio.run(scenario())


def test_what_a_cell_asks_is_found_out_though_the_call_leaves_and_a_look_fails(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "FIND_AGAIN", 0.01)

    async def scenario() -> None:
        session = adopted(Wire(), journal)
        goes_on, looks = asyncio.Event(), []

        async def look(_: str) -> str:
            looks.append(1)
            await goes_on.wait()
            if len(looks) < 3:
                raise KernelNotResponding("native code")
            return repr(json.dumps({"msg_id": "cell", "prompt": "x" * 2 * LONGEST_PROMPT, "password": False}))

        monkeypatch.setattr(session, "look", look)
        call = asyncio.create_task(session.ask_on())
        async with asyncio.timeout(SOON):
            while not looks:
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            goes_on.set()
            execution = session.executions.get(1)
            assert execution
            while execution.question is None:
                await asyncio.sleep(0.01)
        assert execution.question.prompt == "x" * LONGEST_PROMPT
        await session.close()

    asyncio.run(scenario())


def test_the_idle_is_waited_for_as_long_as_anything_comes_before_it_and_then_told_as_missing() -> None:
    async def scenario() -> tuple[bool, Result]:
        wire = Wire()
        session = opened(wire)
        call = asyncio.create_task(session.execute("code", timeout=SOON))
        msg_id = await wire.next_sent("execute_request")
        wire.answer(msg_id, "iopub", "status", {"execution_state": "busy"})
        wire.answer(msg_id, "shell", "execute_reply", {"status": "ok"})
        execution = session.executions.get(1)
        assert execution
        wire.answer(msg_id, "iopub", "stream", {"name": "stdout", "text": "a"})
        session._sent.idle_never_came(execution)  # as the loop calls it, a second after the reply
        ended_early = execution.done
        wire.answer(msg_id, "iopub", "stream", {"name": "stdout", "text": "b"})
        session._sent.heard = float("-inf")
        session._sent.idle_never_came(execution)
        result = await call
        await session.close()
        return ended_early, result

    ended_early, result = asyncio.run(scenario())
    assert not ended_early
    assert result.outputs == (Stream("stdout", "ab"),)
    assert "did not report idle" in result.notes[0]
