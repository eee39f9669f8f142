"""What people, agents and files may try against the policy: each is refused for its own reason, its neighbour is not.

Beside each group of bad inputs stand the good ones that look like them, so that no refusal is a blanket one. What the
parts refuse by themselves (references, the YAML reader, paths) has its own tables in `test_images.py`, `test_text.py`,
`test_places.py`; each setting with wrong values is in `test_loading.py` and `test_model.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import PolicyError, PolicyRefused
from bridge.policy import Policy, SandboxRequest, decide, load, parse
from bridge.policy.units import GiB, MiB

PIN = "sha256:" + "3f" * 32
OTHER = "sha256:" + "a1" * 32
TEAM = "registry.example.org:5000/team/kernel"

POLICY = f"""\
version: 1
sandbox:
  images:
    - {{repository: kernel-bridge/python, tags: ["*"]}}
    - {{repository: python, tags: ["3.12", "3.13"]}}
    - {{repository: "{TEAM}", digests: ["{PIN}"]}}
  default_image: kernel-bridge/python:3.13
  network: isolated
  limits:
    memory: 2GiB
    cpus: 2
  mounts:
    - {{source: ~/projects, mode: rw}}
    - {{source: ~/data}}
  environment: [TZ, LANG]
"""
LINES = {
    line.partition(":")[0].strip(): number for number, line in enumerate(POLICY.splitlines(), 1) if line.startswith(" ")
}


@dataclass(frozen=True)
class Group:
    """Requests of one kind: what is refused, with the words of the refusal, and what is not."""

    asks: str
    """The request's field."""
    rule: str
    """What each refusal names, in a regular expression; with its line where it is the policy's."""
    bad: dict[Any, str]
    good: tuple[Any, ...]
    also: dict[str, Any] = field(default_factory=dict)
    """What is asked for besides."""


def rule(setting: str) -> str:
    number = LINES[setting.rpartition(".")[2]]
    return rf"allowed (is|are) .* \({re.escape(setting)}, line {number}\)$"


OURS_ONLY = "is not among the policy's"
NO_NAME = "is not an image's name"
NO_TAG = "has no tag"
BAD_TAG = "a tag that is not valid"
BAD_DIGEST = "a digest that is not"
GROUPS = {
    "case and letters that look alike": Group(
        "image",
        rule("sandbox.images"),
        {
            "Python:3.13": "upper-case",
            "PYTHON:3.13": "upper-case",
            "Docker.io/library/python:3.13": "upper-case",
            "docker.io/Library/python:3.13": "upper-case",
            f"registry.example.org:5000/team/Kernel@{PIN}": "upper-case",
            f"{TEAM}@{PIN.upper()}": BAD_DIGEST,
            "pythоn:3.13": NO_NAME,  # noqa: RUF001 - the o is Cyrillic
            "docker.iо/library/python:3.13": NO_NAME,  # noqa: RUF001 - the last o is Cyrillic
            "ｐython:3.13": NO_NAME,  # noqa: RUF001 - a wide p
            "python:３.13": BAD_TAG,  # noqa: RUF001 - a wide 3
            "pyth\u200bon:3.13": NO_NAME,
            "python\u2024:3.13": NO_NAME,
            "python:3.13\u202e": BAD_TAG,
            "python:3.13\n": BAD_TAG,
            "python:3.13\n  network: host": BAD_TAG,
            " python:3.13": NO_NAME,
            "python:3.13 ": BAD_TAG,
            "python\0:3.13": NO_NAME,
            "pyth\ud800n:3.13": NO_NAME,
        },
        ("python:3.13", "kernel-bridge/python:ANY_Tag.1-x"),
    ),
    "registries that look alike": Group(
        "image",
        rule("sandbox.images"),
        {
            "evil.io/python:3.13": OURS_ONLY,
            "evil.io/docker.io/library/python:3.13": OURS_ONLY,
            "docker.io.evil.com/library/python:3.13": OURS_ONLY,
            "registry-1.docker.io/library/python:3.13": OURS_ONLY,
            "mirror.docker.io/library/python:3.13": OURS_ONLY,
            "docker.com/library/python:3.13": OURS_ONLY,
            "docker.io:443/library/python:3.13": OURS_ONLY,
            "docker.io./library/python:3.13": NO_NAME,
            ".docker.io/library/python:3.13": NO_NAME,
            "docker.io/docker.io/library/python:3.13": OURS_ONLY,
            "docker.io/library/library/python:3.13": OURS_ONLY,
            "xn--dcker-jua.io/library/python:3.13": OURS_ONLY,
            "localhost/python:3.13": OURS_ONLY,
            "localhost/kernel-bridge/python:3.13": OURS_ONLY,
            "127.0.0.1:5000/kernel-bridge/python:3.13": OURS_ONLY,
            "[::1]:5000/kernel-bridge/python:3.13": NO_NAME,
            "python:5000/evil/image:3.13": OURS_ONLY,
            "kernel-bridge:5000/python:3.13": OURS_ONLY,
            f"registry.example.org/team/kernel@{PIN}": OURS_ONLY,
            f"registry.example.org:5001/team/kernel@{PIN}": OURS_ONLY,
            f"registry.example.org:05000/team/kernel@{PIN}": NO_NAME,
            f"registry.example.org:5000:5000/team/kernel@{PIN}": NO_NAME,
            f"registry.example.org:5000.evil.com/team/kernel@{PIN}": NO_NAME,
            f"evil-registry.example.org:5000/team/kernel@{PIN}": OURS_ONLY,
            f"user:word@registry.example.org:5000/team/kernel@{PIN}": BAD_DIGEST,
            f"https://{TEAM}@{PIN}": NO_NAME,
        },
        ("docker.io/library/python:3.13", "docker.io/python:3.13", "index.docker.io/library/python:3.12"),
    ),
    "repositories that look alike": Group(
        "image",
        rule("sandbox.images"),
        {
            "python-evil:3.13": OURS_ONLY,
            "python3:3.13": OURS_ONLY,
            "evil/python:3.13": OURS_ONLY,
            "kernel-bridge/python-evil:3.13": OURS_ONLY,
            "kernel-bridge/python/evil:3.13": OURS_ONLY,
            "kernel-bridge-evil/python:3.13": OURS_ONLY,
            "evil/kernel-bridge/python:3.13": OURS_ONLY,
            "kernel-bridge:3.13": OURS_ONLY,
            "kernel-bridge//python:3.13": NO_NAME,
            "kernel-bridge/./python:3.13": NO_NAME,
            "kernel-bridge/../python:3.13": NO_NAME,
            "/kernel-bridge/python:3.13": NO_NAME,
            "kernel-bridge/python/:3.13": NO_NAME,
            "kernel-bridge/*:3.13": NO_NAME,
            "kernel-bridge/pyth?n:3.13": NO_NAME,
            "kernel-bridge%2fpython:3.13": NO_NAME,
            "kernel-bridge\\python:3.13": NO_NAME,
            "../volumes/x:1": NO_NAME,
            "../containers/0123/json?x=:1": NO_NAME,
            "python:3.13/../../containers/x": NO_TAG,
            "a/" * 130 + "b:1": "longer than 255",
        },
        ("library/python:3.13", "kernel-bridge/python:1"),
    ),
    "tags that try to be patterns or more than tags": Group(
        "image",
        rule("sandbox.images"),
        {
            "python": NO_TAG,
            "kernel-bridge/python": NO_TAG,
            "python:": BAD_TAG,
            "python:latest": OURS_ONLY,
            "python:3.1": OURS_ONLY,
            "python:3.133": OURS_ONLY,
            "python:3.12-3.13": OURS_ONLY,
            "python:*": BAD_TAG,
            "kernel-bridge/python:*": BAD_TAG,
            "python:3.*": BAD_TAG,
            "python:3.1?": BAD_TAG,
            "python:3.1[23]": BAD_TAG,
            "python:(3.13)": BAD_TAG,
            "python:3.13|x": BAD_TAG,
            "python:^3.13$": BAD_TAG,
            "python:-3.13": BAD_TAG,
            "python:.13": BAD_TAG,
            "python:3.13%00": BAD_TAG,
            "python:3.13#x": BAD_TAG,
            "python:3.13;x": BAD_TAG,
            "python:3.13,python:3.12": BAD_TAG,
            "python:3.13:3.12": BAD_TAG,
            "kernel-bridge/python:" + "1" * 129: BAD_TAG,
        },
        ("kernel-bridge/python:_", "kernel-bridge/python:" + "1" * 128),
    ),
    "digests, ids in a name's place, and options": Group(
        "image",
        rule("sandbox.images"),
        {
            f"{TEAM}@{OTHER}": OURS_ONLY,
            f"python@{PIN}": OURS_ONLY,
            f"kernel-bridge/python@{PIN}": OURS_ONLY,
            f"{TEAM}:1": OURS_ONLY,
            f"{TEAM}:1@{PIN}": "both a tag and a digest",
            f"kernel-bridge/python:3.13@{PIN}": "both a tag and a digest",
            f"{TEAM}@{PIN[:-1]}": BAD_DIGEST,
            f"{TEAM}@{PIN}0": BAD_DIGEST,
            f"{TEAM}@{PIN}@{PIN}": BAD_DIGEST,
            f"{TEAM}@sha512:{'3f' * 64}": BAD_DIGEST,
            f"{TEAM}@": BAD_DIGEST,
            f"{TEAM}@{PIN}\n": BAD_DIGEST,
            f"{TEAM}@ {PIN}": BAD_DIGEST,
            PIN: "looks like an image id",
            PIN.removeprefix("sha256:"): "looks like an image id",
            "3f3f3f3f3f3f": "looks like an image id",
            "3f3f3f": "looks like an image id",
            "3f3f3": NO_TAG,
            "sha256:3f": "looks like an image id",
            "deadbeef:3.13": OURS_ONLY,
            "--privileged": NO_TAG,
            "-v=/:/host:rw": NO_NAME,
            "": NO_TAG,
            ":3.13": NO_NAME,
            f"@{PIN}": NO_NAME,
            5: "the number 5 cannot be used",
            ("python:3.13",): "a list cannot be used",
        },
        (f"{TEAM}@{PIN}", None),
    ),
    "names of sandboxes": Group(
        "name",
        "allowed are 1 to 32 of a-z, 0-9 and '-', not starting with '-'$",
        dict.fromkeys(
            ["", "A", "-a", "a_b", "a.b", "a" * 33, "a\n", "../volumes/x", "a/b", "ä", "а", "٣", "a b", "a\0", None, 5],  # noqa: RUF001
            "cannot be one",
        ),
        ("a", "0", "a-b", "a-", "a" * 32),
    ),
    "networks": Group(
        "network",
        rule("sandbox.network"),
        dict.fromkeys(
            [
                *("host", "bridge", "default", "container:x", "container:0123456789ab", "ns:/proc/1/ns/net", "open "),
                *("Isolated", "NONE", "", "none ", "isolated\n", "none,host", "none\0", 0, True, ("none",)),
            ],
            "is not allowed",
        ),
        ("none", "isolated", None),
    ),
    "memory": Group(
        "memory",
        rule("sandbox.limits.memory"),
        {
            2 * GiB + 1: "2147483649B is out of bounds; allowed is a size from 64MiB to 2GiB",
            64 * MiB - 1: "out of bounds",
            0: "out of bounds",
            -1: "out of bounds",
            -(2**63): "out of bounds",
            2**63: "out of bounds",
            2**64 + GiB: "out of bounds",
            True: "true cannot be used",
            1e9: "cannot be used",
            math.inf: "cannot be used",
            math.nan: "cannot be used",
            "2GB": "cannot be used",
            "0x10000000": "cannot be used",
            "-1GiB": "cannot be used",
            "3GiB": "out of bounds",
        },
        (2 * GiB, 64 * MiB, 64 * MiB + 1, "1GiB", None),
    ),
    "processors": Group(
        "cpus",
        rule("sandbox.limits.cpus"),
        {
            2.1: "2.1 is out of bounds; allowed is a number from 0.1 to 2",
            2.0000001: "2.0000001 is out of bounds",
            math.nextafter(2, 3): "2.0000000000000004 is out of bounds",
            math.nextafter(0.1, 0): "0.09999999999999999 is out of bounds",
            0: "0 is out of bounds",
            -0.5: "-0.5 is out of bounds",
            1e308: "out of bounds",
            5e-324: "out of bounds",
            math.nan: "cannot be used",
            math.inf: "cannot be used",
            -math.inf: "cannot be used",
            True: "true cannot be used",
            "2": "cannot be used",
            10**400: "cannot be used",
        },
        (2, 2.0, 0.1, 1, None),
    ),
    "workspaces that are not to be read": Group(
        "workspace",
        rule("sandbox.mounts"),
        {
            "~/projects-evil": "is not in a directory of the policy's mounts",
            "~/other": "is not in a directory of the policy's mounts",
            "~/projects/escape": "is not in a directory of the policy's mounts",
            "~/projects/escape/..": "the home directory itself",
            "~/projects/../other": "is not in a directory of the policy's mounts",
            "~/projects/app/../../other": "is not in a directory of the policy's mounts",
            "~/projects/far": "is not in a directory of the policy's mounts",
            "~/projects/etc": "hide the container's own /etc",
            "~/projects/root": "the whole machine",
            "~/projects/root/proc": "belongs to the machine",
            "~/projects/run": "belongs to the machine",
            "~/projects/socket": "is not a directory",
            "~/projects/loop": "cannot be looked at",
            "~/projects/dangling": "does not exist",
            "~/projects/gone": "does not exist",
            "~/projects/file": "is not a directory",
            "~/projects/with,comma": "':' or ','",
            "~/projects/with:colon": "':' or ','",
            "~/data/a\nb": "U+000A",
            "~/data/a\0b": "U+0000",
            "~/data/a\u202eb": "U+202E",
            "~/data/\ud800": "U+D800",
            "~/data:/etc:rw": "does not exist",
            "~/*": "does not exist",
            "projects": "is not a full path",
            "./projects": "is not a full path",
            "~root/projects": "is not a full path",
            "$HOME/projects": "is not a full path",
            "file:///etc": "is not a full path",
            "C:\\Users": "is not a full path",
            "": "is not a full path",
            "~": "the home directory itself",
            "~/projects/..": "the home directory itself",
            "~/projects/../..": "holds the home directory",
            "/": "the whole machine",
            "//": "the whole machine",
            "/..": "the whole machine",
            "/proc": "belongs to the machine",
            "/proc/self/root": "the whole machine",
            "/proc/1": "belongs to the machine",
            "/dev/shm": "belongs to the machine",
            "/sys": "belongs to the machine",
            "/run": "belongs to the machine",
            "/var/run": "belongs to the machine",
            "/var": "container engine's socket or data",
            "/etc": "hide the container's own /etc",
            "/usr/bin": "hide the container's own /usr",
            "/home": "hide the container's own /home",
            5: "is not a full path",
        },
        ("~/projects", "~/projects/app", "~/projects/app/..", "~/data/set", "~/link", "~/projects/within", None),
    ),
    "workspaces that are not to be written": Group(
        "workspace",
        rule("sandbox.mounts"),
        {
            "~/data": "may only be mounted ro",
            "~/data/set": "may only be mounted ro",
            "~/link": "may only be mounted ro",
            "~/projects/data": "may only be mounted ro",
            "~/projects/app/../../data": "may only be mounted ro",
        },
        ("~/projects", "~/projects/app", "~/projects/within"),
        {"workspace_mode": "rw"},
    ),
    "modes of a workspace": Group(
        "workspace_mode",
        "^workspace: .* does not exist; allowed are ro and rw$",
        dict.fromkeys(["", "rx", "RW", "rw ", "rw,exec", "z", "rshared", None, True, 5], "the mode"),
        ("ro", "rw"),
        {"workspace": "~/projects"},
    ),
    "variables": Group(
        "environment",
        rule("sandbox.environment"),
        {
            (name, "hush"): "may not be passed; allowed are TZ, LANG"
            for name in (
                *("SECRET", "tz", "TZ ", " TZ", "TZ=", "TZ\0", "TZ\n", "", "*", "T?", "ТZ"),  # noqa: RUF001 - Cyrillic
                *("LD_PRELOAD", "PYTHONSTARTUP", "HTTPS_PROXY", "https_proxy", "PATH", "KERNEL_BRIDGE_POLICY", 5, None),
            )
        },
        (("TZ", "UTC"), ("LANG", "")),
    ),
    "values of variables": Group(
        "environment",
        "^environment: TZ: its value ",
        {
            ("TZ", "hush\nx"): "holds a NUL or a line break; allowed is one line of text",
            ("TZ", "hush\n"): "holds a NUL or a line break; allowed is one line of text",
            ("TZ", "hush\0"): "holds a NUL or a line break; allowed is one line of text",
            ("TZ", "hush" + "é" * 2050): "has 4104 bytes; allowed are 4096",
            ("TZ", "x" * 4097): "has 4097 bytes; allowed are 4096",
            ("TZ", "hush\ud800"): "is not valid Unicode",
            ("TZ", 5): "is not text",
            ("TZ", None): "is not text",
            ("TZ", ("hush",)): "is not text",
        },
        (("TZ", "x" * 4096), ("TZ", "é" * 2048), ("TZ", "hush\t=$(x);'\"")),
    ),
}


@pytest.fixture
def policy(home: Path) -> Policy:
    for name in ("projects/app", "data/set", "projects-evil", "other", "projects/with,comma", "projects/with:colon"):
        (home / name).mkdir(parents=True)
    (home / "projects" / "file").touch()
    links: dict[str, str | Path] = {
        "link": "data/set",
        "projects/within": "app",
        "projects/data": home / "data",
        "projects/escape": "../other",
        "projects/far": "hop",
        "projects/hop": "escape",
        "projects/etc": "/etc",
        "projects/root": "/",
        "projects/run": "/run",
        "projects/socket": "/proc/self/exe",
        "projects/loop": "loop",
        "projects/dangling": "nowhere",
    }
    for link, target in links.items():
        (home / link).symlink_to(target)
    return parse(POLICY, origin="/srv/policy.yaml")


def requested(group: Group, value: Any) -> SandboxRequest:
    asked = {"name": "a"} | group.also | {group.asks: value}
    for path in {"workspace"} & asked.keys():
        asked[path] = Path(asked[path]) if isinstance(asked[path], str) and asked[path] else asked[path]
    if group.asks == "environment":
        asked["environment"] = dict([value])
    return SandboxRequest(**asked)


def bad_requests() -> Iterator[Any]:
    for kind, group in GROUPS.items():
        for value, words in group.bad.items():
            yield pytest.param(group, value, words, id=f"{kind}: {ascii(value)[:60]}")


def good_requests() -> Iterator[Any]:
    for kind, group in GROUPS.items():
        for value in group.good:
            yield pytest.param(group, value, id=f"{kind}: {ascii(value)[:60]}")


@pytest.mark.parametrize(("group", "value", "words"), [*bad_requests()])
def test_a_bad_request_is_refused_for_its_own_reason_with_rule_line_and_what_is_allowed(
    policy: Policy, group: Group, value: Any, words: str
) -> None:
    with pytest.raises(PolicyRefused) as caught:
        decide(policy, requested(group, value))
    first, *reasons = str(caught.value).split("\n")
    assert first == "not allowed by the policy /srv/policy.yaml, so nothing was started:"
    (reason,) = (each.removeprefix("  ") for each in reasons)
    assert words in reason
    assert re.search(group.rule, reason), reason
    assert "hush" not in reason
    assert reason.isprintable()


@pytest.mark.parametrize(("group", "value"), [*good_requests()])
def test_its_good_neighbour_is_granted(policy: Policy, group: Group, value: Any) -> None:
    spec = decide(policy, requested(group, value))
    if group.asks == "environment":
        assert spec.environment == (value,)


BOMB = "".join(f"  b{each}: &b{each} [{', '.join([f'*b{each - 1}'] * 9)}]\n" for each in range(1, 20))
FILES = {
    # what stands in line 3 and below, after `version: 1` and `sandbox:` → line, setting, words
    "  network: none\n  network: isolated\n": (4, "sandbox.network", "stands twice, first in line 3"),
    '  network: none\n  "network": isolated\n': (4, "sandbox.network", "stands twice, first in line 3"),
    '  network: none\n  "\\u006eetwork": isolated\n': (4, "sandbox.network", "stands twice, first in line 3"),
    "  limits: {pids: 64}\n  limits: {pids: 32768}\n": (4, "sandbox.limits", "stands twice"),
    "  limits: {pids: 64, pids: 32768}\n": (3, "sandbox.limits.pids", "stands twice"),
    "  max_running: 1\nsandbox:\n  max_running: 256\n": (4, "sandbox", "stands twice, first in line 2"),
    "  max_running: &n 4\n": (3, "sandbox.max_running", "the anchor &n"),
    "  <<: {network: none}\n": (3, "sandbox", "the merge key"),
    "  limits: {<<: [{pids: 64}]}\n": (3, "sandbox.limits", "the merge key"),
    '  "<<": {network: none}\n': (3, "sandbox.<<", "this key is not known"),
    "  network: !!str none\n": (3, "sandbox.network", "a tag"),
    "  network: !!python/name:os.system none\n": (3, "sandbox.network", "a tag"),
    "  network: !!python/object/apply:os.system [x]\n": (3, "sandbox.network", "a tag"),
    "  max_running: !!int '4'\n": (3, "sandbox.max_running", "a tag"),
    "  environment: !!seq [TZ]\n": (3, "sandbox.environment", "a tag"),
    "  max_running: 04\n": (3, "sandbox.max_running", "read differently"),
    "  max_running: 0o4\n": (3, "sandbox.max_running", "read differently"),
    "  max_running: 0x4\n": (3, "sandbox.max_running", "read differently"),
    "  max_running: 0b11\n": (3, "sandbox.max_running", "read differently"),
    "  max_running: 1_0\n": (3, "sandbox.max_running", "read differently"),
    "  max_running: +4\n": (3, "sandbox.max_running", "read differently"),
    "  max_running: 1:30\n": (3, "sandbox.max_running", "read differently"),
    "  max_running: 4e0\n": (3, "sandbox.max_running", "read differently"),
    "  max_running: 4.0\n": (3, "sandbox.max_running", "write a whole number"),
    '  max_running: "4"\n': (3, "sandbox.max_running", "write a whole number"),
    "  max_running: true\n": (3, "sandbox.max_running", "true cannot be used"),
    "  max_running: [4]\n": (3, "sandbox.max_running", "write a whole number"),
    "  max_running: 99999999999999999999\n": (3, "sandbox.max_running", "more than 18 characters"),
    "  max_running: 257\n": (3, "sandbox.max_running", "257 is too large; write a whole number from 0 to 256"),
    "  max_running: -1\n": (3, "sandbox.max_running", "-1 is too small"),
    "  limits: {cpus: .inf}\n": (3, "sandbox.limits.cpus", "read differently"),
    "  limits: {cpus: -.Inf}\n": (3, "sandbox.limits.cpus", "read differently"),
    "  limits: {cpus: .nan}\n": (3, "sandbox.limits.cpus", "read differently"),
    '  limits: {cpus: ".nan"}\n': (3, "sandbox.limits.cpus", "write a number from 0.1 to 1024"),
    "  limits: {cpus: nan}\n": (3, "sandbox.limits.cpus", "write a number from 0.1 to 1024"),
    "  limits: {cpus: true}\n": (3, "sandbox.limits.cpus", "true cannot be used"),
    "  limits: {cpus: 1024.5}\n": (3, "sandbox.limits.cpus", "1024.5 is too large"),
    "  limits: {cpus: 1024.0001}\n": (3, "sandbox.limits.cpus", "1024.0001 is too large"),
    "  limits: {cpus: 0.09}\n": (3, "sandbox.limits.cpus", "0.09 is too small"),
    "  limits: {memory: 2147483648}\n": (3, "sandbox.limits.memory", "write a size"),
    "  limits: {memory: 2G}\n": (3, "sandbox.limits.memory", "write a size"),
    "  limits: {memory: 2 GiB}\n": (3, "sandbox.limits.memory", "write a size"),
    "  limits: {memory: 1025GiB}\n": (3, "sandbox.limits.memory", "1025GiB is too large"),
    "  limits: {memory: 65535KiB}\n": (3, "sandbox.limits.memory", "65535KiB is too small"),
    "  limits: {memory: 2GiB, home: 513MiB}\n": (3, "sandbox.limits", "at most half of memory"),
    "  limits: {pids: 32769}\n": (3, "sandbox.limits.pids", "32769 is too large"),
    "  limits: {pids: 31}\n": (3, "sandbox.limits.pids", "31 is too small"),
    "  limits: {swap: 1GiB}\n": (3, "sandbox.limits.swap", "this key is not known"),
    "  limits: {shm: 0B}\n": (3, "sandbox.limits.shm", "0B is too small"),
    "  network: host\n": (3, "sandbox.network", "write none, isolated or open"),
    "  network: Isolated\n": (3, "sandbox.network", "write none, isolated or open"),
    "  network: NO\n": (3, "sandbox.network", "read differently"),
    "  network: off\n": (3, "sandbox.network", "read differently"),
    "  network: ~\n": (3, "sandbox.network", "read differently"),
    "  network:\n": (3, "sandbox.network", "nothing is written here"),
    "  network: [none]\n": (3, "sandbox.network", "write none, isolated or open"),
    "  privileged: true\n": (3, "sandbox.privileged", "this key is not known"),
    "  cap_add: [SYS_ADMIN]\n": (3, "sandbox.cap_add", "this key is not known"),
    "  devices: [/dev/kvm]\n": (3, "sandbox.devices", "this key is not known"),
    "  security_opt: [seccomp=unconfined]\n": (3, "sandbox.security_opt", "this key is not known"),
    "  Network: none\n": (3, "sandbox.Network", "(did you mean network?)"),
    "  netwоrk: none\n": (3, "sandbox.netwоrk", "this key is not known"),  # noqa: RUF001 - a Cyrillic o
    "  net\u200bwork: none\n": (3, "", "U+200B ZERO WIDTH SPACE"),
    "  network: none # \u202eenon\n": (3, "", "U+202E RIGHT-TO-LEFT OVERRIDE"),
    "  network:\u00a0none\n": (3, "", "U+00A0 NO-BREAK SPACE"),
    "  network: none\u2028  gpus: 0\n": (3, "", "U+2028 LINE SEPARATOR"),
    "  network: none\u0085  gpus: 0\n": (3, "", "U+0085"),
    "\tnetwork: none\n": (3, "", "a tab; write spaces"),
    "  network:\tnone\n": (3, "", "a tab; write spaces"),
    "  network: none\r  gpus: 0\n": (3, "", "U+000D"),
    "  ? network\n  : none\n  ? [network]\n  : open\n": (5, "sandbox", "a key that is not plain text"),
    "  true: none\n": (3, "sandbox", "the key 'true' is not plain text"),
    "  environment: [TZ, [LANG]]\n": (3, "sandbox.environment[1]", "write a list of variable names"),
    "  environment: {TZ: 1}\n": (3, "sandbox.environment", "write a list of variable names"),
    "  environment: [" + "[" * 3000 + "]" * 3000 + "]\n": (3, "", "nested more than 12 deep"),
    "  network: none\n---\nversion: 1\n": (4, "", "a second document begins"),
    "  network: none\n...\nsandbox: {max_running: 256}\n": (5, "", "align it"),
    "  runtime: runc --privileged\n": (3, "sandbox.runtime", "is not a runtime's name"),
    "  runtime: ../runc\n": (3, "sandbox.runtime", "is not a runtime's name"),
    "  runtime: RUNSC\n": (3, "sandbox.runtime", "is not a runtime's name"),
    '  runtime: ""\n': (3, "sandbox.runtime", "is not a runtime's name"),
    "  images: []\n": (3, "sandbox.images", "the list is empty"),
    '  images: [{repository: "*", tags: ["*"]}]\n': (3, "sandbox.images[0].repository", NO_NAME),
    '  images: [{repository: "docker.io/*", tags: ["1"]}]\n': (3, "sandbox.images[0].repository", NO_NAME),
    '  images: [{repository: a/b, tags: ["3.*"]}]\n': (3, "sandbox.images[0].tags[0]", "is not a tag"),
    '  images: [{repository: a/b, tags: ["**"]}]\n': (3, "sandbox.images[0].tags[0]", "is not a tag"),
    '  images: [{repository: a/b, tags: [""]}]\n': (3, "sandbox.images[0].tags[0]", "is not a tag"),
    '  images: [{repository: a/b, digests: ["*"]}]\n': (3, "sandbox.images[0].digests[0]", "is not a digest"),
    "  default_image: evil/python:1\n": (3, "sandbox.default_image", "is not among the images of this policy"),
    '  default_image: "kernel-bridge/python:*"\n': (3, "sandbox.default_image", BAD_TAG),
    **{
        f"  environment: [TZ, {name}]\n": (3, "sandbox.environment[1]", f"{name} is never passed")
        for name in (
            *("LD_PRELOAD", "ld_preload", "LD_LIBRARY_PATH", "LD_AUDIT", "GCONV_PATH", "GLIBC_TUNABLES", "BASH_ENV"),
            *("PYTHONSTARTUP", "PYTHONPATH", "pythonhome", "PYTHONBREAKPOINT", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"),
            *("HTTP_PROXY", "https_proxy", "ALL_PROXY", "No_Proxy", "PATH", "Home", "USER", "KERNEL_BRIDGE_POLICY"),
        )
    },
    **{
        f"  environment: [TZ, {name}]\n": (3, "sandbox.environment[1]", "is not a variable's name")
        for name in ('"TZ=UTC"', '"TZ "', '""', '"1A"', '"A-B"', '"*"', '"T[Z]"', "ТZ", f'"{"A" * 129}"')  # noqa: RUF001
    },
    **{
        f"  mounts:\n    - source: {source}\n": (4, "sandbox.mounts[0].source", words)
        for source, words in {
            "/": "the whole machine",
            "/proc/self/root": "the whole machine",
            "~/root": "the whole machine",
            "~/": "the home directory itself",
            "~/projects/..": "the home directory itself",
            "~/projects/../..": "holds the home directory",
            "/proc": "belongs to the machine",
            "/run": "belongs to the machine",
            "/var/run": "belongs to the machine",
            "~/run": "belongs to the machine",
            "/var": "container engine's socket or data",
            "/etc": "hide the container's own /etc",
            "~/docker.sock": "is not a directory",
            "~/*": "does not exist",
            "~/projects:/etc": "does not exist",
            "projects": "is not a full path",
            "~root": "is not a full path",
            "$HOME": "is not a full path",
            "[/srv]": "write a directory",
            "5": "write a directory",
        }.items()
    },
    "  mounts:\n    - {source: ~/projects, mode: RW}\n": (4, "sandbox.mounts[0].mode", "write ro or rw"),
    "  mounts:\n    - {source: ~/projects, target: /etc}\n": (4, "sandbox.mounts[0].target", "this key is not known"),
    "  mounts:\n    - {source: ~/projects, mode: rw}\n    - {source: ~/p}\n": (3, "sandbox.mounts", "is listed twice"),
}
GOOD_FILES = (
    "  network: none\n",
    '  "network": none\n',
    "  max_running: 0\n",
    "  max_running: 256\n",
    "  limits: {memory: 1TiB, cpus: 1024, pids: 32768, home: 256GiB, tmp: 128GiB, shm: 128GiB, log: 1GiB}\n",
    "  limits: {memory: 64MiB, cpus: 0.1, pids: 32, home: 1MiB, tmp: 1MiB, shm: 1MiB, log: 16KiB}\n",
    "  environment: [TZ, LANG, http_proxy_url, MY_PATH, PYTEST_ADDOPTS, HOMEPAGE]\n",
    "  mounts: [{source: ~/projects, mode: rw}]\n",
    "  mounts: [{source: ~/p/}]\n",
    '  images: [{repository: kernel-bridge/python, tags: ["*"]}]\n',
    "  runtime: io.containerd.runsc.v1\n",
    "  network: none # für die Prüfung\n",
    "  network: none\r\n  max_running: 1\r\n",
    "  ? network\n  : none\n",
)


@pytest.fixture
def places_to_name(home: Path) -> None:
    (home / "root").symlink_to("/")
    (home / "run").symlink_to("/run")
    (home / "p").symlink_to("projects")
    (home / "docker.sock").symlink_to("/proc/self/exe")


@pytest.mark.usefixtures("places_to_name")
@pytest.mark.parametrize(("text", "told"), FILES.items(), ids=[ascii(text)[:60] for text in FILES])
def test_a_bad_policy_is_refused_with_its_line_its_setting_and_what_to_do(
    text: str, told: tuple[int, str, str]
) -> None:
    number, setting, words = told
    with pytest.raises(PolicyError) as caught:
        parse(f"version: 1\nsandbox:\n{text}", origin="/srv/policy.yaml")
    first, *lines = str(caught.value).split("\n")
    assert first == "policy /srv/policy.yaml is not valid:"
    (line,) = lines
    assert line.startswith(f"  line {number}: {setting}: " if setting else f"  line {number}: "), line
    assert words in line
    assert re.search(r"\b(write|remove|leave|align|nothing here needs that)\b", line), line
    assert line.isprintable()


@pytest.mark.usefixtures("places_to_name")
@pytest.mark.parametrize("text", GOOD_FILES, ids=[ascii(text)[:60] for text in GOOD_FILES])
def test_its_good_neighbour_is_taken(text: str) -> None:
    assert parse(f"version: 1\nsandbox:\n{text}", origin="/srv/policy.yaml") != parse("version: 1", origin="X")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xef\xbb\xbfversion: 1\n", "line 1: a byte order mark"),
        ("version: 1\n".encode("utf-16"), "line 1: this line is not UTF-8"),
        ("version: 1\n".encode("utf-32-le"), "U+0000"),
        (b"version: 1\n# caf\xe9\n", "line 2: this line is not UTF-8"),
        (b"version: 1\n# \xc0\xaf\n", "line 2: this line is not UTF-8"),
        (b"version: 1\n# \xed\xa0\x80\n", "line 2: this line is not UTF-8"),
        (b"version: 1\n\0", "line 2: the character U+0000"),
        (b"version: 1\n" + b"#" * 10_000_000, "larger than 64 KiB"),
        (b"x" * 70_000, "larger than 64 KiB"),
        (b"", "the file is empty"),
        (b"# version: 1\n", "the file is empty"),
        (b"sandbox: {}\n", "version: this is missing; write 1"),
        (f"version: 1\nsandbox:\n  b0: &b0 [x]\n{BOMB}".encode(), "the alias *b0"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_bytes_that_are_no_policy_are_refused_before_they_can_do_harm(home: Path, data: bytes, words: str) -> None:
    (home / "policy.yaml").write_bytes(data)
    with pytest.raises(PolicyError) as caught:
        load(home / "policy.yaml")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 10_000
    (home / "policy.yaml").write_bytes(b"version: 1\n")
    assert load(home / "policy.yaml").sandbox.max_running == 4


def test_there_are_more_than_150_of_them_and_none_is_there_twice() -> None:
    asked = [(group.asks, repr(value)) for group in GROUPS.values() for value in group.bad if group.asks == "image"]
    assert len(asked) == len(set(asked))
    assert len(FILES) + sum(len(group.bad) for group in GROUPS.values()) > 150
    assert all(group.good for group in GROUPS.values())
