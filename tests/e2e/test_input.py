"""What a cell asks with input(), as it reaches the user of a real client over stdio, in both eras, or the model."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest
from mcp.types import ElicitResult, InputRequiredResult

pytestmark = pytest.mark.anyio

SOON = 30.0

# `serve` with a shorter patience than a person's.
IMPATIENT = """
import asyncio
from bridge.kernels.registry import Kernels
from bridge.launchers.docker import DockerLauncher
from bridge.policy import built_in
from bridge.server import build_server
from bridge.tools import App
app = App(built_in(), lambda policy: Kernels(policy, lambda: DockerLauncher(None), patience=0.5))
asyncio.run(build_server(app).run_stdio_async())
"""


class User:
    """Answers what the client asks, one answer after the other; the last one again and again."""

    def __init__(self, *answers: str, action: Any = "accept") -> None:
        self._answers = list(answers)
        self._action = action
        self.asked: list[str] = []

    async def __call__(self, _: Any, params: Any) -> ElicitResult:
        self.asked.append(params.message)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0] if self._answers else None
        return ElicitResult(action=self._action, content=None if answer is None else {"answer": answer})


class Absent:
    """Is asked and never answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def __call__(self, _: Any, __: Any) -> ElicitResult:
        self.asked.set()
        await anyio.sleep_forever()
        raise AssertionError


async def connected(agent: Any, kernel: Any) -> None:
    """Connect; the kernel was started a moment ago and may not listen yet."""
    async with asyncio.timeout(SOON):
        while True:
            result = await agent.client.call_tool("connect_to_kernel", {"connection_file": str(kernel.file)})
            if not result.is_error:
                return


async def test_the_user_is_asked_what_the_cell_asks_and_the_cell_runs_once(connect: Any, host_kernel: Any) -> None:
    user = User("Ada", "36")
    async with connect(user=user) as agent:
        await connected(agent, host_kernel)
        code = (
            "runs = globals().get('runs', 0) + 1\nname = input('Name? '); age = input('Age? '); print(name, age, runs)"
        )
        assert await agent.run(code) == "Ada 36 1"
        assert await agent.run("runs") == "1"
    assert user.asked == ["Code in kernel-test asks: Name? ", "Code in kernel-test asks: Age? "]


async def test_enter_alone_is_an_answer(connect: Any, host_kernel: Any) -> None:
    async with connect(user=User()) as agent:
        await connected(agent, host_kernel)
        assert await agent.run("input()") == "''"


@pytest.mark.parametrize(("action", "how"), [("decline", "declined to answer"), ("cancel", "dismissed the question")])
async def test_a_user_who_declines_ends_the_cell_and_the_model_is_told(
    connect: Any, host_kernel: Any, action: str, how: str
) -> None:
    async with connect(user=User(action=action)) as agent:
        await connected(agent, host_kernel)
        told = await agent.refused("execute_code", code="before = 1; input('Sure? '); after = 1")
        assert "KeyboardInterrupt" in told
        assert f"The user {how}, so the cell was interrupted." in told
        assert await agent.run("before, 'after' in globals()") == "(1, False)"


async def test_without_such_a_client_the_model_is_asked_and_answers_with_send_input(
    connect: Any, host_kernel: Any
) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        told = await agent.run("print('so far'); a = input('First? '); b = input('Second? '); a + b")
        assert told.startswith("so far\nWaiting for input: `First?`")
        assert "send_input(text=…, execution=1)" in told
        assert "`Second?`" in await agent.call("send_input", text="x")
        assert "'xy'" in await agent.call("send_input", text="y", execution=1)
        assert "asks for nothing" in await agent.refused("send_input", text="z", execution=1)
        assert "No cell" in await agent.refused("send_input", text="z")


async def test_a_debugger_in_a_cell_can_be_used(connect: Any, host_kernel: Any) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        await agent.refused("execute_code", code="def f(secret):\n    return 1 / 0\nf(41)")
        assert "ipdb>" in await agent.run("%debug")
        assert "42" in await agent.call("send_input", text="p secret + 1")
        assert "Waiting" not in await agent.call("send_input", text="q")


async def test_a_password_is_asked_of_nobody(connect: Any, host_kernel: Any) -> None:
    user = User("secret")
    async with connect(user=user) as agent:
        await connected(agent, host_kernel)
        told = await agent.refused("execute_code", code="import getpass; getpass.getpass()")
        assert "never asked through an agent" in told
        assert await agent.run("1") == "1"
    assert user.asked == []


async def test_a_user_who_never_answers_does_not_hold_up_the_kernel(connect: Any, host_kernel: Any) -> None:
    user = Absent()
    async with connect(user=user, program=("-c", IMPATIENT)) as agent, anyio.create_task_group() as group:
        await connected(agent, host_kernel)
        told: list[str] = []

        async def call() -> None:
            told.append(await agent.refused("execute_code", code="input()"))

        group.start_soon(call)
        with anyio.fail_after(SOON):
            await user.asked.wait()
            assert await agent.run("6 * 7") == "42"
        seen = await agent.refused("get_execution", execution=1)
        assert "Nobody answered within 0.5 s, so the cell was interrupted" in seen
        if agent.client.protocol_version < "2026":
            # the call was open, and ends although the client still asks
            with anyio.fail_after(SOON):
                while not told:
                    await anyio.sleep(0.01)
            assert told == [seen]
        group.cancel_scope.cancel()


async def test_an_interrupt_by_the_model_ends_the_open_question(connect: Any, host_kernel: Any) -> None:
    user = Absent()
    async with connect(user=user) as agent, anyio.create_task_group() as group:
        await connected(agent, host_kernel)
        group.start_soon(agent.client.call_tool, "execute_code", {"code": "input()"})
        with anyio.fail_after(SOON):
            await user.asked.wait()
            assert "KeyboardInterrupt" in await agent.refused("interrupt_kernel")
            assert await agent.run("6 * 7") == "42"
        group.cancel_scope.cancel()


async def test_a_cell_that_asks_only_after_the_call_returned_is_asked_by_the_next_look_at_it(
    connect: Any, host_kernel: Any
) -> None:
    user = User("late")
    async with connect(user=user) as agent:
        await connected(agent, host_kernel)
        assert "Still running" in await agent.run("import time; time.sleep(1); input('Now? ')", timeout=0.2)
        assert await agent.call("get_execution", execution=1, wait=SOON) == "'late'"
    assert user.asked == ["Code in kernel-test asks: Now? "]


async def test_progress_goes_on_while_the_user_thinks(connect: Any, host_kernel: Any) -> None:
    told = asyncio.Event()

    async def tell(_: float, __: float | None, ___: str | None) -> None:
        told.set()

    async def thinking(_: Any, __: Any) -> ElicitResult:
        if agent.client.protocol_version < "2026":  # since then no call is open meanwhile
            await told.wait()
        return ElicitResult(action="accept", content={"answer": "thought"})

    async with connect(user=thinking) as agent:
        await connected(agent, host_kernel)
        with anyio.fail_after(SOON):
            result = await agent.client.call_tool("execute_code", {"code": "input()"}, progress_callback=tell)
    assert agent.text(result) == "'thought'"


async def test_more_questions_than_a_client_puts_up_with_are_told_to_the_model(connect: Any, host_kernel: Any) -> None:
    user = User("x")
    async with connect(user=user) as agent:
        await connected(agent, host_kernel)
        told = await agent.run("for n in range(12): input(f'{n}? ')\n'all'")
        while "Waiting for input" in told:
            told = await agent.call("send_input", text="y")
        assert told == "'all'"


class Era2026:
    """A modern client that answers by hand, and so can do it twice, late or wrong."""

    def __init__(self, agent: Any) -> None:
        self._session = agent.client.session

    async def call(self, code: str, **retry: Any) -> Any:
        return await self._session.call_tool("execute_code", {"code": code}, allow_input_required=True, **retry)

    async def asked(self, code: str, **retry: Any) -> InputRequiredResult:
        result = await self.call(code, **retry)
        assert isinstance(result, InputRequiredResult), result
        return result


def answering(text: str) -> dict[str, ElicitResult]:
    return {"input": ElicitResult(action="accept", content={"answer": text})}


@pytest.mark.parametrize("connect", ["auto"], ids=["modern"], indirect=True)
async def test_a_replayed_or_stale_answer_neither_runs_the_code_nor_answers_the_next_question(
    connect: Any, host_kernel: Any
) -> None:
    async with connect(user=User("unused")) as agent:
        await connected(agent, host_kernel)
        client = Era2026(agent)
        code = "runs = globals().get('runs', 0) + 1\na = input('a? '); b = input('b? '); print(a, b)"
        first = await client.asked(code)
        second = await client.asked(code, input_responses=answering("1"), request_state=first.request_state)
        replayed = await client.call(code, input_responses=answering("1"), request_state=first.request_state)
        assert replayed.is_error
        assert "does not ask that any more" in agent.text(replayed)
        assert "no code was run again" in agent.text(replayed)
        done = await client.call(code, input_responses=answering("2"), request_state=second.request_state)
        assert agent.text(done) == "1 2"
        stale = await client.call(code, input_responses=answering("3"), request_state=second.request_state)
        assert "no code was run again" in agent.text(stale)
        assert await agent.run("runs") == "1"


@pytest.mark.parametrize("connect", ["auto"], ids=["modern"], indirect=True)
async def test_a_retry_without_an_answer_is_asked_again(connect: Any, host_kernel: Any) -> None:
    async with connect(user=User("unused")) as agent:
        await connected(agent, host_kernel)
        client = Era2026(agent)
        first = await client.asked("input('a? ')")
        again = await client.asked("input('a? ')", request_state=first.request_state)
        assert again.input_requests
        assert first.input_requests
        assert again.input_requests == first.input_requests
        done = await client.call("input('a? ')", input_responses=answering("1"), request_state=again.request_state)
        assert agent.text(done) == "'1'"
