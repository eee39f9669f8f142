"""Characters that a person who reads a policy or a path does not see, or sees elsewhere than they are.

The one rule: letters of any language are fine, but nothing that hides, reorders or looks like a plain space.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_PERHAPS_INVISIBLE = re.compile(r"[^\x20-\x7e]")
# controls, formats, surrogates, private use, separators of lines and paragraphs, spaces other than the plain one
_REFUSED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"})


def invisible(text: str) -> Iterator[tuple[int, str]]:
    """Position and description of every character that cannot be seen or that reorders text, line breaks too."""
    for match in _PERHAPS_INVISIBLE.finditer(text):
        character = match.group()
        code = ord(character)
        if unicodedata.category(character) in _REFUSED_CATEGORIES or code & 0xFFFE == 0xFFFE:
            yield match.start(), f"U+{code:04X} {unicodedata.name(character, '')}".rstrip()
