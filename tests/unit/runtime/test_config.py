"""Settings come from the environment; every mistake is told at once."""

from pathlib import Path

import pytest

from tidemill.errors import ConfigurationError
from tidemill.runtime.config import RuntimeConfig, load_config


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_BOOTSTRAP_SERVERS", "kafka:9092")
    monkeypatch.setenv("TIDEMILL_PIPELINE", "fraud")


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_KAFKA_OPTIONS", '{"security.protocol": "ssl"}')
    monkeypatch.setenv("TIDEMILL_ENDPOINT_FILE", "/tmp/endpoint.json")
    config = load_config(RuntimeConfig)
    assert (config.bootstrap_servers, config.instance, config.group_protocol) == ("kafka:9092", 0, "classic")
    assert config.kafka_options == {"security.protocol": "ssl"}
    assert config.endpoint_file == Path("/tmp/endpoint.json")


def test_every_mistake_is_listed_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEMILL_PIPELINE")
    monkeypatch.setenv("TIDEMILL_INSTANCE", "-1")
    monkeypatch.setenv("TIDEMILL_LOG_LEVEL", "loud")
    with pytest.raises(ConfigurationError) as wrong:
        load_config(RuntimeConfig)
    for variable in ("TIDEMILL_PIPELINE", "TIDEMILL_INSTANCE", "TIDEMILL_LOG_LEVEL"):
        assert variable in wrong.value.message
    assert "3 setting(s)" in wrong.value.message
    assert wrong.value.exit_code == 2


@pytest.mark.parametrize("option", ["transactional.id", "isolation.level", "enable.auto.commit", "group.id"])
def test_what_exactly_once_stands_on_cannot_be_overridden(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    monkeypatch.setenv("TIDEMILL_KAFKA_OPTIONS", f'{{"{option}": "x"}}')
    with pytest.raises(ConfigurationError, match=option):
        load_config(RuntimeConfig)
