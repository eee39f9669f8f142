"""What a policy makes of a request: what is allowed exactly as asked, everything else refused with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bridge.errors import PolicyNotEnforceable, PolicyRefused
from bridge.policy import Limits, Policy, SandboxRequest, Workspace, built_in, decide, load, parse
from bridge.policy.model import NOT_YET
from bridge.policy.units import GiB, MiB

PIN = "sha256:" + "0" * 64


@pytest.fixture
def policy(home: Path) -> Policy:
    for name in ("projects/app", "data/set", "projects/with,comma"):
        (home / name).mkdir(parents=True)
    return parse(
        "version: 1\n"
        "sandbox:\n"
        "  images:\n"
        '    - {repository: kernel-bridge/python, tags: ["*"]}\n'
        f'    - {{repository: registry.example.org/team/kernel, digests: ["{PIN}"]}}\n'
        "  default_image: kernel-bridge/python:3.13\n"
        "  mounts: [{source: ~/projects, mode: rw}, {source: ~/data}]\n"
        "  environment: [TZ, LANG]\n"
        "  runtime: runsc\n"
        "  max_running: 3\n",
        origin="/srv/policy.yaml",
    )


def reasons(policy: Policy, **asked: Any) -> list[str]:
    with pytest.raises(PolicyRefused) as caught:
        decide(policy, SandboxRequest(**({"name": "a"} | asked)))
    first, *lines = str(caught.value).split("\n")
    assert first == "not allowed by the policy /srv/policy.yaml, so nothing was started:"
    return [line.removeprefix("  ") for line in lines]


def test_a_request_for_nothing_gets_the_policys_own_values(policy: Policy) -> None:
    spec = decide(policy, SandboxRequest("a"))
    assert (spec.name, spec.image, spec.network) == ("a", "docker.io/kernel-bridge/python:3.13", "isolated")
    assert spec.limits == policy.sandbox.limits
    assert (spec.workspace, spec.environment, spec.runtime, spec.max_running) == (None, (), "runsc", 3)


def test_a_request_within_the_policy_gets_exactly_what_it_asks_for(policy: Policy, home: Path) -> None:
    spec = decide(
        policy,
        SandboxRequest(
            "a-1",
            image=f"registry.example.org/team/kernel@{PIN}",
            network="none",
            workspace=home / "projects",
            workspace_mode="rw",
            memory=2 * GiB,
            cpus=0.5,
            environment={"TZ": "UTC", "LANG": ""},
        ),
    )
    status = (home / "projects").stat()
    assert spec.image == f"registry.example.org/team/kernel@{PIN}"
    assert spec.network == "none"
    assert spec.workspace == Workspace(home / "projects", "rw", status.st_dev, status.st_ino)
    assert (spec.limits.memory, spec.limits.cpus) == (2 * GiB, 0.5)
    assert spec.environment == (("LANG", ""), ("TZ", "UTC"))


@pytest.mark.parametrize("name", ["a", "0", "a-b", "a" * 32])
def test_names_of_the_pattern_are_taken(policy: Policy, name: str) -> None:
    assert decide(policy, SandboxRequest(name)).name == name


@pytest.mark.parametrize("name", ["", "A", "-a", "a_b", "a.b", "a" * 33, "a\n", "../volumes/x", "ä", "a b", None, 5])
def test_other_names_are_refused(policy: Policy, name: Any) -> None:
    (reason,) = reasons(policy, name=name)
    assert reason.startswith("name: ")
    assert "allowed are 1 to 32 of a-z" in reason


@pytest.mark.parametrize(
    ("image", "fragment"),
    [
        (
            "evil/python:1",
            "docker.io/evil/python:1 is not among the policy's; allowed are kernel-bridge/python with any tag, ",
        ),
        ("kernel-bridge/python", "has no tag"),
        ("a12bc557f32d", "looks like an image id"),
        (f"kernel-bridge/python@{PIN}", "is not among the policy's"),
        ("", "has no tag"),
    ],
)
def test_an_image_that_the_policy_does_not_name_is_refused(policy: Policy, image: str, fragment: str) -> None:
    (reason,) = reasons(policy, image=image)
    assert reason.startswith("image: ")
    assert fragment in reason


@pytest.mark.parametrize("network", ["host", "bridge", "container:x", "Isolated", "", "none "])
def test_a_network_that_does_not_exist_is_refused(policy: Policy, network: str) -> None:
    (reason,) = reasons(policy, network=network)
    assert reason.startswith("network: ")
    assert "allowed are none and isolated" in reason


def test_a_policy_of_no_network_allows_none_and_makes_it_the_default(policy: Policy) -> None:
    narrow = with_sandbox(policy, network="none")
    assert decide(narrow, SandboxRequest("a")).network == "none"
    (reason,) = reasons(narrow, network="isolated")
    assert reason.endswith("allowed are none")


def test_an_open_network_is_told_as_not_supported_yet(policy: Policy) -> None:
    with pytest.raises(
        PolicyNotEnforceable, match=r"open is not supported yet by this version; allowed are none and isolated"
    ):
        decide(policy, SandboxRequest("a", network="open"))
    assert len(reasons(policy, network="open", memory=1)) == 2
    assert decide(with_sandbox(policy, network="open"), SandboxRequest("a")).network == "isolated"


def with_sandbox(policy: Policy, **update: Any) -> Policy:
    return policy.model_copy(update={"sandbox": policy.sandbox.model_copy(update=update)})


@pytest.mark.parametrize("setting", NOT_YET)
def test_a_policy_made_past_the_checks_with_an_unsupported_setting_starts_nothing(policy: Policy, setting: str) -> None:
    section, name = setting.split(".")
    holder = getattr(policy, section).model_copy(update={name: 3600})
    with pytest.raises(PolicyNotEnforceable, match=f"{setting}: this setting is not supported yet"):
        decide(policy.model_copy(update={section: holder}), SandboxRequest("a"))


@pytest.mark.parametrize(
    ("asked", "fragment"),
    [
        ({"memory": 2 * GiB + 1}, "allowed is a size from 64MiB to 2GiB"),
        ({"memory": 64 * MiB - 1}, "out of bounds"),
        ({"memory": 0}, "out of bounds"),
        ({"memory": -1}, "out of bounds"),
        ({"memory": True}, "true cannot be used"),
        ({"memory": 1e9}, "cannot be used"),
        ({"cpus": 2.1}, "2.1 is out of bounds; allowed is a number from 0.1 to 2"),
        ({"cpus": 0}, "out of bounds"),
        ({"cpus": float("nan")}, "cannot be used"),
        ({"cpus": float("inf")}, "cannot be used"),
        ({"cpus": True}, "true cannot be used"),
        ({"cpus": "2"}, "cannot be used"),
        ({"cpus": 10**400}, "cannot be used"),
    ],
)
def test_more_than_the_ceiling_is_refused_and_never_clipped(
    policy: Policy, asked: dict[str, Any], fragment: str
) -> None:
    (reason,) = reasons(policy, **asked)
    assert reason.startswith(f"{next(iter(asked))}: ")
    assert fragment in reason


def test_with_less_memory_the_tmpfs_shrink_so_that_they_are_half_of_it_at_most(policy: Policy) -> None:
    limits = decide(policy, SandboxRequest("a", memory=512 * MiB)).limits
    assert limits == Limits(memory=512 * MiB, home=128 * MiB, tmp=64 * MiB, shm=64 * MiB)
    smallest = decide(policy, SandboxRequest("a", memory=64 * MiB)).limits
    assert smallest.home + smallest.tmp + smallest.shm <= 32 * MiB


def test_tmpfs_that_fit_into_less_memory_stay_as_they_are(policy: Policy) -> None:
    small = with_sandbox(policy, limits=Limits(home=100 * MiB, tmp=10 * MiB, shm=10 * MiB))
    limits = decide(small, SandboxRequest("a", memory=512 * MiB)).limits
    assert (limits.home, limits.tmp, limits.shm) == (100 * MiB, 10 * MiB, 10 * MiB)


def test_a_workspace_is_ro_unless_asked_and_its_symlinks_are_resolved(policy: Policy, home: Path) -> None:
    (home / "link").symlink_to(home / "data" / "set")
    spec = decide(policy, SandboxRequest("a", workspace=Path("~/link")))
    assert spec.workspace is not None
    assert (spec.workspace.path, spec.workspace.mode) == (home / "data" / "set", "ro")


@pytest.mark.parametrize(
    ("workspace", "mode", "fragment"),
    [
        ("~/data", "rw", "may only be mounted ro; allowed are directories in "),
        ("~/data/set", "rw", "may only be mounted ro"),
        ("~/projects-evil", "ro", "is not in a directory of the policy's mounts; allowed are directories in "),
        ("~/other", "ro", "is not in a directory of the policy's mounts"),
        ("~/projects/escape", "ro", "is not in a directory of the policy's mounts"),
        ("~/projects/../other", "ro", "is not in a directory of the policy's mounts"),
        ("~/projects/etc", "ro", "hide the container's own /etc"),
        ("~/projects/gone", "ro", "does not exist"),
        ("~/projects/file", "ro", "is not a directory"),
        ("~/projects/with,comma", "ro", "':' or ','"),
        ("~/data/a\nb", "ro", "U+000A"),
        ("projects", "ro", "is not a full path"),
        ("~", "ro", "the home directory itself"),
        ("/", "ro", "the whole machine"),
        ("/proc/self/fd", "ro", "belongs to the machine"),
        ("~/data", "rx", "allowed are ro and rw"),
    ],
)
def test_a_workspace_outside_the_mounts_is_refused(
    policy: Policy, home: Path, workspace: str, mode: Any, fragment: str
) -> None:
    for name in ("projects-evil", "other"):
        (home / name).mkdir()
    (home / "projects" / "escape").symlink_to(home / "other")
    (home / "projects" / "etc").symlink_to("/etc")
    (home / "projects" / "file").touch()
    (reason,) = reasons(policy, workspace=Path(workspace), workspace_mode=mode)
    assert reason.startswith("workspace: ")
    assert fragment in reason


def test_a_policy_without_mounts_allows_no_workspace(home: Path) -> None:
    with pytest.raises(PolicyRefused, match="the policy allows none"):
        decide(built_in(), SandboxRequest("a", workspace=home / "projects"))


def test_a_sandbox_can_never_write_the_policy_in_force(home: Path) -> None:
    file = home / "projects" / "policy.yaml"
    file.write_text(
        'version: 1\nsandbox:\n  images: [{repository: a/b, tags: ["1"]}]\n  default_image: a/b:1\n'
        "  mounts: [{source: ~/projects, mode: rw}]\n"
    )
    policy = load(file)
    with pytest.raises(PolicyRefused, match="holds the policy in force"):
        decide(policy, SandboxRequest("a", workspace=home / "projects", workspace_mode="rw"))
    assert decide(policy, SandboxRequest("a", workspace=home / "projects")).workspace is not None
    file.rename(home / "elsewhere.yaml")
    file.symlink_to(home / "elsewhere.yaml")
    with pytest.raises(PolicyRefused, match="holds the policy in force"):
        decide(load(file), SandboxRequest("a", workspace=home / "projects", workspace_mode="rw"))


@pytest.mark.parametrize(
    ("environment", "fragment"),
    [
        ({"SECRET": "hush"}, 'the text "SECRET" may not be passed; allowed are TZ, LANG'),
        ({"tz": "hush"}, "may not be passed"),
        ({"TZ": "hush\nx"}, "TZ: its value holds a NUL or a line break"),
        ({"TZ": "hush\0"}, "TZ: its value holds a NUL"),
        ({"TZ": "hush" + "é" * 2050}, "TZ: its value has 4104 bytes; allowed are 4096"),
        ({"TZ": "hush\ud800"}, "TZ: its value is not valid Unicode"),
        ({"TZ": 5}, "TZ: its value is not text"),
    ],
)
def test_only_listed_variables_with_plain_values_are_passed_and_values_are_never_shown(
    policy: Policy, environment: dict[str, str], fragment: str
) -> None:
    (reason,) = reasons(policy, environment=environment)
    assert fragment in reason
    assert "hush" not in reason


def test_a_value_of_the_largest_size_is_passed(policy: Policy) -> None:
    assert decide(policy, SandboxRequest("a", environment={"TZ": "x" * 4096})).environment == (("TZ", "x" * 4096),)


def test_every_reason_is_listed(policy: Policy) -> None:
    listed = reasons(
        policy, name="A", image="x", network="host", memory=1, cpus=99, workspace=Path("/"), environment={"A": "b"}
    )
    assert [reason.split(":")[0] for reason in listed] == [
        "name", "image", "network", "memory", "cpus", "workspace", "environment",
    ]  # fmt: skip


def test_a_policy_may_allow_no_sandbox_at_all(policy: Policy) -> None:
    (reason,) = reasons(with_sandbox(policy, max_running=0))
    assert "no sandboxes at all" in reason


def test_the_built_in_policy_is_named_in_words() -> None:
    with pytest.raises(PolicyRefused, match=r"^not allowed by the built-in policy, so nothing was started:"):
        decide(built_in(), SandboxRequest("A"))
