"""Certificates for a sandbox: read whole, each one parsed, and nothing else passed on."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path

import pytest

from bridge.errors import PolicyError, PolicyRefused
from bridge.policy import SandboxRequest, decide, parse
from tests.certificates import certified


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Two certificates, with words beside them as real bundles have."""
    (tmp_path / "other").mkdir()
    both = [certified(each, dns=each.name)[0].read_text() for each in (tmp_path, tmp_path / "other")]
    file = tmp_path / "bundle.pem"
    file.write_text(f"# Société Générale\n{both[0]}\nSubject: other\n{both[1]}", encoding="utf-8")
    return file


def text(file: Path | str, network: str = "isolated") -> str:
    return f"version: 1\nsandbox:\n  network: {network}\n  ca_bundle: {file}\n"


def test_the_certificates_alone_are_given_to_a_sandbox(bundle: Path) -> None:
    given = decide(parse(text(bundle), origin="X"), SandboxRequest("a")).certificates
    assert given.count("BEGIN CERTIFICATE") == 2
    assert "Subject" not in given
    assert "#" not in given
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=given)
    assert context.cert_store_stats()["x509"] == 2


def test_they_are_in_no_text_of_the_spec(bundle: Path) -> None:
    assert "CERTIFICATE" not in repr(decide(parse(text(bundle), origin="X"), SandboxRequest("a")))


def test_without_a_network_there_is_nothing_to_trust(bundle: Path) -> None:
    policy = parse(text(bundle), origin="X")
    bundle.unlink()
    assert decide(policy, SandboxRequest("a", network="none")).certificates == ""


def test_a_file_that_has_changed_since_the_policy_was_read_is_read_again(bundle: Path) -> None:
    policy = parse(text(bundle), origin="X")
    bundle.unlink()
    with pytest.raises(PolicyRefused, match=r"ca_bundle: .* does not exist; .* \(sandbox.ca_bundle, line 4\)"):
        decide(policy, SandboxRequest("a"))


def test_the_home_directory_may_be_written_as_such_and_a_link_be_followed(home: Path, bundle: Path) -> None:
    (home / "ca.pem").symlink_to(bundle)
    assert decide(parse(text('"~/ca.pem"'), origin="X"), SandboxRequest("a")).certificates


def refusal(file: Path | str) -> str:
    with pytest.raises(PolicyError) as caught:
        parse(text(file), origin="X")
    (line,) = re.findall("line 4: sandbox.ca_bundle: (.*)", str(caught.value))
    return str(line)


def test_a_file_that_cannot_be_used_is_refused_with_the_reason(bundle: Path, tmp_path: Path) -> None:
    certificate, key = certified(tmp_path)
    whole = certificate.read_text()
    cases = {
        "holds a private key": whole + key.read_text(),
        "holds no certificate in PEM form": "not one",
        "certificate 1 in": whole.replace("MII", "AAA", 1),
        "certificate 2 in": whole + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "is larger than 512 KiB": whole + "#" * (512 << 10),
    }
    for why, content in cases.items():
        bundle.write_text(content)
        assert why in refusal(bundle)
        assert "write" in refusal(bundle)
    bundle.write_bytes(certificate.read_bytes().replace(b"\n", b"\x00\n"))
    assert "holds no certificate" in refusal(bundle)


def test_a_place_that_is_no_plain_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refusal(tmp_path / "pipe")
    assert "is not a regular file" in refusal("/dev/zero")
    assert "cannot be read (Is a directory)" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "gone")
    assert "is not a full path" in refusal("ca.pem")


def test_a_workspace_that_holds_the_file_cannot_be_given_for_writing(home: Path) -> None:
    certificate, _ = certified(home / "projects")
    policy = parse(f"{text(certificate)}  mounts: [{{source: ~/projects, mode: rw}}]\n", origin="X")
    asked = SandboxRequest("a", workspace=home / "projects", workspace_mode="rw")
    with pytest.raises(
        PolicyRefused, match=r"holds the policy's certificates, .*; mount it ro, or move that elsewhere"
    ):
        decide(policy, asked)
    assert decide(policy, SandboxRequest("a", workspace=home / "projects")).workspace
