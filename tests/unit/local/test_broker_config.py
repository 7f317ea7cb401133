"""The local broker's listeners, with and without clients behind a proxy."""

from pathlib import Path

import pytest

from tidemill.local.brokerconfig import Ports, Proxied, server_properties
from tidemill.local.kafka import LocalKafka


def properties(ports: Ports) -> dict[str, str]:
    lines = server_properties(ports, Path("data")).splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_without_a_proxy_the_broker_tells_clients_where_it_listens() -> None:
    found = properties(Ports(9092, 9093, None))
    assert found["listeners"] == found["advertised.listeners"]
    assert "PROXIED" not in found["listener.security.protocol.map"]


def test_clients_of_the_second_listener_are_told_the_proxys_port() -> None:
    found = properties(Ports(9092, 9093, Proxied(listens=9094, advertised=9095)))
    assert found["listeners"].endswith(",PROXIED://127.0.0.1:9094")
    assert found["advertised.listeners"].endswith(",PROXIED://127.0.0.1:9095")
    assert found["listener.security.protocol.map"].endswith(",PROXIED:PLAINTEXT")


def test_the_broker_binds_its_own_ports_and_not_the_proxys() -> None:
    assert Ports(9092, 9093, Proxied(listens=9094, advertised=9095)).bound == (9092, 9093, 9094)


def test_a_broker_without_a_second_listener_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give it a proxied_port"):
        _ = LocalKafka(tmp_path).upstream_port
