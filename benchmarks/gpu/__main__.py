"""Rehearse sslkit on one GPU: `python -m gpu --minutes 8 --out FOLDER` in `benchmarks/`.

    --minutes M      time for everything, 8 by default; it never takes longer
    --out FOLDER     for rehearsal.json, page.md with its figures, and log.txt; runs/gpu-rehearsal by default
    --parts A,B      only these parts
    --list           list the parts
    --site FOLDER    unpacked wheels; where sslkit is not installed, `site` in or beside the checkout by default
    --commit TEXT    the commit, for a copy of the checkout without .git

It needs no installed sslkit and no network: packages and entry points are the checkout's. Each part runs in a process
of its own, for a bounded time, and is ended with everything that it started. Failures are reported, and the rest goes
on. Results are written after each part. The exit code is 0 if every part passed (or needs a GPU where there is none),
and 1 otherwise.
"""

from __future__ import annotations

import argparse
import difflib
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from gpu import checkout, page
from gpu.parts import ALL, BY_NAME, Part
from gpu.rehearsal import Rehearsal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rehearsal; return the exit code."""
    parser = argparse.ArgumentParser("python -m gpu", description=__doc__, add_help=True,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--minutes", type=float, default=8.0, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=checkout.ROOT / "runs" / "gpu-rehearsal", help=argparse.SUPPRESS)
    parser.add_argument("--parts", default=",".join(BY_NAME), help=argparse.SUPPRESS)
    parser.add_argument("--list", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--site", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--commit", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.list:
        for part in ALL:
            print(f"{part.name:<12}{part.what}" + ", only with a GPU" * part.needs_gpu)
        return 0
    if not 0.25 <= args.minutes < math.inf:
        parser.error(f"--minutes {args.minutes:g}: write how many minutes it may take, 0.25 or more, such as 8")
    try:
        site = checkout.site_folder(args.site)
        parts = chosen(args.parts)
        args.out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    passed = Rehearsal(args.out, args.minutes, site, args.commit).run(parts)
    print(args.out / page.PAGE)
    return 0 if passed else 1


def chosen(names: str) -> list[Part]:
    """Return the named parts, in the order of the rehearsal.

    Raises:
        ValueError: A part is unknown, or none is named.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise ValueError(f"--parts '{names}' names none: write some of {', '.join(BY_NAME)}")
    for name in wanted:
        if name not in BY_NAME:
            near = difflib.get_close_matches(name, BY_NAME, 1)
            hint = f"did you mean {near[0]}?" if near else f"write some of {', '.join(BY_NAME)}"
            raise ValueError(f"--parts {names}: unknown part '{name}': {hint}")
    return [part for part in ALL if part.name in wanted]


if __name__ == "__main__":
    sys.exit(main())
