"""The only package that speaks librdkafka; everything else uses what is exported here, or runtime/ports.py."""

from tidemill.runtime.kafka.admin import Admin
from tidemill.runtime.kafka.client import KafkaClient, KafkaIdentity
from tidemill.runtime.kafka.offsets import check_not_replaced, group_offsets, mark_replaced
from tidemill.runtime.kafka.plain import PlainProducer
from tidemill.runtime.kafka.reader import TopicReader
from tidemill.runtime.kafka.redelivery import LetterDesk, RedeliveryProducer
from tidemill.runtime.kafka.seeding import abort_seeding, seed_groups

__all__ = [
    "Admin",
    "KafkaClient",
    "KafkaIdentity",
    "LetterDesk",
    "PlainProducer",
    "RedeliveryProducer",
    "TopicReader",
    "abort_seeding",
    "check_not_replaced",
    "group_offsets",
    "mark_replaced",
    "seed_groups",
]
