"""The stages as they run live: real merging, real stages, lists for the topics in between."""

from collections.abc import Sequence

from support.featurestages import keyed_stage
from tidemill.domain.pipeline import Pipeline
from tidemill.features.process import service_spec
from tidemill.runtime.inputs import InputTopic
from tidemill.runtime.partitioner import partition_of
from tidemill.runtime.service import OutRecord, Record
from tidemill.runtime.sync import Merge


def logs(records: Sequence[OutRecord], partitions: int) -> list[Record]:
    """The records in the logs of their topics."""
    offsets: dict[tuple[str, int], int] = {}
    found = []
    for record in records:
        number = record.partition if record.partition >= 0 else partition_of(record.key or b"", partitions)
        offset = offsets.get((record.topic, number), 0)
        offsets[record.topic, number] = offset + 1
        found.append(Record(record.topic, number, offset, record.timestamp, record.key, record.value))
    return found


def released(inputs: Sequence[InputTopic], records: Sequence[Record]) -> list[Record]:
    """In the order in which the loop would hand them to a stage that waits for all its partitions."""
    merge = Merge(inputs, 0)
    merge.own({(record.topic, record.partition): 0 for record in records}, {}, 0.0)
    merge.feed(records, {}, 0.0)
    return merge.release_all().records


def live_vectors(pipeline: Pipeline, stream: Sequence[OutRecord], partitions: int, stages: int = 2) -> list[bytes]:
    """What the last of `stages` writes for events, in order."""
    records = logs(stream, partitions)
    output: list[OutRecord] = []
    for index, stage in enumerate(pipeline.features.stages[:stages]):
        service = keyed_stage(pipeline, index)
        service.add(released(service_spec(pipeline, stage.entity).inputs, records), 0.0)
        output = service.flush(0.0).records
        records = logs(output, partitions)
    return [at.value for at in output if at.value is not None and at.value.endswith(b"]}")]
