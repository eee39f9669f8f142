"""A user's policy can only narrow the system's, in every single setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from bridge.policy import Egress, ImageRule, Mount, Policy, built_in, wider_than
from bridge.policy.narrowing import ORDERS

PIN = "sha256:" + "0" * 64
OTHER = "sha256:" + "1" * 64
TEAM = ImageRule(repository="team/kernel", tags=("1", "2"), digests=(PIN,))
HOST = Egress(host="a.example", port=443, allow_addresses=("10.0.0.0/8",))


def changed(policy: Policy, setting: str, value: Any) -> Policy:
    """The policy with one setting changed past the model's checks, as values that are not supported yet are needed."""
    section, _, rest = setting.partition(".")
    if not rest:
        return policy.model_copy(update={section: value})
    holder: BaseModel = getattr(policy, section)
    name, _, inner = rest.partition(".")
    if inner:
        value = getattr(holder, name).model_copy(update={inner: value})
    return policy.model_copy(update={section: holder.model_copy(update={name: value})})


def settings(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every setting, down to the ones of a list's items (`sandbox.mounts.mode`)."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        inner = [
            part
            for part in (field.annotation, *getattr(field.annotation, "__args__", ()))
            if isinstance(part, type) and issubclass(part, BaseModel)
        ]
        names += settings(inner[0], f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return names


# setting → (the system's value, a value that is wider, one that is not)
WIDER: dict[str, tuple[Any, Any, Any]] = {
    "version": (1, 2, 1),
    "attach.allowed": (False, True, False),
    "attach.directories": (("/srv/a",), ("runtime",), ("/srv/a/b",)),
    "attach.addresses": ((), ("loopback",), ()),
    "sandbox.images.repository": ((TEAM,), (TEAM.model_copy(update={"repository": "team/other"}),), (TEAM,)),
    "sandbox.images.tags": (
        (TEAM,),
        (ImageRule(repository="team/kernel", tags=("*",)),),
        (ImageRule(repository="docker.io/team/kernel", tags=("2",)),),
    ),
    "sandbox.images.digests": (
        (TEAM,),
        (ImageRule(repository="team/kernel", digests=(OTHER,)),),
        (ImageRule(repository="team/kernel", digests=(PIN,)),),
    ),
    "sandbox.network": ("none", "isolated", "none"),
    "sandbox.egress.host": ((HOST,), (HOST.model_copy(update={"host": "b.example"}),), ()),
    "sandbox.egress.port": ((HOST,), (HOST.model_copy(update={"port": 22}),), (HOST,)),
    "sandbox.egress.allow_addresses": (
        (HOST,),
        (HOST.model_copy(update={"allow_addresses": ("0.0.0.0/0",)}),),
        (HOST,),
    ),
    "sandbox.upstream_proxy": (None, "http://proxy.example:3128", None),
    "sandbox.ca_bundle": (None, Path("/x.pem"), None),
    "sandbox.limits.memory": (2 << 30, (2 << 30) + 1, 1 << 30),
    "sandbox.limits.cpus": (2.0, 2.5, 1.0),
    "sandbox.limits.pids": (512, 513, 100),
    "sandbox.limits.home": (1 << 29, (1 << 29) + 1, 1 << 20),
    "sandbox.limits.tmp": (1 << 28, (1 << 28) + 1, 1 << 20),
    "sandbox.limits.shm": (1 << 28, (1 << 28) + 1, 1 << 20),
    "sandbox.limits.log": (1 << 20, (1 << 20) + 1, 1 << 16),
    "sandbox.mounts.source": (
        (Mount.model_construct(source=Path("/srv/a"), mode="rw"),),
        (Mount.model_construct(source=Path("/srv/ab"), mode="ro"),),
        (Mount.model_construct(source=Path("/srv/a/b"), mode="ro"),),
    ),
    "sandbox.mounts.mode": (
        (Mount.model_construct(source=Path("/srv/a"), mode="ro"),),
        (Mount.model_construct(source=Path("/srv/a/b"), mode="rw"),),
        (Mount.model_construct(source=Path("/srv/a"), mode="ro"),),
    ),
    "sandbox.environment": (("TZ",), ("TZ", "LANG"), ()),
    "sandbox.gpus": (0, 1, 0),
    "sandbox.runtime": ("runsc", None, "runsc"),
    "sandbox.max_running": (4, 5, 0),
    "sandbox.idle_timeout": (3600.0, None, 60.0),
    "sandbox.max_lifetime": (3600.0, 3601.0, 3600.0),
    "calls.max_timeout": (3600.0, 3601.0, 45.0),
    "calls.max_output": (49152, 49153, 1024),
    "calls.max_result": (921600, 921601, 921600),
    "calls.kept_output": (2 << 20, 3 << 20, None),
    "audit.file": (Path("/var/log/a.jsonl"), Path("/home/me/a.jsonl"), None),
}
NO_ORDER_OF_ITS_OWN = {
    "origin": "where a policy comes from allows nothing",
    "lines": "where its settings are written allows nothing",
    "sandbox.default_image": "the model refuses one that images, which are compared, do not allow",
    "calls.timeout": "the model refuses one above max_timeout, which is compared",
    "audit.code": "where the system has a file, its whole audit is in force",
    "audit.max_size": "as audit.code",
    "audit.keep": "as audit.code",
}


def item_less(setting: str) -> str:
    return next(known for known in ORDERS if setting == known or setting.startswith(f"{known}."))


def test_every_setting_of_the_schema_is_compared() -> None:
    assert set(settings(Policy)) == WIDER.keys() | NO_ORDER_OF_ITS_OWN.keys()
    assert {item_less(setting) for setting in settings(Policy)} == set(ORDERS)


@pytest.mark.parametrize("setting", WIDER)
def test_a_wider_value_is_found_and_told_with_what_is_allowed(setting: str) -> None:
    ceiling, wider, _ = WIDER[setting]
    system = changed(built_in(), item_less(setting), ceiling)
    lines = wider_than(changed(system, item_less(setting), wider), system)
    assert lines
    for line in lines:
        assert line.startswith(f"{item_less(setting)}: ")
        assert "; write " in line or "; allowed are " in line


@pytest.mark.parametrize("setting", WIDER)
def test_the_same_or_a_narrower_value_is_not_wider(setting: str) -> None:
    ceiling, _, narrower = WIDER[setting]
    system = changed(built_in(), item_less(setting), ceiling)
    assert wider_than(system, system) == []
    assert wider_than(changed(system, item_less(setting), narrower), system) == []


@pytest.mark.parametrize(
    ("setting", "ceiling", "wider"),
    [
        ("sandbox.network", "isolated", "open"),
        ("sandbox.runtime", None, "nvidia"),
        ("sandbox.runtime", "runsc", "runc"),
        ("sandbox.runtime", "kata", "runsc"),
        ("sandbox.idle_timeout", 60.0, 61.0),
        ("sandbox.egress", (), (HOST,)),
        ("sandbox.egress", (Egress(host="a.example", port=443),), (HOST,)),
        ("sandbox.egress", (HOST,), (HOST.model_copy(update={"allow_addresses": ("10.0.0.0/7",)}),)),
        ("sandbox.egress", (HOST,), (HOST.model_copy(update={"allow_addresses": ("fd00::/8",)}),)),
        ("sandbox.egress", (HOST,), (HOST.model_copy(update={"host": "b.a.example"}),)),
        ("sandbox.upstream_proxy", "http://proxy.example:3128", None),
        ("sandbox.upstream_proxy", "http://proxy.example:3128", "http://other.example:3128"),
        ("sandbox.ca_bundle", Path("/x.pem"), None),
        ("calls.kept_output", 1, 2),
        ("attach.directories", ("runtime",), ("/srv/a",)),
        ("attach.directories", ("/srv/a",), ("/srv/ab",)),
        ("attach.directories", ("/srv/a",), ("/srv",)),
        ("sandbox.mounts", (), (Mount.model_construct(source=Path("/srv/a"), mode="ro"),)),
        (
            "sandbox.mounts",
            (Mount.model_construct(source=Path("/srv/a"), mode="rw"),),
            (Mount.model_construct(source=Path("/srv"), mode="ro"),),
        ),
    ],
)
def test_other_ways_to_be_wider_are_found(setting: str, ceiling: object, wider: object) -> None:
    system = changed(built_in(), setting, ceiling)
    assert len(wider_than(changed(system, setting, wider), system)) == 1


@pytest.mark.parametrize(
    ("setting", "ceiling", "narrower"),
    [
        ("sandbox.network", "open", "none"),
        ("sandbox.runtime", None, "runsc"),
        ("sandbox.idle_timeout", None, 60.0),
        ("sandbox.egress", (HOST,), ()),
        ("sandbox.egress", (HOST,), (Egress(host="a.example", port=443),)),
        ("sandbox.egress", (HOST,), (HOST.model_copy(update={"allow_addresses": ("10.1.2.0/24", "10.9.0.1/32")}),)),
        ("sandbox.upstream_proxy", "http://proxy.example:3128", "http://proxy.example:3128"),
        ("audit.file", None, Path("/home/me/a.jsonl")),
        ("calls.kept_output", 1, None),
        ("attach.directories", ("runtime", "/srv/a"), ("runtime",)),
    ],
)
def test_other_ways_to_be_narrower_are_taken(setting: str, ceiling: object, narrower: object) -> None:
    system = changed(built_in(), setting, ceiling)
    assert wider_than(changed(system, setting, narrower), system) == []


def test_every_wider_setting_is_listed() -> None:
    policy = changed(changed(built_in(), "sandbox.limits.pids", 600), "sandbox.environment", ("TZ", "LANG"))
    assert wider_than(policy, built_in()) == [
        "sandbox.limits.pids: 600 is more than the system's 512; write at most that (built in; the system's: built in)",
        "sandbox.environment: TZ is not among the system's; allowed are none (built in; the system's: built in)",
        "sandbox.environment: LANG is not among the system's; allowed are none (built in; the system's: built in)",
    ]


def test_a_setting_without_an_order_is_an_error_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ORDERS, "sandbox.gpus")
    with pytest.raises(KeyError, match=r"sandbox\.gpus"):
        wider_than(built_in(), built_in())
