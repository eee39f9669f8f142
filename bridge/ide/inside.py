"""Code that an IDE's side runs in a kernel without a trace: how it is written.

The one rule: it leaves no name in the user's namespace, no history and no output but what it is for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bridge.authors import OURS

_TELL_ONCE = """
from sys import modules
shell = modules["IPython"].get_ipython()
told = "__kernel_bridge_tells__"

def tell(*_):
    # the agent's cells are not the person's: whoever restarts a kernel by hand looks at the IDE
    if str(shell.get_parent().get("header", {}).get("session", "")).startswith(ours):
        return
    shell.events.unregister("pre_run_cell", tell)
    modules["builtins"].print(text, file=modules["sys"].stderr, flush=True)

tell.__dict__[told] = True
if not any(hasattr(each, told) for each in shell.events.callbacks["pre_run_cell"]):
    shell.events.register("pre_run_cell", tell)
"""
_CHANGE_DIRECTORY = "from os import chdir; chdir(path)"


def tell_once(text: str) -> str:
    """Return code that has the next cell of a person's client begin with this text, on stderr."""
    return _inside(_TELL_ONCE, text=text, ours=OURS)


def change_directory(path: Path) -> str:
    """Return code that makes it the kernel's working directory."""
    return _inside(_CHANGE_DIRECTORY, path=str(path))


def request(code: str) -> dict[str, Any]:
    """Return the content of the `execute_request` that runs such code."""
    return {
        "code": code,
        "silent": True,
        "store_history": False,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": False,
    }


def _inside(source: str, **names: str) -> str:
    # Builtins are taken from a frame, past what the user's namespace may call so.
    return f"(lambda b: b['exec']({source!r}, {names!r}))((0 for _ in ()).gi_frame.f_builtins)"
