"""Clips as a model wants them: one frame and the sound around its time, from folders or from LMDB, the same either way.

A clip that cannot be read raises ``ClipError`` with its id; it is never swapped for another one.
"""

from __future__ import annotations

import math
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from sslib import metrics
from sslib.config import Config, InputError
from sslib.data import media
from sslib.data.layout import ClipError, Layout
from sslib.data.media import ClipWindow
from sslib.data.store import STORE_NAME, Store, StoreError


class AVDataset(Dataset):
    """Clips of one list of a data folder.

    Each item is a dict: ``clip_id``; ``image`` uint8 (3, S, S) RGB, squashed to a square (in training S is
    ``augment.crop`` times ``image_size``); ``waveform`` int16 (samples,) mono at ``data.sample_rate``; with
    `annotated` also ``boxes`` float32 (N, 4) xmin, ymin, xmax, ymax in [0, 1], ``mask`` bool (H, W) or None, and
    ``annotation``, the rest of what is known.

    Parameters
    ----------
    config : the experiment.
    split : name of the list (``splits/NAME.txt``). Clips that are not there are left out with a warning; `ids` are
        those present, `missing` the others, `present` says it in words.
    train : training geometry and, with ``data.time: random``, a random moment. With ``objective.boxes`` the image has a
        fourth channel: 255 in the boxes of the first clips that have some (this share of them), else 0.
    annotated : also read boxes and masks.
    loader : read the folder's files or its store (default: as ``data.loader`` says).

    Raises ``FileNotFoundError`` or ``InputError`` when the folder or the list is missing or empty, no clip of it is
    there (with ``data.require_all``: one clip is not), or a clip of an annotated list has no annotation; ``StoreError``
    when the store cannot be used.
    """

    def __init__(
        self,
        config: Config,
        split: str,
        *,
        train: bool = False,
        annotated: bool = False,
        loader: Literal["folders", "lmdb"] | None = None,
    ):
        self.config, self.split, self.train = config, split, train
        self.layout, self.window = Layout(config.data.root), ClipWindow.of(config.data)
        folders = (loader or config.data.loader) == "folders"
        self.reader = self.layout if folders else _open_store(config.data.root / STORE_NAME, self.window)
        self.ids, self.missing = self._find(self.layout.ids(split))
        self.size = max(config.evaluation.image_sizes, default=config.data.image_size)
        if train:
            self.size = round(config.data.image_size * config.training.augment.crop)
        self.shown = self._find_boxes(config.objective.boxes) if train and config.objective.boxes else None
        self.annotations = self.layout.annotations(split) if annotated else None
        if annotated and (unknown := [i for i in self.ids if "boxes" not in self.annotations.get(i, {})]):
            raise InputError(f"{len(unknown)} of {len(self.ids)} clips of {split!r} lack boxes: {unknown[:5]} …")

    @property
    def present(self) -> str:
        """How much of the list is there, for a report: ``n of N present``."""
        return f"{len(self.ids)} of {len(self.ids) + len(self.missing)} present"

    def _find(self, listed: list[str]) -> tuple[list[str], list[str]]:
        """The listed clips that are there, and those that are missing."""
        there = self.reader.present()
        ids, missing = [i for i in listed if i in there], [i for i in listed if i not in there]
        if missing:
            says = f"list {self.split!r} of {self.layout.root}: {len(ids)} of {len(listed)} present"
            if self.config.data.require_all:
                raise InputError(f"{says}, and data.require_all is set. Missing: {_some(missing, 100)}")
            if not ids:
                raise InputError(f"{says}: nothing to work with. Missing: {_some(missing, 10)}")
            warnings.warn(f"{says}; missing (dataset.missing names all): {_some(missing, 10)}", stacklevel=3)
        return ids, missing

    def _find_boxes(self, share: float) -> dict[str, list]:
        annotations = self.layout.annotations(self.split)
        known = {i: boxes for i in self.ids if (boxes := annotations.get(i, {}).get("boxes"))}
        if not known:
            raise InputError(f"no clip of {self.split!r} in {self.layout.root} has boxes: set objective.boxes to 0")
        return dict([*known.items()][: math.ceil(share * len(known))])

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip_id = self.ids[index]
        try:
            clip = self._clip(clip_id)
            return clip if self.annotations is None else clip | self._ground_truth(clip_id)
        except media.MediaError as error:
            raise ClipError(clip_id, str(error)) from error

    def _clip(self, clip_id: str) -> dict[str, Any]:
        position = float(torch.rand(())) if self.train and self.window.time == "random" else 0.5
        waveform, time = self.window.read_audio(self.reader.audio(clip_id), position)
        frames = self.reader.frames(clip_id)  # by number: paths of a folder; of a store the numbers only
        number = self.window.frame_number(time, frames)
        frame = frames[number] if self.reader is self.layout else self.reader.frame(clip_id, number)
        image = media.read_image(frame, self.size)
        if self.shown is not None:
            inside = metrics.box_map(self.shown.get(clip_id, []), self.size)
            image = np.concatenate([image, (255 * inside[None]).astype(np.uint8)])
        return {"clip_id": clip_id, "image": torch.from_numpy(image), "waveform": torch.from_numpy(waveform)}

    def _ground_truth(self, clip_id: str) -> dict[str, Any]:
        annotation, path = dict(self.annotations[clip_id]), self.layout.mask(clip_id)
        boxes = torch.tensor(annotation.pop("boxes"), dtype=torch.float32).reshape(-1, 4)
        mask = torch.from_numpy(media.read_mask(path)) if path.is_file() else None
        return {"boxes": boxes, "mask": mask, "annotation": annotation}


def _open_store(path: Path, window: ClipWindow) -> Store:
    store = Store(path)
    if store.window not in (None, window):
        only = f"{path} holds only what another configuration uses of each clip"
        raise StoreError(f"{only} ({store.window}, this one {window}): write it again")
    return store


def _some(names: list[str], count: int) -> str:
    return ", ".join(names[:count]) + (f", … and {len(names) - count} more" if len(names) > count else "")


def collate(clips: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack images and waveforms of several clips, and list everything else."""
    batch = {key: [clip[key] for clip in clips] for key in clips[0]}
    return batch | {key: torch.stack(batch[key]) for key in ("image", "waveform")}


class InMemory(NamedTuple):
    """A whole list, decoded: what small data sets train from without loader processes."""

    ids: list[str]
    image: Tensor  # uint8 (N, 3, S, S), with objective.boxes (N, 4, S, S)
    waveform: Tensor  # int16 (N, samples)


def load_in_memory(dataset: AVDataset, device: torch.device | str = "cpu", threads: int = 2) -> InMemory:
    """Decode every clip of `dataset` once, by threads; ``InputError`` when it does not fit into memory."""
    samples, channels = dataset.window.samples, 3 + (dataset.shown is not None)
    need, room = len(dataset) * (channels * dataset.size**2 + 2 * samples), available_memory()
    print(f"{dataset.split}: {need / 1e9:.2f} GB in memory, {room / 1e9:.2f} GB are available")
    if need > room:
        advice = "use data.in_memory: false, with training.workers and a store (`python -m sslib store DATA`)"
        says = f"{need / 1e9:.2f} GB of memory, {room / 1e9:.2f} GB are available"
        raise InputError(f"{dataset.split} needs {says}: {advice}")
    image = torch.empty((len(dataset), channels, dataset.size, dataset.size), dtype=torch.uint8)
    waveform = torch.empty((len(dataset), samples), dtype=torch.int16)

    def read(index: int) -> None:
        clip = dataset[index]
        image[index], waveform[index] = clip["image"], clip["waveform"]

    with ThreadPoolExecutor(threads) as executor:
        for _ in tqdm(executor.map(read, range(len(dataset))), desc=f"loading {dataset.split}", total=len(dataset)):
            pass
    return InMemory(dataset.ids, image.to(device), waveform.to(device))


def available_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Ask for the bytes of memory that can still be had: of the machine, and of the group of a job or container."""
    room = psutil.virtual_memory().available
    with suppress(OSError):  # another system, or groups of another kind
        group = cgroups / (proc / "self/cgroup").read_text().rpartition("0::/")[2].strip()
        for folder in (group, *group.parents):  # in a container it may be named as outside: only parents are there
            if (folder / "memory.max").is_file() and (limit := (folder / "memory.max").read_text().strip()) != "max":
                # Files that were read count as used, until something else wants their memory.
                cache = re.search(r"inactive_file (\d+)", (folder / "memory.stat").read_text())[1]
                room = min(room, int(limit) - int((folder / "memory.current").read_text()) + int(cache))
    return max(room, 0)
