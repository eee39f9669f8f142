"""A decided spec, the facts of a start, and an engine that did exactly what it was asked for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from bridge.launchers.docker.document import Document, Facts
from bridge.policy import Limits, SandboxSpec

IMAGE_ID = "sha256:" + "ab" * 32


@pytest.fixture
def spec() -> SandboxSpec:
    return SandboxSpec(
        name="lab",
        image="docker.io/kernel-bridge/python:3.13",
        network="isolated",
        limits=Limits(),
        workspace=None,
        environment=(),
        gpus=0,
        runtime=None,
        max_running=4,
    )


@pytest.fixture(scope="session")
def facts() -> Facts:
    return Facts(
        owner="0123456789abcdef" * 2,
        start="fedcba9876543210",
        image_id=IMAGE_ID,
        image_environment=("PATH", "PYTHONSTARTUP"),
        uid=234567,
        gid=234567,
        connection_file=Path("/users/alice/runtime/kernel-bridge-lab.json"),
        timezone="Europe/Paris",
        engine_cpus=8,
    )


class FaithfulEngine:
    """What an engine that did all of it says, so that a test can change one thing."""

    @staticmethod
    def inspect(asked: Document) -> dict[str, Any]:
        document = copy.deepcopy(asked)
        host = document.pop("HostConfig")
        bound = {port: [{**each, "HostPort": "3277"} for each in list_] for port, list_ in host["PortBindings"].items()}
        return {
            "Image": document["Image"],
            "State": {"Running": True, "Status": "running"},
            "Config": {**document, "Labels": {**document["Labels"], "from.the.image": "1"}, "Volumes": None},
            "HostConfig": {**host, "Runtime": host.get("Runtime", "runc"), "ConsoleSize": [0, 0], "Binds": None},
            "NetworkSettings": {"Networks": {host["NetworkMode"]: {}}, "Ports": bound},
            "Mounts": [
                {
                    "Type": each["Type"],
                    "Name": each["Source"],
                    "Source": each["Source"],
                    "Destination": each["Target"],
                    "RW": not each["ReadOnly"],
                }
                for each in host["Mounts"]
            ],
        }

    @staticmethod
    def inside(asked: Document, *directories: tuple[str, str]) -> str:
        uid, gid = asked["User"].split(":")
        zero = "0" * 16
        status = [
            "Name:\tpython",
            f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}",
            f"Gid:\t{gid}\t{gid}\t{gid}\t{gid}",
            *(f"{name}:\t{zero}" for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")),
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ]
        host = asked["HostConfig"]
        places = dict(host["Tmpfs"])
        for mount in host["Mounts"]:
            if mount["Type"] == "volume":
                options = mount["VolumeOptions"]["DriverConfig"]["Options"]["o"]
                # an engine mounts it anew to be read only, without the other flags
                size = next(each for each in options.split(",") if each.startswith("size="))
                places[mount["Target"]] = f"ro,{size}" if mount["ReadOnly"] else options
        mounts = ["overlay / overlay ro,relatime 0 0"]
        for path, options in places.items():
            shown = [
                f"size={int(each[5:]) // 1024}k" if each.startswith("size=") else each for each in options.split(",")
            ]
            mounts.append(f"tmpfs {path} tmpfs {','.join(shown)},relatime 0 0")
        sections = {
            "/proc/1/status": status,
            "/proc/net/dev": ["Inter-|   Receive", " face |bytes", "    lo:       0       0"],
            "/proc/net/route": ["Iface\tDestination\tGateway"],
            "/proc/mounts": mounts,
            **{path: [found] for path, found in directories},
        }
        lines = [line for name, content in sections.items() for line in (f"==> {name}", *content)]
        return "\n".join([*lines, "==> end", ""])


@pytest.fixture
def engine() -> FaithfulEngine:
    return FaithfulEngine()
