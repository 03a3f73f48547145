"""Clips as a model wants them: one frame and the sound around its time, from folders or from LMDB, the same either way.

A clip that cannot be read raises ``ClipError`` with its id; it is never swapped for another one.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from sslib import media, memory
from sslib.clock import Selection
from sslib.config import Config, InputError
from sslib.layout import ClipError, Layout
from sslib.store import NAME, Store, StoreError


class AVDataset(Dataset):
    """Clips of one list of a data folder, read from its files.

    Each item is a dict: ``clip_id``; ``image`` uint8 (3, S, S) RGB, squashed to a square (in training S is
    ``augment.crop`` times ``image_size``); ``waveform`` int16 (samples,) mono at ``data.sample_rate``; with
    `annotated` also ``boxes`` float32 (N, 4) xmin, ymin, xmax, ymax in [0, 1], ``mask`` bool (H, W) or None, and
    ``annotation``, the rest of what is known.

    Parameters
    ----------
    config : the experiment.
    split : name of the list (``splits/NAME.txt``). Clips that are not there are left out with a warning; `ids` are
        those present, `missing` the others, `present` says it in words.
    train : training geometry and, with ``data.time: random``, a random moment.
    annotated : also read boxes and masks.

    Raises
    ------
    FileNotFoundError, InputError
        When the folder or the list is missing or empty, no clip of it is there (with ``data.require_all``: one clip
        is not), or a clip of an annotated list has no annotation.
    """

    def __init__(self, config: Config, split: str, *, train: bool = False, annotated: bool = False):
        self.config, self.split, self.train = config, split, train
        self.layout = Layout(config.data.root)
        self.ids, self.missing = self._find(self.layout.ids(split))
        self.size = image_size(config, train)
        self.selection = Selection.of(config.data)
        self.annotations = self.layout.annotations(split) if annotated else None
        if annotated:
            missing = [clip_id for clip_id in self.ids if "boxes" not in self.annotations.get(clip_id, {})]
            if missing:
                raise InputError(f"{len(missing)} of {len(self.ids)} clips of {split!r} lack boxes: {missing[:5]} …")

    @property
    def listed(self) -> int:
        """Number of clips that the list names."""
        return len(self.ids) + len(self.missing)

    @property
    def present(self) -> str:
        """How much of the list is there, for a report: ``n of N present``."""
        return f"{len(self.ids)} of {self.listed} present"

    def _find(self, listed: list[str]) -> tuple[list[str], list[str]]:
        """The listed clips that are there, and those that are missing."""
        there = self._there(listed)
        ids, missing = [i for i in listed if i in there], [i for i in listed if i not in there]
        if missing:
            says = f"list {self.split!r} of {self.layout.root}: {len(ids)} of {len(listed)} present"
            if self.config.data.require_all:
                raise InputError(f"{says}, and data.require_all is set. Missing: {_some(missing, 100)}")
            if not ids:
                raise InputError(f"{says}: nothing to work with. Missing: {_some(missing, 10)}")
            warnings.warn(f"{says}; missing (dataset.missing names all): {_some(missing, 10)}", stacklevel=3)
        return ids, missing

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip_id = self.ids[index]
        try:
            clip = self._clip(clip_id)
            if self.annotations is not None:
                clip |= self._truth(clip_id)
        except media.MediaError as error:
            raise ClipError(clip_id, str(error)) from error
        return clip

    def _clip(self, clip_id: str) -> dict[str, Any]:
        used = self.selection
        share = float(torch.rand(())) if self.train and used.time == "random" else 0.5
        time = 0.0

        def window(samples: int) -> slice:
            nonlocal time
            time = used.moment(samples, share)
            return used.window(samples, time)

        # Most of a clip's time went into decoding sound that is not used.
        waveform = media.read_window(self._audio(clip_id), used.sample_rate, window)
        image = media.read_image(self._frame(clip_id, time), self.size)
        sound = used.cut(waveform, time) if len(waveform) < round(used.seconds * used.sample_rate) else waveform
        return {"clip_id": clip_id, "image": torch.from_numpy(image), "waveform": torch.from_numpy(sound)}

    def _truth(self, clip_id: str) -> dict[str, Any]:
        annotation, path = dict(self.annotations[clip_id]), self.layout.mask(clip_id)
        boxes = torch.tensor(annotation.pop("boxes"), dtype=torch.float32).reshape(-1, 4)
        mask = torch.from_numpy(media.read_mask(path)) if path.is_file() else None
        return {"boxes": boxes, "mask": mask, "annotation": annotation}

    def _there(self, listed: list[str]) -> set[str]:
        """What can be read, at least as far as it is listed."""
        return self.layout.present()

    def _frame(self, clip_id: str, time: float) -> Path | bytes:
        frames = self.layout.frames(clip_id)
        return frames[self.selection.frame_number(time, frames)]

    def _audio(self, clip_id: str) -> Path | bytes:
        return self.layout.audio(clip_id)

    def sizes(self, clip_id: str) -> list[int]:
        """Bytes of each of a clip's frames and, last, of its sound, as they lie there."""
        return [path.stat().st_size for path in (*self.layout.frames(clip_id).values(), self.layout.audio(clip_id))]

    def contents(self, clip_id: str) -> list[bytes]:
        """These frames and this sound."""
        return [path.read_bytes() for path in (*self.layout.frames(clip_id).values(), self.layout.audio(clip_id))]


class LmdbDataset(AVDataset):
    """The same clips, read from the folder's LMDB store.

    Raises
    ------
    StoreError
        Also when the store holds only what another configuration uses of its clips.
    """

    def __init__(self, config: Config, split: str, *, train: bool = False, annotated: bool = False):
        self.store = Store(config.data.root / NAME)
        super().__init__(config, split, train=train, annotated=annotated)
        held = self.store.selection
        if held is not None and held != self.selection:
            only = f"{self.store.path} holds only what another configuration uses of each clip"
            raise StoreError(f"{only} ({held}, this one {self.selection}): write it again")

    def _there(self, listed: list[str]) -> set[str]:
        return self.store.ids

    def _frame(self, clip_id: str, time: float) -> Path | bytes:
        return self.store.frame(clip_id, self.selection.frame_number(time, self.store.frames(clip_id)))

    def _audio(self, clip_id: str) -> Path | bytes:
        return self.store.audio(clip_id)

    def sizes(self, clip_id: str) -> list[int]:
        return self.store.sizes(clip_id)

    def contents(self, clip_id: str) -> list[bytes]:
        frames = [self.store.frame(clip_id, number) for number in self.store.frames(clip_id)]
        return [*frames, self.store.audio(clip_id)]


class EncodedDataset(AVDataset):
    """The same clips, from their files' or their store's bytes in memory, which loader processes share.

    Raises
    ------
    MemoryError
        When they do not fit.
    """

    def __init__(self, config: Config, split: str, *, train: bool = False, annotated: bool = False):
        source = _on_disk(config)(config, split, train=train)
        numbers = source.store.frames if isinstance(source, LmdbDataset) else source.layout.frames
        self._listed = {clip_id: list(numbers(clip_id)) for clip_id in source.ids}
        super().__init__(config, split, train=train, annotated=annotated)
        self.clips = memory.Encoded(self.ids, source.sizes, source.contents, f"{split}, encoded")

    def _there(self, listed: list[str]) -> set[str]:
        return set(self._listed)

    def _frame(self, clip_id: str, time: float) -> Path | bytes:
        numbers = self._listed[clip_id]
        return self.clips.frame(clip_id, numbers.index(self.selection.frame_number(time, numbers)) + 1)

    def _audio(self, clip_id: str) -> Path | bytes:
        return self.clips.audio(clip_id)


def _on_disk(config: Config) -> type[AVDataset]:
    return LmdbDataset if config.data.loader == "lmdb" else AVDataset


def open_dataset(config: Config, split: str, *, train: bool = False, annotated: bool = False) -> AVDataset:
    """The dataset that ``data.loader`` and ``data.in_memory`` name."""
    kind = EncodedDataset if config.data.in_memory == "encoded" else _on_disk(config)
    return kind(config, split, train=train, annotated=annotated)


def _some(names: list[str], count: int) -> str:
    return ", ".join(names[:count]) + (f", … and {len(names) - count} more" if len(names) > count else "")


def image_size(config: Config, train: bool) -> int:
    """Side in pixels of the pictures a dataset yields."""
    if train:
        return round(config.data.image_size * config.training.augment.crop)
    return config.evaluation.image_size or config.data.image_size


def collate(clips: list[dict[str, Any]]) -> dict[str, Any]:
    """Pictures and sounds stacked, everything else as lists."""
    batch = {key: [clip[key] for clip in clips] for key in clips[0]}
    return batch | {key: torch.stack(batch[key]) for key in ("image", "waveform")}


class InMemory(NamedTuple):
    """A whole data set, decoded: what small data sets train from without loader processes."""

    ids: list[str]
    image: Tensor  # uint8 (N, 3, S, S)
    waveform: Tensor  # int16 (N, samples)


def load_in_memory(dataset: AVDataset, device: torch.device | str = "cpu", threads: int = 2) -> InMemory:
    """Decode every clip of `dataset` once; decoders release the interpreter, so threads suffice.

    Raises
    ------
    MemoryError
        When it does not fit.
    """
    samples = round(dataset.config.data.seconds * dataset.config.data.sample_rate)
    memory.reserve(len(dataset) * (3 * dataset.size**2 + 2 * samples), f"{dataset.split}, decoded")
    image = torch.empty((len(dataset), 3, dataset.size, dataset.size), dtype=torch.uint8)
    waveform = torch.empty((len(dataset), samples), dtype=torch.int16)

    def read(index: int) -> None:
        clip = dataset[index]
        image[index], waveform[index] = clip["image"], clip["waveform"]

    with ThreadPoolExecutor(threads) as executor:
        for _ in tqdm(executor.map(read, range(len(dataset))), desc=f"loading {dataset.split}", total=len(dataset)):
            pass
    return InMemory(dataset.ids, image.to(device), waveform.to(device))
