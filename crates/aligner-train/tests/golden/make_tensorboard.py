"""Writes events.tfevents, the golden of src/tensorboard.rs, with TensorBoard's own classes.

    pip install tensorboard==2.21.0
    python make_tensorboard.py

Nothing is random. The bytes must be equal: protobuf's serialization of these few fields in the order of their numbers is
what every implementation writes, and the framing has no freedom. Values are exact in f32, or rounded to it the same way.
"""

import pathlib

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter


def scalars(wall_time, step, values):
    value = [summary_pb2.Summary.Value(tag=tag, simple_value=number) for tag, number in values]
    return event_pb2.Event(wall_time=wall_time, step=step, summary=summary_pb2.Summary(value=value))


EVENTS = [
    event_pb2.Event(
        wall_time=1_700_000_000.25,
        file_version="brain.Event:2",
        source_metadata=event_pb2.SourceMetadata(writer="aligner"),
    ),
    event_pb2.Event(
        wall_time=1_700_000_000.25,
        step=301,
        session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START),
    ),
    scalars(
        1_700_000_001.5,
        301,
        [("train/epoch", 0.5), ("train/loss", 1.25), ("train/lr", 2e-5), ("train/tokens", 123_456_789)],
    ),
    scalars(1_700_000_002.75, 301, [("valid/loss", 0.75), ("valid/copy_rate", 0.125)]),
]

with open(pathlib.Path(__file__).with_name("events.tfevents"), "wb") as file:
    writer = RecordWriter(file)
    for event in EVENTS:
        writer.write(event.SerializeToString())
