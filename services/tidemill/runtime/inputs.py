"""Which topics a stage reads, and how long each is held back."""

from typing import NamedTuple


class InputTopic(NamedTuple):
    """One input of a stage.

    Records are released in timestamp order over all inputs, as if each carried `timestamp + delay_ms`; at equal times
    the input that is listed first goes first. A delayed topic's records wait until the undelayed ones have passed.
    """

    name: str
    delay_ms: int = 0
