"""A training step in plain numpy float64, written straight from the formulas: the referee of the fast one.

Networks of convolution + ReLU units with divisive inputs, and label patterns in a channel. Scodellaro et al. and
Hinton for the network, Kingma and Ba for Adam; ∂g/∂(pre-activation) = (2 / N) · y (references, Arithmetic).
"""

from __future__ import annotations

import numpy as np

from ffruntime.core.learning import PairLoss, Ratio, Symmetric


def sigmoid(x: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(x / 2)) / 2


def loss_slopes(loss: PairLoss, gp: np.ndarray, gn: np.ndarray, neurons: int) -> tuple[np.ndarray, np.ndarray]:
    """∂loss/∂g⁺ (N,) and ∂loss/∂g⁻ (M, N) of each image."""
    if isinstance(loss, Symmetric | Ratio):
        gap = gp - gn if isinstance(loss, Symmetric) else np.log(gp) - np.log(gn)
        weight = np.exp(-loss.alpha * gap)
        share = weight / (1 + weight.sum(0))  # (M, N)
        if isinstance(loss, Symmetric):
            return -loss.alpha * share.sum(0), loss.alpha * share
        return -loss.alpha * share.sum(0) / gp, loss.alpha * share / gn
    scale = neurons if loss.reduce == "sum" else 1
    return -scale * sigmoid(-scale * (gp - loss.theta)), scale * sigmoid(scale * (gn - loss.theta)) / len(gn)


def convolution(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """relu(conv(x, w) + b), padding kernel // 2: the activation, and the windows it was computed from."""
    k = w.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), (k // 2,) * 2, (k // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(2, 3))  # (N, C, H, W, k, k)
    return np.maximum(np.einsum("nchwij,ocij->nohw", windows, w, optimize=True) + b[:, None, None], 0), windows


def unit_gradient(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, loss: PairLoss, copies: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """∂loss/∂w and ∂loss/∂b of one unit, and its activation."""
    y, windows = convolution(x, w, b)
    n = y[0].size
    g = (y**2).mean(axis=(1, 2, 3)).reshape(copies, -1)
    slope_p, slope_n = loss_slopes(loss, g[0], g[1:], n)
    slopes = np.concatenate([slope_p, slope_n.ravel()]) / g.shape[1]
    dy = slopes[:, None, None, None] * (2 / n) * y
    return np.einsum("nchwij,nohw->ocij", windows, dy, optimize=True), dy.sum(axis=(0, 2, 3)), y


def divisive(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=tuple(range(1, x.ndim)), keepdims=True) + 1e-8)


def adam(w: np.ndarray, gradient: np.ndarray, moments: list[np.ndarray], step: int, lr: float) -> np.ndarray:
    moments[0] = 0.9 * moments[0] + 0.1 * gradient
    moments[1] = 0.999 * moments[1] + 0.001 * gradient**2
    first, second = moments[0] / (1 - 0.9**step), moments[1] / (1 - 0.999**step)
    return w - lr * first / (np.sqrt(second) + 1e-8)


def train(
    tensors: dict[str, np.ndarray],
    scored: list[int],
    loss: PairLoss,
    batches: list[tuple[np.ndarray, np.ndarray]],
    lr: float,
    head_lr: float,
) -> dict[str, np.ndarray]:
    """Steps of local updates and of the classifier's: `batches` of (images (B, C, H, W), labels (1 + M, B))."""
    tensors = dict(tensors)
    moments = {n: [np.zeros_like(t), np.zeros_like(t)] for n, t in tensors.items()}
    units = sorted({name.split(".")[0] for name in tensors if name.startswith("unit")})

    def update(name: str, gradient: np.ndarray, step: int, rate: float) -> None:
        tensors[name] = adam(tensors[name], gradient, moments[name], step, rate)

    def with_label(images: np.ndarray, patterns: np.ndarray) -> np.ndarray:
        return np.concatenate([images, np.broadcast_to(patterns, (len(images), *patterns.shape[1:]))], axis=1)

    for step, (images, labels) in enumerate(batches, 1):
        x, features = with_label(images, tensors["labels.neutral"][None]), []
        for index, unit in enumerate(units):
            x, _ = convolution(divisive(x), tensors[f"{unit}.conv1.weight"], tensors[f"{unit}.conv1.bias"])
            if index in scored:
                features.append(divisive(x).reshape(len(x), -1))
        flat = np.concatenate(features, axis=1)
        logits = flat @ tensors["head.weight"].T + tensors["head.bias"]
        share = np.exp(logits - logits.max(1, keepdims=True))
        error = (share / share.sum(1, keepdims=True) - np.eye(logits.shape[1])[labels[0]]) / len(images)
        x = np.concatenate([with_label(images, tensors["labels.patterns"][row]) for row in labels])
        for unit in units:
            w, b = tensors[f"{unit}.conv1.weight"], tensors[f"{unit}.conv1.bias"]
            dw, db, x = unit_gradient(divisive(x), w, b, loss, len(labels))
            update(f"{unit}.conv1.weight", dw, step, lr)
            update(f"{unit}.conv1.bias", db, step, lr)
        update("head.weight", error.T @ flat, step, head_lr)
        update("head.bias", error.sum(0), step, head_lr)
    return tensors
