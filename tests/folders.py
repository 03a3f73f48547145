"""A data folder made by hand, for the tests of everything that reads one."""

from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image, ImageDraw

from sslib.config import Config
from sslib.data import store
from sslib.data.layout import Layout
from sslib.datasets import AVDataset

RATE = 8000


def tone(seconds: float, rate: int = RATE) -> np.ndarray:
    """A tone that gets louder, so that every moment of it can be told."""
    time = np.arange(round(seconds * rate)) / rate
    return 0.9 * (time + 0.1) / (seconds + 0.1) * np.sin(2 * np.pi * 440 * time)


def picture(number: int = 0, size: tuple[int, int] = (80, 60)) -> Image.Image:
    """A picture of smooth colour of its own number, with edges."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    waves = [np.sin(x / 9 + number), np.cos(y / 7 - number), np.sin((x + y) / 11)]
    image = Image.fromarray((127 + 120 * np.stack(waves, axis=2)).astype(np.uint8))
    ImageDraw.Draw(image).rectangle((10, 20, 30 + number, 40), fill=(200, 30, 30))
    return image


class Folder:
    """A data folder made by hand."""

    def __init__(self, root: Path):
        self.root, self.layout, self.ids = root / "data", Layout(root / "data"), []

    def add(self, clip_id: str, frames: int = 1, sound: np.ndarray | None = None, suffix: str = ".wav", **kind) -> Path:
        folder = self.root / "video_frames" / clip_id
        folder.mkdir(parents=True)
        for number in range(1, frames + 1):
            picture(number).save(folder / f"{number:03d}.jpg", quality=95)
        path = self.root / "audios" / (clip_id + suffix)
        path.parent.mkdir(exist_ok=True)
        rate = kind.pop("rate", RATE)
        soundfile.write(path, tone(1.5, rate) if sound is None else sound, rate, **kind)
        self.ids.append(clip_id)
        self.layout.write_split("all", self.ids)
        return path

    def config(self, **data) -> Config:
        values = {"root": self.root, "sample_rate": RATE, "seconds": 1.0, "image_size": 32, "in_memory": False}
        return Config(exp_prefix="a", exp_name="b", data=values | data)

    def clip(self, **data) -> dict:
        """The last clip, which both loaders agree on."""
        return self.both(**data)[-1]

    def both(self, **data) -> list[dict]:
        config = self.config(**data)
        store.write_store(self.root)
        clips = list(iterate(AVDataset(config, "all")))
        assert_same(clips, iterate(AVDataset(config, "all", loader="lmdb")))
        return clips


def iterate(dataset) -> list[dict]:
    return [dataset[i] for i in range(len(dataset))]


def assert_same(one: list[dict], other: list[dict]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for key, value in a.items():
            if isinstance(value, torch.Tensor):
                assert value.dtype == b[key].dtype and torch.equal(value, b[key]), (a["clip_id"], key)
            else:
                assert value == b[key]
