"""The split of MNIST on the device, against the trainer's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mnist_writer import COUNT, VALIDATION, numbered, numbers

from ffruntime.core.data import SPLIT
from ffruntime.demo.digits import load


def test_the_split_is_the_trainers(tmp_path: Path) -> None:
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(SPLIT.seed)).tolist()
    training, validation = load(numbered(tmp_path), "validation")
    assert numbers(training) == order[:-VALIDATION]
    assert numbers(validation) == order[-VALIDATION:]
    assert (training.labels == np.array(order[:-VALIDATION]) % 10).all()
