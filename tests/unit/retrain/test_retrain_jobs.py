"""The training process from outside: it ends, it hangs, it is cut off; the next job gets a fresh one."""

import asyncio
import sys
from pathlib import Path

from tidemill.retrain.jobs import TrainingProcess
from tidemill.retrain.messages import JobRefused, Report, TrainJob

CHILD = (sys.executable, str(Path(__file__).with_name("endingchild.py")))


def job(version: int) -> TrainJob:
    return TrainJob(version=version, train_from=0, train_to=1, holdout_to=2, seed=5)


def reason(report: Report) -> str:
    assert isinstance(report, JobRefused)
    return report.reason


def test_a_report_longer_than_a_pipe_comes_back_whole() -> None:
    async def run() -> str:
        process = TrainingProcess(CHILD, timeout_s=30)
        await process.start()
        found = reason(await process.run(job(3)))
        await process.stop()
        return found

    assert asyncio.run(run()) == "3 by 5" + "x" * 200_000


def test_a_process_that_ends_is_reported_and_replaced() -> None:
    async def run() -> list[str]:
        process = TrainingProcess(CHILD, timeout_s=30)
        found = [reason(await process.run(job(version))) for version in (1, 4)]
        await process.stop()
        return found

    ended, answered = asyncio.run(run())
    assert "exit code 9" in ended
    assert answered.startswith("4 by 5")


def test_a_process_that_hangs_is_killed_and_replaced() -> None:
    async def run() -> list[str]:
        process = TrainingProcess(CHILD, timeout_s=0.2)
        found = [reason(await process.run(job(2)))]
        process = TrainingProcess(CHILD, timeout_s=30)
        found.append(reason(await process.run(job(5))))
        await process.stop()
        return found

    hung, answered = asyncio.run(run())
    assert "did not answer within 0.2 s" in hung
    assert answered.startswith("5 by 5")


def test_a_job_that_is_cut_off_leaves_no_report_for_the_next() -> None:
    async def run() -> str:
        process = TrainingProcess(CHILD, timeout_s=30)
        await process.start()
        cut = asyncio.create_task(process.run(job(2)))
        await asyncio.sleep(0)
        cut.cancel()
        await asyncio.wait([cut])
        found = reason(await process.run(job(6)))
        await process.stop()
        return found

    assert asyncio.run(run()).startswith("6 by 5")
