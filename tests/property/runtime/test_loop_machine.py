"""Whatever happens to the processes of a stage, in any order, each record is answered exactly once."""

from hypothesis import settings

from support.loopmachine import LoopMachine, ReplayMachine

_BOUNDED = settings(stateful_step_count=50, deadline=None)

TestLoop = LoopMachine.TestCase
TestLoop.settings = settings(_BOUNDED, max_examples=300)
TestReplay = ReplayMachine.TestCase
TestReplay.settings = settings(_BOUNDED, max_examples=80)
