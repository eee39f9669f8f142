"""A policy's text or file → `Policy`, or one error with everything that is wrong with it.

The one rule: fail closed and tell all. A problem anywhere means no policy at all, never a part of one or a default, and
its error lists every problem with line, setting and what may be written instead. A file that others could have written
is not even read.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from bridge.errors import PolicyError
from bridge.policy import text
from bridge.policy.model import Lines, Policy, PolicyFile
from bridge.policy.text import Document, Problem
from bridge.policy.units import FROM_TEXT, OF_SYSTEM, shown

MAX_PROBLEMS = 50
"""A text that has more is not a policy; the rest is counted."""
BUILT_IN = "the built-in policy"


def built_in_text() -> str:
    """The policy in force where no file is found, as YAML."""
    return Path(__file__).with_name("builtin.yaml").read_text(encoding="utf-8")


def built_in() -> Policy:
    """The policy in force where no file is found."""
    policy = parse(built_in_text(), origin=BUILT_IN)
    return policy.model_copy(update={"lines": Lines()})  # of a file that nobody edits


def parse(written: str, *, origin: str, of_system: bool = False) -> Policy:
    """The policy in a text; `origin` names it in errors. PolicyError with every problem.

    `of_system`: its audit's `~` is the account's home, whatever its caller says in $HOME.
    """
    document = text.read(written)
    problems = list(document.problems)
    if document.complete:
        try:
            read = PolicyFile.model_validate(
                document.value, context={FROM_TEXT, OF_SYSTEM} if of_system else {FROM_TEXT}
            )
        except ValidationError as error:
            problems += _schema_problems(error, document)
        else:
            if not problems:
                parts = {name: getattr(read, name) for name in PolicyFile.model_fields}
                lines = Lines({text.name(path): line for path, line in document.lines.items()})
                return Policy(origin=origin, lines=lines, **parts)
    raise _error(origin, problems)


def load(path: Path, *, of_system: bool = False) -> Policy:
    """The policy in a file. PolicyError where others could have written it, or with every problem of its text.

    `of_system` as in `parse`.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - the name as it is, not what it may link to
    try:
        data = _trusted_bytes(path)
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise PolicyError(
            f"policy {path} cannot be read: {reason}; nothing is started without it. Give a file that is there and "
            "that you may read, or leave the setting out that names it."
        ) from None
    decoded = text.decode(data)
    if isinstance(decoded, Problem):
        raise _error(str(path), [decoded])
    return parse(decoded, origin=str(path), of_system=of_system)


def distrust(status: os.stat_result, uid: int) -> str | None:
    """Why a policy file of this kind, owner and mode is not followed, and how to change that; None where it is."""
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file; give a plain file"
    if status.st_uid not in {0, uid}:
        return f"it belongs to user {status.st_uid}, who could change it; it must belong to you or to root (chown)"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "others may write to it; take that away with: chmod go-w FILE"
    return None


def distrust_directory(status: os.stat_result) -> str | None:
    """Why a file in a directory of this mode could be replaced by anyone, and how to change that; or None."""
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        return "everyone may replace files there; take that away with: chmod o-w DIRECTORY"
    return None


def _trusted_bytes(path: Path) -> bytes:
    # Not blocking: opening a FIFO would wait for a writer. What is judged is what was opened, not what has its name;
    # so a symlink may lead to it, as many people keep their settings.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        reason = distrust(os.fstat(descriptor), os.geteuid())
        if reason:
            raise PolicyError(f"policy {path} is not followed: {reason}")
        for directory in path.resolve().parents:
            reason = distrust_directory(directory.stat())
            if reason:
                raise PolicyError(f"policy {path} is not followed, because of its directory {directory}: {reason}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(text.MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def _error(origin: str, problems: Iterable[Problem]) -> PolicyError:
    ordered = sorted(set(problems), key=lambda problem: (problem.line, problem.where, problem.text))
    lines = [f"policy {origin} is not valid:", *(f"  {problem}" for problem in ordered[:MAX_PROBLEMS])]
    if len(ordered) > MAX_PROBLEMS:
        lines.append(f"  and {len(ordered) - MAX_PROBLEMS} more")
    return PolicyError("\n".join(lines))


def _schema_problems(error: ValidationError, document: Document) -> Iterable[Problem]:
    for details in error.errors(include_url=False):
        path: text.Path = tuple(details["loc"])
        context: Mapping[str, Any] = details.get("ctx", {})
        if context.get("about_section"):
            path = path[:-1]
        line = document.line(path)
        known = line in document.broken_lines or any(path[: len(broken)] == broken for broken in document.broken)
        if not known:
            sentence = _sentence(details["type"], path, details["input"], context)
            yield Problem(line, text.name(path) or "the whole file", sentence)


def _sentence(kind: str, path: text.Path, value: object, context: Mapping[str, Any]) -> str:
    """Pydantic's finding in our words: what was written, and what may be."""
    if kind == "policy":
        return str(context["text"])
    if kind == "value_error":
        return str(context["error"])
    if kind == "extra_forbidden":
        return _unknown_key(path)
    field, in_list = _field(path)
    allowed = _allowed(field)
    if kind == "missing":
        return f"this is missing; write {allowed}"
    if in_list:
        return f"{shown(value)} cannot be used in this list; write {allowed}"
    return f"{shown(value)} cannot be used here; write {allowed}"


def _unknown_key(path: text.Path) -> str:
    model = _model(path[:-1])
    names = list(model.model_fields)
    close = difflib.get_close_matches(str(path[-1]), names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"this key is not known{hint}; write one of {', '.join(names)}"


def _allowed(field: FieldInfo | type[BaseModel]) -> str:
    if isinstance(field, FieldInfo):
        if field.description:
            return field.description
        model = field.annotation
    else:
        model = field
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise TypeError(f"a setting of the schema has no description: {field!r}")
    return f"a mapping with the keys {', '.join(model.model_fields)}"


def _model(path: text.Path) -> type[BaseModel]:
    """The model that holds the keys at a path."""
    model: type[BaseModel] = PolicyFile
    for part in path:
        if isinstance(part, str):
            model = _model_of(model.model_fields[part].annotation) or model
    return model


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """`Limits` and `tuple[Mount, ...]` → the model; anything else → None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if isinstance(argument, type) and issubclass(argument, BaseModel):
            return argument
    return None


def _field(path: text.Path) -> tuple[FieldInfo | type[BaseModel], bool]:
    """What describes the value at a path: the field, or the model of a list's item; and whether a list holds it."""
    if not path:
        return PolicyFile, False
    if isinstance(path[-1], str):
        return _model(path[:-1]).model_fields[path[-1]], False
    field, _ = _field(path[:-1])
    if isinstance(field, FieldInfo):
        model = _model_of(field.annotation)
        return (model, False) if model else (field, True)
    return field, True
