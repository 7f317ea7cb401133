"""The chaos proxy between a client and a broker of three lines, with every fault it can do."""

import socket
import socketserver
import struct
import threading
from collections.abc import Iterator

import pytest

from chaosharness.latedelivery import Phase
from chaosharness.proxy import Proxy
from chaosharness.wire import Api
from support.polling import eventually
from tidemill import clock
from tidemill.errors import EnvironmentUnusable
from tidemill.local.machine import LOOPBACK, free_port

FENCED = 90


class Broker(socketserver.ThreadingTCPServer):
    """Answers each request with its correlation id and error code 0, an EndTxn of epoch 0 with FENCED."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), _Conversation)
        self.heard: list[bytes] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Conversation(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while len(length := self.rfile.read(4)) == 4:
            body = self.rfile.read(struct.unpack(">i", length)[0])
            self.server.heard.append(body)
            (api, _, correlation) = struct.unpack_from(">hhi", body)
            fenced = api == Api.END_TXN and body[-3:-1] == b"\x00\x00"
            answer = struct.pack(">iih", correlation, 0, FENCED if fenced else 0)
            self.wfile.write(struct.pack(">i", len(answer)) + answer)


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        thread = threading.Thread(target=broker.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield broker
        broker.shutdown()
        thread.join(10)


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    with Proxy(free_port(), broker.port, seed=1) as proxy:
        yield proxy


class Client:
    def __init__(self, proxy: Proxy) -> None:
        host, _, port = proxy.bootstrap_servers.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)

    def send(self, api: int, correlation: int, *, epoch: int = 0, size: int = 0) -> bytes:
        """A request with the transactional id `t`, in the oldest form."""
        body = struct.pack(">hhih", api, 0, correlation, -1) + struct.pack(">h", 1) + b"t" + bytes(size)
        if api == Api.END_TXN:
            body += struct.pack(">qh?", 1, epoch, True)
        frame = struct.pack(">i", len(body)) + body
        self.socket.sendall(frame)
        return body

    def receive(self) -> tuple[int, int]:
        """Correlation id and error code of the next answer."""
        answer = b""
        while len(answer) < 14:
            piece = self.socket.recv(14 - len(answer))
            if not piece:
                raise ConnectionResetError
            answer += piece
        _, correlation, _, error = struct.unpack(">iiih", answer)
        return correlation, error

    def ask(self, api: int, correlation: int, *, epoch: int = 0) -> int:
        self.send(api, correlation, epoch=epoch)
        answered, error = self.receive()
        assert answered == correlation
        return error

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def test_everything_passes_unchanged_and_in_order(broker: Broker, proxy: Proxy) -> None:
    with Client(proxy) as client:
        sent = [client.send(Api.PRODUCE, number, size=number * 5_000) for number in range(40)]
        assert [client.receive()[0] for _ in sent] == list(range(40))
    assert broker.heard == sent
    assert {name: count for name, count in proxy.counts().items() if count} == {"connections": 1}


def test_delayed_frames_come_late_and_in_order_also_when_the_delay_ends(proxy: Proxy) -> None:
    proxy.delay(40, jitter_ms=30)
    with Client(proxy) as client:
        began = clock.monotonic()
        for number in range(20):
            client.send(Api.PRODUCE, number)
        first = client.receive()[0]
        assert clock.monotonic() - began >= 0.02, "10 ms each way at least"
        proxy.delay(0)
        for number in range(20, 30):
            client.send(Api.PRODUCE, number)
        assert [first, *(client.receive()[0] for _ in range(29))] == list(range(30))
    assert proxy.counts()["delayed"] >= 20


def test_a_reset_is_an_error_for_the_client_and_only_for_whom_it_is_meant(proxy: Proxy) -> None:
    with Client(proxy) as one, Client(proxy) as other:
        one.ask(Api.PRODUCE, 1)
        other.ask(Api.FETCH, 1)
        assert proxy.reset(transactional_id="t") == 1
        with pytest.raises(ConnectionResetError):
            one.ask(Api.PRODUCE, 2)
        assert other.ask(Api.FETCH, 2) == 0
        assert proxy.reset() == 1
    assert proxy.counts()["reset"] == 2


@pytest.mark.parametrize(("requests", "heard"), [(True, 0), (False, 1)], ids=["requests", "answers"])
def test_a_half_open_connection_is_silent_until_it_is_reset(
    broker: Broker, proxy: Proxy, requests: bool, heard: int
) -> None:
    with Client(proxy) as client:
        proxy.half_open(0.3, requests=requests, answers=not requests)
        client.send(Api.PRODUCE, 1)
        with pytest.raises(ConnectionResetError):
            client.receive()
    assert len(broker.heard) == heard
    assert proxy.counts()["swallowed_bytes"] > 0
    assert proxy.healed()
    with Client(proxy) as client:
        assert client.ask(Api.PRODUCE, 1) == 0


@pytest.mark.parametrize("next_epoch", [0, 1])
def test_a_held_request_arrives_inside_the_next_transaction_and_before_its_end(
    broker: Broker, proxy: Proxy, next_epoch: int
) -> None:
    proxy.hold(Api.END_TXN)
    with Client(proxy) as impatient:
        impatient.send(Api.END_TXN, 1, epoch=0)
        eventually(lambda: proxy.counts().get("held", 0) == 1)
        impatient.send(Api.PRODUCE, 2)
    assert broker.heard == [], "what follows on the same connection waits behind it"
    with Client(proxy) as client:
        client.ask(Api.PRODUCE, 3)
        assert proxy.late()[0].phase is Phase.HELD, "the client has not ended the transaction yet"
        assert client.ask(Api.END_TXN, 4, epoch=1) == 0
        assert client.ask(Api.ADD_PARTITIONS_TO_TXN, 5) == 0
        assert proxy.late()[0].phase is Phase.MOVED_ON
        client.ask(Api.END_TXN, 6, epoch=next_epoch)
    ends = [struct.unpack_from(">hhi", body)[2] for body in broker.heard if body[:2] == struct.pack(">h", Api.END_TXN)]
    assert ends == [4, 1, 6], "the late one came before the end that waited for it"
    assert proxy.late()[0][1:] == (True, Phase.RELEASED, FENCED)
    assert proxy.counts()["late_refused"] == 1 and proxy.counts()["late_obeyed"] == 0


def test_a_held_request_leaves_with_the_first_write_of_the_next_transaction(broker: Broker, proxy: Proxy) -> None:
    proxy.hold(Api.END_TXN, by="reset")
    with Client(proxy) as client:
        client.send(Api.END_TXN, 1, epoch=3)
        with pytest.raises(ConnectionResetError):
            client.receive()
    with Client(proxy) as client:
        client.ask(Api.INIT_PRODUCER_ID, 2)
        client.ask(Api.PRODUCE, 3)
        eventually(lambda: proxy.late()[0].over)
    assert proxy.counts()["late_obeyed"] == 1


def test_without_a_broker_behind_it_a_client_is_turned_away() -> None:
    with Proxy(free_port(), free_port()) as proxy, Client(proxy) as client, pytest.raises(ConnectionResetError):
        client.ask(Api.FETCH, 1)


def test_a_port_that_is_taken_is_named(broker: Broker) -> None:
    with pytest.raises(EnvironmentUnusable, match=str(broker.port)), Proxy(broker.port, free_port()):
        pass
