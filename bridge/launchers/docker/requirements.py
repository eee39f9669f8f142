"""A person's own packages: a requirements.txt or a pyproject.toml, read into lines for pip in an image's build.

The one rule: a build sees no other file of this machine, so a line that would mean something else there is refused
before anything is built. All such lines are told at once, and nothing of one that may hold a password is repeated.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.errors import UsageError

MAX_BYTES = 1 << 20
"""A lock file of a thousand packages, with its hashes, is a third of that."""
MAX_PROBLEMS = 10

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_EXTRAS = rf"(?:\s*\[\s*(?:{_NAME}(?:\s*,\s*{_NAME})*)?\s*\])?"
_VERSION = r"(?:===|~=|==|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+"
_VERSIONS = rf"(?:{_VERSION}(?:\s*,\s*{_VERSION})*\s*,?)?"
_HASHES = re.compile(r"(?:\s+--hash[=\s]\s*[a-z0-9]+:[0-9a-f]+)+\s*$")
_REQUIREMENT = re.compile(rf"{_NAME}{_EXTRAS}\s*(?:{_VERSIONS}|\(\s*{_VERSIONS}\s*\))\s*(?:;.*)?")
_BY_ADDRESS = re.compile(rf"(?:{_NAME}{_EXTRAS}\s*@\s*)?([a-z][a-z0-9+.-]*)://(\S+)\s*(?:;.*)?", re.IGNORECASE)
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz")

# Said in place of the line itself: an index's address may hold a password.
_OTHER_FILE = "names another file, which the build does not see; write its lines into this one"
_DIRECTORY = (
    "is a directory of this machine, which the build does not see; leave it out (`uv export --no-emit-project` does), "
    "and give the project to a sandbox with `kernel-bridge up --workspace DIR`"
)
_INDEX = "says where packages come from, which belongs into a pip configuration; give that with --pip-config FILE"
_PLACE = "a place on this machine, which the build does not see; leave it out, or name a package that an index has"
_OPTIONS = {
    **dict.fromkeys(("-r", "--requirement", "-c", "--constraint"), _OTHER_FILE),
    **dict.fromkeys(("-e", "--editable"), _DIRECTORY),
    **dict.fromkeys(
        ("-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--trusted-host", "--no-index"), _INDEX
    ),
}
_MEANINGFUL = ("--pre", "--prefer-binary", "--require-hashes", "--only-binary", "--no-binary")


@dataclass(frozen=True)
class Requirements:
    """Packages to be built into an image."""

    file: Path
    project: str
    """The project's name, or the directory's that the file lies in."""
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """Return the file that pip is given."""
        return "\n".join(self.lines) + "\n"

    @property
    def label(self) -> str:
        """Return the project's name as the last part of a tag; raises `UsageError` where nothing of it can be."""
        plain = unicodedata.normalize("NFKD", self.project).encode("ascii", "ignore").decode().lower()
        made = re.sub(r"[^a-z0-9_.]+", "-", plain).strip("-.")[:100]
        if not made:
            raise UsageError(
                f"Of the name {self.project!r} no image's tag can be made. Nothing was built. Name one: --tag "
                "kernel-bridge/python:3.13-NAME"
            )
        return made


def read(file: Path, extras: Sequence[str] = ()) -> Requirements:
    """Read the packages of a requirements.txt, or of a pyproject.toml with some of its extras; raises `UsageError`."""
    text = _text(file)
    if file.suffix == ".toml":
        return _pyproject(file, text, extras)
    if extras:
        raise UsageError(f"Only a pyproject.toml has extras, and {file} is none. Nothing was built. Leave --extra out.")
    lines = list(_logical_lines(text))
    _refuse(file, ((f"line {number}", _line_problem(line)) for number, line in lines))
    if not any(not line.startswith("-") for _, line in lines):
        raise UsageError(f"{file} names no package, so there is nothing to build.")
    return Requirements(file, file.absolute().parent.name, tuple(line for _, line in lines))


def _text(file: Path) -> str:
    try:
        if file.is_dir():
            raise UsageError(
                f"{file} is a directory. Nothing was built. Name the file in it, a requirements.txt or pyproject.toml."
            )
        if file.exists() and not file.is_file():
            raise UsageError(
                f"{file} is no regular file. Nothing was built. Name a requirements.txt or pyproject.toml."
            )
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UsageError(f"{file} is larger than {MAX_BYTES >> 20} MiB, so it is no list of packages.")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}. Nothing was built.") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not text in UTF-8. Nothing was built. Save it as such.") from None


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield each line that says something, and its number: continued lines joined, comments left out, as pip does."""
    begun, first = "", 0
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        first = first if begun else number
        begun += line
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            begun = begun[:-1] + " "
            continue
        said = re.sub(r"(^|\s)#.*$", "", begun).strip()
        if said:
            yield first, said
        begun = ""


def _line_problem(line: str) -> str | None:
    if not line.startswith("-"):
        return _problem(_HASHES.sub("", line))
    option = re.split(r"[=\s]", line, maxsplit=1)[0]
    if option in _MEANINGFUL:
        return None
    if option not in _OPTIONS and option[:2] in _OPTIONS:
        option = option[:2]  # -rFILE
    return f"{option[:40]} {_OPTIONS.get(option, 'is an option that this build does not take; leave it out')}"


def _problem(text: str) -> str | None:
    """Return what is wrong with one requirement, or None."""
    if found := _BY_ADDRESS.fullmatch(text):
        return _address_problem(found[1].lower(), found[2])
    looks_like_path = text.startswith((".", "~")) or any(mark in text.partition(";")[0] for mark in "/\\")
    if looks_like_path or text.lower().endswith(_ARCHIVES):
        return f"is {_PLACE}"
    if _REQUIREMENT.fullmatch(text):
        return None
    return "is no requirement; write a package's name and versions, like numpy>=2"


def _address_problem(scheme: str, rest: str) -> str | None:
    if scheme == "file":
        return f"is {_PLACE}"
    if "+" in scheme:
        return "is fetched by a version control system, which is not in the image; name a release of the package"
    if scheme != "https":
        return "is fetched without encryption; write https"
    if "@" in rest.partition("/")[0] or "$" in rest:
        return "holds a password or a variable, which would stay in the image; use an index with --pip-config FILE"
    if not re.split(r"[?#]", rest)[0].lower().endswith(".whl"):
        return "is the address of no wheel, and building one would run its code with the network; name a wheel's"
    return None


def _refuse(file: Path, checked: Iterable[tuple[str, str | None]]) -> None:
    wrong = [f"{where}: {problem}" for where, problem in checked if problem]
    if not wrong:
        return
    more = [f"and {len(wrong) - MAX_PROBLEMS} more"] if len(wrong) > MAX_PROBLEMS else []
    listed = "; ".join([*wrong[:MAX_PROBLEMS], *more])
    raise UsageError(f"{file} cannot be built into an image, and nothing was built: {listed}.")


def _pyproject(file: Path, text: str, extras: Sequence[str]) -> Requirements:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file} is not valid TOML: {error}. Nothing was built.") from None
    project = document.get("project")
    if not isinstance(project, dict):
        raise UsageError(
            f"{file} has no [project] table, where its dependencies would be. Nothing was built. Give a "
            "requirements.txt instead (poetry export, pip freeze)."
        )
    name = project["name"] if isinstance(project.get("name"), str) else file.absolute().parent.name
    lines = _listed(file, project, "dependencies")
    optional = project.get("optional-dependencies", {}) if extras else {}
    if extras and "optional-dependencies" in _dynamic(project):
        raise UsageError(f"The extras in {file} are dynamic: {_HOW_TO_LIST}")
    known = {_normal(each): each for each in optional} if isinstance(optional, dict) else {}
    for extra in extras:
        if _normal(extra) not in known:
            raise UsageError(
                f"{file} has no extra {extra!r}; it has {', '.join(known.values()) or 'none'}. Nothing was built."
            )
        lines += _listed(file, optional, known[_normal(extra)])
    _refuse(file, ((f"dependency {number}", _problem(each)) for number, each in enumerate(lines, start=1)))
    elsewhere = [each for each in lines if _normal(_name(each)) in {_normal(name) for name in _uv_sources(document)}]
    if elsewhere:
        # by its name alone the build would get whatever the index calls so
        raise UsageError(
            f"{file} has {', '.join(map(_name, elsewhere))} in [tool.uv.sources], which only uv follows. Nothing was "
            "built. Give a requirements.txt (uv export --no-emit-project)."
        )
    own = [each for each in lines if _normal(_name(each)) == _normal(name)]
    if own:
        raise UsageError(
            f"{file} names the project itself ({own[0]}), of which the build sees nothing. Nothing was built. Name the "
            "extras that it means, each with --extra."
        )
    if not lines:
        raise UsageError(f"{file} has no dependencies in [project], so there is nothing to build.")
    return Requirements(file, name, tuple(lines))


_HOW_TO_LIST = (
    "only building the project would tell them. Nothing was built. Give a requirements.txt that lists them "
    "(uv export --no-emit-project, pip freeze)."
)


def _listed(file: Path, table: Mapping[str, Any], key: str) -> list[str]:
    if key == "dependencies" and key in _dynamic(table):
        raise UsageError(f"The dependencies in {file} are dynamic: {_HOW_TO_LIST}")
    listed = table.get(key, [])
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise UsageError(f"In {file} {key} is not a list of texts. Nothing was built.")
    return [each.strip() for each in listed]


def _dynamic(project: Mapping[str, Any]) -> Sequence[object]:
    dynamic = project.get("dynamic", ())
    return dynamic if isinstance(dynamic, list) else ()


def _uv_sources(document: Mapping[str, Any]) -> Iterable[str]:
    tables: Any = document
    for key in ("tool", "uv", "sources"):
        tables = tables.get(key) if isinstance(tables, dict) else None
    return tables if isinstance(tables, dict) else ()


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def _normal(name: str) -> str:
    """A name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
