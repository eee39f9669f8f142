"""Who is asked for input through a relay, and who interrupts what."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

# the types of this folder's fixtures
Ide: TypeAlias = Any
Kernel: TypeAlias = Any
Client: TypeAlias = Any
Message: TypeAlias = dict[str, Any]


def answer(client: Client, question: Message, value: str) -> None:
    client.send("stdin", "input_reply", {"value": value, "status": "ok"}, parent=question)


def endless(client: Client, code: str = "import time\nwhile True: time.sleep(0.01)") -> str:
    """Start a cell that ends when it is interrupted, and wait until it does nothing else."""
    msg_id = client.start("print('runs')\nimport sys; sys.stdout.flush()\n" + code)
    client.of("stream", msg_id)
    return str(msg_id)


def asked_nothing(client: Client) -> bool:
    return not client.sockets["stdin"].poll(0)


def test_a_cell_asks_the_client_that_ran_it_and_no_other_of_the_same_relay(ide: Ide, client: Client) -> None:
    other = ide.client()
    msg_id = other.start("name = input('Who? ')")
    question = other.get("stdin")
    assert question["content"] == {"prompt": "Who? ", "password": False}
    assert question["parent_header"]["msg_id"] == msg_id
    assert asked_nothing(client)
    answer(other, question, "Ada")
    assert other.reply(msg_id)["content"]["status"] == "ok"
    assert client.value("name") == "'Ada'"


def test_a_cell_asks_the_client_that_ran_it_where_two_relays_share_the_kernel(
    client: Client, kernel: Kernel, start_ide: Callable[..., Ide]
) -> None:
    other = start_ide(kernel).client()
    for asked, spared in ((client, other), (other, client)):
        msg_id = asked.start("word = input()")
        question = asked.get("stdin")
        assert asked_nothing(spared)
        answer(asked, question, "said")
        assert asked.reply(msg_id)["content"]["status"] == "ok"


def test_a_password_is_asked_for_as_one(client: Client) -> None:
    msg_id = client.start("import getpass; secret = getpass.getpass('Password: ')")
    question = client.get("stdin")
    assert question["content"] == {"prompt": "Password: ", "password": True}
    answer(client, question, "x")
    assert client.reply(msg_id)["content"]["status"] == "ok"


def test_a_client_that_allows_no_questions_is_asked_none(client: Client) -> None:
    reply, _ = client.run("input()", allow_stdin=False)
    assert reply["ename"] == "StdinNotImplementedError"
    assert asked_nothing(client)


def test_a_question_waits_for_a_client_that_is_just_connecting(ide: Ide, client: Client) -> None:
    connecting = ide.client(late=["stdin"])
    msg_id = connecting.start("early = input()")
    connecting.began(msg_id)
    # the relay has the question by the time that a later answer of the kernel's has come
    assert client.ask("control", "list_subshell_request")["content"]["status"] == "ok"
    connecting.connect("stdin")
    answer(connecting, connecting.get("stdin"), "asked")
    assert connecting.reply(msg_id)["content"]["status"] == "ok"


def test_a_question_to_a_client_that_has_left_is_interrupted(ide: Ide, client: Client, agent: Client) -> None:
    asked = ide.client()
    asked.start("input('Is anybody there? ')")
    asked.get("stdin")
    asked.close()
    assert agent.run("'the kernel is free'")[0]["status"] == "ok"


def test_a_question_that_comes_when_its_client_has_left_already_is_interrupted(ide: Ide, agent: Client) -> None:
    agent.run("import threading\ngo = threading.Event()")
    subshell = agent.ask("control", "create_subshell_request")["content"]["subshell_id"]
    asked = ide.client()
    asked.began(asked.start("go.wait(20); input('Is anybody there? ')"))
    asked.close()
    agent.send("shell", "execute_request", {"code": "go.set()"}, header={"subshell_id": subshell})
    assert agent.run("'the kernel is free'")[0]["status"] == "ok"
    agent.ask("control", "delete_subshell_request", {"subshell_id": subshell})


def test_a_client_that_leaves_costs_no_other_its_question(ide: Ide, client: Client) -> None:
    other = ide.client()
    msg_id = client.start("kept = input()")
    question = client.get("stdin")
    other.close()
    # the answer to this comes after the relay has looked whether the asked one is there
    again = ide.client()
    with pytest.raises(TimeoutError):
        again.get("stdin", timeout=0.5)
    assert asked_nothing(client)
    answer(client, question, "still here")
    assert client.reply(msg_id)["content"]["status"] == "ok"
    assert client.value("kept") == "'still here'"


def test_an_ide_that_ends_at_a_question_leaves_the_kernel_free(
    kernel: Kernel, agent: Client, start_ide: Callable[..., Ide]
) -> None:
    ide = start_ide(kernel)
    client = ide.client()
    client.start("input()")
    client.get("stdin")
    os.kill(ide.pid, signal.SIGTERM)
    ide.ended()
    assert agent.run("'the kernel is free'")[0]["status"] == "ok"


# -- interrupts


def test_the_button_interrupts_the_ides_own_cell(ide: Ide, client: Client) -> None:
    msg_id = endless(client)
    ide.manager.interrupt_kernel()
    assert client.reply(msg_id)["content"]["ename"] == "KeyboardInterrupt"


def test_an_interrupt_is_answered_where_nothing_runs(client: Client) -> None:
    assert client.ask("control", "interrupt_request")["content"]["status"] == "ok"


def test_the_button_interrupts_what_another_client_runs(ide: Ide, client: Client, agent: Client) -> None:
    msg_id = endless(agent)
    client.of("stream", msg_id)
    assert client.ask("control", "interrupt_request")["content"]["status"] == "ok"
    assert agent.reply(msg_id)["content"]["ename"] == "KeyboardInterrupt"


def test_a_signal_to_the_relay_interrupts_as_the_message_does(ide: Ide, client: Client, agent: Client) -> None:
    for each in (client, agent):
        msg_id = endless(each)
        os.kill(ide.pid, signal.SIGINT)
        assert each.reply(msg_id)["content"]["ename"] == "KeyboardInterrupt"


def test_a_cell_in_a_top_level_await_is_interrupted_at_once(client: Client, ide: Ide) -> None:
    msg_id = endless(client, "import asyncio\nawait asyncio.sleep(3600)")
    ide.manager.interrupt_kernel()
    assert client.reply(msg_id)["content"]["ename"] in ("CancelledError", "KeyboardInterrupt")


@pytest.mark.parametrize("joins", ["before", "meanwhile"])
@pytest.mark.parametrize("end", ["shutdown", "restart", "shutdown now", "restart now"])
def test_what_another_client_runs_is_not_interrupted_by_an_ides_shutdown_or_restart(
    kernel: Kernel, agent: Client, start_ide: Callable[..., Ide], joins: str, end: str
) -> None:
    subshell = agent.ask("control", "create_subshell_request")["content"]["subshell_id"]
    agent.run("import threading\nleft = threading.Event()")
    ide = start_ide(kernel) if joins == "before" else None
    if ide:
        ide.client()
    msg_id = agent.start("left.wait(60)")
    agent.began(msg_id)
    ide = ide or start_ide(kernel)
    ide.client()
    if end.startswith("shutdown"):
        ide.manager.shutdown_kernel(now="now" in end)
    else:
        ide.manager.restart_kernel(now="now" in end)
        ide.client()
    agent.send("shell", "execute_request", {"code": "left.set()"}, header={"subshell_id": subshell})
    assert agent.reply(msg_id)["content"]["status"] == "ok"
    agent.ask("control", "delete_subshell_request", {"subshell_id": subshell})


def test_the_ides_own_cell_ends_with_its_shutdown(kernel: Kernel, agent: Client, start_ide: Callable[..., Ide]) -> None:
    ide = start_ide(kernel)
    client = ide.client()
    endless(client)
    ide.manager.shutdown_kernel()
    assert agent.run("'the kernel is free'")[0]["status"] == "ok"
