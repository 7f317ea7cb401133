"""Settings of the simulated producer: command-line options, or environment variables TIDEMILL_…"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tidemill.errors import ConfigurationError
from tidemill.scenarios.fraud.simulator import CUSTOMERS, TERMINALS


class ProducerConfig(BaseSettings):
    """What to stream, where to, and how fast."""

    model_config = SettingsConfigDict(env_prefix="TIDEMILL_", frozen=True, extra="forbid")

    bootstrap_servers: str = Field("127.0.0.1:9092", description="Kafka to write to")
    kafka_options: dict[str, str] = Field(default_factory=dict, description="JSON, passed to the Kafka client as it is")
    pipeline: str = Field("fraud", description="shipped pipeline by name, or path of a pipeline file")
    seed: int = Field(0, ge=0, le=1_000, description="0 gives the published data")
    days: int = Field(100, ge=1, le=3_650, description="days of stream time")
    start_day: int = Field(0, ge=0, le=3_650, description="begin with this day; earlier payments are not sent")
    resume: bool = Field(False, description="go on where the topic of payments ends, if that is later")
    endless: bool = Field(False, description="never end; `days` is then ignored")
    days_per_minute: float = Field(25.0, ge=0, description="speed of stream time; 0 is as fast as possible")
    rate: float | None = Field(None, gt=0, description="payments a second, evenly spaced, instead of stream time")
    customers: int = Field(CUSTOMERS, ge=1, le=200_000)
    terminals: int = Field(TERMINALS, ge=2, le=400_000)
    bad_share: float = Field(0.005, ge=0, le=0.5, description="bad records of all kinds per valid payment, added")
    tick_ms: int = Field(10, ge=1, le=1_000, description="records that fall due within a tick are sent together")
    summary_file: Path | None = Field(None, description="also write the final summary here")


def load_producer_config(arguments: Sequence[str]) -> ProducerConfig:
    """From `--name=value` options and the environment; options win. Raises ConfigurationError with every mistake."""
    try:
        return ProducerConfig(
            _cli_parse_args=list(arguments), _cli_kebab_case=True, _cli_prog_name="tidemill.scenarios.fraud.producer"
        )
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors(include_url=False)]
        raise ConfigurationError(
            f"The producer's settings have {len(lines)} mistakes:\n" + "\n".join(lines),
            hint="`python -m tidemill.scenarios.fraud.producer --help` lists the settings.",
        ) from None
