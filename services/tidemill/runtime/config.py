"""Settings that every service has; a service adds its own in a subclass. Only `__main__` reads the environment."""

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tidemill.errors import ConfigurationError

ENV_PREFIX = "TIDEMILL_"


class RuntimeConfig(BaseSettings):
    """One process of one service. Each field is the environment variable TIDEMILL_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    bootstrap_servers: str = Field(min_length=1, description="Kafka brokers, host:port, comma-separated")
    pipeline: str = Field(min_length=1, description="name of a shipped pipeline, or path of a pipeline file")
    instance: int = Field(0, ge=0, le=9_999, description="ordinal of this process among those of its service; unique")
    http_host: str = Field("127.0.0.1", description="address of the health, metrics and API server")
    http_port: int = Field(0, ge=0, le=65_535, description="its port; 0 takes a free one")
    data_dir: Path = Field(Path("tidemill-data"), description="folder for this service's files")
    group_protocol: Literal["classic", "consumer"] = Field("classic", description="Kafka consumer group protocol")
    kafka_options: dict[str, str] = Field(
        default_factory=dict, description="further librdkafka settings as JSON, such as security.protocol"
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    standby: bool = Field(
        False, description="copy the state of partitions that others own, to take over fast; takes as much memory"
    )
    transaction_gap_ms: float = Field(5.0, ge=0, le=1_000, description="shortest time between transactions at low load")
    max_poll_records: int = Field(2_000, ge=1, le=50_000, description="records taken at once, the most a batch holds")
    endpoint_file: Path | None = Field(None, description="JSON file that gets this process' URL once it listens")

    @field_validator("kafka_options")
    @classmethod
    def _protocol_settings_are_ours(cls, options: dict[str, str]) -> dict[str, str]:
        taken = sorted(set(options) & PROTECTED_OPTIONS)
        if taken:
            raise ValueError(f"{', '.join(taken)} would break exactly-once processing and cannot be set")
        return options


PROTECTED_OPTIONS = frozenset(
    {
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "enable.partition.eof",
        "group.id",
        "group.instance.id",
        "group.protocol",
        "isolation.level",
        "partition.assignment.strategy",
        "group.remote.assignor",
        "partitioner",
        "acks",
        "transactional.id",
    }
)
"""librdkafka settings that the commit protocol stands on."""

C = TypeVar("C", bound=RuntimeConfig)


def load_config(cls: type[C]) -> C:
    """`cls` from the environment. Raises ConfigurationError (exit 2) with every mistake, one a line."""
    try:
        return cls()
    except ValidationError as invalid:
        lines = [f"  {_variable(error['loc'])}: {error['msg']}" for error in invalid.errors()]
        raise ConfigurationError(
            "\n".join([f"{len(lines)} setting(s) are wrong:", *lines]),
            hint="set these environment variables and start again",
        ) from None


def _variable(location: tuple[int | str, ...]) -> str:
    name = ".".join(str(part) for part in location)
    return name.upper() if name.upper().startswith(ENV_PREFIX) else f"{ENV_PREFIX}{name.upper()}"
