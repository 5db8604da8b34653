"""The server: Flower asks the devices, `ffruntime.core.merge` makes one state of what they give, all take it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from logging import INFO, WARNING
from pathlib import Path

from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from ffruntime.core.bundle import Bundle
from ffruntime.core.errors import BundleError
from ffruntime.core.merge import merge
from ffruntime.core.state import write_state
from ffruntime.learning.elsewhere import member_of

from .records import to_file, to_record

app = ServerApp()


class Merge(FedAvg):
    """Flower's rounds, with states merged in place of averaged arrays."""

    def __init__(self, bundle: Bundle, out: Path, robust: bool, devices: int) -> None:
        super().__init__(min_train_nodes=devices, min_evaluate_nodes=devices, min_available_nodes=devices)
        self._bundle, self._out, self._robust = bundle, out, robust

    def aggregate_train(
        self,
        server_round: int,  # noqa: ARG002
        replies: Iterable[Message],
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """One state of all; a file that is damaged or of another bundle is left out."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        bundle, members = self._bundle, []
        with tempfile.TemporaryDirectory() as folder:
            for message in valid:
                name = f"device {message.metadata.src_node_id}"
                try:
                    file = to_file(message.content["arrays"], Path(folder) / f"{len(members)}.state")
                    if file:
                        members.append(member_of(file, bundle, name=name))
                except BundleError as error:
                    log(WARNING, "%s is left out: %s", name, error)
        if not members:
            return None, None
        prior = bundle.statistics() if self._robust and bundle.manifest.counted else None
        found = merge(bundle.manifest, bundle.weights(), members, robust=self._robust, prior=prior)
        for left in found.left_out:
            log(INFO, "%s: %s left out: %s", left.member, left.part, left.reason)
        write_state(
            *(self._out, bundle.manifest, found.weights, found.updates, found.examples, found.origins),
            members=found.members,
        )
        told = found.weights.statistics
        known = MetricRecord({"devices": len(members), "examples": int(told.counts.sum()) if told else 0})
        return to_record(self._out), known


@app.main()
def main(grid: Grid, context: Context) -> None:
    """As many rounds as asked for; the merge of the last one stays."""
    run = context.run_config
    out, devices = Path(str(run["out"])), int(run["devices"])
    strategy = Merge(Bundle(Path(str(run["model"]))), out, bool(run["robust"]), devices)
    result = strategy.start(grid, initial_arrays=to_record(None), num_rounds=int(run["rounds"]))
    log(INFO, "%s: %s", out, result.train_metrics_clientapp)
