"""A policy is taken whole or not at all, and its error tells everything that is wrong, in a person's words."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from bridge.errors import PolicyError
from bridge.policy import BUILT_IN, built_in, built_in_text, load, parse
from bridge.policy.loading import MAX_PROBLEMS, distrust, distrust_directory

START = 'version: 1\nsandbox:\n  images: [{repository: team/kernel, tags: ["1"]}]\n  default_image: team/kernel:1\n'
"""Four lines; what a test adds begins in line 5, inside `sandbox`."""
PIN = "sha256:" + "0" * 64
JARGON = re.compile(
    r"pydantic|Input should|Value error|https?://|_error|ctx|NoneType|\bdict\b|\btuple\b|\bstr\b|<block|\\n"
)


def problems(written: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        parse(written, origin="X")
    first, *lines = str(caught.value).split("\n")
    assert first == "policy X is not valid:"
    assert not JARGON.search("\n".join(lines)), lines
    return [line.removeprefix("  ") for line in lines]


@pytest.mark.parametrize(
    ("added", "where", "fragment"),
    [
        (
            "  network: opened\n",
            "line 5: sandbox.network",
            'the text "opened" cannot be used here; write none, isolated or open',
        ),
        (
            "  network: bridge\n",
            "line 5: sandbox.network",
            'the text "bridge" cannot be used here; write none, isolated or open',
        ),
        ("  netwrok: none\n", "line 5: sandbox.netwrok", "not known (did you mean network?); write one of images,"),
        (
            "  limits:\n    memory: 512\n",
            "line 6: sandbox.limits.memory",
            "the number 512 cannot be used here; write a size from 64MiB to 1TiB, like 512MiB",
        ),
        ("  limits: {memory: 512MB}\n", "line 5: sandbox.limits.memory", "like 512MiB"),
        ("  limits: {memory: 0B}\n", "line 5: sandbox.limits.memory", "0B is too small"),
        ("  limits: {memory: 63MiB}\n", "line 5: sandbox.limits.memory", "63MiB is too small; write a size from 64MiB"),
        (
            "  limits: {memory: 2TiB}\n",
            "line 5: sandbox.limits.memory",
            "2TiB is too large; write a size from 64MiB to 1TiB",
        ),
        ("  limits: {memory: -1}\n", "line 5: sandbox.limits.memory", "the number -1 cannot be used"),
        (
            "  limits: {memory: 1GiB}\n",
            "line 5: sandbox.limits",
            "half of memory (512MiB) is allowed, because tmpfs counts as memory; write memory: 2GiB, or home: 256MiB,",
        ),
        ("  limits:\n    home: 600MiB\n", "line 5: sandbox.limits", "home + tmp + shm is 1112MiB"),
        ("  limits: {home: 1KiB}\n", "line 5: sandbox.limits.home", "1KiB is too small"),
        ("  limits: {tmp: 513GiB}\n", "line 5: sandbox.limits.tmp", "513GiB is too large"),
        ("  limits: {log: 2GiB}\n", "line 5: sandbox.limits.log", "2GiB is too large"),
        (
            "  limits: {cpus: 0}\n",
            "line 5: sandbox.limits.cpus",
            "0 is too small; write a number from 0.1 to 1024, like 2 or 0.5",
        ),
        ("  limits: {cpus: 5000}\n", "line 5: sandbox.limits.cpus", "5000 is too large"),
        (
            "  limits: {pids: 512.0}\n",
            "line 5: sandbox.limits.pids",
            "the number 512.0 cannot be used here; write a whole number from 32 to 32768",
        ),
        ("  limits: {pids: 4194304}\n", "line 5: sandbox.limits.pids", "4194304 is too large"),
        (
            "  limits: null\n",
            "line 5: sandbox.limits",
            "null cannot be used here; write a mapping with the keys memory, cpus",
        ),
        ("  mounts:\n    - source: projects\n", "line 6: sandbox.mounts[0].source", "'projects' is not a full path"),
        ("  mounts: [{source: ~/gone}]\n", "line 5: sandbox.mounts[0].source", "does not exist"),
        ("  mounts: [{source: ~}]\n", "line 5: sandbox.mounts[0].source", "read differently"),
        (
            "  mounts: [{mode: ro}]\n",
            "line 5: sandbox.mounts[0].source",
            "this is missing; write a directory, like ~/projects",
        ),
        ("  mounts: [{source: ~/projects, mode: rwx}]\n", "line 5: sandbox.mounts[0].mode", "write ro or rw"),
        ("  mounts: [~/projects]\n", "line 5: sandbox.mounts[0]", "write a mapping with the keys source, mode"),
        ("  mounts: [{source: ~/projects}, {source: ~/projects/}]\n", "line 5: sandbox.mounts", "listed twice"),
        (
            "  mounts:\n    - {source: ~/projects/ro}\n    - {source: ~/projects, mode: rw}\n",
            "line 5: sandbox.mounts",
            "is ro but lies in",
        ),
        (
            "  environment:\n    - TZ\n    - https_proxy\n",
            "line 7: sandbox.environment[1]",
            "https_proxy is never passed",
        ),
        (
            "  environment: [1]\n",
            "line 5: sandbox.environment[0]",
            "the number 1 cannot be used in this list; write a list of variable names",
        ),
        ("  environment: TZ\n", "line 5: sandbox.environment", 'the text "TZ" cannot be used here; write a list'),
        ("  gpus: -1\n", "line 5: sandbox.gpus", "-1 is too small; write a whole number from 0 to 64"),
        ("  gpus: all\n", "line 5: sandbox.gpus", "write a whole number from 0 to 64"),
        (
            "  max_lifetime: 1s\n",
            "line 5: sandbox.max_lifetime",
            "1s is too small; write a duration from 1m to 365d",
        ),
        ("  runtime: /usr/bin/runsc\n", "line 5: sandbox.runtime", "not a runtime's name"),
        (
            "  max_running: 1000\n",
            "line 5: sandbox.max_running",
            "1000 is too large; write a whole number from 0 to 256",
        ),
        ("  idle_timeout: 5\n", "line 5: sandbox.idle_timeout", "the number 5 cannot be used here; write a duration"),
        ("  idle_timeout: 1:30\n", "line 5: sandbox.idle_timeout", "read differently"),
        ("  egress: [{host: '*.example.org', port: 443}]\n", "line 5: sandbox.egress[0].host", "without a pattern"),
        ("  egress: [{host: a.example, port: 70000}]\n", "line 5: sandbox.egress[0].port", "too large"),
        (
            "  egress: [{host: a.example, port: 1, allow_addresses: [10.0.0.1/8]}]\n",
            "line 5: sandbox.egress[0].allow_addresses[0]",
            "a range of addresses",
        ),
        ("attach: {allowed: 1}\n", "line 5: attach.allowed", "the number 1 cannot be used here; write true or false"),
        ("attach: {directories: [run]}\n", "line 5: attach.directories[0]", "'run' is not a full path"),
        ("attach: {directories: [/]}\n", "line 5: attach.directories[0]", "the whole machine"),
        ("attach: {directories: [~/gone]}\n", "line 5: attach.directories[0]", "does not exist"),
        ("attach: {directories: [~/]}\n", "line 5: attach.directories[0]", "the home directory itself"),
        (
            "attach: {addresses: [10.0.0.1]}\n",
            "line 5: attach.addresses[0]",
            "'10.0.0.1' is not supported yet by this version; write loopback",
        ),
        (
            "calls: {timeout: 45}\n",
            "line 5: calls.timeout",
            "the number 45 cannot be used here; write a duration from 1s to 1d",
        ),
        ("calls: {timeout: 0s}\n", "line 5: calls.timeout", "0s is too small"),
        ("calls: {timeout: 2h}\n", "line 5: calls.max_timeout", "less than timeout (2h)"),
        ("calls: {max_timeout: 2d}\n", "line 5: calls.max_timeout", "2d is too large; write a duration from 1s to 1d"),
        ("calls: {max_output: 1MiB}\n", "line 5: calls.max_result", "less than max_output (1MiB)"),
        ("calls: {max_output: 1B}\n", "line 5: calls.max_output", "too small"),
        ("audit: {file: a.jsonl}\n", "line 5: audit.file", "is not a file's full path; write one that starts with /"),
        ("audit: {file: ~/x/../a.jsonl}\n", "line 5: audit.file", "without .."),
        ("audit: {file: /}\n", "line 5: audit.file", "is not a file's full path"),
        ('audit: {file: "/var/a\\u202e.jsonl"}\n', "line 5: audit.file", "cannot be seen"),
        ("audit: {file: /dev/null}\n", "line 5: audit.file", "belongs to the machine (/dev)"),
        ("audit: {file: /proc/self/fd/2}\n", "line 5: audit.file", "belongs to the machine (/proc)"),
        ("audit: {file: ~/.local/share/jupyter/runtime/a}\n", "line 5: audit.file", "where the keys of this machine's"),
        ("audit: {code: full}\n", "line 5: audit.code", "write hash (SHA-256), text or none"),
        ("audit: {max_size: 1KiB}\n", "line 5: audit.max_size", "too small; write a size from 1MiB"),
        ("audit: {keep: 0}\n", "line 5: audit.keep", "0 is too small; write a whole number from 1"),
        (
            "attach: {directories: [~/projects]}\naudit: {file: ~/projects/a.jsonl}\n",
            "line 6: audit",
            "where others put connection files (attach.directories)",
        ),
        ("audit: {file: 5}\n", "line 5: audit.file", "write a file's full path, or null"),
    ],
)
def test_a_wrong_setting_is_told_with_line_name_and_what_may_be_written(
    home: Path, added: str, where: str, fragment: str
) -> None:
    (home / "projects" / "ro").mkdir()
    (line,) = problems(START + added)
    assert line.startswith(f"{where}: "), line
    assert fragment in line


@pytest.mark.parametrize(
    ("images", "where", "fragment"),
    [
        ("[]", "images", "the list is empty"),
        ("[{repository: team/kernel}]", "images[0]", "this names no image"),
        ("[{repository: team/kernel, tags: [], digests: []}]", "images[0]", "this names no image"),
        ('[{tags: ["1"]}]', "images[0].repository", "this is missing"),
        ("[team/kernel]", "images[0]", "write a mapping with the keys repository, tags, digests"),
        ('[{repository: "team/kernel:1", tags: ["1"]}]', "images[0].repository", "holds a tag or digest"),
        (f'[{{repository: "team/kernel@{PIN}", tags: ["1"]}}]', "images[0].repository", "holds a tag or digest"),
        ('[{repository: Team/kernel, tags: ["1"]}]', "images[0].repository", "upper-case"),
        ('[{repository: "team/*", tags: ["1"]}]', "images[0].repository", "is not an image's name"),
        (
            "[{repository: team/kernel, tags: [3.10]}]",
            "images[0].tags[0]",
            "the number 3.1 cannot be used in this list; write a list of tags in quotes",
        ),
        ('[{repository: team/kernel, tags: ["1", "*"]}]', "images[0].tags", "write it alone"),
        ('[{repository: team/kernel, tags: ["1*"]}]', "images[0].tags[0]", "is not a tag"),
        ('[{repository: team/kernel, tags: "1"}]', "images[0].tags", "write a list of tags"),
        ('[{repository: team/kernel, digests: ["sha256:abc"]}]', "images[0].digests[0]", "64 hexadecimal digits"),
        (
            '[{repository: team/other, tags: ["1"]}]',
            "default_image",
            "team/kernel:1 is not among the images of this policy; write one of team/other:1",
        ),
        ('[{repository: team/kernel, tags: ["2"]}]', "default_image", "write one of team/kernel:2"),
        (f'[{{repository: team/kernel, digests: ["{PIN}"]}}]', "default_image", f"write one of team/kernel@{PIN}"),
    ],
)
def test_wrong_images_are_told_with_line_name_and_what_may_be_written(images: str, where: str, fragment: str) -> None:
    (line,) = problems(f"version: 1\nsandbox:\n  default_image: team/kernel:1\n  images: {images}\n")
    number = 3 if where == "default_image" else 4
    assert line.startswith(f"line {number}: sandbox.{where}: "), line
    assert fragment in line


@pytest.mark.parametrize("image", ["team/kernel", "TEAM/kernel:1", "a12bc557f32d", "team/kernel:1:2"])
def test_a_default_image_needs_one_meaning(image: str) -> None:
    (line,) = problems(START.replace("default_image: team/kernel:1", f'default_image: "{image}"'))
    assert line.startswith("line 4: sandbox.default_image: ")
    assert "write" in line


@pytest.mark.parametrize("version", ["2", "0", "1.0", "true", '"1"', "null", "[1]"])
def test_only_version_1_is_taken(version: str) -> None:
    (line,) = problems(START.replace("version: 1", f"version: {version}"))
    assert line.startswith("line 1: version: ")
    assert line.endswith("; write 1")


@pytest.mark.parametrize("written", ["- 1", "x", "5", "null", "[]"])
def test_a_file_that_is_no_mapping_is_refused(written: str) -> None:
    (line,) = problems(written)
    assert line.startswith("line 1: the whole file: ")
    assert line.endswith("write a mapping with the keys version, attach, sandbox, calls, audit")


def test_what_must_be_written_is_told_where_it_is_missing() -> None:
    lines = problems("sandbox: {mounts: [{mode: ro}], images: [{tags: [a]}], default_image: k/k:a}\n")
    assert [line.split(": this is")[0] for line in lines] == [
        "line 1: sandbox.images[0].repository", "line 1: sandbox.mounts[0].source", "line 1: version",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["version: 1\n", "version: 1\nsandbox: {}\n", "version: 1\nsandbox: {max_running: 4}\n"]
)
def test_what_a_policy_leaves_out_is_as_in_the_built_in_one(text: str) -> None:
    assert parse(text, origin="") == built_in().model_copy(update={"origin": ""})


def test_a_policy_of_other_images_only_must_name_its_own_default() -> None:
    (line,) = problems("version: 1\nsandbox: {images: [{repository: team/kernel, tags: ['1']}]}\n")
    assert "sandbox.default_image: kernel-bridge/python:3.13" in line
    assert "team/kernel" in line


def test_all_problems_come_at_once_in_the_order_of_their_lines() -> None:
    lines = problems(
        "version: 2\n"
        "atach: {}\n"
        "attach: {allowed: yes}\n"
        "sandbox:\n"
        "  images: [{repository: Team/kernel, tags: [3.13]}]\n"
        "  default_image: kernel\n"
        "  network: opened\n"
        "  limits: {memory: 1GiB, memory: 2GiB, pids: 0x10}\n"
        "  mounts: [{source: &a /}, {source: *a}]\n"
        "  max_lifetime: 1\n"
        "calls: {timeout: 2h, max_output: 9}\n"
    )
    assert [line.rsplit(": ", 1)[0].split(": ")[:2] for line in lines] == [
        ["line 1", "version"],
        ["line 2", "atach"],
        ["line 3", "attach.allowed"],
        ["line 5", "sandbox.images[0].repository"],
        ["line 5", "sandbox.images[0].tags[0]"],
        ["line 6", "sandbox.default_image"],
        ["line 7", "sandbox.network"],
        ["line 8", "sandbox.limits"],
        ["line 8", "sandbox.limits.memory"],
        ["line 8", "sandbox.limits.pids"],
        ["line 9", "sandbox.mounts[0].source"],
        ["line 9", "sandbox.mounts[1].source"],
        ["line 10", "sandbox.max_lifetime"],
        ["line 11", "calls.max_output"],
        ["line 11", "calls.max_timeout"],
    ]


def test_a_character_that_cannot_be_seen_is_the_only_problem_told_of_its_line() -> None:
    assert problems(START + "  netw\u00a0ork: no\u00a0ne\n  max_lifetime: 1s\n") == [
        "line 5: the character U+00A0 NO-BREAK SPACE, which cannot be seen; remove it",
        "line 6: sandbox.max_lifetime: 1s is too small; write a duration from 1m to 365d, like 45s, 10m or 1h",
    ]


def test_every_clash_of_mounts_is_told(home: Path) -> None:
    (home / "projects" / "ro").mkdir()
    mounts = "[{source: ~/projects, mode: rw}, {source: ~/projects/ro}, {source: ~/projects, mode: rw}]"
    (line,) = problems(f"{START}  mounts: {mounts}\n")
    assert f"{home}/projects is listed twice" in line
    assert f"{home}/projects/ro is ro but lies in {home}/projects" in line


def test_problems_without_end_are_counted() -> None:
    lines = problems("\n".join(f"k{number}: 1" for number in range(MAX_PROBLEMS + 10)))
    assert len(lines) == MAX_PROBLEMS + 1
    assert lines[-1] == "and 11 more"  # version is missing too


def test_a_full_policy_is_taken_as_it_is_written(home: Path) -> None:
    (home / "data").mkdir()
    policy = parse(
        START + "  network: none\n"
        "  limits: {memory: 4GiB, cpus: 0.5, pids: 64, home: 1GiB, tmp: 512MiB, shm: 512MiB, log: 16KiB}\n"
        "  mounts:\n"
        "    - {source: ~/projects, mode: rw}\n"
        f"    - source: {home}/data\n"
        "  environment: [TZ, lang_2]\n"
        "  runtime: runsc\n"
        "  max_running: 0\n"
        f'attach: {{allowed: false, directories: [runtime, "{home}/data"], addresses: []}}\n'
        "calls: {timeout: 10s, max_timeout: 1d, max_output: 1KiB, max_result: 2MiB}\n"
        "audit: {file: null}\n",
        origin="X",
    )
    assert policy.origin == "X"
    assert policy.sandbox.network == "none"
    assert [(mount.source, mount.mode) for mount in policy.sandbox.mounts] == [
        (home / "projects", "rw"),
        (home / "data", "ro"),
    ]
    assert policy.sandbox.environment == ("TZ", "lang_2")
    assert policy.sandbox.limits.cpus == 0.5
    assert policy.attach.directories == ("runtime", str(home / "data"))
    assert (policy.calls.timeout, policy.calls.max_timeout) == (10.0, 86400.0)


def test_a_file_is_loaded_and_names_itself(home: Path) -> None:
    file = home / "policy.yaml"
    file.write_text(built_in_text())
    assert load(file).origin == str(file)
    assert load(file).sandbox == built_in().sandbox
    assert built_in().origin == BUILT_IN


def test_a_file_may_be_reached_through_a_symlink(home: Path) -> None:
    (home / "real.yaml").write_text(START)
    (home / "link.yaml").symlink_to("real.yaml")
    assert load(home / "link.yaml").origin == str(home / "link.yaml")


def test_a_wrong_file_is_told_by_its_full_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "policy.yaml").write_text(START + "  gpus: -1\n")
    monkeypatch.chdir(home)
    with pytest.raises(PolicyError, match=f"policy {home}/policy.yaml is not valid:\n  line 5: sandbox.gpus"):
        load(Path("policy.yaml"))


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        (b"version: 1\n\xff", "line 2: this line is not UTF-8"),
        (b"#" * 70_000, "line 1: the file is larger than 64 KiB"),
    ],
)
def test_a_file_that_is_no_text_or_too_large_is_refused(home: Path, data: bytes, fragment: str) -> None:
    (home / "policy.yaml").write_bytes(data)
    with pytest.raises(PolicyError, match=fragment):
        load(home / "policy.yaml")


def test_a_file_that_is_not_there_is_an_error(home: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read: No such file or directory; nothing is started without it"):
        load(home / "gone.yaml")


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o620])
def test_a_file_that_others_may_write_is_refused(home: Path, mode: int) -> None:
    file = home / "policy.yaml"
    file.write_text(START)
    file.chmod(mode)
    with pytest.raises(PolicyError, match="others may write to it; take that away with: chmod go-w"):
        load(file)


def test_a_file_in_a_directory_where_everyone_may_replace_it_is_refused(home: Path) -> None:
    (home / "open").mkdir()
    (home / "open").chmod(0o777)
    (home / "open" / "policy.yaml").write_text(START)
    with pytest.raises(PolicyError, match=f"directory {home}/open: everyone may replace files there.*chmod o-w"):
        load(home / "open" / "policy.yaml")


def test_a_fifo_or_a_directory_is_refused_at_once(home: Path) -> None:
    os.mkfifo(home / "fifo", 0o600)
    for name in ("fifo", "projects"):
        with pytest.raises(PolicyError, match="it is not a regular file"):
            load(home / name)


def status(mode: int, uid: int) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 1, uid, 0, 0, 0, 0, 0))


def test_a_file_is_trusted_from_root_and_from_oneself_only() -> None:
    mine, roots, others = (status(stat.S_IFREG | 0o644, uid) for uid in (1000, 0, 1001))
    assert distrust(mine, 1000) is None
    assert distrust(roots, 1000) is None
    assert "belongs to user 1001" in str(distrust(others, 1000))
    assert "belongs to user 1001" in str(distrust(others, 0))
    assert distrust_directory(status(stat.S_IFDIR | 0o1777, 0)) is None
    assert distrust_directory(status(stat.S_IFDIR | 0o755, 0)) is None
