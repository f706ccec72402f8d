"""Sources for the tests, in a module that worker processes can import."""

import os
import signal
import time
from pathlib import Path

from sslkit.api import Source
from sslkit.errors import DataError


class ImageFiles(Source):
    """All files of a folder, sorted by name."""

    name = "image-files"

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self) -> None:
        self.files = sorted(self.root.iterdir())

    def __len__(self) -> int:
        return len(self.files)

    def key(self, index: int) -> str:
        return self.files[index].name

    def read(self, index: int) -> bytes:
        try:
            return self.files[index].read_bytes()
        except OSError as error:
            raise DataError(f"{self.key(index)}: {error}") from error


class SlowImages(ImageFiles):
    """A source that takes a while for each image."""

    def read(self, index: int) -> bytes:
        time.sleep(0.05)
        return super().read(index)


class CrashingImages(ImageFiles):
    """A source whose image 5 kills every process but the one that opened it."""

    def open(self) -> None:
        super().open()
        self.parent = os.getpid()

    def read(self, index: int) -> bytes:
        if index == 5 and os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)
