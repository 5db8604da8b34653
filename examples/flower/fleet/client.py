"""A device: it gives what it was shown itself, and takes what all were shown.

`flower-supernode --node-config 'model="model.ff" state="model.state"'` names its bundle and its state, which
`ffruntime learn` teaches. In a simulation, which numbers its devices, each is shown some digits first.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from ffruntime.core.data import IDX_FOLDERS, data_directory, read_idx_examples
from ffruntime.learning.directory import export
from ffruntime.learning.learner import Learner
from ffruntime.model import Model
from ffruntime.session import Session

from .records import to_file, to_record

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Give: class statistics of the device's own examples, and its readouts."""
    learner, own = device(context)
    with closing(learner):
        export(learner.store, learner.model.bundle, own, own=True)
        told = learner.model.weights.statistics
        count = int(told.counts.sum()) if told else 0
    metrics = MetricRecord({"num-examples": count})
    return Message(content=RecordDict({"arrays": to_record(own), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Take: the merge, without what this device gave; judged on the bundle's held-back images."""
    learner, own = device(context)
    with closing(learner):
        merged = to_file(message.content["arrays"], own.with_name("merged.state"))
        assert merged, "the server sent no merge"
        outcome = learner.apply(merged, own=own)
        told = learner.model.weights.statistics
    found = {
        "num-examples": 1,  # every device weighs the same
        "adopted": float(outcome.adopted),
        "held-back": outcome.after or 0.0,
        "examples-known": float(told.counts.sum()) if told else 0.0,
    }
    return Message(content=RecordDict({"metrics": MetricRecord(found)}), reply_to=message)


def device(context: Context) -> tuple[Learner, Path]:
    """The device that this client is, and where it keeps the file that it gives."""
    node, run = context.node_config, context.run_config
    number = node.get("partition-id")
    state = Path(str(node.get("state", f"{run['work']}/device-{number}")))
    model = Model(Path(str(node.get("model", run["model"]))), session=Session(threads=1), state=False)
    new = not state.exists()
    state.mkdir(parents=True, exist_ok=True)
    learner = Learner(model, state, replay_bytes=0 if number is not None else None, seeded=number is None)
    if new and number is not None and int(run["images"]):
        show(learner, int(number), int(run["images"]))
    return learner, state / "own.state"


def show(learner: Learner, number: int, count: int) -> None:
    """A simulated device is shown images of two digits, those of a task of Split-MNIST."""
    training = read_idx_examples(data_directory(None) / IDX_FOLDERS["mnist"], "train")
    task = number % 5
    own = np.flatnonzero(training.labels // 2 == task)[number // 5 :: 20][:count]
    some = training.take(own)
    learner.learn(some.pixels, [str(label) for label in some.labels])
