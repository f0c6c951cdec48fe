"""Names of clusters: of known individuals, or made for new ones, and kept when photographs are added."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def name_clusters(
    images: Sequence[str],
    clusters: np.ndarray,
    individual: np.ndarray,
    known: np.ndarray,
    part: str,
    earlier: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the name of each image's cluster: the known individual's, else its earlier one, else one of its first image's name.

    images: n names; clusters (n,) int64; individual (n,) int64, position in the names `known` (k,), -1 for a new one. earlier: the
    name of the cluster of each image in an earlier answer. A new cluster keeps the earlier name of most of its images, if most of
    the images of that name that are still asked are in it.
    """
    members: dict[int, list[str]] = {}
    for image, cluster in zip(images, clusters.tolist()):
        members.setdefault(cluster, []).append(image)
    taken = set(known.tolist())
    before = {image: name for image, name in (earlier or {}).items() if name not in taken}
    sizes = Counter(before[image] for image in images if image in before)
    prefix = "new" if part == "all" else f"new_{part}"
    of_individual = dict(zip(clusters.tolist(), individual.tolist()))
    names: dict[int, str] = {}
    for cluster, own in members.items():
        if of_individual[cluster] >= 0:
            names[cluster] = str(known[of_individual[cluster]])
            continue
        kept = Counter(before[image] for image in own if image in before).most_common(1)
        if kept and 2 * kept[0][1] > max(sizes[kept[0][0]], sum(image in before for image in own)):
            names[cluster] = kept[0][0]
    used = taken | set(names.values()) | set(before.values())
    for cluster, own in members.items():
        if cluster not in names:
            stem = f"{prefix}_{Path(min(own)).stem}"
            names[cluster] = next(name for name in (stem, *(f"{stem}_{i}" for i in range(2, len(used) + 3))) if name not in used)
            used.add(names[cluster])
    return [names[cluster] for cluster in clusters.tolist()]
