"""The engine's machine and its networks, as the system's own tables have them."""

from __future__ import annotations

from pathlib import Path

from bridge.launchers.docker import near

TRIE = """Main:
  +-- 0.0.0.0/0 3 0 4
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 51.15.7.0/24 2 0 2
        |-- 51.15.7.0
           /24 link UNICAST
        |-- 51.15.7.9
           /32 host LOCAL
        |-- 51.15.7.255
           /32 link BROADCAST
     |-- 127.0.0.0
        /8 host LOCAL
     |-- 172.17.0.0
        /16 link UNICAST
     |-- 185.0.0.0
        /8 universe UNICAST
     |-- 185.3.4.0
        /24 link UNICAST
Local:
     |-- 34.1.2.3
        /32 host LOCAL
     |-- 51.15.7.9
        /32 host LOCAL
     |-- 128.0.0.0
        /1 link UNICAST
"""
IF_INET6 = """00000000000000000000000000000001 01 80 10 80       lo
2a0104f80000000000000000000000a5 02 40 00 80     eth0
fe800000000000000000000000000001 02 40 20 80     eth0
fd000000000000000000000000000001 03 40 00 80     eth1
"""


def test_public_networks_of_this_machine_are_found_and_one_that_a_tunnel_is_the_way_to_is_not_its_own(
    tmp_path: Path,
) -> None:
    (tmp_path / "fib_trie").write_text(TRIE)
    (tmp_path / "if_inet6").write_text(IF_INET6)
    assert near.networks(tmp_path) == ("34.1.2.3/32", "51.15.7.0/24", "185.3.4.0/24", "2a01:4f8::/64")


def test_a_system_without_such_tables_has_none(tmp_path: Path) -> None:
    assert near.networks(tmp_path) == ()


def test_this_machine_can_be_asked() -> None:
    assert isinstance(near.networks(), tuple)
