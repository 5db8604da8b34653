"""Checkpoints: all that a training run needs to go on, in one safetensors file, replaced as a whole."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta, Struct
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ffruntime.core.architecture import Shape
from ffruntime.core.durable import write_atomically
from ffruntime.core.errors import BundleError, UsageError
from ffruntime.core.reading import decode_json, open_regular

from .functional import Tensors
from .hardware import from_first, rank
from .network import parameter_names
from .training import TrainingState

Count = Annotated[int, Meta(ge=0, lt=1 << 31)]
STEP = "step"
# What optimizers keep of each parameter: moments in its shape, and AdamW a count of steps.
ADAM, SGD = ("exp_avg", "exp_avg_sq", STEP), ("momentum_buffer",)


class Progress(Struct, frozen=True):
    """How far a run is: `step` steps of epoch `epoch` are done; `history` has a row for each whole epoch.

    All randomness is drawn from (seed, epoch), so that no generator's state has to be kept.
    """

    epoch: Count = 0
    step: Count = 0
    seconds: Annotated[float, Meta(ge=0)] = 0.0
    history: tuple[dict[str, Any], ...] = ()
    total: Count | None = None  # steps of the whole run; None: the clock has not decided yet


class Identity(Struct, frozen=True):
    """What must be the same for a run to go on."""

    recipe: dict[str, Any]
    seed: int
    classes: tuple[str, ...]
    data: str
    precision: str
    content: str | None = None  # of a folder: which pictures (`DataSource`)


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
    content = {name: tensor.cpu().contiguous() for name, tensor in content.items()}
    who, how_far = (msgspec.json.encode(part).decode() for part in (identity, progress))
    metadata = {"identity": who, "progress": how_far, "sha256": _digest(who, how_far, content)}
    write_atomically(path, save(content, metadata))


def read_checkpoint(path: Path) -> tuple[Identity, Progress, Tensors]:
    """What run it is of, how far that was, and its tensors, by their hash.

    Raises `BundleError` where it is damaged or missing.
    """
    try:
        open_regular(path).close()
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["sha256"] != _digest(metadata["identity"], metadata["progress"], content):
            raise ValueError("its hash is not that of its content")
        return decode_json(metadata["identity"], Identity), decode_json(metadata["progress"], Progress), content
    except FileNotFoundError as error:
        raise BundleError(f"{path}: no such checkpoint") from error
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(f"{path}: damaged checkpoint: {error}; delete it to start again") from error


def load_checkpoint(path: Path, identity: Identity, state: TrainingState) -> tuple[Progress, Tensor]:
    """Restore network, optimizers and running means in place; return (progress, sums of the epoch under way).

    Raises `UsageError` where it is of another run, `BundleError` where it is damaged or missing.
    """
    found, progress, content = from_first(read_checkpoint(path) if rank() == 0 else None)
    for field in identity.__struct_fields__:
        if msgspec.json.encode(getattr(found, field)) != msgspec.json.encode(getattr(identity, field)):
            other = "other pictures in that folder" if field == "content" else f"another {field}"
            raise UsageError(f"--resume: {path} is of a run with {other}; delete it, or use another --out")
    _check(path, content, state)
    for name, tensor in state.tensors.items():
        tensor.copy_(content[f"network.{name}"])
    for unit, mean in state.peers.items():
        mean.copy_(content[f"peer.{unit}"])
    for part, optimizer in state.optimizers.items():
        moments = {}
        for index, entries in enumerate(_moments(state, part)):
            if all(entry in content for entry in entries.values()):
                moments[index] = {moment: content[entry] for moment, entry in entries.items()}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return progress, content["sums"]


def _check(path: Path, content: Tensors, state: TrainingState) -> None:
    """Raise `BundleError` unless the tensors are finite, in their shapes, and exactly those of the run; of each
    part, the moments of all its parameters or of none. Sums may be NaN: of a part without a loss of its own."""
    shapes: dict[str, Shape] = {f"network.{name}": tuple(tensor.shape) for name, tensor in state.tensors.items()}
    shapes |= {f"peer.{unit}": tuple(mean.shape) for unit, mean in state.peers.items()}
    shapes["sums"] = (len(state.network.units) + 1, 2)
    for part in state.optimizers:
        entries = _moments(state, part)
        if any(entry in content for own in entries for entry in own.values()):
            for name, own in zip(parameter_names(state.network)[part], entries, strict=True):
                parameter = tuple(state.tensors[name].shape)
                shapes |= {entry: () if moment == STEP else parameter for moment, entry in own.items()}
    for name in sorted(shapes.keys() | content.keys()):
        tensor = content.get(name)
        if tensor is None or tuple(tensor.shape) != shapes.get(name):
            raise BundleError(f"{path}: damaged checkpoint: '{name}' is missing, misshapen or of no such run")
        if name != "sums" and not tensor.isfinite().all():
            raise BundleError(f"{path}: '{name}' holds values that are no finite numbers; delete it to start again")


def _moments(state: TrainingState, part: str) -> list[dict[str, str]]:
    """Of every parameter of a part, in their order: what its optimizer keeps, and that entry's name."""
    kept = ADAM if isinstance(state.optimizers[part], torch.optim.AdamW) else SGD
    return [
        {moment: f"optimizer.{name}.{moment}" for moment in kept} for name in parameter_names(state.network)[part]
    ]


def _digest(identity: str, progress: str, content: Tensors) -> str:
    """SHA-256, in hexadecimal, of the metadata and of every tensor's name and bytes, by name."""
    digest = hashlib.sha256(f"{identity}\0{progress}".encode())
    for name in sorted(content):
        digest.update(name.encode())
        digest.update(content[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
