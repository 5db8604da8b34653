"""Checkpoints: all that a training run needs to go on, in one safetensors file, replaced as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ffruntime.core.durable import write_atomically
from ffruntime.core.errors import BundleError, UsageError

from .functional import Tensors
from .hardware import from_first, rank
from .network import parameter_names
from .training import TrainingState


class Progress(Struct, frozen=True):
    """How far a run is: `step` steps of epoch `epoch` are done; `history` has a row for each whole epoch.

    All randomness is drawn from (seed, epoch), so that no generator's state has to be kept.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    history: tuple[dict[str, Any], ...] = ()
    total: int | None = None  # steps of the whole run; None: the clock has not decided yet


class Identity(Struct, frozen=True):
    """What must be the same for a run to go on."""

    recipe: dict[str, Any]
    seed: int
    classes: tuple[str, ...]
    data: str
    precision: str


def checkpoint_path(out: Path) -> Path:
    """The checkpoint of the run that writes the bundle `out`."""
    return out.with_name(f"{out.name}.checkpoint")


def save_checkpoint(path: Path, identity: Identity, progress: Progress, state: TrainingState, sums: Tensor) -> None:
    """Write atomically. Raises `StorageError`, with the checkpoint before it intact."""
    content = {f"network.{name}": t.detach() for name, t in state.tensors.items()}
    for part, optimizer in state.optimizers.items():
        moments = optimizer.state_dict()["state"]
        for index, name in enumerate(parameter_names(state.network)[part]):
            own = moments.get(index, {})
            content |= {f"optimizer.{name}.{key}": value for key, value in own.items() if value is not None}
    content |= {f"peer.{unit}": mean for unit, mean in state.peers.items()}
    content["sums"] = sums
    metadata = {
        "identity": msgspec.json.encode(identity).decode(),
        "progress": msgspec.json.encode(progress).decode(),
    }
    write_atomically(path, save({n: t.cpu().contiguous() for n, t in content.items()}, metadata))


def read_checkpoint(path: Path) -> tuple[Identity, Progress, Tensors]:
    """What run it is of, how far that was, and its tensors. Raises `BundleError` where it is damaged or missing."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            found = msgspec.json.decode(metadata["identity"], type=Identity)
            progress = msgspec.json.decode(metadata["progress"], type=Progress)
            return found, progress, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, msgspec.DecodeError, KeyError, OSError) as error:
        raise BundleError(f"{path}: damaged checkpoint: {error}; delete it to start again") from error


def load_checkpoint(path: Path, identity: Identity, state: TrainingState) -> tuple[Progress, Tensor]:
    """Restore network, optimizers and running means in place; return (progress, sums of the epoch under way).

    Raises `UsageError` where it is of another run, `BundleError` where it is damaged or missing.
    """
    found, progress, content = from_first(read_checkpoint(path) if rank() == 0 else None)
    for field in identity.__struct_fields__:
        if msgspec.json.encode(getattr(found, field)) != msgspec.json.encode(getattr(identity, field)):
            raise UsageError(f"--resume: {path} is of a run with another {field}; delete it, or use another --out")
    for name, tensor in state.tensors.items():
        tensor.copy_(content[f"network.{name}"])
    for unit, mean in state.peers.items():
        mean.copy_(content[f"peer.{unit}"])
    for part, optimizer in state.optimizers.items():
        moments: dict[int, dict[str, Tensor]] = {}
        for index, name in enumerate(parameter_names(state.network)[part]):
            prefix = f"optimizer.{name}."
            moments[index] = {n.removeprefix(prefix): v for n, v in content.items() if n.startswith(prefix)}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": {i: s for i, s in moments.items() if s}})
    return progress, content["sums"]
