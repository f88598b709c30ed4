"""One picture or clip of a place, wherever it lies, and how its bytes are read."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, NamedTuple, cast

from .names import ending, key

LARGEST_FILE = 300_000_000
"""Bytes of a picture's file: more than Pillow's bound of pixels takes without any compression."""

TOO_LARGE = f"more than {LARGEST_FILE:,} bytes, which no picture takes that can be decoded"

REPLACED = "its archive was replaced since it was listed; begin again"


@dataclass(frozen=True, slots=True)
class Reject:
    """What is not read, and why.

    Attributes:
        name: name of the file, as people know it.
        reason: why, in words.
        lost: pictures or clips that are missing by it, as far as is known: by a damaged archive more than one, by a
            clip that would be another's copy none.
    """

    name: str
    reason: str
    lost: int = 1


class Entry(NamedTuple):
    """One picture or clip.

    Attributes:
        name: as people know it: the path inside the place; of several tars with the tar's.
        file: the zip or tar; or the folder in which ``name`` lies.
        label: class index, or None.
        member: its place in the zip's list.
        place: (offset, size) of its bytes in the tar.
        stamp: changes when the file does: of its size and time of modification, or of its check sum in a zip.
        segment: (start, end) of the clip in seconds, or None for all of it.
        frames: it is a folder of pictures, the clip's frames.
        instead: another file of the same clip, if this one can't be read.
        caption: the text beside it, where captions are wanted.
        partner: the picture that it is paired with, where pairs are.
    """

    name: str
    file: str
    label: int | None = None
    member: int | None = None
    place: tuple[int, int] | None = None
    stamp: int = 0
    segment: tuple[float, float] | None = None
    frames: bool = False
    instead: Entry | None = None
    caption: Entry | None = None
    partner: Entry | None = None

    @property
    def in_archive(self) -> bool:
        """Whether it lies in a zip or a tar."""
        return self.member is not None or self.place is not None

    @property
    def key(self) -> str:
        """What it shares with the text beside it: its name without the ending; in tars webdataset's key."""
        return key(self.name) if self.place else self.name[: len(self.name) - len(ending(self.name))]

    @property
    def path(self) -> str:
        """Path of the file, where it doesn't lie in an archive."""
        return os.path.join(self.file, self.name)  # noqa: PTH118

    def open(self) -> BinaryIO:
        """Its bytes, to be read at any place.

        Raises:
            ValueError: the archive isn't the one any more that was listed.
        """
        if not self.in_archive:
            return open(self.path, "rb")  # noqa: PTH123
        facts = os.stat(self.file)  # noqa: PTH116
        if self.member is not None:
            archive = _zip(self.file, facts.st_size, facts.st_mtime_ns, os.getpid())
            info = next(iter(archive.infolist()[self.member : self.member + 1]), None)
            if info is None or stamp(info.CRC, info.file_size) != self.stamp:
                raise ValueError(REPLACED)
            return cast(BinaryIO, archive.open(info))
        assert self.place is not None
        if stamp(*self.place, facts.st_size, facts.st_mtime_ns) != self.stamp:
            raise ValueError(REPLACED)
        return cast(BinaryIO, io.BufferedReader(_Window(self.file, *self.place)))

    def read(self) -> bytes:
        """Its bytes, if they are not too many for a picture.

        Raises:
            ValueError: they are, or as `open`.
            EOFError: the tar ends before.
        """
        if not self.in_archive and os.stat(self.path).st_size > LARGEST_FILE:  # noqa: PTH116
            raise ValueError(TOO_LARGE)
        with self.open() as stream:
            data = stream.read()  # of an archive no more than was listed
        if self.place and len(data) < self.place[1]:
            raise EOFError("the tar is cut short here")
        return data


def stamp(*numbers: int) -> int:
    """A number that others than these hardly give."""
    return zlib.crc32(repr(numbers).encode())


@lru_cache(maxsize=16)
def _zip(file: str, size: int, time: int, process: int) -> zipfile.ZipFile:
    """Opened once, until it is another file; and once a process: a forked copy would share the position."""
    return zipfile.ZipFile(file)


class _Window(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, file: str, offset: int, size: int) -> None:
        self._stream, self._offset, self._size, self._at = open(file, "rb", buffering=0), offset, size, 0  # noqa: PTH123, SIM115

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(offset + (0, self._at, self._size)[whence], 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)[: max(self._size - self._at, 0)]
        self._stream.seek(self._offset + self._at)
        count = self._stream.readinto(view) or 0
        self._at += count
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()
