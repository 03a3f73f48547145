"""One experiment as one YAML file: its sections, their defaults (the paper's own values) and their checks.

Every key is known here, or the file is refused: a misspelt key, a wrong type or a NaN is named with its path in the
YAML before anything runs. All paths resolve against the root of the repository (the folder above ``notebooks/``).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError, model_validator


class SslibError(Exception):
    """An error that sslib found itself; its message alone tells a person what is wrong and what to do."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]  # what a notebook shows, instead of where it was found


class InputError(SslibError, ValueError):
    """Something given cannot be used: a folder, a list, a value; the message names it."""


class ConfigError(InputError):
    """A configuration that cannot be used; the message lists every fault with its path in the YAML."""


class Section(BaseModel, extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True):
    """A part of the configuration: unknown keys and non-finite numbers are errors, values do not change later."""


class Stamps(Section):
    """The embedded data set: how many scenes of each split are composed, and of what (see ``sslib.stamps.scenes``)."""

    source: Literal["auto", "media", "generated"] = Field("auto", description="auto: generated where media are missing")
    subset: Literal["demo", "all"] = "demo"
    media: Path | None = Field(None, description="a folder of .deb files or of extracted media, given by hand")
    train: PositiveInt = 8000
    val: PositiveInt = 200
    val_new: PositiveInt = Field(300, description="known pictures, recordings of its own: for choices")
    test: PositiveInt = 300
    test_new_instances: PositiveInt = Field(300, description="pictures and recordings that occur nowhere else")
    test_new_recordings: PositiveInt = Field(300, description="known pictures, recordings that no training has")
    one_object_share: float = Field(0.7, ge=0.0, le=1.0, description="share of training scenes with one object only")
    height: PositiveInt = Field(256, description="pixels; a scene is 4:3, stored at this height")
    seed: int = 0


class Data(Section):
    """Where the clips are and what part of a clip is used."""

    root: Path = Field(Path("data/vggsound"), description="holds video_frames/, audios/, splits/, annotations/")
    raw: Path | None = Field(None, description="a folder of raw videos that notebook 01 prepares into root")
    max_seconds: PositiveFloat = Field(60.0, description="s: longer videos are rejected, or cut by clip_seconds")
    clip_seconds: float | None = Field(None, ge=1.0, description="s: longer videos become clips of this length")
    loader: Literal["folders", "lmdb"] = "folders"
    in_memory: bool = Field(False, description="decode all images and sounds once, onto the training device")
    train: str = Field("train", description="the list splits/NAME.txt, one clip id a line")
    val: str = "val"
    tests: tuple[str, ...] = ("test",)
    require_all: bool = Field(False, description="refuse a list of which clips are missing, instead of saying n of N")
    sample_rate: PositiveInt = Field(24000, description="Hz")
    seconds: PositiveFloat = Field(3.0, description="length of the sound, centred at the time of the frame")
    time: Literal["middle", "random"] | NonNegativeFloat = Field("middle", description="s; random in training only")
    frame: PositiveInt | None = Field(None, description="this frame (1-based) whatever the time; the release: 7")
    frame_rate: PositiveFloat = Field(1.0, description="frames per second at which the clips were prepared")
    image_size: PositiveInt = Field(224, description="pixels: images are squashed to a square of this side")
    stamps: Stamps | None = Field(None, description="compose the embedded data set under root")


class FrontEnd(Section):
    """Waveform to what the audio encoder sees. The default is the paper's log-spectrogram."""

    kind: Literal["spectrogram", "mel"] = "spectrogram"
    window: PositiveInt = Field(512, description="samples of one frame (nperseg)")
    hop: PositiveInt = Field(238, description="samples between frames; the paper's noverlap is 274 = 512 - 238")
    mel_bands: PositiveInt = 64


class Model(Section):
    """The two encoders and the visual reasoning module (paper section 3)."""

    width: PositiveInt = Field(64, description="channels of the first stage; 64 is ResNet-18")
    blocks: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (2, 2, 2, 2)
    reasoning: bool = Field(True, description="false: the base model, localization loss only")
    nodes: PositiveInt = 16
    feature_dropout: float = Field(0.1, ge=0.0, lt=1.0)
    node_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    initial_scale: PositiveFloat = Field(1.0, description="the learned factor of cosines in the losses starts here")
    imagenet: bool | Path = Field(False, description="true: torchvision's own download; a path: a local weights file")


class Objective(Section):
    """Weights and variants of the three losses (paper section 3.3), or another paper's objective in their place."""

    kind: Literal["context", "attention", "lvs", "ez_vsl", "slavc", "fnac", "ssl_align"] = Field(
        "context", description="context: the paper's own; the others are functions of sslib/baselines.py"
    )
    pool: Literal["max", "avg", "soft"] = Field("max", description="of maps to scores; the paper: max; ours: soft")
    symmetric: bool = Field(False, description="also tell images apart given a sound; the release: false")
    temperature: PositiveFloat | None = Field(None, description="of other papers' cosines; default: each one's own")
    boxes: float = Field(0.0, ge=0.0, le=1.0, description="share of the training clips' boxes that attention sees")
    silent: int = Field(0, ge=0, description="noise down to silence a batch, sounds of no image; paper: 0; ours: 1")
    global_contrast: float = Field(0.0, ge=0.0, description="weight; whole images, fixed sounds; paper: 0; ours: 0.3")
    foreground: PositiveInt = 8
    background: PositiveInt = 8
    localization: float = Field(1.0, ge=0.0)
    discrimination: float = Field(0.1, ge=0.0)
    divergence: float = Field(0.1, ge=0.0)
    divergence_mode: Literal["js", "kl"] = "js"


class Augment(Section):
    """Changes made to a training batch. The release flips and crops images and leaves sounds alone."""

    crop: float = Field(1.1, ge=1.0, le=2.0, description="images are squashed to crop x image_size, then cropped")
    flip: bool = True
    colour: float = Field(0.0, ge=0.0, le=1.0, description="range of brightness, contrast and saturation changes")
    shift: float = Field(0.0, ge=0.0, le=1.0, description="share of its length by which a sound may be rolled in time")
    gain_db: float = Field(0.0, ge=0.0, description="range of level changes, dB")
    mask: float = Field(0.0, ge=0.0, lt=1.0, description="largest masked share of bands and of frames (SpecAugment)")


class Training(Section):
    """Optimizer, schedule, size."""

    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: PositiveFloat = 1.0e-4
    audio_learning_rate: PositiveFloat | None = Field(None, description="of the audio encoder; default: learning_rate")
    weight_decay: float = Field(1.0e-4, ge=0.0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: float = Field(0.0, ge=0.0, lt=1.0, description="share of all steps in which the rate rises from 0")
    batch_size: int = Field(128, ge=2)
    epochs: PositiveInt = 30
    augment: Augment = Augment()
    workers: int = Field(0, ge=0, description="loader processes (not used with data.in_memory)")
    # Not 16-mixed: the state of its gradient scaler is in no checkpoint, so a resumed run would be another one.
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: PositiveInt = 1


class Evaluation(Section):
    """How test results are computed and how sure they are."""

    resamples: PositiveInt = 10_000
    confidence: float = Field(0.95, gt=0.0, lt=1.0)
    batch_size: PositiveInt = 64
    # How maps are made and drawn: sslib.prediction.encode_images and sound_maps, sslib.metrics.smooth.
    image_sizes: tuple[PositiveInt, ...] = Field((), description="pixels; their maps are averaged; default: data's")
    mirror: bool = Field(False, description="also average the map of the mirrored image")
    saliency: float = Field(0.0, ge=0.0, description="weight of what stands out, heard or not; paper: 0; ours: 0.2")
    smoothing: float = Field(0.0, ge=0.0, le=1.0, description="Gaussian averaged in: sigma as a share of the side")
    object_prior: Path | None = Field(None, description="ResNet-18's ImageNet weights: also EZ-VSL's object guidance")


class Ablations(Section):
    """The comparison that notebook 03 runs: named overrides of this configuration, and the seeds of each."""

    variants: dict[str, dict[str, Any] | None] = Field(default_factory=dict, description="null: not this one")
    seeds: tuple[int, ...] = Field((0, 1, 2), description="of each variant; fewer say little of a difference")
    jobs: PositiveInt = Field(1, description="variants at a time, each on its share of the processor's cores")
    scheduler: str | None = Field(None, description="tcp://HOST:8786: variants on the workers of a Dask cluster")


class Config(Section):
    """One experiment; ``reports/<exp_prefix>/<exp_name>/`` is its folder."""

    exp_prefix: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    exp_name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/variants/[A-Za-z0-9][A-Za-z0-9_.-]*)?$")
    seed: int = 0
    data: Data = Data()
    front_end: FrontEnd = FrontEnd()
    model: Model = Model()
    objective: Objective = Objective()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    ablations: Ablations = Ablations()

    @model_validator(mode="after")
    def _parts_fit(self) -> Config:
        largest = max(self.objective.foreground, self.objective.background)
        if self.model.reasoning and largest > self.model.nodes:
            raise ValueError("objective.foreground and objective.background must not exceed model.nodes")
        if self.model.reasoning and self.objective.kind != "context":
            raise ValueError(f"objective.kind {self.objective.kind} trains no nodes: set model.reasoning to false")
        if self.objective.boxes and self.objective.kind != "attention":
            raise ValueError(f"objective.boxes is for attention, {self.objective.kind} learns without: set it to 0")
        if self.objective.temperature and self.objective.kind in ("context", "attention"):
            raise ValueError(f"objective.kind {self.objective.kind} has no temperature: set it to null")
        if self.front_end.hop > self.front_end.window:
            raise ValueError("front_end.hop must not exceed front_end.window")
        if self.data.in_memory and self.data.time == "random":
            raise ValueError("data.in_memory cuts each clip once: data.time must be 'middle' or a number of seconds")
        if self.data.raw and self.data.stamps:
            raise ValueError("data.raw and data.stamps both fill data.root: give one of them")
        return self


def _root_above(start: Path) -> Path | None:
    """Find the clone, a folder that holds ``sslib`` and ``notebooks``, from `start` upwards."""
    folders = (start.resolve(), *start.resolve().parents)
    return next((f for f in folders if (f / "sslib" / "config.py").is_file() and (f / "notebooks").is_dir()), None)


def root_for(file: Path) -> Path:
    """Tell what paths in `file` resolve against: the clone that holds it, else the one we stand in, else its folder."""
    return _root_above(file.parent) or _root_above(Path.cwd()) or file.parent.resolve()


def experiment_folder(config: Config, root: Path | None = None) -> Path:
    """Tell where all of an experiment lies: in `root` (default: the clone we stand in, or ``FileNotFoundError``)."""
    if not (root := root or _root_above(Path.cwd())):
        raise FileNotFoundError(f"no sslib repository at or above {Path.cwd()}: run this inside a clone of it")
    return root / "reports" / config.exp_prefix / config.exp_name


def merge(base: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Put `overrides` into a copy of `base`: mappings key by key, an empty one empties what was there."""
    merged = dict(base)
    for key, value in overrides.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) and value else value
    return merged


def load(path: str | Path, overrides: dict[str, Any] | None = None, root: Path | None = None) -> Config:
    """Read one experiment from a YAML file that :func:`find` finds.

    Parameters
    ----------
    overrides : nested mapping of values that replace those of the file, for example ``{"training": {"epochs": 2}}``.
        A file that ``extends`` another one (beside it, or from `root`) changes its values, but for its ablations.
    root : what ``data.root`` and other paths resolve against (default: :func:`root_for` the file).

    Raises ``ConfigError`` for a file that is missing or no YAML mapping, unknown keys, wrong types, non-finite numbers.
    """
    file = find(path)
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not readable as YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: expected a mapping of sections, found {type(values).__name__}")
    values, root = merge(values, overrides or {}), root or root_for(file)
    if other := values.pop("extends", None):
        near = file.with_name(other)
        base = load(near if near.is_file() else root / other, {"ablations": {}}, root)
        values = merge(base.model_dump(mode="json"), values)
    return resolve(values, root, str(file))


def find(path: str | Path) -> Path:
    """Find a configuration file: relative to the working folder, else to the clone's root or its ``notebooks/``."""
    candidates, root = [Path(path)], _root_above(Path.cwd())
    if root and not candidates[0].is_absolute():
        candidates += [root / path, root / "notebooks" / path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    known = sorted((root / "notebooks" / "configs").glob("*.yaml")) if root else []
    there = f"; there are {', '.join(str(file.relative_to(root)) for file in known)}" if known else ""
    raise ConfigError(f"no configuration file {path}{there}")


def resolve(values: dict[str, Any], root: Path, name: str = "configuration") -> Config:
    """Check `values` and make their paths absolute against `root`."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{name}:\n" + "\n".join(_fault(e) for e in error.errors())) from None
    return Config.model_validate(_change_paths(config.model_dump(), lambda path: root / path))


def _fault(error: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "(whole file)"
    if error["type"] == "extra_forbidden":
        known = [name for section in Section.__subclasses__() for name in section.model_fields]
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        return f"  {where}: unknown key ({f'did you mean {near[0]}?' if near else 'misspelt?'})"
    return f"  {where}: {error['msg']} (given: {error['input']!r:.80})"


def portable(config: Config) -> dict[str, Any]:
    """Give the configuration as plain values; paths inside this clone relative to it, so that they hold in others."""
    values, root = config.model_dump(mode="json"), _root_above(Path.cwd())
    if root is None:
        return values
    return _change_paths(values, lambda path: str(path.relative_to(root) if path.is_relative_to(root) else path))


def _change_paths(values: dict[str, Any], change: Callable[[Path], Path | str]) -> dict[str, Any]:
    data, stamps = values["data"], values["data"]["stamps"] or {}
    for section, key in ((data, "root"), (data, "raw"), (stamps, "media"), (values["model"], "imagenet"),
                         (values["evaluation"], "object_prior")):  # fmt: skip
        if isinstance(section.get(key), str | Path):
            section[key] = change(Path(section[key]))
    return values


def dump(config: Config) -> str:
    """Write the resolved configuration as YAML, loadable again with :func:`load`."""
    return yaml.safe_dump(portable(config), sort_keys=False, allow_unicode=True)
