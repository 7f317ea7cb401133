"""What is done to the broker: killed, held still, or left without room on its disk."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Self

from chaosharness.fleet import Fleet
from chaosharness.schedule import Fault
from tidemill import clock
from tidemill.errors import EnvironmentUnusable
from tidemill.local.kafka import LocalKafka

_FULL_WITHIN_S = 60.0
_BLOCK = bytes(1 << 20)


class BrokerFaults:
    """Each returns once the broker answers again."""

    def __init__(self, fleet: Fleet, broker: LocalKafka, disk: "SmallDisk | None") -> None:
        self._fleet = fleet
        self._broker = broker
        self._disk = disk

    def kill(self, fault: Fault) -> bool:
        self._fleet.journal.write("broker-kill")
        self._broker.kill()
        self._broker.start()
        return True

    def stop(self, fault: Fault) -> bool:
        """Stand still, with every connection open and nothing answering."""
        pid = self._broker.pid
        if pid is None:
            return False
        self._fleet.journal.write("broker-stop", fault.detail)
        os.kill(pid, signal.SIGSTOP)
        try:
            self._fleet.wait(float(fault.detail))
        finally:
            os.kill(pid, signal.SIGCONT)
        return True

    def fill_disk(self, fault: Fault) -> bool:
        """Take all the room that its log folder has, until the broker gives up, then make room and start it again."""
        assert self._disk is not None
        self._disk.fill()
        try:
            ended = self._fleet.wait_for(lambda _: not self._broker.running, _FULL_WITHIN_S)
        finally:
            self._disk.free()
        if ended:
            self._fleet.journal.write("disk-full")
        self._broker.restart()
        return ended


class SmallDisk:
    """A file system in memory for the broker's data. Linux, and only for who may mount: raises EnvironmentUnusable."""

    def __init__(self, folder: Path, size_mb: int) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tidemill-chaos", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            done = subprocess.CompletedProcess(command, 1, "", "there is no mount command")
        if done.returncode != 0:
            raise EnvironmentUnusable(
                f"A small disk for the broker could not be mounted: {done.stderr.strip()}.",
                hint="Run as root on Linux, or leave `disk-full` out of --faults.",
            )

    def fill(self) -> None:
        with (self._folder / "ballast").open("wb") as file:
            try:
                while True:
                    file.write(_BLOCK)
                    file.flush()
            except OSError:
                return

    def free(self) -> None:
        (self._folder / "ballast").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Unmount; what was on it is gone."""
        until = clock.monotonic() + 10
        while subprocess.run(["umount", str(self._folder)], capture_output=True, check=False).returncode != 0:
            if clock.monotonic() > until:
                return
            clock.pause(0.2)
