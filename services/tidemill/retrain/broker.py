"""How Faust reaches the brokers: its own client does not read librdkafka's settings, so the security ones are carried
over, and any other is refused rather than ignored."""

import ssl
from collections.abc import Mapping

import faust
from faust.types.auth import CredentialsT

from tidemill.errors import ConfigurationError

_TLS = ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location", "ssl.key.password")
_SASL = ("sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.password")
_PASSWORD_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_HARMLESS_PREFIXES = ("fetch.", "socket.", "queue.", "linger.", "batch.", "message.", "retry.", "reconnect.", "debug")
"""Performance settings of librdkafka: they mean nothing to a few records a minute."""


def broker_url(bootstrap_servers: str) -> list[str]:
    """`a:1,b:2` as Faust wants it."""
    return [f"kafka://{server.strip()}" for server in bootstrap_servers.split(",") if server.strip()]


def credentials(options: Mapping[str, str]) -> CredentialsT | None:
    """Faust's credentials for these librdkafka settings. Raises ConfigurationError for one it cannot carry over."""
    known = {"security.protocol", *_TLS, *_SASL}
    foreign = sorted(name for name in options if name not in known and not name.startswith(_HARMLESS_PREFIXES))
    if foreign:
        raise ConfigurationError(
            f"retrain cannot carry {', '.join(foreign)} over from TIDEMILL_KAFKA_OPTIONS to Faust",
            hint=f"it knows {', '.join(sorted(known))}",
        )
    protocol = options.get("security.protocol", "plaintext").upper()
    if protocol == "PLAINTEXT":
        return None
    context = _tls(options) if protocol.endswith("SSL") else None
    if protocol == "SSL" and context is not None:
        return faust.SSLCredentials(context)
    mechanism = options.get("sasl.mechanism", options.get("sasl.mechanisms", "PLAIN")).upper()
    if protocol not in ("SASL_SSL", "SASL_PLAINTEXT") or mechanism not in _PASSWORD_MECHANISMS:
        raise ConfigurationError(
            f"retrain cannot use security.protocol {protocol} with sasl.mechanism {mechanism}",
            hint=f"use SSL, or SASL with one of {', '.join(_PASSWORD_MECHANISMS)}",
        )
    return faust.SASLCredentials(
        username=options.get("sasl.username"),
        password=options.get("sasl.password"),
        ssl_context=context,
        mechanism=mechanism,
    )


def _tls(options: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ssl.ca.location"))
        certificate = options.get("ssl.certificate.location")
        if certificate is not None:
            context.load_cert_chain(certificate, options.get("ssl.key.location"), options.get("ssl.key.password"))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the TLS files cannot be used: {error}", hint="check the ssl.* settings") from error
    return context
