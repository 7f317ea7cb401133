"""Settings of one ingest process. Mappings, limits of a record and the breaker are in the pipeline file instead."""

from pydantic import Field, model_validator

from tidemill.ingest.core.admission import Limits
from tidemill.runtime.config import RuntimeConfig


class IngestConfig(RuntimeConfig):
    """What the HTTP side accepts, besides what every service is told."""

    http_max_body_bytes: int = Field(1_048_576, ge=256, le=64_000_000, description="larger bodies are answered 413")
    http_max_records: int = Field(5_000, ge=1, le=100_000, description="more records in one request are answered 413")
    http_max_requests_in_flight: int = Field(64, ge=1, le=10_000, description="requests held at once; then 429")
    http_max_bytes_in_flight: int = Field(16_777_216, ge=256, description="body bytes held at once; then 429")
    http_read_timeout_ms: int = Field(10_000, ge=1, le=600_000, description="a body slower than this is answered 408")
    http_acknowledge_timeout_ms: int = Field(
        10_000, ge=1, le=600_000, description="wait this long for the broker to acknowledge; then 503"
    )
    refuse_duplicate_keys: bool = Field(
        False, description="refuse JSON objects that name a field twice; costs a second parse of each record"
    )

    @model_validator(mode="after")
    def _one_body_fits(self) -> "IngestConfig":
        if self.http_max_bytes_in_flight < self.http_max_body_bytes:
            raise ValueError("http_max_bytes_in_flight must be at least http_max_body_bytes")
        return self

    @property
    def http_limits(self) -> Limits:
        return Limits(
            self.http_max_body_bytes,
            self.http_max_records,
            self.http_max_requests_in_flight,
            self.http_max_bytes_in_flight,
            self.http_read_timeout_ms / 1_000,
            self.http_acknowledge_timeout_ms / 1_000,
        )
