"""Which tars a pattern means, as WebDataset's users write it: `train-{0000..0146}.tar`, `{train,val}/*.tar`."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sslkit.errors import closest

MOST = 100_000
"""Names that a pattern may stand for."""
_UNPACK = {".tar.gz": "gunzip", ".tgz": "gunzip", ".tar.bz2": "bunzip2", ".tar.xz": "unxz", ".tar.zst": "unzstd"}


@dataclass(frozen=True)
class TarList:
    """The tars below a folder that match a pattern."""

    root: Path
    pattern: str

    def paths(self) -> list[Path]:
        """Return the tars in the order of the pattern: each name in braces, and what matches a star sorted.

        Raises:
            ValueError: It is no pattern; the message goes on behind it.
        """
        if "://" in self.pattern or self.pattern.startswith("pipe:"):
            raise ValueError(
                "is no file: tars are read at random, and have to lie on a disk; copy them to a folder, and write that "
                "as root and their names as pattern"
            )
        if PurePosixPath(self.pattern).is_absolute() or ".." in PurePosixPath(self.pattern).parts:
            raise ValueError("leads out of root: write the folder as root, and what is below it as pattern")
        found = itertools.chain.from_iterable(map(self._matching, expand(self.pattern)))
        return list(dict.fromkeys(found))

    def _matching(self, name: str) -> Iterator[Path]:
        if any(letter in name for letter in "*?["):
            yield from sorted(path for path in self.root.glob(name) if path.is_file())
        else:
            yield self.root / name

    def missing(self) -> str | None:
        """Say that there is no such folder, which tars are not there, or that they are compressed."""
        if not self.root.is_dir():
            names_tars = ".tar" in self.root.name or "{" in self.root.name
            hint = f": write root = {str(self.root.parent)!r} and pattern = {self.root.name!r}" if names_tars else ""
            return f"there is no folder {self.root.absolute()} with tars{hint}"
        try:
            paths = self.paths()
        except ValueError as error:
            return f"pattern = {self.pattern!r} {error}"
        if not paths:
            return f"no tar in {self.root.absolute()} matches {self.pattern!r}: {self._what_is_there()}"
        lacking = [str(path) for path in paths if not path.is_file()]
        if lacking:
            return f"{len(lacking)} of {len(paths)} tars are not there: {some(lacking)}; {self._what_is_there()}"
        return _compressed(paths)

    def _what_is_there(self) -> str:
        there = sorted(path.name for path in self.root.iterdir() if not path.name.startswith("."))
        if not there:
            return f"{self.root} is empty"
        return f"{self.root} holds {some(there)}{closest(self.pattern, there)}"


def _compressed(paths: Sequence[Path]) -> str | None:
    found = [(path, how) for path in paths for end, how in _UNPACK.items() if path.name.lower().endswith(end)]
    if not found:
        return None
    return (
        f"{len(found)} of {len(paths)} tars are compressed, and cannot be read at random: unpack the tars themselves "
        f"(what is in them is compressed already), beginning with\n        {found[0][1]} {found[0][0]}"
    )


def expand(pattern: str) -> Iterator[str]:
    """Yield what a pattern stands for: `{a,b}` each of them, `{08..11}` numbers, of equal width after a leading zero.

    Other braces stand for themselves, as in a shell.

    Raises:
        ValueError: Braces in braces, a range that runs backwards, or more than `MOST` names.
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    if any("{" in part or "}" in part for part in parts[::2]):
        raise ValueError("has braces that do not close, or braces in braces")
    choices = [_choices(part) if place % 2 else [part] for place, part in enumerate(parts)]
    _refuse_many(math.prod(map(len, choices)))
    return map("".join, itertools.product(*choices))


def _choices(inside: str) -> Sequence[str]:
    found = re.fullmatch(r"([0-9]{1,18})\.\.([0-9]{1,18})(?:\.\.([0-9]{1,18}))?", inside)
    if found is None:
        return inside.split(",") if "," in inside else [f"{{{inside}}}"]
    first, last, step = found.groups()
    numbers = range(int(first), int(last) + 1, int(step or 1) or 1)
    if not numbers:
        raise ValueError(f"has a range that runs backwards, {{{inside}}}")
    _refuse_many(len(numbers))
    width = max(len(first), len(last)) if any(len(end) > 1 and end[0] == "0" for end in (first, last)) else 0
    return [f"{number:0{width}d}" for number in numbers]


def _refuse_many(names: int) -> None:
    if names > MOST:
        raise ValueError(f"stands for {names} names, and more than {MOST} are not looked for")


def some(names: Sequence[str]) -> str:
    """Name the first three, and say how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
