"""Index many tars at once, from the cache if possible, and collect everything that is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sslkit.api import Progress
from sslkit.errors import DataError
from sslkit_images.problems import NAMED, Problems
from sslkit_images.shards.index import Query, Tar, TarIndex, load_index, save_index
from sslkit_images.shards.members import TarError
from sslkit_images.shards.samples import read_tar

_THREADS = 8
"""Number of tars to index at once; most of the time is spent waiting for the disk."""


@dataclass(frozen=True)
class IndexedTar:
    """A tar with its index."""

    tar: Tar
    index: TarIndex


def index_tars(root: Path, paths: Sequence[Path], query: Query, progress: Progress) -> list[IndexedTar]:
    """Return the index of each tar.

    Raises:
        DataError: Some tars cannot be used; the message lists all their problems.
    """
    tars: list[IndexedTar] = []
    broken: list[str] = []
    problems = Problems()
    with ThreadPoolExecutor(_THREADS) as pool:
        for number, (path, found) in enumerate(zip(paths, pool.map(partial(_index, query), paths), strict=True)):
            progress("indexing tars", number, len(paths))
            if isinstance(found, IndexedTar):
                tars.append(found)
            elif isinstance(found, str):
                broken.append(found)
            else:
                add_all(problems, os.path.relpath(path, root), found)
    progress("indexing tars", len(paths), len(paths))
    if broken or problems.counts:
        more = [f"and {len(broken) - NAMED} more that cannot be read"] if len(broken) > NAMED else []
        lines = [f"{root.absolute()}: tars that cannot be used", *broken[:NAMED], *more, *problems.lines()]
        raise DataError("\n    ".join(lines))
    return tars


def _index(query: Query, path: Path) -> IndexedTar | Problems | str:
    """Return a tar with its index, what is wrong with its members, or why it cannot be read."""
    try:
        tar = Tar.stat(path)
        if (index := load_index(tar, query)) is not None:
            return IndexedTar(tar, index)
        index, problems = read_tar(tar, query)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except TarError as error:
        return f"{path} {error}"
    if problems.counts:
        return problems
    save_index(tar, query, index)
    return IndexedTar(tar, index)


def add_all(problems: Problems, tar: str, others: Problems) -> None:
    """Add the problems of a tar to those of all tars; its name goes before its members'."""
    for kind, count in others.counts.items():
        names = others.named.get(kind, [])
        for name in names:
            problems.add(kind, f"{tar}/{name}")
        for _ in range(count - len(names)):
            problems.add(kind)
