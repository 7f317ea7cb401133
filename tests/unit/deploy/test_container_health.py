"""The health check that runs inside the containers."""

import runpy
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "deploy" / "docker" / "healthcheck.py"
check: Callable[[int], tuple[bool, str]] = runpy.run_path(str(SCRIPT))["check"]


@contextmanager
def _answering(*parts: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A port on which one request is answered with `parts`, each sent by itself; and what was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(65_536))
                for part in parts:
                    connection.sendall(part)

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1], asked
        thread.join()


def test_a_ready_service_is_healthy_and_its_whole_answer_is_shown() -> None:
    with _answering(b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n", b'{"ready":', b"true}") as (port, asked):
        assert check(port) == (True, '{"ready":true}')
    assert asked[0].startswith(b"GET /readyz HTTP/1.0\r\n")


@pytest.mark.parametrize("status", [b"503 Service Unavailable", b"404 Not Found", b"500 because of 200 errors"])
def test_any_other_status_is_unhealthy_with_the_reason(status: bytes) -> None:
    with _answering(b"HTTP/1.1 " + status + b"\r\n\r\nwaiting for topics") as (port, _):
        assert check(port) == (False, "waiting for topics")


def test_an_empty_answer_is_unhealthy() -> None:
    with _answering() as (port, _):
        assert check(port) == (False, "")


def test_a_port_on_which_nothing_listens_is_unhealthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    ready, said = check(port)
    assert not ready
    assert said.startswith(f"no answer on port {port}: ")
