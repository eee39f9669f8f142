"""A policy written out reads back as itself, and every setting can be told in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from bridge.policy import built_in, parse, settings, written_out
from bridge.policy.model import PolicyFile


def test_the_built_in_policy_reads_back_as_itself() -> None:
    policy = built_in()
    assert parse(written_out(policy), origin=policy.origin) == policy


def test_a_policy_that_sets_much_reads_back_as_itself(home: Path) -> None:
    text = (
        "version: 1\n"
        f"attach: {{allowed: false, directories: [runtime, '{home}/projects']}}\n"
        "sandbox:\n"
        '  images: [{repository: registry.example.org/team/kernel, tags: ["3.10", "1e5", "0x10", "y", "null"]}]\n'
        '  default_image: "registry.example.org/team/kernel:3.10"\n'
        "  network: none\n"
        "  limits: {memory: 513MiB, cpus: 0.5, pids: 64, home: 100MiB, tmp: 1MiB, shm: 1MiB, log: 17KiB}\n"
        "  mounts: [{source: ~/projects, mode: rw}]\n"
        "  environment: [TZ, y, n]\n"
        "  runtime: runsc\n"
        "  egress: [{host: 10.1.2.3, port: 443}, {host: 'fd00::1', port: 1, allow_addresses: ['fd00::/8']}]\n"
        "calls: {timeout: 90s, max_timeout: 2h, max_output: 1KiB, max_result: 16KiB}\n"
    ).replace("environment: [TZ, y, n]", 'environment: [TZ, "y", "n"]')
    policy = parse(text, origin="a test")
    assert parse(written_out(policy), origin="a test") == policy
    assert "90s" in written_out(policy)
    assert "cpus: 0.5" in written_out(policy)


@pytest.mark.parametrize("setting", settings(), ids=lambda each: each.name)
def test_every_setting_has_a_meaning_and_says_what_may_be_written(setting: object) -> None:
    assert getattr(setting, "meaning", "")
    assert getattr(setting, "allowed", "")


def test_no_setting_of_the_schema_is_left_out() -> None:
    def names(schema: type[BaseModel]) -> int:
        inner = [field.annotation for field in schema.model_fields.values()]
        parts = [one for each in inner for one in (each, *getattr(each, "__args__", ()))]
        return len(schema.model_fields) + sum(
            names(one) - (one in inner) for one in parts if isinstance(one, type) and issubclass(one, BaseModel)
        )

    assert len(settings()) == names(PolicyFile)


@pytest.mark.parametrize("cpus", ["2", "0.5", "1.2345678"])
def test_a_number_is_written_as_the_number_that_it_is(cpus: str) -> None:
    policy = parse(f"version: 1\nsandbox: {{limits: {{cpus: {cpus}}}}}\n", origin="a test")
    assert f"cpus: {cpus}," in written_out(policy)
    assert parse(written_out(policy), origin="a test") == policy
