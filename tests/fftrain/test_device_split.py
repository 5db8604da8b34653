"""The split of MNIST on the device, against the trainer's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mnist_writer import write_mnist

from ffruntime.core.data import SPLIT, Examples
from ffruntime.demo.digits import load

VALIDATION = SPLIT.validation
COUNT = VALIDATION + 20


def numbered(directory: Path) -> Path:
    """Files whose n-th training image begins with n."""
    images = np.zeros((COUNT, 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(COUNT) // 256, np.arange(COUNT) % 256
    labels = (np.arange(COUNT) % 10).astype(np.uint8)
    return write_mnist(
        directory,
        train_images=images,
        train_labels=labels,
        t10k_images=images[:30] + 1,
        t10k_labels=labels[:30],
    )


def numbers(digits: Examples) -> list[int]:
    return (256 * digits.pixels[:, 0, 0, 0].astype(int) + digits.pixels[:, 0, 0, 1]).tolist()


def test_the_split_is_the_trainers(tmp_path: Path) -> None:
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(SPLIT.seed)).tolist()
    training, validation = load(numbered(tmp_path), "validation")
    assert numbers(training) == order[:-VALIDATION]
    assert numbers(validation) == order[-VALIDATION:]
    assert (training.labels == np.array(order[:-VALIDATION]) % 10).all()
