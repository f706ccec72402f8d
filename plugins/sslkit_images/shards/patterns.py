"""Patterns that name tars in WebDataset's notation: `train-{0000..0146}.tar`, `{train,val}/*.tar`."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sslkit.errors import closest
from sslkit_images.names import abbreviate

MAX_NAMES = 100_000
"""Maximum number of names that a pattern may expand to."""
_UNPACK = {".tar.gz": "gunzip", ".tgz": "gunzip", ".tar.bz2": "bunzip2", ".tar.xz": "unxz", ".tar.zst": "unzstd"}


@dataclass(frozen=True)
class TarList:
    """The tars in a folder that match a pattern."""

    root: Path
    pattern: str

    def paths(self) -> list[Path]:
        """Return the tars in the order of the pattern; the matches of a wildcard are sorted.

        Raises:
            ValueError: The pattern is invalid; the message continues `pattern = '...'`.
        """
        if "://" in self.pattern or self.pattern.startswith("pipe:"):
            raise ValueError(
                "is not a file: tars need random access, so they must be on a disk; copy them to a folder, and write "
                "that folder as root and their names as pattern"
            )
        if PurePosixPath(self.pattern).is_absolute() or ".." in PurePosixPath(self.pattern).parts:
            raise ValueError("points outside root: write the folder as root, and the path inside it as pattern")
        matches = itertools.chain.from_iterable(map(self._matching, expand(self.pattern)))
        return list(dict.fromkeys(matches))

    def _matching(self, name: str) -> Iterator[Path]:
        if any(letter in name for letter in "*?["):
            yield from sorted(path for path in self.root.glob(name) if path.is_file())
        else:
            yield self.root / name

    def missing(self) -> str | None:
        """Return an error message if the folder or some tars are missing, or if tars are compressed."""
        if not self.root.is_dir():
            is_pattern = ".tar" in self.root.name or "{" in self.root.name
            hint = f": write root = {str(self.root.parent)!r} and pattern = {self.root.name!r}" if is_pattern else ""
            return f"the folder of the tars was not found: {self.root.absolute()}{hint}"
        try:
            paths = self.paths()
        except ValueError as error:
            return f"pattern = {self.pattern!r} {error}"
        if not paths:
            return f"no tar in {self.root.absolute()} matches {self.pattern!r}: {self._describe_contents()}"
        missing = [str(path.relative_to(self.root)) for path in paths if not path.is_file()]
        if missing:
            return (
                f"{len(missing)} of {len(paths)} tars are missing: {abbreviate(missing)}; {self._describe_contents()}"
            )
        return _compression_error(paths)

    def _describe_contents(self) -> str:
        names = sorted(path.name for path in self.root.iterdir() if not path.name.startswith("."))
        if not names:
            return f"{self.root} is empty"
        return f"{self.root} holds {abbreviate(names)}{closest(self.pattern, names)}"


def _compression_error(paths: Sequence[Path]) -> str | None:
    compressed = [
        (path, command) for path in paths for end, command in _UNPACK.items() if path.name.lower().endswith(end)
    ]
    if not compressed:
        return None
    path, command = compressed[0]
    return (
        f"{len(compressed)} of {len(paths)} tars are compressed, which prevents random access: unpack the tars "
        f"themselves (the images in them are compressed already), starting with\n        {command} {path}"
    )


def expand(pattern: str) -> Iterator[str]:
    """Expand the braces of a pattern: `{a,b}` alternatives, `{08..11}` numbers, zero-padded if an end is.

    Other braces are kept, as in a shell.

    Raises:
        ValueError: Braces are nested or unbalanced, a range runs backwards, or there are more than `MAX_NAMES` names.
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    if any("{" in part or "}" in part for part in parts[::2]):
        raise ValueError("has unbalanced or nested braces")
    choices = [_alternatives(part) if position % 2 else [part] for position, part in enumerate(parts)]
    _check_count(math.prod(map(len, choices)))
    return map("".join, itertools.product(*choices))


def _alternatives(inside: str) -> Sequence[str]:
    match = re.fullmatch(r"([0-9]{1,18})\.\.([0-9]{1,18})(?:\.\.([0-9]{1,18}))?", inside)
    if match is None:
        return inside.split(",") if "," in inside else [f"{{{inside}}}"]
    first, last, step = match.groups()
    numbers = range(int(first), int(last) + 1, int(step or 1) or 1)
    if not numbers:
        raise ValueError(f"has a range that runs backwards, {{{inside}}}")
    _check_count(len(numbers))
    width = max(len(first), len(last)) if any(len(end) > 1 and end[0] == "0" for end in (first, last)) else 0
    return [f"{number:0{width}d}" for number in numbers]


def _check_count(names: int) -> None:
    if names > MAX_NAMES:
        raise ValueError(f"expands to {names} names; at most {MAX_NAMES} are allowed")
