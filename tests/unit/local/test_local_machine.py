"""Ports, memory and process figures of this machine."""

import os
import socket
import sys
from pathlib import Path

import pytest

from tidemill.errors import EnvironmentUnusable
from tidemill.local import machine
from tidemill.local.kafka import LocalKafka


def test_a_port_somebody_listens_on_is_not_free() -> None:
    port = machine.free_port()
    assert machine.port_is_free(port)
    with socket.create_server((machine.LOOPBACK, port)):
        assert not machine.port_is_free(port)


def test_free_ports_lie_below_those_of_outgoing_connections() -> None:
    assert all(20_000 <= machine.free_port() < 32_000 for _ in range(20))


def test_kafka_refuses_a_machine_with_too_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory_mb", lambda: 300)
    with pytest.raises(EnvironmentUnusable, match="needs about 768 MB of memory and 300 MB are available") as refusal:
        LocalKafka(tmp_path, heap_mb=512).start()
    assert refusal.value.hint


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_process_has_used_cpu_and_memory() -> None:
    usage = machine.process_usage(os.getpid())
    assert usage is not None
    assert usage.cpu_seconds > 0
    assert usage.resident_bytes > 1_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_counts_the_limit_of_the_container(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{512 << 20}\n")
    (tmp_path / "memory.current").write_text(f"{112 << 20}\n")
    assert machine._cgroup_headroom(tmp_path) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert machine._cgroup_headroom(tmp_path) is None


def test_a_process_that_is_gone_has_no_figures() -> None:
    assert machine.process_usage(2**22 + 1) is None
