"""What a cell asks with input(), as it reaches the user of a real client over stdio, in both eras, or the model."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path
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
        assert "does not ask for anything" in await agent.refused("send_input", text="z", execution=1)
        assert "No cell" in await agent.refused("send_input", text="z")


async def test_a_client_that_leaves_while_the_cell_asks_leaves_the_kernel_free(connect: Any, host_kernel: Any) -> None:
    async with connect() as agent:
        await connected(agent, host_kernel)
        assert "Waiting for input" in await agent.run("input()")
    assert run(host_kernel, "-c", "print('free')", input="").stdout == "free\n"


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
        assert "no code was run" in agent.text(replayed)
        done = await client.call(code, input_responses=answering("2"), request_state=second.request_state)
        assert agent.text(done) == "1 2"
        stale = await client.call(code, input_responses=answering("3"), request_state=second.request_state)
        assert "no code was run" in agent.text(stale)
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


def run(kernel: Any, *arguments: str, **keywords: Any) -> subprocess.CompletedProcess[str]:
    """Run code in a kernel as a script would; what it is to read is in the keywords."""
    command = [sys.executable, "-m", "bridge", "run", str(kernel.file), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=SOON, check=False, **keywords)


def test_piped_lines_answer_one_after_the_other(host_kernel: Any) -> None:
    done = run(host_kernel, "-c", "print('hi'); print([input('a? '), input('b? '), input()])", input="one\n\nlast")
    assert (done.returncode, done.stdout) == (0, "hi\n['one', '', 'last']\n")
    assert done.stderr == "a? \nb? \n"


def test_answers_may_be_lines_of_a_file(host_kernel: Any, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_text("one\ntwo\n")
    with lines.open() as opened:
        done = run(host_kernel, "-c", "print(input(), input())", stdin=opened)
    assert (done.returncode, done.stdout) == (0, "one two\n")


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        (["-"], {"input": "input('a? ')"}),
        (["-c", "input('a? ')"], {"input": ""}),
        (["-c", "input('a? '); input('b? ')"], {"input": "only one\n"}),
        (["-c", "input('a? ')"], {"stdin": subprocess.DEVNULL}),
    ],
    ids=["the code itself", "empty", "exhausted", "none"],
)
def test_where_no_line_can_come_the_cell_is_interrupted_and_it_is_said(
    host_kernel: Any, arguments: list[str], keywords: dict[str, Any]
) -> None:
    done = run(host_kernel, *arguments, **keywords)
    assert done.returncode == 1
    assert done.stderr.count("kernel-bridge: The cell asks for input, and standard input has no line left") == 1
    assert run(host_kernel, "-c", "print('free')", input="").stdout == "free\n"


def test_a_standard_input_that_was_closed_has_no_line_either(host_kernel: Any) -> None:
    command = f'exec {sys.executable} -m bridge run "$0" -c "input()" <&-'
    done = subprocess.run(
        ["/bin/sh", "-c", command, str(host_kernel.file)], capture_output=True, text=True, timeout=SOON, check=False
    )
    assert done.returncode == 1
    assert "no line left" in done.stderr


def test_a_password_is_refused_at_the_shell_too(host_kernel: Any) -> None:
    done = run(host_kernel, "-c", "import getpass; getpass.getpass()", input="secret\n")
    assert done.returncode == 1
    assert "kernel-bridge: The cell asked for a password" in done.stderr


class Terminal:
    """`kernel-bridge run` at a terminal."""

    def __init__(self, kernel: Any, code: str) -> None:
        self._master, slave = pty.openpty()
        command = [sys.executable, "-m", "bridge", "run", str(kernel.file), "-c", code]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        self.shown = ""

    def read_until(self, text: str) -> None:
        while text not in self.shown:
            assert self._read(), f"it ended without {text!r}: {self.shown}"

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        while self._read():
            pass
        os.close(self._master)
        return self.process.wait(SOON)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], SOON)
        assert ready, f"nothing came for {SOON} s after: {self.shown}"
        try:
            data = os.read(self._master, 4096)
        except OSError:  # the other end is closed
            return False
        self.shown += data.decode()
        return bool(data)


def test_at_a_terminal_the_person_is_asked(host_kernel: Any) -> None:
    terminal = Terminal(host_kernel, "name = input('Name? '); print('hello', name)")
    terminal.read_until("Name? ")
    terminal.type("Ada\n")
    assert terminal.end() == 0
    assert terminal.shown == "Name? Ada\r\nhello Ada\r\n"


def test_control_d_at_a_terminal_is_the_end_of_the_file_for_the_cell(host_kernel: Any) -> None:
    terminal = Terminal(host_kernel, "try: input('More? ')\nexcept EOFError: print('no more')")
    terminal.read_until("More? ")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert "no more" in terminal.shown


def test_control_c_at_a_question_interrupts_the_cell_and_ends_the_command(host_kernel: Any) -> None:
    terminal = Terminal(host_kernel, "input('Name? ')")
    terminal.read_until("Name? ")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    assert run(host_kernel, "-c", "print('free')", input="").stdout == "free\n"
