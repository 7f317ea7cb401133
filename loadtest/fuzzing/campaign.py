"""Runs targets block by block in processes of their own: one that dies or hangs is a finding and not the end."""

import json
import multiprocessing
import random
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from fuzzing.mutation import Mutator
from fuzzing.targets import KNOWN

BLOCK = 500
"""Inputs that share a decoder's state; a finding is the block's number and how far into it."""
_LOOK_EVERY_S = 0.25
_START_WITHIN_S = 120.0
"""A decoder's first block may compile kernels."""
_FRAMES = 6


@dataclass(slots=True)
class Finding:
    """What went wrong first in this way, and how often. `block` and `index` with the seed make the input again."""

    target: str
    kind: str
    what: str
    where: str
    block: int
    index: int
    data: bytes
    count: int = 1

    @property
    def identity(self) -> tuple[str, str, str, str]:
        return self.target, self.kind, self.what.partition("(")[0], self.where


@dataclass(slots=True)
class Result:
    """One target's share of a campaign."""

    executions: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    findings: dict[tuple[str, str, str, str], Finding] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        known = self.findings.get(finding.identity)
        if known is None:
            self.findings[finding.identity] = finding
        else:
            known.count += finding.count


def inputs(mutator: Mutator, seed: int, target: str, block: int, count: int = BLOCK) -> Iterator[bytes]:
    """The inputs of one block: the same for the same arguments and the same seeds of the target."""
    rng = random.Random(f"{seed}/{target}/{block}")
    return (mutator.make(rng) for _ in range(count))


def run_blocks(
    name: str, seed: int, blocks: range, limit_s: float, told: Callable[[int, int], None], skip: int = 0
) -> Iterator[tuple[int, Counter[str], list[Finding]]]:
    """Each block's number, counts and findings. `told(block, index)` is called before each input; the first `skip`
    inputs of the first block are left out."""
    target = KNOWN[name].make(name)
    mutator = Mutator(target.seeds)
    for block in blocks:
        decode, counts, findings = target.fresh(), Counter[str](), list[Finding]()
        for index, data in enumerate(inputs(mutator, seed, name, block)):
            if index < skip:
                continue
            told(block, index)
            began = time.process_time()  # another process on the machine must not make a call slow
            try:
                decode(data)
                counts["accepted"] += 1
            except target.refusals:
                counts["refused"] += 1
            except Exception as error:
                findings.append(Finding(name, "raised", repr(error)[:300], _where(error), block, index, data))
                decode = target.fresh()
            took = time.process_time() - began
            if took > limit_s and index > 0:  # the first of a block may load or compile something
                findings.append(Finding(name, "slow", f"took {took:.2f} s of CPU", "", block, index, data))
            counts["executions"] += 1
        skip = 0
        yield block, counts, findings


def _where(error: BaseException) -> str:
    """The innermost frame of ours."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)[-_FRAMES:] if "/tidemill/" in frame.filename]
    if not frames:
        return ""
    return f"{frames[-1].filename.rpartition('/tidemill/')[2]}:{frames[-1].name}"


def _work(
    name: str, seed: int, blocks: range, limit_s: float, skip: int, place: Any, queue: "Queue[Any]"
) -> None:  # pragma: no cover - in a process of its own
    warnings.simplefilter("ignore")

    def told(block: int, index: int) -> None:
        place[0], place[1], place[2] = block, index, 1

    for block, counts, findings in run_blocks(name, seed, blocks, limit_s, told, skip):
        queue.put((block, dict(counts), [asdict(finding) for finding in findings]))
    place[2] = 2


class Lane:
    """One process that works on every n-th block of a target; it is replaced when it dies or hangs."""

    def __init__(self, name: str, seed: int, blocks: range, limit_s: float, hang_s: float) -> None:
        self._name, self._seed, self._blocks = name, seed, blocks
        self._limit_s, self._hang_s = limit_s, hang_s
        self._context = multiprocessing.get_context("spawn")
        self.done = not blocks
        if not self.done:
            self._start(0)

    def _start(self, skip: int) -> None:
        self._skip = skip
        self._place = self._context.RawArray("q", 3)
        self._queue: Queue[Any] = self._context.Queue()
        arguments = (self._name, self._seed, self._blocks, self._limit_s, skip, self._place, self._queue)
        self._process = self._context.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        self._seen, self._since = (-1, -1), time.monotonic()

    def look(self, result: Result) -> None:
        """Take what is done; replace a process that died, or stood at one input for too long."""
        ended = not self._process.is_alive()
        self._drain(result)
        if ended and self._process.exitcode == 0:
            self.done = True
            return
        block, index, phase = self._place
        now = time.monotonic()
        if (block, index) != self._seen:
            self._seen, self._since = (block, index), now
        allowed = self._hang_s if phase and (block, index) != (self._blocks[0], 0) else _START_WITHIN_S
        if not ended and now - self._since < allowed:
            return
        kind = "died" if ended else "hung"
        what = f"exit code {self._process.exitcode}" if ended else f"no answer within {allowed:g} s"
        self.stop()
        self._drain(result)
        if not phase:
            raise RuntimeError(f"the process for {self._name} did not start: {what}")
        mutator = Mutator(KNOWN[self._name].make(self._name).seeds)
        data = list(inputs(mutator, self._seed, self._name, block, index + 1))[-1]
        result.add(Finding(self._name, kind, what, "", block, index, data))
        result.executions += index + 1 - (self._skip if block == self._blocks[0] else 0)
        self._blocks = self._blocks[self._blocks.index(block) :]
        self._start(index + 1)

    def stop(self) -> None:
        if not self.done:
            self._process.kill()
            self._process.join()

    def _drain(self, result: Result) -> None:
        while not self._queue.empty():
            _, counts, findings = self._queue.get()
            result.executions += counts.get("executions", 0)
            result.accepted += counts.get("accepted", 0)
            result.refused += counts.get("refused", 0)
            for finding in findings:
                result.add(Finding(**finding))


def run_target(
    name: str,
    executions: int,
    seed: int,
    processes: int,
    limit_s: float,
    hang_s: float,
    progress: Callable[[Result], None],
) -> Result:
    """About `executions` inputs (whole blocks) for one target. Blocks; `progress` is called several times a second."""
    result, began = Result(), time.monotonic()
    blocks = range(max(1, -(-executions // BLOCK)))
    lanes = [Lane(name, seed, blocks[at::processes], limit_s, hang_s) for at in range(processes)]
    try:
        while not all(lane.done for lane in lanes):
            time.sleep(_LOOK_EVERY_S)
            for lane in lanes:
                if not lane.done:
                    lane.look(result)
            progress(result)
    finally:
        for lane in lanes:
            lane.stop()
    result.seconds = time.monotonic() - began
    return result


def save(finding: Finding, folder: Path) -> Path:
    """The input as it is, and beside it what it did."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{finding.target}-{finding.block}-{finding.index}.bin"
    file.write_bytes(finding.data)
    told = {name: value for name, value in asdict(finding).items() if name != "data"}
    file.with_suffix(".json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return file
