"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ffruntime.core.tables import table

WIDEST = 20  # classes; a wider table fits no terminal


def confusion_matrix(labels: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """Right classes (N,) and answers (N,) -> counts (classes, classes), a row for each right class."""
    return np.bincount(labels * classes + answers, minlength=classes**2).reshape(classes, classes)


def most_confused(matrix: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """The commonest mistakes, at most `count`: (right class, answer, how often), the commonest first."""
    mistakes = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:count]
    pairs = [(*divmod(int(index), len(matrix)), int(mistakes.flat[index])) for index in order]
    return [pair for pair in pairs if pair[2]]


def confusion_table(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """For a terminal: the whole matrix, or the commonest mistakes where there are more than `WIDEST` classes."""
    if len(classes) <= WIDEST:
        right = np.diag(matrix) / np.maximum(matrix.sum(axis=1), 1)
        rows = [
            (name, *(str(count) if count else "·" for count in row), f"{100 * share:.1f} %")
            for name, row, share in zip(classes, matrix, right, strict=True)
        ]
        return table(("true \\ answer", *classes, "right"), rows)
    pairs = most_confused(matrix, WIDEST)
    return table(("true", "answer", "images"), [(classes[t], classes[a], str(n)) for t, a, n in pairs])
