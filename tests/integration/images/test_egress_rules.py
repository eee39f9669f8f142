"""What a kernel may reach through the gateway, by the rules alone: which request, which host:port, which address."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest

RULES = json.dumps(
    {
        "allow": [
            ["pypi.example.org", 443, []],
            ["pypi.example.org", 8443, ["10.1.2.0/24"]],
            ["xn--mnchen-3ya.example", 443, []],
            ["10.9.9.9", 443, []],
            ["fd00::9", 443, []],
        ],
        "upstream": None,
    }
)


def head(target: str, *headers: str, method: str = "CONNECT", version: str = "HTTP/1.1") -> bytes:
    return "\r\n".join([f"{method} {target} {version}", *headers]).encode("utf-8", "surrogateescape")


def pair(egress: Any, target: str) -> Any:
    return egress.asked(head(target))


# -- which request


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("pypi.example.org:443", ("pypi.example.org", 443)),
        ("PyPI.Example.ORG:443", ("pypi.example.org", 443)),
        ("pypi.example.org.:443", ("pypi.example.org", 443)),
        ("pypi.example.org:00443", ("pypi.example.org", 443)),
        ("münchen.example:443", ("xn--mnchen-3ya.example", 443)),
        ("MÜNCHEN.example:443", ("xn--mnchen-3ya.example", 443)),
        ("10.9.9.9:443", ("10.9.9.9", 443)),
        ("10.9.9.9.:443", ("10.9.9.9", 443)),
        ("[FD00:0::9]:443", ("fd00::9", 443)),
    ],
)
def test_one_host_written_in_several_ways_is_the_listed_one(egress: Any, target: str, meant: tuple[str, int]) -> None:
    assert pair(egress, target) == meant
    egress.read(RULES).check(meant)


@pytest.mark.parametrize(
    "target",
    [
        *("pypi.example.org:80", "pypi.example.org:4430", "pypi.example.org:8444", "example.org:443", "10.9.9.8:443"),
        *(
            "evil-pypi.example.org:443",
            "pypi.example.org.evil.io:443",
            "a.pypi.example.org:443",
            "pypi-example.org:443",
        ),
        *(
            "169.254.169.254:80",
            "127.0.0.1:5001",
            "localhost:5001",
            "172.17.0.1:443",
            "[::1]:443",
            "[::ffff:10.9.9.9]:443",
        ),
        # what a resolver would read as 10.9.9.9
        *("10.9.2313:443", "168364297:443", "0x0a090909:443", "0xa.9.9.9:443", "10.9.9.09:443"),
    ],
)
def test_any_other_pair_is_refused_with_what_was_asked_and_what_is_allowed(egress: Any, target: str) -> None:
    with pytest.raises(egress.Refused) as refused:
        egress.read(RULES).check(pair(egress, target))
    assert refused.value.status == 403
    assert "may not be reached" in str(refused.value)
    assert "pypi.example.org:443, pypi.example.org:8443, xn--mnchen-3ya.example:443" in str(refused.value)


@pytest.mark.parametrize(
    "target",
    [
        *("", ":", ":443", "pypi.example.org", "pypi.example.org:", "pypi.example.org:0", "pypi.example.org:65536"),
        *("pypi.example.org:443x", "pypi.example.org:+443", "pypi.example.org:4_43", "pypi.example.org:٤٤٣"),
        *("pypi.example.org:443:443", "fd00::9:443", "[fd00::9]", "[fd00::9%eth0]:443", "[10.9.9.9]:443", "[]:443"),
        *(
            "me@pypi.example.org:443",
            "me:pw@pypi.example.org:443",
            "https://pypi.example.org:443",
            "pypi.example.org/:443",
        ),
        *(
            "pypi.example.org\0.evil.io:443",
            "pypi.example.org\t:443",
            "pypi..example.org\udcff:443",
            "*:443",
            "010.9.9.9%:1",
        ),
        *(f"{'a' * 300}.example:443", "pypi.example.org..:443", "-:443", "\u2603\u0301" * 40 + ":443"),
    ],
)
def test_what_is_not_a_host_and_a_port_is_a_bad_request(egress: Any, target: str) -> None:
    with pytest.raises(egress.Refused) as refused:
        pair(egress, target)
    assert refused.value.status == 400
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"CONNECT", b"CONNECT pypi.example.org:443", b"CONNECT  pypi.example.org:443 HTTP/1.1"),
        *(b"CONNECT pypi.example.org:443 HTTP/1.1 ", b" CONNECT pypi.example.org:443 HTTP/1.1", b"\x16\x03\x01\x02"),
        *(b"CONNECT pypi.example.org:443 HTTP/2.0", b"CONNECT pypi.example.org:443 http/1.1", b"CONNECT\tx:1 HTTP/1.1"),
        *(
            b"CONNECT pypi.example.org:443 HTTP/1.1\nX: y",
            b"CO-NNECT pypi.example.org:443 HTTP/1.1",
            b"\xff\xff x HTTP/1.1",
        ),
    ],
)
def test_what_is_not_http_is_a_bad_request(egress: Any, line: bytes) -> None:
    with pytest.raises(egress.Refused) as refused:
        egress.asked(line)
    assert refused.value.status == 400


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "HEAD", "OPTIONS", "connect", "PRI"])
def test_plain_http_and_other_methods_are_told_that_only_tunnels_pass(egress: Any, proxy: Any, method: str) -> None:
    with pytest.raises(egress.Refused) as refused:
        egress.asked(head("http://pypi.example.org/simple/", method=method))
    assert refused.value.status == 405
    assert "use an https address" in str(refused.value)
    assert b"Allow: CONNECT\r\n" in proxy.streams.reply(refused.value.status, str(refused.value))


@pytest.mark.parametrize(
    "header",
    [
        *("Content-Length: 10", "content-length: 0", "Transfer-Encoding: chunked", "TRANSFER-ENCODING: identity"),
        *(" folded", "no colon", ": no name", "Na me: x", "Host : x", "X: a\nY: b", "X: a\rY: b", "X: \0", "X: \x7f"),
    ],
)
def test_a_head_that_two_readers_could_read_differently_is_a_bad_request(egress: Any, header: str) -> None:
    with pytest.raises(egress.Refused) as refused:
        egress.asked(head("pypi.example.org:443", "Host: pypi.example.org:443", header))
    assert refused.value.status == 400


def test_the_host_header_and_all_others_have_no_say(egress: Any) -> None:
    asked = egress.asked(
        head("pypi.example.org:443", "Host: evil.example:1", "Proxy-Authorization: Basic eDp5", "X-A: ü")
    )
    assert asked == ("pypi.example.org", 443)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("CONNECT index.example:443 HTTP/1.1", "CONNECT index.example:443"),
        ("CONNECT [fd00::9]:443 HTTP/1.1", "CONNECT [fd00::9]:443"),
        ("CONNECT münchen.example:443 HTTP/1.1", "CONNECT münchen.example:443"),
        ("CONNECT me:secret@index.example:443 HTTP/1.1", "CONNECT index.example:443"),
        ("GET http://me:secret@index.example/simple/?token=secret#secret HTTP/1.1", "GET index.example"),
        ("GET http://me:secret@index.example:8080/a@secret HTTP/1.1", "GET index.example:8080"),
        ("GET http://index.example?token=secret HTTP/1.1", "GET index.example"),
        ("GET http://me:sec/ret@index.example/ HTTP/1.1", "GET …"),
        ("GET /simple/?token=secret HTTP/1.1", "GET "),
        ("\x16\x03\x01 secret=secret", "\x16\x03\x01 …"),
        ("", " "),
    ],
)
def test_of_what_was_asked_for_only_the_method_the_host_and_the_port_are_told(
    egress: Any, line: str, told: str
) -> None:
    assert egress.shown(line.encode() + b"\r\nAuthorization: secret") == told


@pytest.mark.parametrize(
    "line",
    [
        "CONNECT me:secret@index.example:443 HTTP/1.1",
        "GET http://me:secret@index.example/?token=secret HTTP/1.1",
        "CONNECT https://index.example/secret HTTP/1.1",
    ],
)
def test_a_refusal_repeats_no_secret_that_was_in_the_request(egress: Any, line: str) -> None:
    with pytest.raises(egress.Refused) as refused:
        egress.asked(line.encode())
    assert "index.example" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_an_answer_holds_no_line_of_its_own_that_was_asked_for(egress: Any, proxy: Any) -> None:
    with pytest.raises(egress.Refused) as refused:
        pair(egress, "evil\rSet-Cookie:x")
    top, _, body = proxy.streams.reply(400, str(refused.value)).partition(b"\r\n\r\n")
    assert b"evil" not in top
    assert int(top.split(b"Content-Length: ")[1].split(b"\r\n")[0]) == len(body)


def test_a_long_list_is_told_in_part(egress: Any) -> None:
    many = {"allow": [[f"host{number}.example", 443, []] for number in range(60)], "upstream": None}
    assert egress.read(json.dumps(many)).told().endswith("host19.example:443 and 40 more.")


# -- which address

PUBLIC = [
    *("168.63.129.15", "168.63.129.17"),
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"),
    *("128.0.0.1", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0"),
    *("198.17.255.255", "198.20.0.0", "223.255.255.255", "2001:4860:4860::8888", "2a00:1450::1", "2600::"),
    *("2002:0101:0101::1", "64:ff9b::808:808"),
]
NOT_PUBLIC = [
    # IPv4, each range at both ends
    *("0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "127.0.0.1"),
    *("127.255.255.255", "169.254.0.1", "169.254.169.254", "172.16.0.0", "172.31.255.255", "192.0.0.1", "192.0.2.1"),
    *("192.88.99.1", "192.168.0.0", "192.168.255.255", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1"),
    "168.63.129.16",  # of Azure, to each of its machines
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    # IPv6
    *("::", "::1", "fc00::1", "fd00::1", "fdff:ffff::1", "fe80::1", "febf::1", "fec0::1", "ff02::1", "ff0e::1"),
    *("2001:db8::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:10::1", "2001:20::1", "3fff::1"),
    *("100::1", "4000::1", "8000::1", "5f00::1", "::2", "::7f00:1"),
    # an IPv4 address within: mapped, 6to4, NAT64 of both kinds
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "2002:7f00:1::", "2002:a00:1::1"),
    *(
        "2002:c0a8:1::1",
        "2002:a9fe:a9fe::",
        "64:ff9b::7f00:1",
        "64:ff9b::a00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::808:808",
    ),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_connected_to(egress: Any, address: str) -> None:
    assert egress.why_not(ipaddress.ip_address(address)) is None


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_refused_unless_a_range_has_it(egress: Any, address: str) -> None:
    made = ipaddress.ip_address(address)
    assert egress.why_not(made)
    elsewhere = [ipaddress.ip_network("172.20.0.0/16"), ipaddress.ip_network("fd99::/16")]
    assert egress.why_not(made, elsewhere)
    assert egress.why_not(made, [*elsewhere, ipaddress.ip_network(address)]) is None


@pytest.mark.parametrize("address", ["::ffff:10.1.2.3", "2002:a01:203::1", "64:ff9b::a01:203"])
def test_a_range_of_ipv4_addresses_is_meant_in_ipv6s_clothes_too(egress: Any, address: str) -> None:
    (ranges,) = ([ipaddress.ip_network("10.1.2.0/24")],)
    assert egress.why_not(ipaddress.ip_address(address), ranges) is None
    assert egress.why_not(ipaddress.ip_address(address), [ipaddress.ip_network("10.1.3.0/24")])


def test_the_engines_machine_and_other_containers_are_refused_whatever_their_addresses(egress: Any) -> None:
    near = [ipaddress.ip_network("51.15.0.0/24"), ipaddress.ip_network("2a01:4f8::/64")]
    for address in ("51.15.0.1", "2a01:4f8::5"):
        assert "another container" in egress.why_not(ipaddress.ip_address(address), (), near)
        assert egress.why_not(ipaddress.ip_address(address), near, near) is None
    assert egress.why_not(ipaddress.ip_address("51.15.1.1"), (), near) is None


def test_what_the_launcher_knows_of_the_engines_machine_is_refused_too(egress: Any) -> None:
    rules = egress.read(json.dumps({"allow": [], "upstream": None, "refuse": ["51.15.7.0/24", "2a01:4f8::/64"]}))
    for address in ("51.15.7.9", "2a01:4f8::5", "64:ff9b::330f:709"):
        assert "engine's machine" in egress.why_not(ipaddress.ip_address(address), (), rules.near)
    assert egress.why_not(ipaddress.ip_address("51.15.8.9"), (), rules.near) is None
    assert egress.read(json.dumps({"allow": [], "upstream": None})).near == (), (
        "of a sandbox that an older bridge started"
    )


def test_an_address_that_is_listed_itself_needs_no_range_besides(egress: Any) -> None:
    ranges = egress.read(RULES).check(("10.9.9.9", 443))
    assert egress.why_not(ipaddress.ip_address("10.9.9.9"), ranges) is None
    assert egress.why_not(ipaddress.ip_address("10.9.9.8"), ranges)


def test_of_a_lookup_each_address_counts_once_and_none_with_a_zone(egress: Any) -> None:
    found = egress.answers(["1.1.1.1", "::ffff:1.1.1.1", "fe80::1%eth0", "no address", "2600::1", "1.1.1.1"])
    assert [str(each) for each in found] == ["1.1.1.1", "2600::1"]


@pytest.mark.parametrize(
    ("found", "order"),
    [
        (["2600::1", "2600::2", "2600::3", "1.1.1.1", "1.1.1.2"], ["2600::1", "1.1.1.1", "2600::2", "1.1.1.2"]),
        (["1.1.1.1", "1.1.1.2", "2600::1"], ["1.1.1.1", "2600::1", "1.1.1.2"]),
        (["1.1.1.1", "1.1.1.2"], ["1.1.1.1", "1.1.1.2"]),
        ([], []),
    ],
)
def test_the_two_families_are_tried_by_turns(egress: Any, found: list[str], order: list[str]) -> None:
    assert [str(each) for each in egress.by_turns(egress.answers(found))[:4]] == order


ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
"""
ROUTES_V6 = """fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000000 00000000 00000003     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
"""  # noqa: E501 - as the system writes it


def test_the_networks_of_the_container_are_read_from_its_routing_tables(egress: Any) -> None:
    assert [str(each) for each in egress.near(ROUTES, ROUTES_V6)] == ["172.17.0.0/16", "fd00::/64"]
    assert egress.near("", "") == ()
