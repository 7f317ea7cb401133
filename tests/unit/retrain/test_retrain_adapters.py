"""Small adapters: the body of a manual request, Faust's view of the brokers, the signing key."""

from pathlib import Path

import faust
import pytest

from tidemill.domain.signing import public_key_of, read_key
from tidemill.errors import ConfigurationError
from tidemill.retrain.broker import broker_url, credentials
from tidemill.retrain.process import signing_key
from tidemill.retrain.web import parse_request


def test_a_manual_request_may_be_empty_or_carry_a_reason_and_an_id() -> None:
    assert parse_request(b"").reason == "somebody asked for it"
    asked = parse_request(b'{"reason":"new pattern","id":"r1"}')
    assert (asked.id, asked.reason) == ("r1", "new pattern")


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"reason":1}', b'{"reason":""}', b'{"x":"y"}', b" " * 10_001])
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        parse_request(body)


def test_every_broker_is_named_to_faust() -> None:
    assert broker_url("a:1, b:2") == ["kafka://a:1", "kafka://b:2"]


def test_plain_text_needs_no_credentials_and_performance_settings_are_let_pass() -> None:
    assert credentials({"fetch.min.bytes": "1"}) is None
    assert credentials({"security.protocol": "PLAINTEXT"}) is None


def test_passwords_and_tls_are_carried_over() -> None:
    found = credentials(
        {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": "me",
            "sasl.password": "secret",
        }
    )
    assert isinstance(found, faust.SASLCredentials)
    assert (found.username, found.mechanism.value) == ("me", "SCRAM-SHA-512")
    assert found.ssl_context is not None
    assert isinstance(credentials({"security.protocol": "ssl"}), faust.SSLCredentials)


@pytest.mark.parametrize(
    "options",
    [
        {"sasl.oauthbearer.method": "oidc"},
        {"security.protocol": "SASL_SSL", "sasl.mechanism": "GSSAPI"},
        {"security.protocol": "SSL", "ssl.ca.location": "nowhere.pem"},
    ],
)
def test_what_cannot_be_carried_over_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        credentials(options)


def test_the_first_start_makes_the_key_pair_and_later_ones_keep_it(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "signing.key"
    key = signing_key(path)
    assert signing_key(path) == key
    assert read_key(path.with_name("signing.pub")) == public_key_of(key)
    with pytest.raises(ConfigurationError):
        signing_key(tmp_path / "other.key")
