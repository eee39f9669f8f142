"""Our sandbox with exactly one setting relaxed: what shows that a probe's verdict is that setting's doing.

The one rule: a control is the launcher's own documents with the changes that its settings name, and nothing else; it
is never privileged, and what is relaxed has a limit all the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridge.launchers.docker import document
from bridge.launchers.docker.build import images_directory
from bridge.launchers.docker.document import Document, Documents, Facts
from bridge.policy import SandboxSpec

Host = dict[str, Any]


@dataclass(frozen=True)
class Outside:
    """What there is outside of a sandbox, for a probe to look for; all of it is the tests' own."""

    host: str
    """The host's address on the engine's bridge."""
    tcp: int
    """A listener on that address, and below one for datagrams and one on 127.0.0.1."""
    udp: int
    loopback: int
    other: str
    """The address of another container."""
    other_uid: int
    other_volume: str
    other_file: str
    """Another sandbox's connection file, on the host."""
    workspace: str
    """A directory that the probe's sandbox has as its workspace; `below` in it is a mount, `link` leads to `secret`."""
    secret: str
    """A directory of the host's with a file `word`."""


def _as_it_is(_: Host, __: Outside) -> None:
    pass


@dataclass(frozen=True)
class Setting:
    """One hardening setting, and how it is relaxed."""

    words: str
    host: Callable[[Host, Outside], None] = field(default=_as_it_is, compare=False)
    """Changes the HostConfig of the kernel's container."""
    uid: Callable[[Outside], int] | None = field(default=None, compare=False)
    place: str = ""
    """Where, if the words do not say it."""
    programs: tuple[tuple[str, str, str], ...] = ()
    """In this file of the image, in place of this text that."""


def documents(settings: tuple[Setting, ...], outside: Outside, work: Path) -> Callable[..., Documents]:
    """The launcher's own function, with the settings relaxed."""

    def relaxed(spec: SandboxSpec, facts: Facts) -> Documents:
        for each in settings:
            if each.uid:
                facts = dataclasses.replace(facts, uid=each.uid(outside), gid=each.uid(outside))
        made = document.documents(spec, facts)
        host = made.kernel["HostConfig"]
        for each in settings:
            each.host(host, outside)
        for name, text in _programs(settings).items():
            file = work / f"{spec.name}-{name}"
            file.write_text(text)
            file.chmod(0o644)
            host["Mounts"].append(bind(str(file), f"/opt/kernel-bridge/{name}"))
        # one volume, which both containers have to ask for in the same words
        made.gateway["HostConfig"]["Mounts"][0] = host["Mounts"][0]
        return made

    return relaxed


def _programs(settings: tuple[Setting, ...]) -> Mapping[str, str]:
    texts: dict[str, str] = {}
    for each in settings:
        for name, old, new in each.programs:
            text = texts.get(name) or (images_directory() / "python" / name).read_text()
            assert text.count(old) == 1, f"{name} has no such text any more, or several: {old}"
            texts[name] = text.replace(old, new)
    return texts


def bind(source: str, target: str, *, read_only: bool = True) -> Document:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}


# -- The settings.

ROOT = Setting("uid 0", uid=lambda _: 0)
OTHERS_UID = Setting("the other's uid", uid=lambda outside: outside.other_uid)
NO_APPARMOR = Setting(
    "AppArmor's profile, where the engine has it, off",
    host=lambda host, _: host["SecurityOpt"].append("apparmor=unconfined"),
)
UNCONFINED = Setting(
    "the engine's own filters off",
    host=lambda host, _: host["SecurityOpt"].extend(["seccomp=unconfined", "apparmor=unconfined"]),
)


def config(words: str, **values: Any) -> Setting:
    """Other values in the HostConfig."""
    return Setting(words, host=lambda host, _: host.update(values))


def capability(name: str) -> Setting:
    return Setting(f"the capability {name}", host=lambda host, _: host["CapAdd"].append(name))


def unlimited(name: str, most: int) -> Setting:
    """Raise one of the ulimits."""

    def change(host: Host, _: Outside) -> None:
        host["Ulimits"] = [each for each in host["Ulimits"] if each["Name"] != name]
        host["Ulimits"].append({"Name": name, "Soft": most, "Hard": most})

    return Setting(f"`{name}` {_amount(most)}", host=change)


def tmpfs(place: str, option: str, other: str) -> Setting:
    """Have one of the places in memory with another option."""

    def change(host: Host, _: Outside) -> None:
        host["Tmpfs"][place] = _options(host["Tmpfs"][place], option, other)

    return Setting(_option_words(other), host=change, place=place)


def volume(option: str, other: str) -> Setting:
    """Have the volume of the sockets with another option."""

    def change(host: Host, _: Outside) -> None:
        driver = host["Mounts"][0]["VolumeOptions"]["DriverConfig"]["Options"]
        driver["o"] = _options(driver["o"], option, other)

    return Setting(_option_words(other), host=change, place="the volume")


def _option_words(option: str) -> str:
    name, _, value = option.partition("=")
    return f"`{name}` {_amount(int(value))} there" if value else f"`{name}` there"


def _amount(number: int) -> str:
    return f"{number >> 20} MiB" if number >= 1 << 20 else str(number)


def _options(options: str, option: str, other: str) -> str:
    kept = [each for each in options.split(",") if each.partition("=")[0] != option]
    assert len(kept) == len(options.split(",")) - 1
    return ",".join([*kept, other])


def workspace(words: str, change: Callable[[Document], None]) -> Setting:
    """Another way to mount the workspace."""
    return Setting(words, host=lambda host, _: change(host["Mounts"][1]))


def mounted(words: str, mount: Callable[[Host, Outside], Document]) -> Setting:
    """One mount more."""
    return Setting(words, host=lambda host, outside: host["Mounts"].append(mount(host, outside)))


def unsealed(*names: str) -> Setting:
    """`seal.py` without its lines for these system calls."""
    kept = f"REFUSED = tuple(each for each in REFUSED if each.name not in {names!r})\n\n\nclass NotSealedError"
    lines = ", ".join(f"`{name}`" for name in names)
    return Setting(f"`seal.py` without {lines}", programs=(("seal.py", "class NotSealedError", kept),))


def supervisor(words: str, old: str, new: str) -> Setting:
    """`supervisor.py` without one of the things that it does."""
    return Setting(f"the supervisor without {words}", programs=(("supervisor.py", old, new),))
