"""Questions of our own cells, with two sessions on one real ipykernel: every question has an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bridge.errors import KernelBusy, NoAnswer, UsageError
from bridge.kernels.listing import Outcome
from bridge.kernels.registry import Kernels
from bridge.launchers.docker import DockerLauncher
from bridge.messages import Message
from bridge.outputs import Error, ExecuteResult, Result, Stream
from bridge.policy import built_in
from bridge.session import KernelSession, Loss, open_session

pytestmark = pytest.mark.anyio

# Where a test waits for the other side; far more than it takes, so that only a hang fails it.
SOON = 20.0


async def gone() -> Loss:
    return Loss("The kernel is gone.")


async def connect(kernel: Any, username: str, **keywords: Any) -> KernelSession:
    return await open_session(kernel.info, username=username, explain=gone, timeout=SOON, starting=True, **keywords)


@pytest.fixture
async def agent(host_kernel: Any) -> AsyncIterator[KernelSession]:
    session = await connect(host_kernel, "agent")
    yield session
    await session.close()


@pytest.fixture
async def person(host_kernel: Any) -> AsyncIterator[KernelSession]:
    session = await connect(host_kernel, "alice")
    yield session
    await session.close()


async def asking(session: KernelSession, code: str) -> Result:
    result = await session.execute(code, timeout=SOON)
    assert result.status == "asking", result
    return result


def prompt(result: Result) -> str:
    assert result.question, result
    return result.question.prompt


async def is_free(person: KernelSession) -> None:
    assert (await person.execute("1", timeout=SOON)).status == "ok"


async def test_a_cell_that_asks_is_told_at_once_with_what_it_printed_before_and_goes_on_with_the_answer(
    agent: KernelSession,
) -> None:
    result = await asking(agent, "print('choose'); name = input('Name: '); print('hello', name)")
    assert (prompt(result), result.outputs) == ("Name: ", (Stream("stdout", "choose\n"),))
    result = await agent.answer("Ada", wait=SOON)
    assert (result.status, result.question) == ("ok", None)
    assert result.outputs == (Stream("stdout", "choose\nhello Ada\n"),)


async def test_several_questions_of_one_cell_are_asked_one_after_the_other(agent: KernelSession) -> None:
    result = await asking(agent, "[input(f'{number}? ') for number in range(3)]")
    for number in range(3):
        assert prompt(result) == f"{number}? "
        result = await agent.answer(f"answer {number}", number=result.execution, wait=SOON)
    assert isinstance(result.outputs[-1], ExecuteResult)
    assert result.outputs[-1].data["text/plain"] == "['answer 0', 'answer 1', 'answer 2']"


async def test_all_that_was_printed_before_a_question_comes_with_it(agent: KernelSession) -> None:
    """The question and the output are on two sockets, of which the output's may be behind."""
    receive, loop = agent._receive, asyncio.get_running_loop()

    def late(message: Message) -> None:
        if message.channel == "iopub":
            loop.call_later(0.2, receive, message)
        else:
            receive(message)

    agent._channels.start(late, agent._disconnected)
    result = await asking(agent, "print('1: tea\\n2: coffee')\ninput('Which? ')")
    assert result.outputs == (Stream("stdout", "1: tea\n2: coffee\n"),)
    assert (await agent.answer("1", wait=SOON)).status == "ok"


async def test_an_answer_where_nothing_is_asked_is_refused(agent: KernelSession) -> None:
    with pytest.raises(UsageError, match="asks for input"):
        await agent.answer("x", wait=SOON)
    done = await agent.execute("1", timeout=SOON)
    with pytest.raises(UsageError, match="does not ask for anything; its status is ok"):
        await agent.answer("x", number=done.execution, wait=SOON)


async def test_an_answer_to_an_earlier_question_is_not_taken_for_one_to_the_next(agent: KernelSession) -> None:
    first = await asking(agent, "a = input('a? '); b = input('b? '); (a, b)")
    assert first.question
    second = await agent.answer("1", question=first.question.id, number=first.execution, wait=SOON)
    with pytest.raises(UsageError, match="does not ask that any more"):
        await agent.answer("1", question=first.question.id, number=first.execution, wait=SOON)
    assert prompt(second) == "b? "
    result = await agent.answer("2", wait=SOON)
    assert isinstance(result.outputs[-1], ExecuteResult)
    assert result.outputs[-1].data["text/plain"] == "('1', '2')"


async def test_of_two_answers_at_the_same_time_one_counts_and_the_other_is_refused(agent: KernelSession) -> None:
    await asking(agent, "a = input(); b = input(); (a, b)")
    both = await asyncio.gather(agent.answer("1", wait=SOON), agent.answer("2", wait=SOON), return_exceptions=True)
    assert [type(each) for each in both] == [Result, UsageError]
    result = await agent.answer("3", wait=SOON)
    assert isinstance(result.outputs[-1], ExecuteResult)
    assert result.outputs[-1].data["text/plain"] == "('1', '3')"


async def test_an_answer_that_no_message_can_carry_leaves_the_question_open(agent: KernelSession) -> None:
    result = await asking(agent, "input()")
    with pytest.raises(UsageError, match="surrogate"):
        await agent.answer("\ud800", wait=SOON)
    assert (await agent.read(result.execution, wait=0)).status == "asking"
    assert (await agent.answer("ok", wait=SOON)).status == "ok"


async def test_while_it_asks_the_next_call_is_told_so(agent: KernelSession) -> None:
    await asking(agent, "input('Really? ')")
    assert agent.state().running == ("execution 1 of this bridge, which asks `Really?` (send_input answers)",)
    with pytest.raises(KernelBusy, match="asks `Really"):
        await agent.execute("1", timeout=0.2)
    await agent.answer("", wait=SOON)


async def test_a_password_is_never_asked_and_the_cell_is_interrupted(
    agent: KernelSession, person: KernelSession
) -> None:
    asked: list[str] = []

    async def ask(prompt: str) -> str:
        asked.append(prompt)
        return "secret"

    result = await agent.execute("import getpass; getpass.getpass('Token: ')", timeout=SOON, ask=ask)
    assert result.status == "error"
    assert isinstance(result.outputs[-1], Error)
    assert result.outputs[-1].ename == "KeyboardInterrupt"
    assert "password" in result.notes[0]
    assert not asked
    await is_free(person)


async def test_a_question_that_nobody_answers_ends_and_the_kernel_is_free_again(
    host_kernel: Any, person: KernelSession
) -> None:
    agent = await connect(host_kernel, "agent", patience=0.3)
    result = await asking(agent, "input('Anyone? ')")
    await is_free(person)
    result = await agent.read(result.execution, wait=SOON)
    assert result.status == "error"
    assert "Nobody answered within 0.3 s" in result.notes[0]
    with pytest.raises(UsageError, match="its status is error"):
        await agent.answer("late", number=result.execution, wait=SOON)
    await agent.close()


async def test_whoever_never_answers_a_put_question_is_waited_for_no_longer_than_that(host_kernel: Any) -> None:
    agent = await connect(host_kernel, "agent", patience=0.3)
    cancelled = asyncio.Event()

    async def never(_: str) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with asyncio.timeout(SOON):
        result = await agent.execute("input()", timeout=None, ask=never)
    assert "Nobody answered" in result.notes[0]
    assert cancelled.is_set()
    await agent.close()


async def test_a_question_is_put_to_whoever_can_answer_and_the_time_of_that_does_not_count(
    agent: KernelSession,
) -> None:
    async def ask(prompt: str) -> str:
        # longer than the call's time-out
        await asyncio.sleep(0.6)
        return prompt.upper()

    result = await agent.execute("input('a'), input('b')", timeout=0.5, ask=ask)
    assert isinstance(result.outputs[-1], ExecuteResult), result
    assert result.outputs[-1].data["text/plain"] == "('A', 'B')"


async def test_a_declined_question_interrupts_the_cell_and_says_why(
    agent: KernelSession, person: KernelSession
) -> None:
    async def ask(_: str) -> str:
        raise NoAnswer("The user declined.")

    result = await agent.execute("input()", timeout=SOON, ask=ask)
    assert (result.status, result.notes) == ("error", ("The user declined.",))
    result = await asking(agent, "input()")
    assert result.question
    result = await agent.decline("The user declined.", number=result.execution, question=result.question.id)
    assert (result.status, result.notes) == ("error", ("The user declined.",))
    await is_free(person)


async def test_what_cannot_be_put_to_the_user_is_told_to_the_caller(agent: KernelSession) -> None:
    async def ask(_: str) -> None:
        return None

    result = await agent.execute("input('still? ')", timeout=SOON, ask=ask)
    assert prompt(result) == "still? "
    assert (await agent.answer("yes", wait=SOON)).status == "ok"


async def test_an_interrupt_ends_a_cell_that_asks(agent: KernelSession) -> None:
    await asking(agent, "input()")
    result = await agent.interrupt()
    assert (result.status, result.question) == ("error", None)


async def test_a_cell_that_goes_on_after_the_interrupt_does_not_ask_any_more(agent: KernelSession) -> None:
    code = "import time\ntry: input()\nexcept KeyboardInterrupt: time.sleep(1.5)\n'went on'"
    await asking(agent, code)
    await agent._interrupts.send()
    with pytest.raises(UsageError, match="status is running"):
        await agent.answer("x", number=1, wait=SOON)
    assert (await agent.read(1, wait=SOON)).status == "ok"


async def test_a_cancelled_call_interrupts_the_cell_whose_question_was_put(
    agent: KernelSession, person: KernelSession
) -> None:
    put = asyncio.Event()

    async def never(_: str) -> str:
        put.set()
        await asyncio.Event().wait()
        raise AssertionError

    call = asyncio.create_task(agent.execute("input()", timeout=SOON, ask=never))
    async with asyncio.timeout(SOON):
        await put.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await is_free(person)


async def test_a_cancelled_answer_interrupts_the_cell_that_it_let_go_on(
    agent: KernelSession, person: KernelSession
) -> None:
    await asking(agent, "print(input(), flush=True); import time; time.sleep(60)")
    went_on = asyncio.Event()

    def look(message: Message) -> None:
        if message.msg_type == "stream":
            went_on.set()

    call = asyncio.create_task(agent.answer("on", wait=SOON, on_message=look))
    async with asyncio.timeout(SOON):
        await went_on.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await is_free(person)


async def test_a_kernel_that_dies_while_it_asks_ends_the_question(host_kernel: Any, agent: KernelSession) -> None:
    put = asyncio.Event()

    async def never(_: str) -> str:
        put.set()
        await asyncio.Event().wait()
        raise AssertionError

    call = asyncio.create_task(agent.execute("input()", timeout=SOON, ask=never))
    async with asyncio.timeout(SOON):
        await put.wait()
        host_kernel.kill()
        result = await call
    assert (result.status, result.question) == ("lost", None)
    with pytest.raises(UsageError, match="its status is lost"):
        await agent.answer("x", number=result.execution, wait=SOON)
    assert agent._questions.asked is None


async def test_leaving_the_kernel_does_not_leave_it_waiting_for_an_answer(
    host_kernel: Any, person: KernelSession
) -> None:
    agent = await connect(host_kernel, "agent")
    await asking(agent, "input()")
    await agent.close()
    await is_free(person)


async def test_the_persons_question_never_reaches_the_agent(agent: KernelSession, person: KernelSession) -> None:
    result = await asking(person, "input('Yours? ')")
    assert agent._questions.asked is None
    with pytest.raises(UsageError, match="asks for input"):
        await agent.answer("mine", wait=SOON)
    assert (await person.read(result.execution, wait=0)).status == "asking"
    result = await person.answer("theirs", wait=SOON)
    assert isinstance(result.outputs[-1], ExecuteResult)
    assert result.outputs[-1].data["text/plain"] == "'theirs'"


async def test_a_question_that_another_client_answered_gives_way_to_the_next_one(
    agent: KernelSession, person: KernelSession
) -> None:
    """The kernel takes an answer from anyone, and does not tell."""
    await asking(agent, "print('on', flush=True); a = input('a? '); b = input('b? '); (a, b)")
    await person._channels.send("stdin", "input_reply", {"value": "theirs"})
    async with asyncio.timeout(SOON):
        while prompt(await agent.read(1, wait=0)) == "a? ":
            await asyncio.sleep(0.005)
    result = await agent.answer("ours", wait=SOON)
    assert isinstance(result.outputs[-1], ExecuteResult), result
    assert result.outputs[-1].data["text/plain"] == "('theirs', 'ours')"


FORGED = """
from IPython import get_ipython
k = get_ipython().kernel
parent, ident = k.get_parent(), k._get_shell_context_var(k._shell_parent_ident)
for number in range(500):
    for content in ({'prompt': str(number)}, {'prompt': 7}, {}, {'prompt': None, 'password': 0}):
        k.session.send(k.stdin_socket, 'input_request', content, parent, ident=ident)
"""


async def test_forged_questions_end_with_the_cell_and_harm_nothing(agent: KernelSession, person: KernelSession) -> None:
    async def ask(_: str) -> str:
        return "x"

    result = await agent.execute(FORGED, timeout=SOON, ask=ask)
    assert result.status == "ok"
    assert (await agent.execute("input('real? ')", timeout=SOON, ask=ask)).status == "ok"
    assert agent._questions.asked is None
    await is_free(person)


async def test_a_look_beside_a_cell_does_not_take_its_question_away(
    agent: KernelSession, person: KernelSession
) -> None:
    cell = asyncio.create_task(
        person.execute("import time; print('on', flush=True); time.sleep(1); input('Still? ')", timeout=SOON)
    )
    async with asyncio.timeout(SOON):
        while agent.state().state != "busy":
            await asyncio.sleep(0.005)
    assert await agent.look("1 + 1") == "2"
    result = await cell
    assert result.status == "asking", result
    await person.answer("", wait=SOON)


async def test_what_must_be_said_first_is_not_lost_with_a_question_that_is_not_shown(
    host_kernel: Any, agent: KernelSession
) -> None:
    kernels = Kernels(built_in(), DockerLauncher)
    status, _ = await kernels.connect(str(host_kernel.file))
    kernels.untold(Outcome(status.name, ("All variables are gone.",)))
    assert (await kernels.execute("1", timeout=SOON)).notices == ("All variables are gone.",)
    assert (await kernels.execute("1", timeout=SOON)).notices == ()
    await kernels.close()


async def test_nothing_is_kept_of_a_question_beyond_its_cell(agent: KernelSession) -> None:
    for _ in range(3):
        await asking(agent, "input()")
        await agent.answer("", wait=SOON)
    assert not agent._sent._cells
    assert not agent._requests._fences
    assert agent._questions.asked is None
