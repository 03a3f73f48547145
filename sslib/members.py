"""Members of a zip or a tar from strangers, one after the other, with what is wrong with each.

Nothing is extracted by the archive's own rules: a member is a name, a size and an open stream.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

CHUNK = 1 << 20  # bytes read at a time
LARGEST_HEADER = 1 << 24  # bytes of one read of a tar's own: names and attributes, or someone is after our memory
LINK = "a link, a device or another special file"
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)


class Member(NamedTuple):
    """A member of an archive."""

    name: str
    size: int
    fault: str | None  # why it is refused whatever its name
    open: Callable[[], IO[bytes] | None]


def is_zip(path: Path) -> bool:
    """Does the file begin as a zip does? Its suffix may say anything."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                kind = stat.S_IFMT(info.external_attr >> 16)
                fault = LINK if kind not in {0, stat.S_IFREG} else "encrypted" if info.flag_bits & 1 else None
                yield Member(info.filename, info.file_size, fault, functools.partial(archive.open, info))


def tar_members(path: Path) -> Iterator[Member]:
    """Members in their order; tarfile alone takes an end in the middle of things for the end."""
    with _decompressed(path) as stream, tarfile.open(fileobj=_Bounded(stream), mode="r:") as tar:
        while member := tar.next():
            tar.members.clear()  # or all 200,000 of them stay in memory
            if member.size < 0:
                raise tarfile.ReadError(f"{member.name} claims {member.size} bytes")
            if not member.isdir():
                fault = None if member.isreg() else LINK
                yield Member(member.name, member.size, fault, functools.partial(tar.extractfile, member))
        stream.seek(tar.offset)
        mark = stream.read(tarfile.BLOCKSIZE)
        if mark != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("a damaged header" if mark else "no end mark, it may be cut short")
        for _ in range(16):  # to the end of the file, where the checksum of the stream is; padding is short
            if not stream.read(CHUNK):
                break


def _decompressed(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        magic = file.read(6)
    openers = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
    opener = next((opener for start, opener in openers.items() if magic.startswith(start)), open)
    return opener(path, "rb")


class _Bounded:
    """A stream that refuses huge reads at once: tarfile reads a header whole, whatever size it claims."""

    def __init__(self, stream: IO[bytes]):
        self.seek, self.tell, self._read = stream.seek, stream.tell, stream.read

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._read(size)


def copy(member: Member, partial: Path) -> None:
    done = 0
    with member.open() as source, partial.open("xb") as file:
        while block := source.read(min(CHUNK, member.size + 1 - done)):
            file.write(block)
            done += len(block)
    if done != member.size:
        raise tarfile.ReadError(f"{member.name} has {done} bytes, its header says {member.size}")


def damage(error: Exception) -> str:
    """What is wrong with an archive; an error of the disk is none of its faults and goes on upwards."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    return str(error) or type(error).__name__
