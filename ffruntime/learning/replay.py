"""Experience replay: which stored examples are shown again, and which make room for new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def draw_balanced(stored: Mapping[int, Sequence[int]], count: int, rng: np.random.Generator) -> list[int]:
    """`count` ids, each of a class drawn evenly, then evenly from the class: label -> ids of its examples."""
    classes = sorted(label for label, ids in stored.items() if ids)
    chosen = (stored[classes[int(rng.integers(len(classes)))]] for _ in range(count))
    return [ids[int(rng.integers(len(ids)))] for ids in chosen]


def evictions(
    stored: Mapping[int, Sequence[int]],
    seen: Mapping[int, int],
    arrived: Sequence[tuple[int, int]],
    capacity: int,
    rng: np.random.Generator,
) -> list[int]:
    """Ids that have to go so that `capacity` examples are left: a class-balanced reservoir (Chrysakis, Moens 2020).

    `stored`: label -> ids, those in `arrived` not among them; `seen`: label -> how many ever came, those in
    `arrived` not counted; `arrived`: (id, label) in the order in which they came. While there is no room, a
    newcomer of a class that is not the largest takes the place of one of the largest; of the largest class itself,
    it stays with the chance that every one of its class ever seen has.
    """
    kept = {label: list(ids) for label, ids in stored.items()}
    count, total, gone = dict(seen), sum(map(len, kept.values())), []
    for new, label in arrived:
        count[label] = count.get(label, 0) + 1
        mine = kept.setdefault(label, [])
        mine.append(new)
        total += 1
        if total <= capacity:
            continue
        largest = max(map(len, kept.values()))
        if len(mine) == largest:
            stays = rng.random() < (largest - 1) / count[label]
            victims, index = mine, int(rng.integers(largest - 1)) if stays and largest > 1 else largest - 1
        else:
            full = sorted(other for other, ids in kept.items() if len(ids) == largest)
            victims, index = kept[full[int(rng.integers(len(full)))]], int(rng.integers(largest))
        gone.append(victims.pop(index))
        total -= 1
    while total > capacity:  # a budget that has become smaller
        largest_label = max(sorted(kept), key=lambda one: len(kept[one]))
        victims = kept[largest_label]
        gone.append(victims.pop(int(rng.integers(len(victims)))))
        total -= 1
    return gone
