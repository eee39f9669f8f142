"""Certificates for a sandbox behind a proxy that inspects TLS: read from a host file, and nothing but certificates.

The one rule: what is checked is what is given. The file is read whole, each certificate in it is parsed, and only those
are passed on, so no comment and no key that lies beside them gets into a sandbox, nor a file that is something else.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from bridge.policy.characters import invisible

MAX_BYTES = 512 * 1024
"""All that browsers trust is half of it; it travels to the supervisor in one line, and takes memory in each sandbox."""

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")


def read(file: Path) -> str:
    """Return the certificates in a file, as PEM. ValueError, with a sentence, where they cannot be used."""
    import ssl  # noqa: PLC0415 - most policies name no such file

    text = _text(file)
    if "PRIVATE KEY-----" in text:
        raise ValueError(
            f"{str(file)!r} holds a private key, which no sandbox may have; write one of certificates only"
        )
    found = _CERTIFICATE.findall(text)
    if not found:
        raise ValueError(f"{str(file)!r} holds no certificate in PEM form; write a file of -----BEGIN CERTIFICATE-----")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for number, each in enumerate(found, 1):
        try:
            context.load_verify_locations(cadata=each)
        except (ssl.SSLError, ValueError):
            raise ValueError(f"certificate {number} in {str(file)!r} cannot be read; write it anew") from None
    return "\n".join([*found, ""])


def _text(file: Path) -> str:
    hidden = next(invisible(str(file)), None)
    if hidden:
        raise ValueError(f"the path holds the character {hidden[1]}, which cannot be seen; rename the file")
    if not file.is_absolute():
        raise ValueError(f"{str(file)!r} is not a full path; write one that starts with / or ~/")
    try:
        # not blocking: opening a FIFO would wait for a writer
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise ValueError(f"{str(file)!r} is not a regular file; write a plain file")
            data = opened.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ValueError(f"{str(file)!r} does not exist; write a file that is there") from None
    except OSError as error:
        raise ValueError(f"{str(file)!r} cannot be read ({error.strerror}); write a file that can") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"{str(file)!r} is larger than {MAX_BYTES // 1024} KiB; write one with what is needed only")
    return data.decode("ascii", "replace")  # PEM is ASCII; what stands beside it may be anything
