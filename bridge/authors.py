"""Whose request a cell was, as far as the header tells that the kernel shows to all its clients.

The one rule: what a header does not tell is not guessed. Kernels repeat the header of a request (`msg_id`, `session`,
`username`) and nothing else of it, no metadata; all of it is the sender's own word.

How each program fills it in was read in its source: jupyter_client (consoles, qtconsole, Spyder, nbclient) numbers its
messages `SESSION_PID_N`; @jupyterlab/services (JupyterLab, Notebook) makes a UUID of each and leaves the user's name
empty, and VS Code, which is built on it, puts one more UUID in its place; runtimelib (Zed) names itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Every session of a bridge begins with it, so that bridges on one kernel know each other.
OURS = "kernel-bridge-"
# So much of a session's id tells any two clients of a kernel apart.
SHORT = 8
# A user's name is no longer than that anywhere; of what claims to be one, the rest is dropped.
LONGEST = 64

_BY_USERNAME = {"": "JupyterLab, Notebook or another client of a Jupyter server", "runtimelib": "runtimelib (Zed)"}
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True)
class Author:
    """Who ran a cell."""

    username: str
    """Empty where the client does not tell it."""
    session: str
    """The first characters of the client's Jupyter session: two clients of one user have two of them."""
    client: str
    """The program, or what it is built on; empty where it cannot be told."""


def author(*, msg_id: str, session: str, username: str) -> Author:
    """Return whose request this is, by three fields of its header."""
    short = session.removeprefix(OURS)[:SHORT]
    if _UUID.fullmatch(username):
        return Author("", short, "VS Code" if _UUID.fullmatch(msg_id) else "")
    return Author(username[:LONGEST], short, _client(msg_id, session, username))


def _client(msg_id: str, session: str, username: str) -> str:
    if session.startswith(OURS):
        return "kernel-bridge"
    if session and re.fullmatch(re.escape(session) + r"_\d+_\d+", msg_id):
        return "jupyter_client (a console, Spyder, nbclient)"
    if not _UUID.fullmatch(msg_id):
        return ""
    return _BY_USERNAME.get(username, "")
