"""What a policy makes of a request: what is allowed exactly as asked, everything else refused with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bridge.errors import PolicyRefused
from bridge.policy import (
    OPEN_NETWORK,
    Egress,
    Limits,
    Policy,
    SandboxRequest,
    Workspace,
    built_in,
    decide,
    explain,
    load,
    parse,
    places,
)
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


def test_a_policy_of_no_network_allows_none_and_makes_it_the_default(policy: Policy) -> None:
    narrow = with_sandbox(policy, network="none")
    assert decide(narrow, SandboxRequest("a")).network == "none"
    (reason,) = reasons(narrow, network="isolated")
    assert reason.endswith("allowed are none (sandbox.network, built in)")


def test_an_open_network_is_had_only_where_the_policy_says_so_and_less_may_be_asked_for(policy: Policy) -> None:
    (reason,) = reasons(policy, network="open")
    assert (
        reason == 'network: the text "open" is not allowed; allowed are none and isolated (sandbox.network, built in)'
    )
    written = parse("version: 1\nsandbox:\n  network: isolated\n", origin="/srv/policy.yaml")
    (reason,) = reasons(written, network="open")
    assert reason.endswith("(sandbox.network, line 3)")
    opened = parse("version: 1\nsandbox:\n  network: open\n", origin="/srv/policy.yaml")
    assert decide(opened, SandboxRequest("a")).network == "open"
    for network in ("none", "isolated", "open"):
        assert decide(opened, SandboxRequest("a", network=network)).network == network
    for wrong in ("host", "bridge", "container:x", "Open", ""):
        assert reasons(opened, network=wrong)[0].endswith(
            "allowed are none, isolated and open (sandbox.network, line 3)"
        )


def test_every_sandbox_gets_the_policys_gpus_and_none_without_a_word_of_it(policy: Policy) -> None:
    assert decide(policy, SandboxRequest("a")).gpus == 0
    assert decide(with_sandbox(policy, gpus=2), SandboxRequest("a")).gpus == 2


def test_an_explanation_says_what_network_open_means_and_whose_word_it_is(policy: Policy) -> None:
    opened = with_sandbox(policy, network="open", gpus=2)

    def why(network: str | None) -> dict[str, tuple[str, str]]:
        request = SandboxRequest("a", network=network)
        return {each.setting: (each.value, each.why) for each in explain(opened, request, decide(opened, request))}

    assert why(None)["network"] == ("open", f"the policy's: {OPEN_NETWORK}")
    assert why("open")["network"] == ("open", f"asked for; the most is open: {OPEN_NETWORK}")
    assert why("isolated")["network"] == ("isolated", "asked for; the most is open")
    assert why(None)["gpus"] == ("2", "the policy's, for every sandbox")


def test_what_may_be_reached_is_the_policys_list_and_nothing_without_a_network(policy: Policy) -> None:
    hosts = (Egress(host="index.example", port=443), Egress(host="10.1.2.3", port=8443))
    listing = with_sandbox(policy, egress=hosts, upstream_proxy="http://proxy.example:3128")
    spec = decide(listing, SandboxRequest("a"))
    assert (spec.egress, spec.upstream_proxy) == (hosts, "http://proxy.example:3128")
    without = decide(listing, SandboxRequest("a", network="none"))
    assert (without.egress, without.upstream_proxy) == ((), None)
    (reach,) = [each for each in explain(listing, SandboxRequest("a"), spec) if each.setting == "reaches"]
    assert reach.value == "index.example 443, 10.1.2.3 8443"
    assert "through http://proxy.example:3128, which resolves the names" in reach.why
    asked = SandboxRequest("a", network="none")
    (nothing,) = [each for each in explain(listing, asked, without) if each.setting == "reaches"]
    assert (nothing.value, "network none has no way out" in nothing.why) == ("nothing", True)


def with_sandbox(policy: Policy, **update: Any) -> Policy:
    return policy.model_copy(update={"sandbox": policy.sandbox.model_copy(update=update)})


@pytest.mark.parametrize(
    ("idle_timeout", "of_agents"),
    [(86400.0, 7200.0), (3600.0, 3600.0), (None, None)],
    ids=["a day", "an hour", "never"],
)
def test_what_an_agent_starts_may_be_unused_for_two_hours_at_most_until_a_person_was_there(
    policy: Policy, idle_timeout: float | None, of_agents: float | None
) -> None:
    allowing = with_sandbox(policy, idle_timeout=idle_timeout, max_lifetime=9e4)
    for by_agent, expected in ((False, None), (True, of_agents)):
        request = SandboxRequest("a", by_agent=by_agent)
        spec = decide(allowing, request)
        assert (spec.idle_timeout, spec.idle_timeout_of_agents, spec.max_lifetime) == (idle_timeout, expected, 9e4)
        idle, lifetime = explain(allowing, request, spec)[-2:]
        assert (idle.setting, lifetime.setting, lifetime.value) == ("idle_timeout", "max_lifetime", "25h")
        assert idle.value == {86400.0: "1d", 3600.0: "1h", None: "none"}[idle_timeout]
        assert ("; 2h where an agent started it" in idle.why) is (idle_timeout == 86400)


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
    (home / "projects" / "settings").symlink_to(home)
    (home / "settings").symlink_to("projects/settings")
    for way in (file, home / "settings" / "elsewhere.yaml"):
        with pytest.raises(PolicyRefused, match=f"holds the policy in force, {way}, or a link to it"):
            decide(load(way), SandboxRequest("a", workspace=home / "projects", workspace_mode="rw"))


def test_a_sandbox_can_never_write_a_policy_that_another_bridge_would_follow(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dotfiles", "machine", "app"):
        (home / "projects" / name).mkdir()
    (home / ".config" / "kernel-bridge").mkdir(parents=True)
    (home / ".config" / "kernel-bridge" / "policy.yaml").symlink_to(home / "projects/dotfiles/policy.yaml")
    (home / "system.yaml").symlink_to(home / "projects/machine/policy.yaml")
    monkeypatch.setattr(places, "SYSTEM_POLICY", home / "system.yaml")
    policy = parse("version: 1\nsandbox: {mounts: [{source: ~/projects, mode: rw}]}\n", origin="a test")
    for name, what in (("dotfiles", "the user's policy"), ("machine", "this machine's policy")):
        with pytest.raises(PolicyRefused, match=f"holds {what}"):
            decide(policy, SandboxRequest("a", workspace=home / "projects" / name, workspace_mode="rw"))
        assert decide(policy, SandboxRequest("a", workspace=home / "projects" / name)).workspace is not None
    assert decide(policy, SandboxRequest("a", workspace=home / "projects/app", workspace_mode="rw")).workspace


def test_a_sandbox_never_sees_where_the_policy_looks_for_connection_files(home: Path) -> None:
    for name in ("projects/app/kernels", "projects/other"):
        (home / name).mkdir(parents=True)
    text = (
        "version: 1\nattach:\n  directories: [runtime, ~/projects/app/kernels]\n"
        "sandbox: {mounts: [{source: ~/projects, mode: rw}]}\n"
    )
    policy = parse(text, origin="/srv/policy.yaml")
    for name in ("projects", "projects/app", "projects/app/kernels"):
        (reason,) = reasons(policy, workspace=home / name)
        assert "where the keys of kernels are (attach.directories, line 3)" in reason
    assert decide(policy, SandboxRequest("a", workspace=home / "projects/other")).workspace is not None
    closed = parse(text.replace("attach:\n", "attach:\n  allowed: false\n"), origin="/srv/policy.yaml")
    assert decide(closed, SandboxRequest("a", workspace=home / "projects/app")).workspace is not None


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


def test_a_refusal_names_the_rule_its_line_and_what_is_allowed(policy: Policy, home: Path) -> None:
    images = f"kernel-bridge/python with any tag, registry.example.org/team/kernel@{PIN} (sandbox.images, line 3)"
    mounts = f"allowed are directories in {home}/projects rw, {home}/data ro (sandbox.mounts, line 7)"
    assert reasons(
        policy,
        image="python",
        network="host",
        memory=1,
        cpus=3,
        workspace=home / "data",
        workspace_mode="rw",
        environment={"A": "b"},
    ) == [
        (
            "image: 'python' has no tag, and none is implied; write NAME:TAG or NAME@sha256:DIGEST, "
            f"like kernel-bridge/python:3.13; allowed are {images}"
        ),
        'network: the text "host" is not allowed; allowed are none and isolated (sandbox.network, built in)',
        "memory: 1B is out of bounds; allowed is a size from 64MiB to 2GiB (sandbox.limits.memory, built in)",
        "cpus: 3 is out of bounds; allowed is a number from 0.1 to 2 (sandbox.limits.cpus, built in)",
        f"workspace: '{home}/data' may only be mounted ro; {mounts}",
        'environment: the text "A" may not be passed; allowed are TZ, LANG (sandbox.environment, line 8)',
    ]
    none = parse("version: 1\nsandbox:\n  max_running: 0\n", origin="/srv/policy.yaml")
    assert reasons(none) == [
        "sandbox: the policy allows no sandboxes at all; max_running is 0 (sandbox.max_running, line 3)"
    ]


def test_where_a_setting_is_written_is_no_part_of_what_a_policy_says() -> None:
    short = parse("version: 1\nsandbox: {max_running: 4}\n", origin="X")
    long = parse("version: 1\n\n\nsandbox:\n  max_running: 4\n", origin="X")
    assert (short.line("sandbox.max_running"), long.line("sandbox.max_running")) == ("line 2", "line 5")
    assert short == long
    assert hash(short) == hash(long)


def test_a_sandbox_can_never_write_the_audit_or_put_another_in_its_place(home: Path) -> None:
    for name in ("projects/app/logs", "projects/other"):
        (home / name).mkdir(parents=True)
    (home / "link").symlink_to(home / "projects/app/logs")
    for file in ("~/projects/app/logs/audit.jsonl", "~/link/audit.jsonl"):
        policy = parse(
            f"version: 1\nsandbox: {{mounts: [{{source: ~/projects, mode: rw}}]}}\naudit:\n  file: {file}\n",
            origin="/srv/policy.yaml",
        )
        for name in ("projects", "projects/app", "projects/app/logs"):
            (reason,) = reasons(policy, workspace=home / name, workspace_mode="rw")
            assert "holds the audit (audit.file, line 4)" in reason
            assert "mount it ro, or move that elsewhere" in reason
            assert decide(policy, SandboxRequest("a", workspace=home / name)).workspace is not None
        assert decide(policy, SandboxRequest("a", workspace=home / "projects/other", workspace_mode="rw")).workspace
