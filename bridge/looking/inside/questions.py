"""What the main thread stands still with in `input()` or `getpass()`, as ipykernel's own frame has it."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.looking.inside.describing import bound

LONGEST_PROMPT = 4000  # characters of a prompt


def question() -> dict[str, Any]:
    """The message that runs, its prompt and if it is a password; nothing where the main thread does not ask."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_code.co_name == "_input_request" and is_of_ipykernel(frame.f_globals):
            return asked(dict(frame.f_locals))
        frame = frame.f_back
    return {}


def is_of_ipykernel(names: Any) -> bool:
    """Tell it of a module's names without calling anything of the user's, whose code may run in names of its own."""
    name = dict(bound(names)).get("__name__") if type(names) is dict else None
    return type(name) is str and name == "ipykernel.kernelbase"


def asked(known: dict[str, Any]) -> dict[str, Any]:
    """What the frame's names tell, where they are what ipykernel puts there."""
    parent, prompt = known.get("parent"), known.get("prompt")
    header = dict(bound(parent)).get("header") if type(parent) is dict else None
    msg_id = dict(bound(header)).get("msg_id") if type(header) is dict else None
    if type(msg_id) is not str or type(prompt) is not str:
        return {}
    return {"msg_id": msg_id, "prompt": prompt[:LONGEST_PROMPT], "password": known.get("password") is True}
