"""A small stream of payments and their labels, for tests of the feature stages on a broker."""

import random

from tidemill.domain.durations import DAY_MS
from tidemill.runtime.service import OutRecord

START = 1_522_540_800_000


def payments_and_labels(pipeline: str, partitions: int, *, count: int, days: int, seed: int) -> list[OutRecord]:
    """Events in order with some repeated and some far too late; labels a few days after each, some twice.

    Ends with one label a partition that is known a month later, so that every prediction before it matures.
    """
    chance = random.Random(seed)
    records: list[tuple[int, OutRecord]] = []
    for number in range(count):
        ts = START + number * days * DAY_MS // count
        customer = chance.randrange(40)
        late = chance.random() < 0.01
        event_time = ts - 2 * DAY_MS if late else ts
        names = b'"customer":"c%d","terminal":"t%d"' % (customer, chance.randrange(25))
        head = b'{"v":1,"id":"p%d","event_time":%d,' % (number, event_time)
        value = head + names + b',"amount":%d.%02d}' % (chance.randrange(300), chance.randrange(100))
        event = OutRecord(f"{pipeline}-events", b"c%d" % customer, value, event_time)
        records += [(ts, event)] * (2 if chance.random() < 0.02 else 1)
        known_at = ts + chance.randrange(DAY_MS, 6 * DAY_MS)
        value = head + b'"known_at":%d,' % known_at + names + b',"fraud":%d}' % (chance.random() < 0.1)
        label = OutRecord(f"{pipeline}-labels", b"c%d" % customer, value, known_at)
        records += [(known_at, label)] * (2 if chance.random() < 0.02 else 1)
    end = START + (days + 30) * DAY_MS
    for partition in range(partitions):
        value = b'{"v":1,"id":"end%d","event_time":%d,"known_at":%d,"customer":"c","terminal":"t","fraud":0}'
        label = OutRecord(f"{pipeline}-labels", b"c", value % (partition, end, end), end, partition)
        records.append((end, label))
    return [record for _, record in sorted(records, key=lambda item: item[0])]
