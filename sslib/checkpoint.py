"""Checkpoints: one file of tensors and plain values, read without running any code, refused when it does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sslib.config import Config, InputError, portable, resolve, root_for
from sslib.data.layout import Layout
from sslib.model import SoundLocalizer

FORMAT = 2
NAME = "checkpoint.pt"
RESULTS = ("summary.json", "clips.csv", "maps.npz", "thumbnail.png")  # what an evaluation writes beside a checkpoint
# What does not change the weights: where the data lie, what they were made from, how they are read, what is tested.
NOT_RECIPE = {"data.root", "data.raw", "data.max_seconds", "data.clip_seconds", "data.stamps"}
NOT_RECIPE |= {"data.loader", "data.require_all", "data.tests"}
ADVICE = "give the experiment another name (--set exp_name=NEW), or start over (--force; in a notebook: retrain = True)"


class CheckpointError(InputError):
    """A checkpoint that cannot be used; the message says which and why."""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running any code that it may carry.

    Raises ``CheckpointError`` when the file is missing, no checkpoint of this project, or holds anything but plain
    values and tensors.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"no checkpoint {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} is refused: no file of tensors only; give run/{NAME} of an experiment"
        ) from error
    made = state.get("format") if isinstance(state, dict) else None
    if made == 1:
        raise CheckpointError(f"{path} is of an earlier sslib: train again, or use the version it was made with")
    if made != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of sslib (format {FORMAT})")
    if missing := {"model", "optimizer", "epoch", "history", "config", "data"} - state.keys():
        raise CheckpointError(f"{path} is refused: it lacks {', '.join(sorted(missing))}")
    return state


def _config(state: dict[str, Any], path: Path) -> Config:
    try:
        return resolve(state["config"], root_for(path))
    except ValueError as error:
        raise CheckpointError(f"{path} was written with a configuration that is none any more: {error}") from error


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[SoundLocalizer, Config]:
    """Load the model of a checkpoint, ready for inference, and the configuration it was trained with.

    Raises ``CheckpointError`` as :func:`load_checkpoint`, and when weights are missing, unknown or of another shape.
    """
    state = load_checkpoint(path)
    config = _config(state, path)
    model = SoundLocalizer(config.model.model_copy(update={"imagenet": False}))
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit its own configuration: {error}") from error
    return model.to(device).eval(), config


def save(path: Path, config: Config, data: dict[str, str], model: Any, optimizer: Any, history: list[dict]) -> None:
    """Write a checkpoint in one step: a reader finds the old one or the new one, never half of it.

    Results of an evaluation that lie beside it are those of other weights, and go. `data` is what
    :func:`data_identity` said when the training began.
    """
    state = {"format": FORMAT, "config": portable(config), "data": data, "epoch": len(history), "history": history}
    state |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".tmp")
    torch.save(state, partial)
    for name in RESULTS:
        path.with_name(name).unlink(missing_ok=True)
    partial.replace(path)


def data_identity(config: Config) -> dict[str, str]:
    """Identify the clips of the training list and their files, as :meth:`Layout.identity` does."""
    return Layout(config.data.root).identity(config.data.train, sizes=config.data.loader == "folders")


def resumable(config: Config, run: Path) -> dict[str, Any] | None:
    """Load the state to go on from, if there is one; a ``CheckpointError`` when it is of other data or settings."""
    if not (run / NAME).exists():
        return None
    state = load_checkpoint(run / NAME)
    old, new = recipe(_config(state, run / NAME)), recipe(config)
    if changed := sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)):
        raise CheckpointError(f"{run} holds a run of another configuration ({', '.join(changed)}): {ADVICE}")
    for part, now in data_identity(config).items():
        if now and state["data"][part] and now != state["data"][part]:
            what = f"the {part} of {config.data.train!r} in {config.data.root} are others than it was trained on"
            raise CheckpointError(f"{run}: {what}: {ADVICE}")
    return state


def recipe(config: Config) -> dict[str, Any]:
    """Flatten what decides the weights, as far as the configuration does: not where data lie nor how they are read."""
    sections = config.model_dump(mode="json", include={"data", "front_end", "model", "objective", "training"})
    flat = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
    # Loader processes draw the moments of data.time "random": there, and only there, their number matters.
    same = NOT_RECIPE | ({"training.workers"} if config.data.time != "random" else set())
    return {"seed": config.seed} | {key: value for key, value in flat.items() if key not in same}
