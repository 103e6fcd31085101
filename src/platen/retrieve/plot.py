"""A map of a file of vectors: texts as points of a plane, on one HTML page that needs nothing else."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from platen.core.errors import ConfigError, DataError, MissingExtraError
from platen.core.files import write_atomic
from platen.core.pages import render_page
from platen.core.wording import counted
from platen.data.document import Document
from platen.retrieve.embedders import Vectors
from platen.retrieve.vectorfile import VectorFile

_EXCERPT = 300
_COLOURS = 9
"""Values with a colour of their own; the rarer ones share one."""
Plane = NDArray[np.float64]


def principal_components(vectors: Vectors) -> tuple[Plane, tuple[float, float]]:
    """Points (N, 2) along the two directions of most variance, and each one's share of it.

    A direction's sign is such that its largest weight is positive.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    directions = np.vstack([directions, np.zeros_like(directions[:1])])[:2]
    largest = np.abs(directions).argmax(axis=1)
    signs = np.where(directions[[0, 1], largest] < 0, -1.0, 1.0)
    variance = np.append(sizes, 0.0)[:2] ** 2 / max(float((sizes**2).sum()), 1e-30)
    return centred @ (directions * signs[:, None]).T, (float(variance[0]), float(variance[1]))


def umap_points(vectors: Vectors) -> Plane:
    """Points (N, 2) by UMAP with cosine distances; the same every time. Raises MissingExtraError."""
    if find_spec("umap") is None:
        raise MissingExtraError("umap", "--method umap")
    from umap import UMAP

    neighbours = min(15, len(vectors) - 1)
    init = "spectral" if len(vectors) > 3 else "random"  # three points have too few eigenvectors
    umap = UMAP(n_neighbors=neighbours, metric="cosine", init=init, random_state=0)
    with warnings.catch_warnings():  # of the one thread that a fixed seed takes
        warnings.simplefilter("ignore")
        return np.asarray(umap.fit_transform(vectors), dtype=np.float64)


def write_map(file: VectorFile, out: Path, *, method: str, color: str | None, limit: int) -> int:
    """Write the page and give its number of points. Raises DataError, ConfigError, MissingExtraError."""
    if method not in ("pca", "umap"):
        raise ConfigError(f"--method {method} is neither pca nor umap")
    documents, vectors = _sample(file, limit)
    if len(documents) < 3:
        raise DataError(f"{file.path} has {counted(len(documents), 'text')}, too few for a map")
    if method == "umap":
        points, axes = umap_points(vectors), ("UMAP 1", "UMAP 2")
    else:
        points, shares = principal_components(vectors)
        axes = (f"first direction ({shares[0]:.0%} of variance)", f"second ({shares[1]:.0%})")
    names, groups = _groups(documents, color)
    data = {
        "points": [[round(float(x), 5), round(float(y), 5)] for x, y in points],
        "texts": [_excerpt(document.text) for document in documents],
        "ids": [document.id for document in documents],
        "names": names,
        "groups": groups,
        "axes": axes,
    }
    shown = (
        f"{len(documents):,} of {file.rows:,} texts" if len(documents) < file.rows else f"{file.rows:,} texts"
    )
    page = _page(data, f"{shown}; vectors of {file.stamp}", color)
    write_atomic(out, page.encode("utf-8"))
    return len(documents)


def _sample(file: VectorFile, limit: int) -> tuple[list[Document], Vectors]:
    """Rows at even distances, `limit` at most, held in memory with no others."""
    wanted = np.unique(np.linspace(0, file.rows - 1, min(limit, file.rows)).round().astype(int))
    documents: list[Document] = []
    parts = [np.empty((0, file.stamp.dimensions), dtype=np.float32)]
    begin = 0
    for batch in file.batches():
        end = begin + len(batch.documents)
        rows = wanted[(wanted >= begin) & (wanted < end)] - begin
        documents += [batch.documents[row] for row in rows]
        parts.append(batch.vectors[rows])
        begin = end
    return documents, np.concatenate(parts)


def _groups(documents: Sequence[Document], color: str | None) -> tuple[list[str], list[int]]:
    """The names of the colours and each document's, the most frequent first."""
    if color is None:
        return [], [0] * len(documents)
    found = [doc.source if color == "source" else doc.metadata.get(color) for doc in documents]
    if all(value is None for value in found):
        known = sorted({"source"}.union(*(doc.metadata for doc in documents)))
        raise ConfigError(f"--color {color} is in no text's metadata", hint=f"There are {', '.join(known)}.")
    values = ["(none)" if value is None else str(value) for value in found]
    names = [name for name, _ in Counter(values).most_common()]
    if len(names) > _COLOURS + 1:
        names = [*names[:_COLOURS], f"{len(names) - _COLOURS} others"]
    place = {name: index for index, name in enumerate(names)}
    return names, [place.get(value, len(names) - 1) for value in values]


def _excerpt(text: str) -> str:
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…"


def _page(data: dict[str, object], about: str, color: str | None) -> str:
    # In a script element only what looks like markup ends the data; JSON may escape it.
    raw = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return render_page("platen.retrieve", "map.html.j2", data=raw, about=about, color=color)
