"""What a figure is worth depends on: the machine, how busy it was, and the versions of what ran."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("tidemill", "confluent-kafka", "numba", "numpy", "orjson", "msgspec")


def facts() -> dict[str, Any]:
    """Processor, cores, memory, load, and the versions on our side."""
    return {
        "code": _revision(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_mb": _memory_mb(),
        "system": platform.platform(),
        "load_average_before": load_average(),
        "python": sys.version.split()[0],
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def load_average() -> list[float]:
    """Over 1, 5 and 15 minutes: the benchmark's own share included."""
    return [round(value, 2) for value in os.getloadavg()]


def _revision() -> str | None:
    """The commit that this file is of, with `-dirty` where files differ from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _memory_mb() -> int | None:
    try:
        return int(Path("/proc/meminfo").read_text().split()[1]) // 1024
    except (OSError, IndexError, ValueError):
        return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
