"""Jupyter connection files: read with suspicion, written atomically and private.

The one rule: the key never leaves this object except into a connection file; it is not in `repr`, not in an error.
Fields and file names follow https://jupyter-client.readthedocs.io/en/stable/kernels.html#connection-files.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import pwd
import stat
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from bridge.errors import BadConnectionFile
from bridge.replacing import replace

SCHEMES = {f"hmac-{name}" for name in hashlib.algorithms_guaranteed if not name.startswith("shake")}
PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
# Ten times the largest file seen in practice (with Curve keys and a long notebook path).
LARGEST_FILE = 16 * 1024


@dataclass(frozen=True)
class ConnectionInfo:
    """Where a kernel listens and the key that signs its messages.

    With `transport` "tcp", `ip` is an address and the ports are TCP ports; with "ipc", `ip` is the prefix of a path
    and the sockets are `<ip>-<port>`.
    """

    transport: Literal["tcp", "ipc"]
    ip: str
    shell_port: int
    iopub_port: int
    stdin_port: int
    control_port: int
    hb_port: int
    key: str = field(repr=False)
    signature_scheme: str = "hmac-sha256"
    kernel_name: str = "python3"
    jupyter_session: str | None = None
    """The notebook this kernel was started for, where a Jupyter server wrote it; never renewed."""
    supervised: bool = False
    """A field of ours: after every end its supervisor starts it again, on the same address with the same key."""
    start: str | None = None
    """A field of ours: which start of a sandbox it is of. No other in any engine has the same."""

    def is_of(self, start: str) -> bool:
        """Tell whether it is of a start that claims its place; one that does not say of which is an older bridge's."""
        return self.start in (start, None)

    def url(self, port: int) -> str:
        """Return the ZMQ endpoint of one of the ports."""
        if self.transport == "ipc":
            return f"ipc://{self.ip}-{port}"
        host = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"tcp://{host}:{port}"

    def is_loopback(self) -> bool:
        """Tell whether the kernel listens on this machine only."""
        if self.transport == "ipc" or self.ip == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.ip).is_loopback
        except ValueError:
            return False

    @property
    def fingerprint(self) -> str:
        """Tell this kernel from another of its name, also after a restart, which leaves the key as it is.

        The key cannot be had from it.
        """
        return hashlib.sha256(b"kernel-bridge " + self.key.encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """Return the content of the connection file, the key included."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value not in (None, False)}

    def to_bytes(self) -> bytes:
        """Return the connection file, the key included."""
        return json.dumps(self.to_json(), indent=1).encode() + b"\n"


def runtime_directory() -> Path:
    """Return Jupyter's own runtime directory of this user, where connection files are written."""
    from jupyter_core.paths import jupyter_runtime_dir  # noqa: PLC0415 - not needed before a kernel is looked for

    return Path(jupyter_runtime_dir())


def runtime_directories() -> list[Path]:
    """Return where this user's programs write connection files: Jupyter's own directory, and VS Code's on Linux.

    VS Code goes by XDG_RUNTIME_DIR, which Jupyter itself left (vscode-jupyter, `JupyterPaths.getRuntimeDirImpl`); an
    MCP client's bare environment may lack the variable, so the place where systemd puts it is looked at too.
    """
    own = runtime_directory()
    if os.environ.get("JUPYTER_RUNTIME_DIR"):  # both go by it
        return [own]
    session = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    return [own, session / "jupyter" / "runtime"]


def load(path: Path) -> ConnectionInfo:
    """Read a connection file.

    Raises `BadConnectionFile`: missing, a directory or device, another user's, unreadable, cut short, or with a field
    that is missing or wrong. The text names the file and the field, never a value of it.
    """
    text = _read(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        what = "is empty" if not text.strip() else "is not complete JSON (cut short, or being written just now)"
        raise BadConnectionFile(f"The connection file {path} {what}; start the kernel again or name another.") from None
    if not isinstance(content, dict):
        raise BadConnectionFile(f"{path} is JSON but not a connection file: it is not an object of fields.")
    return _checked(path, content)


def save(info: ConnectionInfo, path: Path) -> None:
    """Write a connection file, readable by its owner only; a reader sees the old one or the new one, never a half.

    Raises `OSError` where the directory cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace(path, info.to_bytes())


def _read(path: Path) -> str:
    try:
        # O_NONBLOCK: a FIFO in a connection file's place must not block the open
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BadConnectionFile(f"There is no connection file {path}; the kernel may have ended.") from None
    except PermissionError:
        raise BadConnectionFile(f"The connection file {path} may not be read by this user.") from None
    except OSError as error:
        raise BadConnectionFile(f"The connection file {path} cannot be opened: {error.strerror}.") from None
    except ValueError:
        raise BadConnectionFile(f"{str(path)!r} is not a path: it holds a NUL character.") from None
    try:
        _must_be_ours(path, os.fstat(handle))
        raw = os.read(handle, LARGEST_FILE + 1)
    finally:
        os.close(handle)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadConnectionFile(f"{path} is not text, so not a connection file.") from None


def _must_be_ours(path: Path, about: os.stat_result) -> None:
    if stat.S_ISDIR(about.st_mode):
        raise BadConnectionFile(f"{path} is a directory; name the connection file in it.")
    if not stat.S_ISREG(about.st_mode):
        raise BadConnectionFile(f"{path} is not a regular file, so it is not read.")
    if about.st_uid != os.geteuid():
        raise BadConnectionFile(
            f"The connection file {path} belongs to {_user(about.st_uid)}, not to {_user(os.geteuid())}; "
            "only your own kernels are attached to."
        )
    if about.st_size > LARGEST_FILE:
        raise BadConnectionFile(f"{path} has {about.st_size} bytes, too many for a connection file.")


def _checked(path: Path, content: dict[str, Any]) -> ConnectionInfo:
    # `ip`, `transport` and `signature_scheme` have defaults in jupyter_client too
    transport = content.get("transport", "tcp")
    if transport not in ("tcp", "ipc"):
        raise _wrong(path, "transport", 'is neither "tcp" nor "ipc"')
    ip = content.get("ip", "127.0.0.1")
    if not isinstance(ip, str) or not ip or "\0" in ip or not _is_text(ip):
        raise _wrong(path, "ip", "is not an address")
    missing = [name for name in (*PORTS, "key") if name not in content]
    if missing:
        raise BadConnectionFile(f"The connection file {path} lacks {', '.join(missing)}, so nothing can connect by it.")
    for name in PORTS:
        port = content[name]
        if type(port) is not int or not 0 < port < 65536:
            raise _wrong(path, name, "is not a port number")
    key, scheme = content["key"], content.get("signature_scheme", "hmac-sha256")
    if not isinstance(key, str) or not key or not _is_text(key):
        raise _wrong(path, "key", "is empty or no text, so anybody could send code to that kernel")
    if not isinstance(scheme, str) or scheme not in SCHEMES:
        raise _wrong(path, "signature_scheme", 'is not an "hmac-…" scheme that this Python knows')
    if "curve_publickey" in content:
        raise BadConnectionFile(
            f"The kernel of {path} encrypts its channels (CurveZMQ), which is not supported yet; start it without "
            "transport encryption."
        )
    kernel_name, notebook, start = (content.get(name) for name in ("kernel_name", "jupyter_session", "start"))
    return ConnectionInfo(
        transport=transport,
        ip=ip,
        **{port: content[port] for port in PORTS},
        key=key,
        signature_scheme=scheme,
        kernel_name=kernel_name if isinstance(kernel_name, str) and kernel_name else "python3",
        jupyter_session=notebook if isinstance(notebook, str) and notebook else None,
        supervised=content.get("supervised") is True,
        start=start if isinstance(start, str) and start else None,
    )


def _is_text(value: str) -> bool:
    # JSON can hold lone surrogates, which nothing can encode
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrong(path: Path, name: str, problem: str) -> BadConnectionFile:
    return BadConnectionFile(f"In the connection file {path} the field `{name}` {problem}.")


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
