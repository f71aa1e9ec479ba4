"""Packets between nodes: what rules do to them, and that a seed decides which are lost."""

from __future__ import annotations

import socket

from laboratory.network.routing import CLEAR, PacketRule, Routing, address_of, node_of


def _packet(target: int, size: int = 40) -> bytes:
    header = b"\x45" + bytes(15) + socket.inet_aton(address_of(target))
    return header + bytes(size - len(header))


def test_every_node_has_an_address_of_its_own() -> None:
    addresses = [address_of(node) for node in range(1000)]
    assert len(set(addresses)) == 1000
    assert [node_of(socket.inet_aton(address)) for address in addresses] == list(range(1000))


def test_packets_pass_at_once_without_rules() -> None:
    routing = Routing(1)
    assert routing.packet(0, _packet(3), 0.0) == 3
    assert (routing.due(9.0), routing.next_due_s()) == ([], None)
    assert routing.counts[0, 3].passed == 1


def test_what_is_no_packet_of_version_4_goes_nowhere() -> None:
    routing = Routing(1)
    assert routing.packet(0, b"\x60" + bytes(60), 0.0) is None
    assert routing.packet(0, b"\x45", 0.0) is None
    assert routing.counts == {}


def test_a_cut_is_for_its_direction_only_until_it_is_cleared() -> None:
    routing = Routing(1)
    routing.set([0], [1], PacketRule(loss=1.0))
    assert routing.packet(0, _packet(1), 0.0) is None
    assert routing.packet(1, _packet(0), 0.0) == 0
    assert routing.packet(0, _packet(2), 0.0) == 2
    assert routing.counts[0, 1].dropped == 1
    routing.set([0], [1], CLEAR)
    assert routing.packet(0, _packet(1), 0.0) == 1


def test_a_delayed_packet_is_held_for_its_time_and_keeps_its_place() -> None:
    routing = Routing(1)
    routing.set([0], [1], PacketRule(delay_s=0.5))
    first, second = _packet(1, 50), _packet(1, 60)
    assert [routing.packet(0, data, 1.0) for data in (first, second)] == [None, None]
    assert routing.next_due_s() == 1.5
    assert routing.due(1.4) == []
    assert routing.due(1.5) == [(1, first), (1, second)]


def test_which_packets_are_lost_is_decided_by_seed_and_direction() -> None:
    def lost(seed: int, others: int) -> list[int]:
        routing = Routing(seed)
        routing.set([0, 2], [1], PacketRule(loss=0.3))
        found = []
        for number in range(200):
            for _ in range(others):
                routing.packet(2, _packet(1), 0.0)
            if routing.packet(0, _packet(1), 0.0) is None:
                found.append(number)
        return found

    assert lost(1, 0) == lost(1, 2) != lost(2, 0)
    assert 30 < len(lost(1, 0)) < 90
