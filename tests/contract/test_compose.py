"""compose.yaml and the Dockerfile agree with each other, with the services' settings and with the shipped pipeline."""

import json
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from tidemill.cli.app import app
from tidemill.local.stack import service_commands
from tidemill.runtime.config import ENV_PREFIX, RuntimeConfig, load_config
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.scenarios.fraud.producerconfig import ProducerConfig, load_producer_config

ROOT = Path(__file__).parents[2]
PROCESSES = {name: (module, extra) for name, module, extra in service_commands(load_pipeline("fraud"))}
ONE_SHOTS = {"topics", "keys"}
OURS = {*PROCESSES, *ONE_SHOTS, "producer"}
PIPELINES = "/etc/tidemill/pipelines"
PRIVATE, PUBLIC = "/keys/private", "/keys/public"


def _composed(**variables: str) -> dict[str, Any]:
    """compose.yaml with `${NAME:-default}` filled in, as Compose does it."""
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    filled = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: variables.get(match[1], match[2]), text)
    assert "${" not in filled, "every variable has a default"
    composed: dict[str, Any] = YAML(typ="safe").load(filled)
    return composed


def _targets() -> dict[str, list[tuple[str, str]]]:
    """Stage of the Dockerfile → its instructions (name, arguments), those of the stages it is made from first."""
    text = (ROOT / "deploy" / "docker" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    targets: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for name, arguments in lines:
        if name == "FROM":
            parent, _, stage = arguments.partition(" AS ")
            current = targets[stage] = list(targets.get(parent, []))
        else:
            current.append((name, arguments))
    return targets


COMPOSE = _composed()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
TARGETS = _targets()


def _target(service: str) -> list[tuple[str, str]]:
    return TARGETS[SERVICES[service]["build"]["target"]]


def _image_environment(service: str) -> dict[str, str]:
    pairs = [shlex.split(arguments) for name, arguments in _target(service) if name == "ENV"]
    return dict(pair.split("=", 1) for line in pairs for pair in line)


def _environment(service: str) -> dict[str, str]:
    return _image_environment(service) | SERVICES[service].get("environment", {})


def _mounts(service: str) -> dict[str, tuple[str, str]]:
    """Path in the container → (volume or folder, mode)."""
    parts = [mount.split(":") for mount in SERVICES[service].get("volumes", [])]
    return {target: (source, mode[0] if mode else "rw") for source, target, *mode in parts}


def _settings(service: str) -> type[RuntimeConfig]:
    module = import_module(f"{PROCESSES[service][0]}.config")
    found = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, RuntimeConfig)]
    return next(kind for kind in found if kind is not RuntimeConfig)


def _set_environment(monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    for name, value in _environment(service).items():
        if name.startswith(ENV_PREFIX):
            monkeypatch.setenv(name, value)


def test_the_services_are_those_of_the_local_stack_and_what_they_need() -> None:
    assert set(SERVICES) == OURS | {"kafka"}


@pytest.mark.parametrize("service", sorted(PROCESSES))
def test_a_service_runs_the_module_and_stage_that_the_local_stack_runs(service: str) -> None:
    module, extra = PROCESSES[service]
    command = [arguments for name, arguments in _target(service) if name == "CMD"][-1]
    assert json.loads(command) == ["python3", "-m", module]
    assert not {"command", "entrypoint"} & SERVICES[service].keys()
    assert extra.items() <= SERVICES[service]["environment"].items()


@pytest.mark.parametrize("service", sorted(PROCESSES))
def test_a_service_starts_with_what_image_and_compose_file_set(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _set_environment(monkeypatch, service)
    config = load_config(_settings(service))
    assert (config.http_host, config.bootstrap_servers) == ("0.0.0.0", "kafka:19092")


@pytest.mark.parametrize("service", sorted(PROCESSES))
def test_every_variable_is_a_setting_of_its_service(service: str) -> None:
    settings = {f"{ENV_PREFIX}{name.upper()}" for name in _settings(service).model_fields}
    assert {name for name in _environment(service) if name.startswith(ENV_PREFIX)} <= settings


def test_the_producer_starts_with_what_the_compose_file_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    _set_environment(monkeypatch, "producer")
    settings = {f"{ENV_PREFIX}{name.upper()}" for name in ProducerConfig.model_fields}
    # The command line logs for people, and reads no level.
    assert set(SERVICES["producer"]["environment"]) - {"TIDEMILL_LOG_LEVEL"} <= settings
    assert load_producer_config(SERVICES["producer"]["command"]).endless


@pytest.mark.parametrize("service", sorted(ONE_SHOTS))
def test_a_one_shot_is_a_command_that_exists_with_options_that_exist(service: str) -> None:
    command: Any = get_command(app)
    name, subcommand, *options = SERVICES[service]["command"]
    assert command.get_command(None, name).get_command(None, subcommand).make_context(subcommand, options)
    assert [text for kind, text in _target(service) if kind == "ENTRYPOINT"] == ['["tidemill"]']


@pytest.mark.parametrize("service", sorted(OURS))
def test_an_image_holds_the_package_and_its_own_extra_only(service: str) -> None:
    target = SERVICES[service]["build"]["target"]
    assert SERVICES[service]["image"] == f"tidemill-{target}"
    runs = " ".join(arguments for name, arguments in TARGETS[target] if name == "RUN")
    extras = set(re.findall(r"-r \S+/([a-z-]+)\.txt", runs)) - {"base"}
    assert extras == ({target} if target not in {"ingest", "tools"} else set())
    assert re.search(r"pip install \S+ --no-deps \S+\.whl && pip check", runs)


@pytest.mark.parametrize("service", sorted(OURS))
def test_a_container_can_do_nothing_that_it_need_not(service: str) -> None:
    options = SERVICES[service]
    assert options["user"] == "10001"
    assert options["read_only"] is True
    assert options["tmpfs"] == ["/tmp"]
    assert _image_environment(service)["HOME"] == "/tmp"
    assert [arguments for name, arguments in _target(service) if name == "USER"][-1] == "tidemill"
    assert any("useradd --uid 10001 " in arguments for name, arguments in _target(service) if name == "RUN")


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_container_has_no_capability_a_clean_stop_and_bounded_logs(service: str) -> None:
    options = SERVICES[service]
    assert options["cap_drop"] == ["ALL"]
    assert options["security_opt"] == ["no-new-privileges:true"]
    assert options["init"] is True
    assert options["stop_grace_period"] == "30s"
    assert options["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert not {"privileged", "pid", "ipc", "devices", "cap_add"} & options.keys()


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_what_fails_starts_again_but_what_is_done_does_not(service: str) -> None:
    expected = "on-failure" if service in ONE_SHOTS else "no" if service == "producer" else "unless-stopped"
    assert SERVICES[service]["restart"] == expected


@pytest.mark.parametrize("service", sorted({*PROCESSES, "kafka"}))
def test_what_runs_for_long_has_a_health_check(service: str) -> None:
    check = SERVICES[service]["healthcheck"]
    assert check.keys() >= {"test", "interval", "timeout", "start_period", "retries"}
    if service != "kafka":
        assert ("COPY", "deploy/docker/healthcheck.py /package/") in TARGETS["package"]
        assert ("COPY", "--from=package /package /opt/tidemill") in _target(service)
        assert check["test"][-1] == "/opt/tidemill/healthcheck.py"


@pytest.mark.parametrize("service", sorted(OURS - {"keys"}))
def test_services_stop_before_their_broker_and_need_nothing_else_to_start(service: str) -> None:
    needed = SERVICES[service]["depends_on"]
    assert set(needed) == ({"kafka", "keys"} if service == "retrain" else {"kafka"})


def test_ports_are_published_on_the_loopback_only_and_each_once() -> None:
    published = [port for options in SERVICES.values() for port in options.get("ports", [])]
    assert published
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published)


def test_kafka_is_the_version_of_the_local_broker_and_keeps_its_data() -> None:
    lock = json.loads((ROOT / "services" / "tidemill" / "local" / "kafka.lock.json").read_text(encoding="utf-8"))
    version = lock["roots"][0].removeprefix("org.apache.kafka:kafka_2.13:")
    assert SERVICES["kafka"]["image"] == f"docker.io/apache/kafka:{version}"
    folder = SERVICES["kafka"]["environment"]["KAFKA_LOG_DIRS"]
    assert _mounts("kafka") == {folder: ("kafka-data", "rw")}


def test_kafka_is_reached_by_the_same_port_inside_and_from_this_machine() -> None:
    composed = _composed(KAFKA_PORT="19999")
    kafka = composed["services"]["kafka"]
    assert kafka["ports"] == ["127.0.0.1:19999:9092"]
    assert "HOST://127.0.0.1:19999" in kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert "INTERNAL://kafka:19092" in kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert all(value.isascii() for value in kafka["environment"].values()), "environment values are texts"


def test_volumes_are_declared_and_their_mount_points_belong_to_the_services() -> None:
    owned = {
        path
        for name, arguments in TARGETS["base"]
        if name == "RUN"
        for paths in re.findall(r"install -d -o tidemill -g tidemill(?: -m \d+)?((?: /\S+)+)", arguments)
        for path in paths.split()
    }
    named = {
        (target, source)
        for service in OURS
        for target, (source, _) in _mounts(service).items()
        if not source.startswith(".")
    }
    assert {target for target, _ in named} == owned
    assert {source for _, source in named} | {"kafka-data"} == set(COMPOSE["volumes"])


def test_only_retrain_can_read_the_signing_key_and_only_the_key_job_can_write_it() -> None:
    held = {service: _mounts(service) for service in SERVICES}
    assert {service for service, mounts in held.items() if PRIVATE in mounts} == {"keys", "retrain"}
    assert held["retrain"][PRIVATE] == ("signing-key", "ro")
    assert held["keys"] == {PRIVATE: ("signing-key", "rw"), PUBLIC: ("public-key", "rw")}
    assert SERVICES["keys"]["network_mode"] == "none"
    for service in ("inference", "drift"):
        assert held[service][PUBLIC] == ("public-key", "ro")
        assert _environment(service)["TIDEMILL_PUBLIC_KEY_FILE"] == f"{PUBLIC}/signing.pub"
    assert _environment("retrain")["TIDEMILL_SIGNING_KEY_FILE"] == f"{PRIVATE}/signing.key"


def test_an_own_pipeline_reaches_every_service_and_the_topic_job() -> None:
    own = f"{PIPELINES}/own.yaml"
    services = _composed(TIDEMILL_PIPELINE=own)["services"]
    for service in OURS - {"keys"}:
        assert services[service]["environment"]["TIDEMILL_PIPELINE"] == own
        assert _mounts(service)[PIPELINES] == ("./deploy/pipelines", "ro")
    assert services["topics"]["command"][2] == own
    assert services["retrain"]["environment"]["PYTHONPATH"] == PIPELINES
    assert (ROOT / "deploy" / "pipelines").is_dir()


def test_the_gpu_overlay_changes_the_image_and_device_of_inference_only(monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = YAML(typ="safe").load((ROOT / "deploy" / "compose" / "gpu.yaml").read_text(encoding="utf-8"))["services"]
    assert set(overlay) == {"inference"}
    target = overlay["inference"]["build"]["target"]
    assert overlay["inference"]["image"] == f"tidemill-{target}"
    runs = " ".join(arguments for name, arguments in TARGETS[target] if name == "RUN")
    assert "inference-gpu.txt" in runs
    assert "ldconfig" in runs
    _set_environment(monkeypatch, "inference")
    for name, value in overlay["inference"]["environment"].items():
        monkeypatch.setenv(name, value)
    assert load_config(_settings("inference")).model_dump()["device"] == "cuda"


def test_no_secret_is_in_the_environment() -> None:
    for service in SERVICES:
        environment = SERVICES[service].get("environment", {})
        secret = [name for name in environment if re.search(r"PASSWORD|SECRET|TOKEN|(?<!_)KEY$", name)]
        assert secret == []


def test_a_build_sees_only_what_the_images_are_made_of() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "*"
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source
        for instructions in TARGETS.values()
        for name, arguments in instructions
        if name == "COPY" and not arguments.startswith("--from")
        for source in arguments.split()[:-1]
    }
    for source in copied:
        assert any(source == path or source.startswith(f"{path}/") for path in sent), source
        assert (ROOT / source).exists()
