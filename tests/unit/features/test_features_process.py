"""Where kernels are cached, and what each stage of a pipeline reads."""

from pathlib import Path

import pytest

from tidemill.domain.featureset import feature_set_hash
from tidemill.errors import ConfigurationError
from tidemill.features.config import FeaturesConfig
from tidemill.features.kernel_cache import prepare_cache
from tidemill.features.process import chosen_stages, service_spec
from tidemill.runtime.pipelinefile import load_pipeline

FRAUD = load_pipeline("fraud")


def test_the_given_folder_comes_first_then_the_users_then_the_data_folder(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path / "home")}
    given = prepare_cache(dict(home), folder=tmp_path / "given", seed=None, fallback=tmp_path / "data")
    users = prepare_cache(dict(home), folder=None, seed=None, fallback=tmp_path / "data")
    homeless = prepare_cache({}, folder=None, seed=None, fallback=tmp_path / "data")
    assert given.parent == tmp_path / "given"
    assert users.parent == tmp_path / "home" / ".cache" / "tidemill" / "kernels"
    assert homeless.parent == tmp_path / "data"


def test_what_cannot_be_written_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    environment: dict[str, str] = {}
    chosen = prepare_cache(environment, folder=file / "x", seed=None, fallback=file / "y")
    assert chosen.parent.is_dir()
    assert environment["NUMBA_CACHE_DIR"] == str(chosen)


def test_numbas_own_variable_is_respected(tmp_path: Path) -> None:
    environment = {"NUMBA_CACHE_DIR": "/elsewhere"}
    assert prepare_cache(environment, folder=None, seed=None, fallback=tmp_path) == Path("/elsewhere")


def test_kernels_compiled_with_an_image_are_taken_from_it(tmp_path: Path) -> None:
    filled = prepare_cache({}, folder=tmp_path / "image", seed=None, fallback=tmp_path)
    (filled / "core").mkdir(parents=True)
    (filled / "core" / "kernels.slide.nbc").write_bytes(b"machine code")
    cache = prepare_cache({}, folder=tmp_path / "cache", seed=tmp_path / "image", fallback=tmp_path)
    assert (cache / "core" / "kernels.slide.nbc").read_bytes() == b"machine code"


def test_each_stage_reads_what_the_one_before_it_writes() -> None:
    customer, terminal, outcomes = (service_spec(FRAUD, stage) for stage in ("customer", "terminal", "outcomes"))
    assert [topic.name for topic in customer.inputs] == ["fraud-events", "fraud-labels"]
    assert [topic.name for topic in terminal.inputs] == ["fraud-by-terminal"]
    assert [topic.name for topic in outcomes.inputs] == ["fraud-labels", "fraud-shadow", "fraud-predictions"]
    assert [spec.group for spec in (customer, outcomes)] == ["fraud-features-customer", "fraud-features-outcomes"]
    assert [spec.state_topic for spec in (customer, terminal, outcomes)] == [
        "fraud-customer-state",
        "fraud-terminal-state",
        "fraud-outcomes-state",
    ]


def test_only_the_join_has_a_state_topic_where_stages_keep_theirs_in_memory() -> None:
    features = FRAUD.features.model_copy(update={"state": "memory"})
    forgetful = FRAUD.model_copy(update={"features": features})
    topics = [service_spec(forgetful, stage).state_topic for stage in ("customer", "terminal", "outcomes")]
    assert topics == [None, None, "fraud-outcomes-state"]
    assert feature_set_hash(forgetful) == feature_set_hash(FRAUD), "the same features, kept elsewhere"


def test_a_stage_that_the_pipeline_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(ConfigurationError) as refused:
        service_spec(FRAUD, "merchant")
    assert "customer, terminal, outcomes" in refused.value.hint


def config(**settings: str) -> FeaturesConfig:
    return FeaturesConfig.model_validate({"bootstrap_servers": "none", "pipeline": "fraud", "stage": "all", **settings})


def test_a_process_may_run_all_stages_of_several_pipelines() -> None:
    other = FRAUD.model_copy(update={"name": "other"})
    chosen = [(pipeline.name, stage) for pipeline, stage in chosen_stages(config(), [FRAUD, other])]
    stages = ("customer", "terminal", "outcomes")
    assert chosen == [(name, stage) for name in ("fraud", "other") for stage in stages]
    assert config(pipeline="fraud, other.yaml").pipelines == ["fraud", "other.yaml"]
    two = chosen_stages(config(stage="terminal, customer"), [FRAUD])
    assert [stage for _, stage in two] == ["terminal", "customer"]


def test_a_stage_that_would_run_twice_in_one_process_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="fraud-features-customer more than once"):
        chosen_stages(config(stage="customer,customer"), [FRAUD])
