"""What a kernel stands still with, asked beside it: the expression that is sent, and what its answer means.

The one rule: a question that nobody heard is found where it is asked, in the kernel; nothing is concluded from silence.
"""

from __future__ import annotations

from dataclasses import dataclass

from bridge.looking import _content, _expression, _unreadable


@dataclass(frozen=True)
class Standing:
    """The question of a cell that was not heard."""

    msg_id: str
    """Of the request that runs the cell."""
    prompt: str | None
    """None where it is a password that is asked for."""


def question_expression() -> str:
    """Return the expression whose value is what the kernel's main thread asks, as JSON."""
    return _expression(("describing", "questions"), "question()")


def read_question(answer: str) -> Standing | None:
    """Read the text form of that value; None where nothing is asked. Raises `KernelError` where it is no answer."""
    content = _content(answer)
    if not content:
        return None
    msg_id, prompt, password = (content.get(each) for each in ("msg_id", "prompt", "password"))
    if not isinstance(msg_id, str) or not isinstance(prompt, str):
        raise _unreadable()
    return Standing(msg_id, None if password else prompt)
