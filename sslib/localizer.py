"""A trained model in four lines: any picture and any sound in, the place of the sound out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sslib import checkpoint, features, metrics
from sslib.config import Config, InputError, resolve, root_for
from sslib.data import media, stream
from sslib.data.layout import Layout, write_atomic
from sslib.model import SoundLocalizer
from sslib.prediction import encode_images, sound_maps

FORMAT = 2
WEIGHTS, ABOUT = "model.safetensors", "model.json"
DEMO = "reports/demo/stamps/run/checkpoint.pt"
USED = {
    "data": {"sample_rate", "seconds", "image_size"},
    "front_end": ...,
    "model": ...,
    "evaluation": {"image_sizes", "mirror", "saliency", "smoothing"},
}
LIMITS = (
    "Trained without labels on the clips named here: of things that they do not show and sounds that they do not hold "
    "it knows nothing. It points at what usually makes such a sound, and cannot tell two alike apart. A confidence is "
    "no probability. The threshold is what three quarters of the validation pictures stay below when silence, noise or "
    "the sound of something else is played."
)


class Localization(NamedTuple):
    """Where a sound is in a picture."""

    heatmap: np.ndarray  # float32 (H, W) of the picture's own size: prediction.sound_maps, smoothed
    confidence: float  # the highest value of the smoothed map's cells
    visible: bool | None  # whether it exceeds the universal threshold (Juanola et al. 2024); None: none is known


class Localizer:
    """A trained model with all that a picture and a sound must go through before it.

    Parameters
    ----------
    model, config : as ``checkpoint.load_model`` returns them.
    about : what a reader of the model should know: the training list, metrics with intervals, licence, limits.
    """

    def __init__(self, model: SoundLocalizer, config: Config, about: dict[str, Any]):
        self.model, self.config, self.about = model.eval(), config, about
        self.threshold: float | None = about["threshold"]
        # pixels: pictures are squashed to a square
        self.size = max(config.evaluation.image_sizes, default=config.data.image_size)
        self.sample_rate = config.data.sample_rate  # Hz
        self.seconds = config.data.seconds  # of sound that the model hears at once
        self.samples = round(self.seconds * self.sample_rate)

    def localize(self, image: Any, audio: Any, sample_rate: int | None = None) -> Localization:
        """Find where in a picture a sound comes from.

        Parameters
        ----------
        image : path of a picture, PIL image, or uint8 array (H, W, 3) RGB or (H, W) grey.
        audio : path of a sound or video file, or samples: floats in [-1, 1] or integers, (samples,) or with channels
            first or last. A sound longer than the model's window is heard where it is loudest, a shorter one is tiled.
        sample_rate : of samples, in Hz; a file has its own.

        Raises ``InputError`` for what is no picture or no sound, holds no sample or values that are not finite.
        """
        picture = read_picture(image)
        waveform = self.loudest(self.read_sound(audio, sample_rate))
        similarity = self.maps(self.encode_images([picture]), self.encode_sounds([waveform]))
        return self.localization(similarity[0], picture.shape[:2])

    def localization(self, similarity: np.ndarray, size: tuple[int, int]) -> Localization:
        """Turn a map (h, w) into what is said of a picture of `size` (height, width) in pixels."""
        confidence = float(similarity.max())
        visible = None if self.threshold is None else confidence > self.threshold
        return Localization(metrics.resize(similarity[None], size)[0].astype(np.float32), confidence, visible)

    def read_sound(self, audio: Any, sample_rate: int | None = None) -> np.ndarray:
        """Read a whole sound, as :meth:`localize` takes it, to int16 (samples,) mono at the model's rate."""
        if isinstance(audio, str | Path):
            return stream.read_sound(Path(audio), self.sample_rate)
        if sample_rate is None:
            raise InputError("samples need their sample_rate, in Hz")
        return media.resample(_mono(np.asarray(audio)), sample_rate, self.sample_rate)

    def loudest(self, waveform: np.ndarray) -> np.ndarray:
        """Cut the loudest window out of int16 samples (at steps of a quarter window); tile a shorter sound."""
        if len(waveform) <= self.samples:
            return np.resize(waveform, self.samples)
        step = max(1, self.samples // 4)
        windows = np.lib.stride_tricks.sliding_window_view(waveform, self.samples)[::step]
        energy = np.r_[0, np.square(waveform, dtype=np.float64).cumsum()]
        starts = np.arange(len(windows)) * step
        return windows[(energy[starts + self.samples] - energy[starts]).argmax()]

    @torch.inference_mode()
    def encode_images(self, pictures: list[np.ndarray]) -> Tensor:
        """Encode pictures, uint8 (H, W, 3) of any sizes, to their visual maps (N, C, h, w)."""
        square = [Image.fromarray(p).resize((self.size, self.size), Image.Resampling.BILINEAR) for p in pictures]
        batch = torch.from_numpy(np.stack([np.asarray(image).transpose(2, 0, 1) for image in square]))
        return encode_images(self.model, batch, self.config)

    @torch.inference_mode()
    def encode_sounds(self, waveforms: list[np.ndarray]) -> Tensor:
        """Encode windows of sound, int16 (samples,), to vectors (N, C) of unit length."""
        batch = torch.from_numpy(np.stack(waveforms))
        return self.model.encode_audio(features.spectrograms(batch, self.config)).float()

    @torch.inference_mode()
    def maps(self, visual: Tensor, audio: Tensor) -> np.ndarray:
        """Compare each picture with the sound of the same row: maps as they are measured, float32 (N, h, w)."""
        return metrics.smooth(sound_maps(visual, audio, self.config).numpy(), self.config.evaluation.smoothing)

    def export(self, folder: str | Path) -> Path:
        """Write the model as a folder that :func:`load` reads: ``model.safetensors`` and ``model.json``, written last.

        Raises ``InputError`` where the folder holds anything else.
        """
        from safetensors.torch import save

        folder = Path(folder)
        if folder.exists() and (other := sorted({path.name for path in folder.iterdir()} - {WEIGHTS, ABOUT})):
            raise InputError(f"{folder} holds other files ({', '.join(other[:3])}): give the model a folder of its own")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ABOUT).unlink(missing_ok=True)
        write_atomic(folder / WEIGHTS, save({k: v.contiguous() for k, v in self.model.state_dict().items()}))
        write_atomic(folder / ABOUT, json.dumps(self.about, indent=1, ensure_ascii=False) + "\n")
        return folder

    @classmethod
    def of_checkpoint(cls, path: Path) -> Self:
        """Load a checkpoint and, from the ``summary.json`` beside it, how good the model is."""
        model, config = checkpoint.load_model(path)
        state, summary = checkpoint.load_checkpoint(path), path.with_name("summary.json")
        results = json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {}
        info = Layout(config.data.root).info()
        sections = config.model_dump(mode="json", include=USED)
        sections["model"]["imagenet"] = False  # its weights are these
        about = {
            "format": FORMAT,
            "config": {"exp_prefix": config.exp_prefix, "exp_name": config.exp_name, **sections},
            "training": {
                "list": config.data.train,
                "digest": state["data"],
                "epochs": state["epoch"],
                "seed": config.seed,
            },
            "data": {"name": info.get("name", config.data.root.name), "generated": info.get("generated", False)},
            "threshold": results.get("threshold", {}).get("value"),
            "metrics": [row for row in results.get("tables", []) if row["method"] == "model" and row["clusters"] > 1],
            "limits": LIMITS,
        }
        about["data"]["licence"] = info.get("licence", "not stated: that of the clips it was trained on")
        return cls(model, config, about)

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """Load what :meth:`export` wrote."""
        from safetensors.torch import load_file

        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            if about["format"] != FORMAT:
                raise InputError(f"{folder / ABOUT} is of format {about['format']}, this sslib reads {FORMAT}")
            config = resolve(about["config"], folder, str(folder / ABOUT))
            model = SoundLocalizer(config.model)
            model.load_state_dict(load_file(folder / WEIGHTS))
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{folder} is no exported model ({ABOUT}, {WEIGHTS}): {error}") from error
        return cls(model, config, about)


def load(path: str | Path | None = None) -> Localizer:
    """Load a trained model from ``run/checkpoint.pt``, an experiment's or an exported folder; by default the demo's.

    Raises ``InputError`` (``CheckpointError``) when there is none, or it is of another format.
    """
    if path is None:
        path = root_for(Path(DEMO)) / DEMO
        if not path.is_file():
            raise InputError(f"no model: train the demo's (`make demo` in a clone writes {DEMO}), or name another")
    path = Path(path)
    if (path / ABOUT).is_file():
        return Localizer.of_folder(path)
    inside = (path / "run" / checkpoint.NAME, path / checkpoint.NAME)
    return Localizer.of_checkpoint(next((file for file in inside if file.is_file()), path))


def read_picture(image: Any) -> np.ndarray:
    """Read a picture, as :meth:`Localizer.localize` takes it, to uint8 (H, W, 3) RGB, upright."""
    if isinstance(image, str | Path):
        if not Path(image).is_file():
            raise InputError(f"no picture {image}")
        return np.ascontiguousarray(media.read_image(Path(image)).transpose(1, 2, 0))
    if isinstance(image, Image.Image):
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    array = np.asarray(image)
    if array.dtype != np.uint8 or not array.size or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise InputError(f"a picture is uint8 (H, W, 3) RGB or (H, W), not {array.dtype} {array.shape}")
    return np.ascontiguousarray(np.broadcast_to(array if array.ndim == 3 else array[..., None], (*array.shape[:2], 3)))


def _mono(samples: np.ndarray) -> np.ndarray:
    """Average the channels of samples, first or last axis, to float32 (samples,)."""
    known = samples.dtype.kind in "fi" or samples.dtype == np.uint8
    if samples.ndim not in (1, 2) or not samples.size or not known:
        raise InputError(
            f"a sound is (samples,), or with channels, of floats or integers: {samples.dtype} {samples.shape}"
        )
    if not np.isfinite(samples).all():
        raise InputError("a sound with samples that are not finite")
    channels = samples.T if samples.ndim == 2 and samples.shape[0] > samples.shape[1] else np.atleast_2d(samples)
    return media.to_mono(channels)
