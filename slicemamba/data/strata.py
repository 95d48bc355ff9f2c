"""Parts of a data set that are alike in what their masks hold, with whole patients in each.

What an image holds is told in words, kept in ``dataset.yaml``: the classes it marks, and in which quarter its share of
marked pixels lies among all images. Each word, and the number of images, is to be shared out in proportion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from slicemamba.config import DataConfig
from slicemamba.data.description import read_description
from slicemamba.data.patients import patients_in_names

MARKED, EMPTY = "marked", "empty"
QUARTERS = ("least", "less", "more", "most")
"""Of the images that mark anything, by the share that they mark."""
_MOST_PASSES = 5


def words_for(classes: Sequence[Iterable[str]], shares: Sequence[float]) -> list[str]:
    """The words of each image: classes that it marks, and ``EMPTY`` or one of ``QUARTERS``.

    Args:
        classes: names of the classes that each image marks. shares: of its pixels that are marked, 0…1.
    """
    marked = np.asarray([share for share in shares if share > 0])
    edges = np.quantile(marked, (0.25, 0.5, 0.75)) if len(marked) else np.zeros(3)
    sizes = (QUARTERS[int(np.searchsorted(edges, share))] if share > 0 else EMPTY for share in shares)
    return [
        " ".join([*sorted("_".join(name.split()) for name in names), size])
        for names, size in zip(classes, sizes, strict=True)
    ]


def words_of(names: Iterable[str], config: DataConfig) -> list[str] | None:
    """What ``dataset.yaml`` tells of each image (or its volume); None where it tells nothing of any."""
    stored = read_description(config.root).strata
    if not stored:
        return None
    names = list(names)
    volumes = patients_in_names(names, None)
    return [stored.get(name, stored.get(volume or name, "")) for name, volume in zip(names, volumes, strict=True)]


def balance(groups: Sequence[str], words: Sequence[str], shares: Sequence[float], seed: int) -> list[int]:
    """The part, 0 … len(shares) − 1, of each image: whole groups, each word in proportion, no part empty.

    Groups in random order go where they bring the counts of words nearest to the shares, by Pearson's chi-square, and
    are then moved as long as that lowers it.

    Args:
        groups, words: of each image. shares: of each part, above 0, which sum to 1.
        seed: any integer.
    """
    names = list(dict.fromkeys(groups))
    counts = _count(groups, words, names)
    wanted = np.outer(shares, counts.sum(axis=0))
    rng = np.random.default_rng(seed % 2**64)
    home = np.zeros(len(names), np.int64)
    held, members = np.zeros_like(wanted), np.zeros(len(shares), np.int64)
    order = rng.permutation(len(names))
    for place, group in enumerate(order):
        change = _change(held, counts[group], wanted)
        empty = np.flatnonzero(members == 0)
        # The last groups go to parts that have none yet.
        last = len(order) - place <= len(empty)
        home[group] = empty[change[empty].argmin()] if last else change.argmin()
        held[home[group]] += counts[group]
        members[home[group]] += 1
    for _ in range(_MOST_PASSES):
        if not sum(_move(group, home, held, members, counts, wanted) for group in rng.permutation(len(names))):
            break
    part_of = dict(zip(names, home.tolist(), strict=True))
    return [part_of[group] for group in groups]


def _count(groups: Sequence[str], words: Sequence[str], names: list[str]) -> NDArray[np.float64]:
    """(G, F): images of each group with each word; the first column counts all of them."""
    columns = {word: number for number, word in enumerate(sorted({one for text in words for one in text.split()}), 1)}
    rows = {name: number for number, name in enumerate(names)}
    counts = np.zeros((len(names), 1 + len(columns)))
    for group, text in zip(groups, words, strict=True):
        counts[rows[group], [0, *(columns[word] for word in set(text.split()))]] += 1
    return counts


def _change(held: NDArray[np.float64], added: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P,): by how much chi-square rises if a group is added to each part."""
    change: NDArray[np.float64] = ((2 * added * (held - wanted) + added**2) / wanted).sum(axis=1)
    return change


def _move(
    group: int,
    home: NDArray[np.int64],
    held: NDArray[np.float64],
    members: NDArray[np.int64],
    counts: NDArray[np.float64],
    wanted: NDArray[np.float64],
) -> bool:
    """Moves a group to the part that suits it better, if there is one, and it is not the last of its own."""
    own = home[group]
    if members[own] == 1:
        return False
    held[own] -= counts[group]
    change = _change(held, counts[group], wanted)
    best = int(change.argmin())
    target = best if change[best] < change[own] - 1e-9 else own
    held[target] += counts[group]
    home[group] = target
    members[own] -= 1
    members[target] += 1
    return bool(target != own)
