"""Every setting of the schema refuses every wrong kind of value, and what is not enforced yet is not accepted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from bridge.errors import PolicyError
from bridge.policy import Limits, Mount, Policy, built_in, built_in_text, parse
from bridge.policy.images import allows
from bridge.policy.images import parse as parse_reference
from bridge.policy.limits import SMALLEST_TMPFS, fitted
from bridge.policy.model import PolicyFile
from bridge.policy.text import read
from bridge.policy.units import GiB, KiB, MiB

KINDS: dict[str, Any] = {
    "mapping": {"a": "b"},
    "list": [["a"]],
    "truth": True,
    "number": 7.5,
    "text": "\\o/",
    "null": None,
}
TAKES: dict[str, set[str]] = {
    "version": {"number"},
    "attach": {"mapping"},
    "attach.allowed": {"truth"},
    "attach.directories": {"list"},
    "attach.addresses": {"list"},
    "sandbox": {"mapping"},
    "sandbox.images": {"list"},
    "sandbox.images[0].repository": {"text"},
    "sandbox.images[0].tags": {"list"},
    "sandbox.images[0].digests": {"list"},
    "sandbox.default_image": {"text"},
    "sandbox.network": {"text"},
    "sandbox.egress": {"list"},
    "sandbox.egress[0].host": {"text"},
    "sandbox.egress[0].port": {"number"},
    "sandbox.egress[0].allow_addresses": {"list"},
    "sandbox.upstream_proxy": {"text", "null"},
    "sandbox.ca_bundle": {"text", "null"},
    "sandbox.limits": {"mapping"},
    "sandbox.limits.memory": {"text"},
    "sandbox.limits.cpus": {"number"},
    "sandbox.limits.pids": {"number"},
    "sandbox.limits.home": {"text"},
    "sandbox.limits.tmp": {"text"},
    "sandbox.limits.shm": {"text"},
    "sandbox.limits.log": {"text"},
    "sandbox.mounts": {"list"},
    "sandbox.mounts[0].source": {"text"},
    "sandbox.mounts[0].mode": {"text"},
    "sandbox.environment": {"list"},
    "sandbox.gpus": {"number"},
    "sandbox.runtime": {"text", "null"},
    "sandbox.max_running": {"number"},
    "sandbox.idle_timeout": {"text", "null"},
    "sandbox.max_lifetime": {"text", "null"},
    "calls": {"mapping"},
    "calls.timeout": {"text"},
    "calls.max_timeout": {"text"},
    "calls.max_output": {"text"},
    "calls.max_result": {"text"},
    "calls.kept_output": {"text", "null"},
    "audit": {"mapping"},
    "audit.file": {"text", "null"},
    "audit.code": {"text"},
    "audit.max_size": {"text"},
    "audit.keep": {"number"},
}
ONE_NUMBER = {
    *("version", "sandbox.egress[0].port", "sandbox.limits.pids", "sandbox.gpus", "sandbox.max_running"),
    "audit.keep",
}
"""Those that take whole numbers only, so that 7.5 is wrong as well."""


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        setting = f"{prefix}{name}"
        yield setting
        for annotation, suffix in (
            (field.annotation, "."),
            *((part, "[0].") for part in getattr(field.annotation, "__args__", ())),
        ):
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                yield from settings(annotation, setting + suffix)


BUILT_IN_AS_JSON = json.dumps(read(built_in_text()).value)


def valid() -> dict[str, Any]:
    """Every setting that can be written, with a valid value."""
    values = json.loads(BUILT_IN_AS_JSON)
    values["sandbox"]["images"][0]["digests"] = ["sha256:" + "0" * 64]
    values["sandbox"]["egress"] = [{"host": "a.example", "port": 443, "allow_addresses": ["10.0.0.0/8"]}]
    values["sandbox"]["mounts"] = [{"source": "~/projects", "mode": "ro"}]
    assert isinstance(values, dict)
    return values


def replaced(setting: str, value: object) -> str:
    values: Any = valid()
    holder, parts = values, setting.replace("[0]", ".0").split(".")
    for part in parts[:-1]:
        holder = holder[int(part) if part == "0" else part]
    holder[parts[-1]] = value
    return json.dumps(values)


def test_the_table_of_kinds_covers_every_setting_of_the_schema() -> None:
    assert set(settings(PolicyFile)) == set(TAKES)


@pytest.mark.parametrize("setting", TAKES)
@pytest.mark.usefixtures("home")
def test_a_setting_refuses_every_other_kind_of_value(setting: str) -> None:
    taken = TAKES[setting] - ({"number"} if setting in ONE_NUMBER else set())
    for kind in KINDS.keys() - taken:
        with pytest.raises(PolicyError) as caught:
            parse(replaced(setting, KINDS[kind]), origin="X")
        lines = [
            line
            for line in str(caught.value).splitlines()
            if line.startswith((f"  line 1: {setting}: ", f"  line 1: {setting}["))
        ]
        assert lines, f"{kind} was taken for {setting}: {caught.value}"
        assert all("write" in line for line in lines)


@pytest.mark.parametrize("setting", [*TAKES, "sandbox.images[0]", "sandbox.mounts[0]", "sandbox.egress[0]"])
@pytest.mark.usefixtures("home")
def test_a_mapping_refuses_a_key_that_it_does_not_know(setting: str) -> None:
    if TAKES.get(setting, {"mapping"}) != {"mapping"}:
        return
    with pytest.raises(PolicyError, match="this key is not known; write one of"):
        parse(replaced(f"{setting}.privileged", KINDS["truth"]), origin="X")


@pytest.mark.parametrize("setting", ["privileged", "origin", "Version"])
@pytest.mark.usefixtures("home")
def test_the_file_itself_refuses_a_key_that_it_does_not_know(setting: str) -> None:
    with pytest.raises(PolicyError, match=f"line 1: {setting}: this key is not known"):
        parse(replaced(setting, "x"), origin="X")


@pytest.mark.parametrize("setting", ["idle_timeout", "max_lifetime"])
@pytest.mark.usefixtures("home")
def test_how_long_a_sandbox_lasts_is_a_duration_or_null(setting: str) -> None:
    for value, seconds in (("1m", 60.0), ("24h", 86400.0), ("365d", 365 * 86400.0), (None, None)):
        policy = parse(replaced(f"sandbox.{setting}", value), origin="X")
        assert getattr(policy.sandbox, setting) == seconds
    for value in ("59s", "366d"):
        with pytest.raises(PolicyError, match=f"sandbox.{setting}: {value} is too (small|large); write a duration"):
            parse(replaced(f"sandbox.{setting}", value), origin="X")


def test_an_unused_sandbox_ends_after_a_day_and_no_other_where_a_policy_does_not_say() -> None:
    assert (built_in().sandbox.idle_timeout, built_in().sandbox.max_lifetime) == (86400.0, None)


@pytest.mark.parametrize(
    ("image", "allowed"),
    [
        ("kernel-bridge/python:3.13", True),
        ("kernel-bridge/python:3.13-my-project", True),
        ("kernel-bridge/scipy:3.13", True),
        ("kernel-bridge/scipy:3.13-my-project", True),
        ("kernel-bridge/base:trixie", False),
        ("kernel-bridge/scipy-evil:3.13", False),
        ("evil.io/kernel-bridge/scipy:3.13", False),
        ("scipy:3.13", False),
    ],
)
def test_the_built_in_policy_allows_the_images_that_this_project_builds_and_no_others(
    image: str,
    allowed: bool,  # noqa: FBT001
) -> None:
    assert allows(built_in().sandbox.images, parse_reference(image)) is allowed


def test_the_built_in_policy_writes_out_exactly_the_defaults() -> None:
    policy = built_in()
    assert policy == parse("version: 1\n", origin=policy.origin)
    written = {name.split("[")[0] for name in settings(PolicyFile)}
    for setting in written:
        holder = read(built_in_text()).value
        for part in setting.split("."):
            holder = holder[part]


def test_the_built_in_policy_is_the_design() -> None:
    policy = built_in()
    assert policy.attach.model_dump() == {"allowed": True, "directories": ("runtime",), "addresses": ("loopback",)}
    assert policy.sandbox.network == "isolated"
    assert policy.sandbox.mounts == ()
    assert policy.sandbox.environment == ()
    assert policy.sandbox.limits == Limits(
        memory=2 * GiB, cpus=2, pids=512, home=512 * MiB, tmp=256 * MiB, shm=256 * MiB, log=MiB
    )
    assert (policy.sandbox.max_running, policy.sandbox.runtime) == (4, None)
    assert policy.calls.model_dump() == {
        "timeout": 45.0, "max_timeout": 3600.0, "max_output": 48 * KiB, "max_result": 900 * KiB, "kept_output": GiB,
    }  # fmt: skip


def entry(**changes: object) -> dict[str, object]:
    return {"host": "a.example", "port": 443} | changes


@pytest.mark.parametrize(
    "host",
    [
        *("pypi.example.org", "xn--mnchen-3ya.example", "index", "a-b.example", "10.1.2.3", "2001:db8::1"),
        *("1password.example", "0x.example", "localhost.example", f"{'a' * 63}.example", "169.254.169.254"),
    ],
)
@pytest.mark.usefixtures("home")
def test_a_host_is_one_exact_name_or_address(host: str) -> None:
    (read_back,) = parse(replaced("sandbox.egress", [entry(host=host)]), origin="X").sandbox.egress
    assert (read_back.host, read_back.port) == (host, 443)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        *((host, "is not a host's name") for host in ("", "*", "*.example", "a.*", "?.example", "[ab].example")),
        *((host, "is not a host's name") for host in ("a.example:443", "https://a.example", "a.example/simple")),
        *(
            (host, "is not a host's name")
            for host in ("me@a.example", "me:secret@a.example", "a.example?x", "a.example#")
        ),
        *(
            (host, "is not a host's name")
            for host in ("a.example.", ".a.example", "a..example", "-a.example", "a-.example")
        ),
        *(
            (host, "is not a host's name")
            for host in ("A.example", "münchen.example", "\u0430.example", "a b.example", "a_b.example")
        ),
        *(
            (host, "is not a host's name")
            for host in (f"{'a' * 64}.example", "a.example\\evil", "a%2eexample", "[::1]", "10.0.0.0/8")
        ),
        *(
            (host, "read as an address")
            for host in ("127.1", "2130706433", "0x7f.1", "0x7f000001", "010.0.0.1", "1.2.3.4.5", "a.1")
        ),
        *((host, "where nothing listens") for host in ("localhost", "a.localhost")),
        *((host, "the loopback address") for host in ("127.0.0.1", "127.8.8.8", "::1")),
        *((host, "no host's address") for host in ("0.0.0.0", "::")),
        *((host, "of no single host") for host in ("224.0.0.1", "ff02::1")),
        *((host, "another usual form") for host in ("2001:DB8::1", "2001:db8:0:0::1")),
        *((host, "which is compared as IPv4") for host in ("::ffff:10.0.0.1", "::ffff:a00:1")),
    ],
)
@pytest.mark.usefixtures("home")
def test_anything_else_than_one_host_is_refused(host: str, why: str) -> None:
    with pytest.raises(PolicyError, match=f"sandbox.egress\\[0\\].host: .*{re.escape(why)}"):
        parse(replaced("sandbox.egress", [entry(host=host)]), origin="X")


@pytest.mark.parametrize("network", ["10.1.2.0/24", "10.1.2.3", "fd00::/8", "169.254.169.254/32", "100.64.0.0/10"])
@pytest.mark.usefixtures("home")
def test_addresses_that_are_not_public_can_be_allowed_by_their_range(network: str) -> None:
    (read_back,) = parse(replaced("sandbox.egress", [entry(allow_addresses=[network])]), origin="X").sandbox.egress
    assert [each.partition("/")[0] for each in read_back.allow_addresses] == [network.partition("/")[0]]


@pytest.mark.parametrize(
    "network",
    [
        *(
            "0.0.0.0/0",
            "::/0",
            "127.0.0.0/8",
            "127.0.0.1",
            "::1",
            "224.0.0.0/4",
            "0.0.0.0",
            "ff00::/8",
            "::ffff:0:0/96",
        ),
        *("10.0.0.1/8", "10.0.0.0/33", "10.0.0.0-10.0.0.9", "a.example", "", "10.0.0.0/255.0.0.0/8"),
    ],
)
@pytest.mark.usefixtures("home")
def test_a_range_that_is_none_or_holds_what_is_no_host_is_refused(network: str) -> None:
    with pytest.raises(PolicyError, match=r"sandbox.egress\[0\].allow_addresses\[0\]: .*write"):
        parse(replaced("sandbox.egress", [entry(allow_addresses=[network])]), origin="X")


@pytest.mark.parametrize("proxy", ["http://proxy.example.org:3128", "http://10.1.2.3:8080/", "http://172.17.0.1:3128"])
@pytest.mark.usefixtures("home")
def test_an_upstream_proxy_is_a_host_and_a_port(proxy: str) -> None:
    values = {"version": 1, "sandbox": {"egress": [entry()], "upstream_proxy": proxy}}
    assert parse(json.dumps(values), origin="X").sandbox.upstream_proxy == proxy.rstrip("/")


@pytest.mark.parametrize(
    ("proxy", "why"),
    [
        ("http://me:s3cret@proxy.example.org:3128", "holds a name or password"),
        ("http://me@proxy.example.org:3128", "holds a name or password"),
        ("https://proxy.example.org:3128", "not a proxy's address"),
        ("socks5://proxy.example.org:1080", "not a proxy's address"),
        ("proxy.example.org:3128", "not a proxy's address"),
        ("http://proxy.example.org", "not a proxy's address"),
        ("http://proxy.example.org:0", "not a proxy's address"),
        ("http://proxy.example.org:70000", "not a proxy's address"),
        ("http://proxy.example.org:3128/path", "not a proxy's address"),
        ("http://127.0.0.1:3128", "the gateway's own container"),
        ("http://localhost:3128", "where nothing listens"),
        ("http://*.example.org:3128", "without a pattern"),
    ],
)
@pytest.mark.usefixtures("home")
def test_an_upstream_proxy_that_cannot_be_used_is_refused_and_no_password_is_repeated(proxy: str, why: str) -> None:
    with pytest.raises(PolicyError, match=f"sandbox.upstream_proxy: .*{re.escape(why)}") as caught:
        parse(replaced("sandbox.upstream_proxy", proxy), origin="X")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("egress", "upstream", "where", "why"),
    [
        ([entry(), entry()], None, "egress", "listed twice with the same port: a.example 443"),
        ([entry(port=port) for port in range(1, 130)], None, "egress", "these are 129 hosts; write at most 128"),
        (
            [entry(allow_addresses=[f"10.0.{each}.0/24" for each in range(17)])],
            None,
            "egress[0].allow_addresses",
            "these are 17 ranges; write at most 16",
        ),
        (
            [entry(allow_addresses=["10.0.0.0/8"])],
            "http://p.example:3128",
            "upstream_proxy",
            "of a.example cannot be held",
        ),
    ],
)
@pytest.mark.usefixtures("home")
def test_egress_that_says_more_than_is_held_is_refused(
    egress: list[object], upstream: str | None, where: str, why: str
) -> None:
    values = {"version": 1, "sandbox": {"egress": egress, "upstream_proxy": upstream}}
    with pytest.raises(PolicyError, match=f"sandbox.{re.escape(where)}: .*{re.escape(why)}"):
        parse(json.dumps(values), origin="X")


@pytest.mark.parametrize("model", [PolicyFile, Policy])
def test_every_setting_says_what_may_be_written(model: type[BaseModel]) -> None:
    def check(model: type[BaseModel]) -> None:
        for name, field in model.model_fields.items():
            annotation = field.annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                check(annotation)
            else:
                assert field.description, name

    check(model)


def test_a_policy_cannot_be_changed() -> None:
    policy = built_in()
    with pytest.raises(ValidationError, match="frozen"):
        policy.sandbox.limits.memory = 1
    assert isinstance(policy.sandbox.images, tuple)
    assert hash(policy) == hash(built_in())


def test_limits_made_by_code_are_plain_numbers_and_hold_the_same_rules() -> None:
    assert Limits(memory=GiB, home=256 * MiB, tmp=128 * MiB, shm=128 * MiB).memory == GiB
    for wrong in ({"memory": 512 * MiB}, {"memory": 64}, {"memory": True}, {"cpus": float("nan")}, {"pids": 10**400}):
        with pytest.raises(ValidationError):
            Limits.model_validate(wrong)


def test_sizes_that_fit_stay_and_others_shrink_in_proportion() -> None:
    assert fitted(2 * GiB, (512 * MiB, 256 * MiB, 256 * MiB)) == (512 * MiB, 256 * MiB, 256 * MiB)
    assert fitted(512 * MiB, (512 * MiB, 256 * MiB, 256 * MiB)) == (128 * MiB, 64 * MiB, 64 * MiB)


@pytest.mark.parametrize("memory", [64 * MiB, 64 * MiB + 1, 100_000_001, GiB])
@pytest.mark.parametrize(
    "sizes",
    [
        (512 * MiB, MiB, MiB),
        (MiB, MiB, 512 * GiB),
        (333 * MiB + 1, 7 * MiB + 3, 900 * MiB),
        (2 * MiB, 2 * MiB, 2 * MiB),
    ],
)
def test_no_tmpfs_shrinks_to_nothing_and_together_they_fit(memory: int, sizes: tuple[int, int, int]) -> None:
    shrunk = fitted(memory, sizes)
    assert sum(shrunk) <= memory // 2
    assert all(SMALLEST_TMPFS <= size <= before for size, before in zip(shrunk, sizes, strict=True))
    assert shrunk == sizes or all(size % 4096 == 0 for size in shrunk)


def test_a_mount_made_by_code_is_resolved_and_judged_like_one_of_a_file(home: Any) -> None:
    (home / "link").symlink_to(home / "projects")
    assert Mount(source=home / "link").source == home / "projects"
    with pytest.raises(ValidationError):
        Mount(source=home)
