"""The media of the Stamps: cut-out photographs, recordings of what they sound like, photographs of places.

They belong to Debian packages and are never part of this repository. ``stamps_manifest.csv`` pins each file by
sha256, with its class and a verdict. Where there are none, ``generated`` makes stand-ins.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import soundfile
import soxr
from PIL import Image

from sslib.config import InputError, SslibError
from sslib.data.layout import digest, write_atomic
from sslib.stamps import banks

MANIFEST = Path(__file__).with_name("stamps_manifest.csv")
MEDIA_VARIABLE = "SSLIB_STAMPS_MEDIA"
INSTALLED = Path("/")  # where dpkg puts a package's files
CUTOUT_SIDE, BACKGROUND_SIDE = 512, 1024  # pixels, the longest side at most


class Entry(NamedTuple):
    """One line of the manifest: a file of a package, or notes in it (``FILE#NAME``), and how it may be used.

    `instance` is ``known`` (of training), ``new`` (of tests only), ``val`` (of ``val_new`` only) or ``rejected``.
    """

    kind: str
    class_name: str
    instance: str
    demo: bool
    package: str
    path: str
    sha256: str
    note: str

    @property
    def name(self) -> str:
        """Identify a cut-out, recording or place: ``package:path-without-suffix``, with ``#NAME`` if it has one."""
        file, mark, notes = self.path.partition("#")
        return f"{self.package}:{Path(file).with_suffix('').as_posix()}{mark}{notes}"

    @property
    def file(self) -> tuple[str, str]:
        """Package and path of the file, which several entries may share."""
        return self.package, self.path.partition("#")[0]


class Cutout(NamedTuple):
    name: str
    class_name: str
    instance: str
    rgba: np.ndarray  # uint8 (H, W, 4): an object cut out along its outline, cropped to its opaque part


class Recording(NamedTuple):
    name: str
    class_name: str
    instance: str
    waveform: np.ndarray  # float32 (samples,), mono, about [-1, 1], as loud as recorded, no silence at its ends


class Background(NamedTuple):
    name: str
    rgb: np.ndarray  # uint8 (H, W, 3), a photograph of a place


class Library(NamedTuple):
    """All that scenes are made of. ``digest`` changes with every file that is missing."""

    cutouts: tuple[Cutout, ...]
    recordings: tuple[Recording, ...]
    backgrounds: tuple[Background, ...]
    generated: bool
    digest: str
    missing: tuple[str, ...] = ()


class MediaUnavailable(SslibError, FileNotFoundError):
    """Too few of the media files can be had to compose any scene."""


def read_manifest(subset: Literal["demo", "all"] = "all") -> list[Entry]:
    """Read the manifest's files: those of the demo, or all but the rejected ones (``note`` says why they are)."""
    with MANIFEST.open(encoding="utf-8", newline="") as file:
        entries = [Entry(*row)._replace(demo=row[3] == "1") for row in list(csv.reader(file))[1:]]
    return [e for e in entries if e.instance != "rejected" and (e.demo or subset == "all")]


def fetch_media(folder: Path, media: Path | None = None) -> Path:
    """Bring the manifest's files to ``folder/PACKAGE/PATH``; those that are there with the right digest stay.

    Looked for in this order: packages installed on this machine; `media` or else ``$SSLIB_STAMPS_MEDIA``, a folder of
    .deb files or of extracted packages; ``apt-get download``, which needs no root. No file of another digest is used.
    Raises ``MediaUnavailable`` when no scene could be composed of what was found.
    """
    folder, tried, entries = Path(folder), [], read_manifest()
    media = media or os.environ.get(MEDIA_VARIABLE)
    if media and not Path(media).is_dir():
        raise InputError(f"{media}: this folder of Stamps media, given by hand, does not exist")
    wanted = _absent(folder, entries)
    _copy(folder, wanted, INSTALLED, tried)
    if media:
        _copy(folder, wanted, Path(media), tried)
        for deb in sorted(Path(media).glob("*_*.deb")):
            _unpack(folder, wanted, deb, tried)
    _download(folder, wanted, tried)
    _require_enough(folder, entries, tried)
    return folder


def _absent(folder: Path, entries: Iterable[Entry]) -> dict[tuple[str, str], Entry]:
    """Find the files that are not under `folder` with their digest, by package and path, each with an entry of it."""
    return {file: e for file, e in {e.file: e for e in entries}.items() if _sha256(folder.joinpath(*file)) != e.sha256}


def _require_enough(folder: Path, entries: list[Entry], tried: list[str]) -> dict[tuple[str, str], Entry]:
    """Return what is absent, with a warning that names it; raise when nothing could be composed of the rest."""
    missing = _absent(folder, entries)
    there = {(e.kind, e.class_name) for e in entries if e.instance == "known" and e.file not in missing}
    sounding = [c for kind, c in there if kind == "picture" and ("sound", c) in there]
    count = f"{len(missing)} of the {len({e.file for e in entries})} media files"
    looked = "".join(f"\n  - {line}" for line in tried)
    if len(sounding) < 2 or ("background", "") not in there:
        install = f"Install the packages ({' '.join(sorted({e.package for e in entries}))})"
        name = f"put their .deb files into a folder and name it in ${MEDIA_VARIABLE} or data.stamps.media"
        remedy = f"{install}, or {name}, or choose data.stamps.source: generated."
        raise MediaUnavailable(f"{count} of the Stamps are not in {folder}.{looked}\n{remedy}")
    if missing:
        names = [f"{package}/{path}" for package, path in sorted(missing)]
        some = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
        effect = "Data set and digest differ from the published ones: results do not compare."
        warnings.warn(f"{count} are missing or of another release: {some}. {effect}{looked}", stacklevel=3)
    return missing


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _keep(folder: Path, wanted: dict, key: tuple[str, str], content: bytes) -> None:
    """Write a wanted file if it has the right digest: then it is wanted no more."""
    if hashlib.sha256(content).hexdigest() == wanted[key].sha256:
        write_atomic(folder.joinpath(*key), content)
        del wanted[key]


def _copy(folder: Path, wanted: dict, root: Path, tried: list[str]) -> None:
    """Take what is wanted from extracted packages: ``root/PATH`` or ``root/PACKAGE/PATH``."""
    before = len(wanted)
    for key in list(wanted):
        for path in (root / key[1], root.joinpath(*key)):
            if key in wanted and path.is_file():
                _keep(folder, wanted, key, path.read_bytes())
    place = "installed packages" if root == INSTALLED else f"extracted files in {root}"
    tried.append(f"{place}: {before - len(wanted)} of {before} files")


def _unpack(folder: Path, wanted: dict, deb: Path, tried: list[str]) -> None:
    """Take what is wanted from ``PACKAGE_VERSION_ARCHITECTURE.deb``; nothing else in it is written anywhere."""
    before, package = len(wanted), deb.name.partition("_")[0]
    if package not in {name for name, _ in wanted}:
        return
    try:
        with deb.open("rb") as file, _tar(deb, file) as tar:
            for member in tar:
                key = package, member.name.removeprefix("./")
                if member.isfile() and key in wanted:
                    _keep(folder, wanted, key, tar.extractfile(member).read())
    except (tarfile.TarError, lzma.LZMAError, EOFError, ValueError, subprocess.SubprocessError) as error:
        tried.append(f"{deb}: cannot be read: {error}")
    tried.append(f"{deb}: {before - len(wanted)} of {before} files")


@contextlib.contextmanager
def _tar(deb: Path, file: BinaryIO) -> Iterator[tarfile.TarFile]:
    """Open the data archive of a .deb, which is an `ar` archive of three members with headers of 60 bytes."""
    if file.read(8) != b"!<arch>\n":
        raise ValueError("not a .deb file")
    while not (header := file.read(60)).startswith(b"data.tar"):
        if len(header) < 60:
            raise ValueError("no data archive in it")
        file.seek(int(header[48:58]) + int(header[48:58]) % 2, os.SEEK_CUR)
    name = header[:16].decode("ascii").strip().rstrip("/")
    if name.endswith((".tar", ".xz", ".gz", ".bz2")):
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            yield tar
    elif shutil.which("dpkg-deb"):
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as process:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                yield tar
            process.stdout.read()
    else:
        raise ValueError(f"Python cannot read {name} and there is no dpkg-deb: extract it by hand")


def _download(folder: Path, wanted: dict, tried: list[str]) -> None:
    """Take what is wanted from packages that apt-get downloads into a private folder."""
    mark = f".downloaded-{_sha256(MANIFEST)[:16]}"  # not again for the same manifest
    packages = sorted({package for package, _ in wanted if not (folder / package / mark).exists()})
    if packages and not shutil.which("apt-get"):
        tried.append("apt-get: not on this machine")
    elif packages:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.resolve(), prefix=".apt-") as private:
            _apt(["update"], Path(private), tried)  # one unreachable source of several does not matter
            for package in packages:
                if _apt(["download", package], Path(private), tried):
                    for deb in Path(private).glob(f"{package}_*.deb"):
                        _unpack(folder, wanted, deb, tried)
                        deb.unlink()
                    write_atomic(folder / package / mark, "")


def _apt(command: list[str], private: Path, tried: list[str]) -> bool:
    """Run apt-get with package lists and cache of its own, so that it needs no root; whether it succeeded."""
    (private / "lists/partial").mkdir(parents=True, exist_ok=True)
    (private / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
    options = [f"Dir::State::lists={private}/lists", f"Dir::Cache={private}/cache", "Acquire::Languages=none"]
    options += ["APT::Sandbox::User=", "Acquire::http::Timeout=20", "Acquire::Retries=1"]
    line = ["apt-get", "-q", *(word for option in options for word in ("-o", option)), *command]
    try:
        subprocess.run(line, cwd=private, capture_output=True, text=True, timeout=900, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        tried.append(f"apt-get {' '.join(command)}: {str(getattr(error, 'stderr', None) or error).strip()[-300:]}")
        return False
    return True


def load_library(folder: Path, sample_rate: int, *, subset: Literal["demo", "all"] = "demo") -> Library:
    """Read cut-outs, recordings (at `sample_rate` Hz) and places in `folder`. Raises as :func:`fetch_media`."""
    entries = read_manifest(subset)
    missing = _require_enough(Path(folder), entries, [])
    there = [(e, Path(folder, e.package, e.path)) for e in entries if e.file not in missing]
    labels = {e: (e.name, e.class_name, e.instance) for e, _ in there}
    return Library(
        tuple(Cutout(*labels[e], read_cutout(path)) for e, path in there if e.kind == "picture"),
        tuple(Recording(*labels[e], read_recording(path, sample_rate)) for e, path in there if e.kind == "sound"),
        tuple(Background(e.name, read_background(path)) for e, path in there if e.kind == "background"),
        generated=False,
        digest=digest(sorted([e.kind, *labels[e], e.sha256] for e, _ in there)),
        missing=tuple(f"{package}/{path}" for package, path in sorted(missing)),
    )


def read_cutout(path: Path) -> np.ndarray:
    """Read a cut-out, uint8 (H, W, 4), cropped to where it is more opaque than transparent."""
    with Image.open(path) as file:
        image = file.convert("RGBA")
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 127)).getbbox()
    image = image.crop(box).convert("RGBa")  # premultiplied: hidden colours must not bleed into the edge
    image.thumbnail((CUTOUT_SIDE, CUTOUT_SIDE))
    return np.array(image.convert("RGBA"))


def read_background(path: Path) -> np.ndarray:
    """Read a photograph, uint8 (H, W, 3)."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    image.thumbnail((BACKGROUND_SIDE, BACKGROUND_SIDE))
    return np.array(image)


def read_recording(path: Path, sample_rate: int) -> np.ndarray:
    """Read a recording, mono float32 (samples,) at `sample_rate` Hz, without the silence (-40 dB) at its ends.

    ``BANK#NAME`` are those notes of a bank of an instrument's notes whose names begin so, one after the other.
    """
    name, _, notes = path.name.partition("#")
    if path.with_name(name).suffix in banks.SUFFIXES:
        pieces = banks.read_notes(path.with_name(name), notes)
    else:
        channels, original_rate = soundfile.read(path, dtype="float32", always_2d=True)
        pieces = [(channels.mean(axis=1), original_rate)]
    waveform = np.concatenate([soxr.resample(piece, rate, sample_rate, quality="HQ") for piece, rate in pieces])
    hop = max(1, sample_rate // 100)  # 10 ms
    frames = np.pad(waveform, (0, -len(waveform) % hop)).reshape(-1, hop)
    level = np.sqrt((frames**2).mean(axis=1))
    loud = np.flatnonzero(level > level.max(initial=0) * 10 ** (-40 / 20))
    return waveform[loud[0] * hop : (loud[-1] + 1) * hop].astype(np.float32) if len(loud) else waveform
