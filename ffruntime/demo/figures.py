"""The standard figures of continual learning, of R: R[i, j] is the accuracy on task j after task i was learned.

Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", 2017 (ACC, BWT); Chaudhry et al.,
"Riemannian Walk for Incremental Learning", 2018 (forgetting, best − last).
"""

from __future__ import annotations

import numpy as np


def acc(r: np.ndarray) -> float:
    """Mean accuracy over the tasks in the end: R (T, T) -> mean_j R[T, j]."""
    return float(r[-1].mean())


def bwt(r: np.ndarray) -> float:
    """Backward transfer: mean over j < T of R[T, j] − R[j, j]; below zero, what came later did harm."""
    return float((r[-1] - np.diag(r))[:-1].mean())


def forgetting(r: np.ndarray) -> float:
    """Mean over j < T of max_{l < T} R[l, j] − R[T, j]; what was not yet learned has accuracy 0."""
    return float((r[:-1, :-1].max(0) - r[-1, :-1]).mean())
