"""The host: Python, the policy in force, and the directories that the bridge reads and writes.

The one rule: a directory is judged by its owner, mode and file system alone; nothing is made or written to see.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import stat
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from bridge.audit import trail_of
from bridge.checks import Finding, Level, size
from bridge.connection import runtime_directory
from bridge.errors import PolicyError
from bridge.launchers.docker.places import LONGEST_SOCKET_PATH, socket_parent
from bridge.policy import OPEN_NETWORK, Policy, SandboxRequest, SandboxSpec, decide, find
from bridge.policy.places import config_home

LITTLE_SPACE = 100 * 2**20
"""Bytes. Connection files are small, but a home directory that is nearly full fails in other places first."""


def python() -> Iterator[Finding]:
    """Tell which Python and which kernel-bridge these are, on which system."""
    text = (
        f"{platform.python_version()} ({sys.executable}), kernel-bridge {version('kernel-bridge')}, "
        f"{platform.system()} {platform.release()}"
    )
    yield Finding("python", "ok", text)


def policy_in_force(file: Path | None) -> tuple[Policy | None, SandboxSpec | None, Finding]:
    """Return the policy, what it makes of a plain `up`, and what to tell about both; None where there is none."""
    try:
        policy = find(file)
    except PolicyError as error:
        return (
            None,
            None,
            Finding("policy", "fail", str(error), "correct the file, then: kernel-bridge policy check FILE"),
        )
    asked = SandboxRequest(name="doctor")
    if policy.sandbox.max_running == 0:
        text = f"{policy.origin} is valid and allows no sandboxes (max_running: 0); host kernels may be attached to"
        return policy, None, Finding("policy", "ok", text)
    try:
        spec = decide(policy, asked)
    except PolicyError as error:
        cure = "change the policy, then: kernel-bridge up"
        return policy, None, Finding("policy", "fail", f"{policy.origin} is valid, but {error}", cure)
    text = f"{policy.origin} is valid: image {policy.sandbox.default_image}, network {spec.network}"
    if spec.network == "open":
        cure = "where that is not meant, write network: isolated in the policy"
        return policy, spec, Finding("policy", "warn", f"{text}: {OPEN_NETWORK}", cure)
    return policy, spec, Finding("policy", "ok", text)


def audit(policy: Policy | None) -> Iterator[Finding]:
    """Look where everything is recorded, if the policy wants that, and if it can be."""
    found = trail_of(policy.audit) if policy else None
    if found is None:
        yield Finding("audit", "ok", "nothing is recorded (audit.file)")
    elif reason := found.trouble():
        what, _, cure = reason.partition("; ")
        yield Finding("audit", "fail", f"{found.file} cannot be written, so nothing is done with kernels: {what}", cure)
    elif found.is_too_long():
        text = f"{found.file} is larger than audit.max_size: the system does not let it be moved (is it append-only?)"
        yield Finding("audit", "warn", text, f"move it away as who made it so: lsattr {shlex.quote(str(found.file))}")
    else:
        yield Finding("audit", "ok", f"everything that is done with kernels is recorded in {found.file}")


def directories(spec: SandboxSpec | None) -> Iterator[Finding]:
    """Look at Jupyter's runtime directory, our configuration's, and that of the sockets."""
    runtime = runtime_directory()
    yield _written("runtime directory", runtime, "JUPYTER_RUNTIME_DIR", needed="fail")
    yield from _space(runtime)
    yield _configuration(config_home() / "kernel-bridge")
    yield _sockets(socket_parent(), needed="fail" if spec and spec.network == "none" else "warn")


def _written(check: str, path: Path, variable: str, *, needed: Level) -> Finding:
    """Judge a directory in which the bridge writes what must stay private."""
    elsewhere = f"export {variable}=DIRECTORY    (one that is yours alone)"
    above = next(each for each in (path, *path.parents) if os.path.lexists(each))
    if not above.is_dir():
        return Finding(check, needed, f"{above} is not a directory", elsewhere)
    about = above.stat()
    if not os.access(above, os.W_OK | os.X_OK):
        return Finding(check, needed, f"{above} may not be written by this user, or lies read-only", elsewhere)
    if above != path:
        return Finding(check, "ok", f"{path} is not there yet; the first kernel makes it")
    if about.st_uid != os.geteuid():
        return Finding(check, "warn", f"{path} belongs to another user (uid {about.st_uid})", elsewhere)
    if about.st_mode & 0o077:
        text = f"{path} is open to other users (mode {stat.S_IMODE(about.st_mode):04o}); keys of kernels lie there"
        return Finding(check, "warn", text, f"chmod 700 {shlex.quote(str(path))}")
    return Finding(check, "ok", f"{path} is there, writable and private")


def _space(path: Path) -> Iterator[Finding]:
    above = next(each for each in (path, *path.parents) if each.exists())
    free = shutil.disk_usage(above).free
    text = f"{size(free)} free where {above} is"
    if free == 0:
        yield Finding("disk space", "fail", text, "remove something: no connection file can be written")
    elif free < LITTLE_SPACE:
        yield Finding("disk space", "warn", text, "remove something before it is full")
    else:
        yield Finding("disk space", "ok", text)


def _configuration(path: Path) -> Finding:
    check = "configuration"
    if not path.is_dir():
        return Finding(check, "ok", f"{path} is not there, and need not be")
    about = path.stat()
    if about.st_uid not in (0, os.geteuid()) or about.st_mode & 0o022:
        text = f"others may change what lies in {path}, the policy too"
        return Finding(check, "warn", text, f"chmod go-w {shlex.quote(str(path))}    (and chown, if it is not yours)")
    return Finding(check, "ok", f"{path} is there and only yours to change")


def _sockets(parent: Path, *, needed: Level) -> Finding:
    check = "socket directory"
    longest = len(os.fsencode(parent / "00000000" / "k-5"))
    if longest >= LONGEST_SOCKET_PATH:
        text = f"sockets in {parent} would have paths of {longest} bytes; network none needs less than 100"
        return Finding(
            check, needed, text, "export XDG_RUNTIME_DIR=/run/user/$(id -u)    (any short private directory)"
        )
    if os.path.lexists(parent):
        about = parent.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o077:
            text = f"{parent} is not a directory that belongs to this user alone, so network none does not use it"
            return Finding(
                check, needed, text, f"rm -r {shlex.quote(str(parent))}    (if it is yours), or set XDG_RUNTIME_DIR"
            )
        return Finding(check, "ok", f"{parent} is private; paths of {longest} bytes")
    return Finding(check, "ok", f"{parent} is not there yet; paths of {longest} bytes")
