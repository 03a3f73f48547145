"""Maps from anywhere: another model's, as files by clip id, through the same tables as our own.

::

    MAPS/ID.npy                the map of a clip with its own sound, 2-dimensional, raw; or ID.npz with one array
    MAPS/silence/ID.npy        with silence; likewise noise/, offscreen/ and shuffled/ (another clip's sound), where
                               there are any: the protocols that need them come with them
    MAPS/visual_only/ID.npy    without a sound
    MAPS/VAL/silence/ID.npy    of clips of the validation list, whose name is ``data.val``: the universal threshold

or one file ``MAPS.npz`` with the same names as keys (``ID``, ``silence/ID``). A map covers the whole picture,
whatever its shape; (row, column) = (0, 0) is the corner at the upper left. All maps of a kind have one shape.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sslib.config import Config, InputError
from sslib.data.layout import Layout
from sslib.evaluation import negatives
from sslib.evaluation import run as evaluation
from sslib.evaluation.measures import measure
from sslib.evaluation.names import NEGATIVES
from sslib.evaluation.truth import TestList

KINDS = ("shuffled", *NEGATIVES, "visual_only")
SUFFIXES = (".npy", ".npz")


class MapError(InputError):
    """A map that cannot be used; the message names the file and says what is wrong."""


class Present(NamedTuple):
    """How the maps fit a list."""

    ids: list[str]  # in the order of the list
    missing: list[str]  # listed, but there is no map
    extra: list[str]  # a map, but not listed

    def __str__(self) -> str:
        lines = [f"{len(self.ids)} of {len(self.ids) + len(self.missing)} present"]
        for name, ids in (("no map of", self.missing), ("not in the list", self.extra)):
            if ids:
                lines.append(f"{name} ({len(ids)}): {', '.join(ids)}")
        return "\n".join(lines)


def evaluate(maps: Path, config: Config, split: str, out: Path) -> tuple[Path, Present]:
    """Measure the maps of one test list; write ``clips.csv`` and ``summary.json`` into `out`.

    Parameters
    ----------
    maps : folder or .npz file, see above.
    config : where the list, the annotations and the masks lie (``data.root``); pictures and sounds are not needed.

    Returns
    -------
    Path of ``summary.json``, and which clips had a map.

    Raises
    ------
    MapError
        For a map that is no array of two dimensions and finite numbers, and when no listed clip has one.
    """
    layout = Layout(config.data.root)
    files = _Maps(maps)
    present = _present(layout.ids(split), files)
    annotations = layout.annotations(split)
    if unknown := [clip_id for clip_id in present.ids if "boxes" not in annotations.get(clip_id, {})]:
        raise InputError(f"{len(unknown)} of {len(present.ids)} clips of {split!r} lack boxes: {unknown[:5]} …")
    arrays = {"similarity": files.stack(present.ids)} | _kinds(files, present.ids)
    levels, threshold = _threshold(files, config, set(layout.ids(split)))
    clips = measure(TestList(split, layout, present.ids, annotations), arrays, levels)
    counts = str(present).splitlines()[0]
    about = evaluation.describe(config) | {
        "maps": str(maps),
        "present": {split: {"present": counts, "missing": present.missing, "extra": present.extra}},
        "threshold": threshold,
    }
    out.mkdir(parents=True, exist_ok=True)
    return evaluation.write(out, clips, config, about), present


class _Maps:
    """The files of a folder, or the arrays of an .npz file, by name (``ID``, ``silence/ID``)."""

    def __init__(self, path: Path):
        self.path = path
        if path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if file.suffix in SUFFIXES]
            self.names = {file.relative_to(path).with_suffix("").as_posix(): file for file in files if file.is_file()}
            if len(self.names) < len(files):
                twice = sorted({str(f) for f in files} - {str(f) for f in self.names.values()})
                raise MapError(f"{twice[0]}: there is another map of the same clip beside it")
            self.archive = None
        else:
            self.archive = _open(path)
            if not isinstance(self.archive, np.lib.npyio.NpzFile):
                raise MapError(f"{path}: one array; maps of many clips are an .npz file with the clips' ids as keys")
            self.names = dict.fromkeys(self.archive.files)

    def load(self, name: str) -> np.ndarray:
        """One map.

        Raises
        ------
        MapError
            Naming its file.
        """
        file = self.names[name]
        where = f"{self.path}, {name!r}" if file is None else str(file)
        if file is None:
            array = _member(self.archive, name, where)
        else:
            array = _open(file)
            if isinstance(array, np.lib.npyio.NpzFile):
                with array:
                    if len(array.files) != 1:
                        raise MapError(
                            f"{where}: {len(array.files)} arrays ({', '.join(array.files)}), one was expected"
                        )
                    array = _member(array, array.files[0], where)
        return _checked(array, where)

    def stack(self, ids: list[str], folder: str = "") -> np.ndarray:
        """Maps (N, h, w) of the clips `ids` below `folder`."""
        maps = [self.load(folder + clip_id) for clip_id in ids]
        for clip_id, one in zip(ids, maps, strict=True):
            if one.shape != maps[0].shape:
                where = self.names[folder + clip_id] or f"{self.path}, {folder + clip_id!r}"
                raise MapError(f"{where}: shape {one.shape}, but that of {ids[0]!r} is {maps[0].shape}; give one shape")
        return np.stack(maps)

    def below(self, folder: str) -> list[str]:
        """Ids of the maps in a folder."""
        return [
            name[len(folder) :] for name in self.names if name.startswith(folder) and "/" not in name[len(folder) :]
        ]


def _open(file: Path) -> Any:
    try:
        return np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise MapError(f"{file}: not an array of numbers ({error})") from None


def _member(archive: Any, name: str, where: str) -> np.ndarray:
    try:
        return archive[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise MapError(f"{where}: not an array of numbers ({error})") from None


def _checked(array: np.ndarray, where: str) -> np.ndarray:
    if array.ndim != 2 or not array.size:
        raise MapError(f"{where}: shape {array.shape}; a map has two dimensions (rows, columns)")
    if array.dtype.kind not in "fiub":
        raise MapError(f"{where}: values of type {array.dtype}; a map holds real numbers")
    if not np.isfinite(array).all():
        raise MapError(f"{where}: {np.count_nonzero(~np.isfinite(array))} values are NaN or infinite")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _present(listed: list[str], files: _Maps) -> Present:
    there = set(files.below(""))
    ids = [clip_id for clip_id in listed if clip_id in there]
    found = Present(ids, [i for i in listed if i not in there], sorted(there - set(listed)))
    if not ids:
        raise MapError(f"{files.path}: no map of a clip of the list ({found.missing[0]}.npy, …)\n{found}")
    return found


def _kinds(files: _Maps, ids: list[str], above: str = "") -> dict[str, np.ndarray]:
    """Maps of the same clips with other sounds. A kind that is there has to be complete."""
    arrays = {}
    for kind in KINDS:
        there = set(files.below(f"{above}{kind}/"))
        if not there:
            continue
        if missing := [clip_id for clip_id in ids if clip_id not in there]:
            says = f"{len(ids) - len(missing)} of {len(ids)} present, no map of {', '.join(missing)}"
            raise MapError(f"{files.path}, {above}{kind}/: {says}: complete it, or leave the kind out")
        arrays[kind] = files.stack(ids, f"{above}{kind}/")
    return arrays


def _threshold(files: _Maps, config: Config, tested: set[str]) -> tuple[dict[str, float], dict[str, Any]]:
    """The universal threshold from maps of negative sounds with clips of the validation list, and where it is from."""
    split = config.data.val
    there = {clip_id for kind in KINDS for clip_id in files.below(f"{split}/{kind}/")}
    ids = sorted(there - tested)
    if not ids:
        reason = f"no maps of clips of {split!r} with negative sounds ({split}/silence/ID.npy)"
        return {}, {"value": None, "list": split, "clips": 0, "reason": reason}
    kept = _kinds(files, ids, f"{split}/")
    levels = negatives.thresholds(kept)
    kinds = [name for name in NEGATIVES if name in kept]
    said = {"value": levels.get("similarity"), "list": split, "clips": len(ids), "kinds": kinds, "quantile": 0.75}
    return levels, said | {"levels": levels}
