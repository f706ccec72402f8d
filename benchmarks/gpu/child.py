"""Run one part in this process: `python -m gpu.child NAME --seconds S --record FILE --work FOLDER --earlier FILE`."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from pathlib import Path

from gpu.process import tail
from gpu.record import Job, PartFailedError, Record, SkippedError, read_json


def main() -> int:
    """Run the part; what it found, and how it ended, is in its record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--module", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--earlier", type=Path, required=True)
    args = parser.parse_args()
    record = Record(args.record)
    earlier = (read_json(args.earlier) or {}).get("parts", {})
    status, error = attempt(args.module, Job(args.name, time.monotonic() + args.seconds, args.work, record, earlier))
    record.content |= {"status": status, "error": error}
    record.save()
    return 0


def attempt(module: str, job: Job) -> tuple[str, str | None]:
    """Run a part; return its status, "passed", "failed" or "skipped", and the reason of the last two."""
    from sslkit.errors import SslkitError

    try:
        importlib.import_module(f"gpu.parts.{module}").run(job)
    except SkippedError as reason:
        return "skipped", str(reason)
    except (PartFailedError, SslkitError) as error:
        return "failed", str(error)
    except Exception:  # whatever happens in a part is its result
        text = traceback.format_exc()
        print(text, file=sys.stderr)
        return "failed", tail(text)
    if job.record.failed:
        return "failed", "not as it has to be: " + "; ".join(job.record.failed)
    return "passed", None


if __name__ == "__main__":
    sys.exit(main())
