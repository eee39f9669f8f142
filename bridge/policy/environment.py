"""Environment variables: which names a policy may offer, and which values may be passed.

The one rule: a variable that decides what code a process loads, where it connects or what the bridge itself has set is
never passed. Values are never shown in a text, because they may be secrets.
"""

from __future__ import annotations

import re

MAX_VALUE = 4096
"""Bytes; a token or a setting is far smaller, and all of them travel to the supervisor in one line."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_PREFIXES = ("LD_", "PYTHON", "KERNEL_BRIDGE_", "IPYTHON", "JUPYTER")
_SUFFIXES = ("_PROXY",)
_NAMES = frozenset({"PATH", "HOME", "USER", "LOGNAME", "GCONV_PATH", "GLIBC_TUNABLES", "BASH_ENV", "ENV"})


def check_name(name: str) -> str:
    """A name that a policy may offer. ValueError, with a sentence. Case is ignored: `http_proxy` works as well."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name[:60]!r} is not a variable's name; write letters, digits and _, like TZ, without a value"
        )
    upper = name.upper()
    if upper in _NAMES or upper.startswith(_PREFIXES) or upper.endswith(_SUFFIXES):
        raise ValueError(
            f"{name} is never passed, because it changes what is loaded, where connections go or what the bridge set "
            "(LD_*, PYTHON*, IPYTHON*, JUPYTER*, KERNEL_BRIDGE_*, *_PROXY, PATH, HOME, USER, LOGNAME, GCONV_PATH, "
            "GLIBC_TUNABLES, BASH_ENV, ENV); leave it out"
        )
    return name


def why_not_value(value: object) -> str | None:
    """Why a value cannot be passed, in words that do not show it; None where it can."""
    if not isinstance(value, str):
        return "its value is not text"
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "its value is not valid Unicode"
    if size > MAX_VALUE:
        return f"its value has {size} bytes; allowed are {MAX_VALUE}"
    if "\0" in value or "\n" in value:
        return "its value holds a NUL or a line break; allowed is one line of text"
    return None
