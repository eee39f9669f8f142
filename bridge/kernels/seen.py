"""Whose history a person means: of a kernel that runs, or of one that has ended.

The one rule: no kernel and no engine is asked, and nothing of the kernel's is changed. A kernel that runs is known by
its connection file's key, so that one of the same name before it is not taken for it.
"""

from __future__ import annotations

from bridge.connection import load
from bridge.errors import NoSuchKernel
from bridge.journals import History, Journals
from bridge.kernels import files
from bridge.kernels.files import SANDBOX_PREFIX
from bridge.policy import Policy


def find_history(which: str, policy: Policy, journals: Journals) -> tuple[History, list[str]]:
    """Return the history of the kernel that `which` names, and what a person must know of the choice.

    Raises `NoSuchKernel` where nothing is kept of it, `BadConnectionFile` for a path that is no connection file.
    """
    histories = journals.histories()
    running = _fingerprints(which, policy)
    chosen = [each for each in histories if each.fingerprint in running]
    named = [each for each in histories if each not in chosen and _answers(each, which)]
    notes = []
    if named and running and not chosen:
        notes.append(
            f"No bridge saw anything of the {which} whose connection file is there now; this is an earlier kernel of "
            "that name."
        )
    found = [*chosen, *named]
    if not found:
        raise _nothing(which, policy, histories)
    if found[1:]:
        others = "; ".join(
            f"{each.fingerprint} ({each.first:%Y-%m-%d %H:%M} to {each.last:%Y-%m-%d %H:%M} UTC)" for each in found[1:]
        )
        notes.append(f"Other kernels were called {which} too; to export one of them, name it by: {others}.")
    return found[0], notes


def _fingerprints(which: str, policy: Policy) -> set[str]:
    """Return those of the connection files that a name fits now."""
    if files.is_path(which):
        path = files.real(which)
        return {load(path).fingerprint} if path.exists() else set()
    return {each.info.fingerprint for each in files.matching(which, policy.attach)}


def _answers(history: History, which: str) -> bool:
    """Tell whether `which` is what the kernel was called, in any form that it could be named by while it ran."""
    if which == history.fingerprint:
        return True
    if files.is_path(which):
        which = files.real(which).name
    return any(
        which.removesuffix(".json") in {name, name.removeprefix("kernel-"), f"{SANDBOX_PREFIX}{name}"}
        for name in history.names
    )


def _nothing(which: str, policy: Policy, histories: list[History]) -> NoSuchKernel:
    kept = ", ".join(dict.fromkeys(each.name for each in histories)) or "none"
    why = (
        "Only what ran while a bridge was connected to it is kept: let the agent connect, or use `kernel-bridge run`."
        if policy.calls.kept_output
        else "The policy in force keeps nothing on disk (calls.kept_output: null)."
    )
    return NoSuchKernel(f"Nothing is kept of a kernel called {which!r}. {why} Kernels of which cells are kept: {kept}.")
