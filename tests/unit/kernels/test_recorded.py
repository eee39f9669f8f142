"""Nothing that is done with kernels goes past the audit."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from bridge.audit import Audit, Who
from bridge.errors import EngineUnavailable
from bridge.kernels.recorded import _Recorded, recorded
from bridge.kernels.registry import Kernels
from bridge.launchers import Launcher
from bridge.launchers.docker import DockerLauncher
from bridge.policy import SandboxRequest, built_in, decide, parse
from tests.certificates import certified

# What asks nothing of a kernel and changes none, or tells once more what the connection has told already.
LOOKS = {
    "be_at_home": "connects by `connect`",
    "close": "leaves each as `disconnect` does",
    "address": "tells by itself, once: whoever waits for a kernel asks many times",
    "find": "which kernels there are",
    "listing": "which kernels there are",
    "pieces_of_file": "tells by itself, being no coroutine",
    "read": "the output of a cell of ours",
    "settled": "idle or busy",
    "what_became_of": "how a sandbox ended",
    "statuses": "idle or busy",
    "the_only_one": "which kernel a refusal is about",
    "why_not_at_home": "which kernels there are",
    "output": "what this connection has told already",
    "introduce": "whose name the lines carry",
    "untold": "keeps what a result will say first",
}
LAUNCHER_LOOKS = {
    *("sandboxes", "until_ended", "log", "follow_log", "last_ending"),
    *("check", "check_image", "check_leftovers"),
    # nothing is ended or begun: what was lost of a sandbox that runs comes back, what has ended goes
    *("revive", "restore_connection_file", "sweep"),
    "close",
}


def test_every_method_that_acts_tells_what_was_refused() -> None:
    acts = {
        name: method for name, method in inspect.getmembers(Kernels, inspect.isfunction) if not name.startswith("_")
    }
    silent = {name for name, method in acts.items() if not hasattr(method, "__wrapped__")}
    assert silent == set(LOOKS), "say `refusals_of`, or why not"


def test_every_act_of_a_launcher_is_told() -> None:
    methods = {name for name, _ in inspect.getmembers(Launcher, inspect.isfunction) if not name.startswith("_")}
    assert methods - LAUNCHER_LOOKS == {"start", "stop", "restart_kernel", "interrupt_kernel"}
    assert methods - LAUNCHER_LOOKS <= set(vars(_Recorded))


def test_without_an_audit_the_launcher_is_the_launcher_itself() -> None:
    launcher = DockerLauncher()
    assert recorded(launcher, Audit(built_in(), Who())) is launcher


@pytest.mark.anyio
async def test_a_start_tells_what_the_sandbox_could_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the line is there before the engine is asked, and there is none
    monkeypatch.setenv("KERNEL_BRIDGE_DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    (tmp_path / "audit").mkdir(mode=0o700)
    file = tmp_path / "audit" / "audit.jsonl"
    certificate, _ = certified(tmp_path)
    many = "".join(f", {{host: host-{number}.example.org, port: 443}}" for number in range(126))
    written = f"""\
version: 1
sandbox:
  egress: [{{host: pypi.example.org, port: 443}}, {{host: "2001:db8::1", port: 8443}}{many}]
  upstream_proxy: http://proxy.example.org:3128
  ca_bundle: {certificate}
  gpus: 2
audit: {{file: {file}}}
"""
    policy = parse(written, origin="X")
    launcher = recorded(DockerLauncher(), Audit(policy, Who()))
    with pytest.raises(EngineUnavailable):
        await launcher.start(decide(policy, SandboxRequest("lab")))
    start = json.loads(file.read_text().splitlines()[0])
    assert start["egress"][:2] == ["pypi.example.org:443", "[2001:db8::1]:8443"]
    assert len(start["egress"]) == 128, "all of them"
    assert (start["upstream_proxy"], start["gpus"]) == ("http://proxy.example.org:3128", 2)
    assert start["certificates"] is True
    assert start["idle_timeout"] == 86400
    assert "max_lifetime" not in start
    assert "CERTIFICATE" not in file.read_text()
    with pytest.raises(EngineUnavailable):
        await launcher.start(decide(policy, SandboxRequest("lab", network="none")))
    sealed = json.loads(file.read_text().splitlines()[2])
    assert not {"egress", "upstream_proxy"} & sealed.keys()
    with pytest.raises(EngineUnavailable):
        await launcher.start(decide(policy, SandboxRequest("lab", by_agent=True)))
    assert json.loads(file.read_text().splitlines()[4])["idle_timeout"] == 7200
