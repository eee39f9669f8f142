"""The audit: a JSON line for everything that is done with a kernel through the bridge, and for all that was refused.

The one rule: what is done is written before it is done, and where that fails it is not done. Only what ends something
(a sandbox, a cell that runs, a connection) is done all the same, with a warning: to keep it from ending would make the
audit a danger. No line holds a key, a token, a variable's value or what was typed as input, and code only where the
policy asks for it.

`bridge/policy/README.md` tells the fields. `trail` owns the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import math
import os
import pwd
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bridge.audit.trail import Trail, Unwritten
from bridge.errors import (
    BridgeError,
    KernelBusy,
    KernelError,
    NotAudited,
    NotOurs,
    PolicyError,
    UsageError,
)
from bridge.outputs import Error, Result
from bridge.policy import Audit as Settings
from bridge.policy import Policy

VERSION = 1
MAX_CODE, MAX_REASON, MAX_PATH, MAX_TEXT = 16 * 1024, 1024, 1024, 256
"""Bytes, as they are written, of a cell's text (the hash is of all of it), a reason, a path, any other text."""
MAX_ITEMS = 16 * 1024
"""Bytes, as they are written, of a list; what a policy may list has room."""

CUT = "…"
MAX_CLASS_NAME = 100
"""Characters of an exception's name."""

_BOUNDS = {"text": MAX_CODE, "reason": MAX_REASON, "path": MAX_PATH, "file": MAX_PATH, "policy": MAX_PATH}
# A refusal costs its caller nothing: long ones would soon push all else out of the files that are kept.
_BOUNDS_OF_REFUSED = {"reason": MAX_REASON}

_REFUSING = (PolicyError, UsageError, KernelBusy)
_QUOTE_CODE = (KernelBusy, NotOurs, UsageError, KernelError)
"""Exactly these tell in their text what runs in the kernel or what was looked for in it."""
_NOTHING = {
    "execute": "Nothing was executed",
    "start": "Nothing was started",
    "input": "Nothing was sent",
    "put_file": "Nothing was written",
    "get_file": "Nothing was read",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Who:
    """On whose behalf something is done, as far as it tells of itself."""

    by: str = "library"
    """The way in: `mcp`, `shell`, `relay`, `provisioner`, `pytest`, `guard`; or a program that imports the bridge."""
    client: str | None = None
    """The MCP client's name, or the command."""
    client_version: str | None = None


def trail_of(settings: Settings) -> Trail | None:
    """Return the file that a policy wants an audit in, or None."""
    if settings.file is None:
        return None
    return Trail(settings.file, max_size=settings.max_size, keep=settings.keep)


class Audit:
    """What one bridge tells of what it does for one agent or person; without a file nothing is told."""

    def __init__(self, policy: Policy, who: Who) -> None:
        self.who = who
        """Each request tells it anew."""
        self._settings, self._origin = policy.audit, policy.origin
        self._trail = trail_of(policy.audit)
        self._id, self._numbers = secrets.token_hex(4), itertools.count(1)

    @property
    def is_on(self) -> bool:
        """Whether the policy wants an audit."""
        return self._trail is not None

    def begin(self, event: str, *, ending: bool = False, **told: Any) -> Action:
        """Write what is about to be done; raises `NotAudited` where that fails, unless it ends something."""
        action = Action(self, event, f"{self._id}-{next(self._numbers)}", told.get("kernel"))
        try:
            self._write(event, action=action.id, **told)
        except Unwritten as error:
            if not ending:
                raise self._not_audited(error, event) from None
            log.warning("%s is done all the same: %s", event, self._not_audited(error, None))
        return action

    @contextlib.contextmanager
    def action(self, event: str, *, ending: bool = False, **told: Any) -> Iterator[Action]:
        """Do something in the block: it is written before, and what came of it after. Raises as `begin`."""
        action = self.begin(event, ending=ending, **told)
        try:
            yield action
        except BaseException as error:
            action.failed(error)
            raise
        action.end("ok")

    def refused(self, of: str, error: BridgeError, *, quoting: bool = False, **told: Any) -> None:
        """Write that something was refused, or failed before it began; once for each error.

        `quoting`: its text holds nothing of what is in a kernel, whatever it is.
        """
        if not error.recorded:
            error.recorded = True
            event = "refused" if isinstance(error, _REFUSING) else "failed"
            self.note(event, of=of, **self.reason(error, quoting=quoting), **told)

    def note(self, event: str, **told: Any) -> None:
        """Write what has happened already; a failure is a warning."""
        try:
            self._write(event, **told)
        except Unwritten as error:
            log.warning("%s", self._not_audited(error, None))

    def reason(self, error: BaseException, *, quoting: bool = False) -> dict[str, Any]:
        """Return how an error is told: in its own words where these are the bridge's and hold no code."""
        if isinstance(error, BridgeError) and (quoting or self._quotes or type(error) not in _QUOTE_CODE):
            return {"error": type(error).__name__, "reason": str(error)}
        return {"error": type(error).__name__}

    def code(self, code: str | bytes) -> dict[str, Any]:
        """Return how code is told, by the policy's choice."""
        if self._settings.code == "none":
            return {}
        whole = code.encode("utf-8", "surrogatepass") if isinstance(code, str) else code
        text = code if isinstance(code, str) else code.decode("utf-8", "replace")
        told = {"sha256": hashlib.sha256(whole).hexdigest(), "bytes": len(whole)}
        return {"code": told | ({"text": text[: MAX_CODE + 1]} if self._quotes else {})}

    @property
    def _quotes(self) -> bool:
        return self._settings.code == "text"

    def _write(self, event: str, **told: Any) -> None:
        if self._trail is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
        uid = os.geteuid()
        who = {**vars(self.who), "user": _account(uid), "uid": uid, "pid": os.getpid()}
        line = {"version": VERSION, "time": f"{now}Z", "event": event, **told, "who": who, "policy": self._origin}
        bounds = _BOUNDS_OF_REFUSED if event in ("refused", "failed") else _BOUNDS
        # ASCII, so that no reader takes a character within it for the line's end
        self._trail.append(json.dumps(_bounded(line, bounds), separators=(",", ":")).encode("ascii") + b"\n")

    def _not_audited(self, error: Unwritten, event: str | None) -> NotAudited:
        reason, _, cure = str(error).partition("; ")
        nothing = "" if event is None else f" {_NOTHING.get(event, 'Nothing was done')}."
        return NotAudited(
            f"The policy has all that is done recorded in {self._settings.file} (audit.file), which cannot be "
            f"written: {reason}.{nothing} For the user to do: {cure}."
        )


class Action:
    """Something that was begun; made by `Audit.begin`. What came of it is told once."""

    def __init__(self, audit: Audit, event: str, number: str, kernel: Any) -> None:
        self.id = number
        self._audit, self._event, self._kernel = audit, event, kernel
        self._told: dict[str, Any] = {}
        self._over = False

    def tell(self, **told: Any) -> None:
        """Have the end tell this too."""
        self._told |= told

    def end(self, outcome: str, **told: Any) -> None:
        """Write how it ended."""
        if not self._over:
            self._over = True
            told = {"of": self._event, "kernel": self._kernel, "outcome": outcome} | self._told | told
            self._audit.note("end", action=self.id, **told)

    def failed(self, error: BaseException) -> None:
        """Write that it ended with an error."""
        if isinstance(error, BridgeError):
            error.recorded = True
            outcome = "refused" if isinstance(error, _REFUSING) else "failed"
        else:
            outcome = "failed" if isinstance(error, Exception) else "cancelled"
        self.end(outcome, **self._audit.reason(error))

    def ended(self, result: Result | None) -> None:
        """Write how an execution ended; None: it was never sent."""
        if result is None:
            self.end("not sent")
            return
        raised = next((each.ename for each in reversed(result.outputs) if isinstance(each, Error)), None)
        interrupted = result.status == "error" and raised == "KeyboardInterrupt"
        error = class_name(raised) if result.status == "error" else None
        self.end("interrupted" if interrupted else result.status, error=error)


def class_name(text: str | None) -> str | None:
    """Return what may be an exception's name; None for what else a cell may call one: it could tell a secret so."""
    return text if text and len(text) <= MAX_CLASS_NAME and text.isidentifier() else None


def _bounded(value: Any, bounds: Mapping[str, int], most: int = MAX_TEXT) -> Any:
    """Return a value as JSON can carry it, within bounds; what is empty in a mapping is left out."""
    if isinstance(value, Mapping):
        return {
            key: _bounded(each, bounds, bounds.get(key, MAX_TEXT)) for key, each in value.items() if each is not None
        }
    if isinstance(value, list | tuple):
        return list(_first(_bounded(each, bounds) for each in value))
    if isinstance(value, str | Path):
        return _cut(str(value), most)
    if isinstance(value, int) and value.bit_length() > 63:  # no execution's number: whoever asked for it made it up
        return _cut(hex(value), most)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _first(values: Iterable[Any]) -> Iterator[Any]:
    room = MAX_ITEMS
    for each in values:
        room -= len(json.dumps(each)) + 1
        if room < 0:
            yield CUT
            return
        yield each


def _cut(text: str, most: int) -> str:
    """Return a text that takes at most so many bytes as it is written: one character may take twelve."""
    # names of files hold lone surrogates, which JSON's readers take differently
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(_written(text[: most + 1])) <= most:
        return text
    ends = itertools.accumulate(len(_written(each)) for each in text[:most])
    room = most - len(_written(CUT))
    return text[: sum(end <= room for end in ends)] + CUT


def _written(text: str) -> str:
    return json.dumps(text)[1:-1]


def _account(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # as in many containers
        return None
