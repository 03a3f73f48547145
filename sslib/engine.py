"""Training. Lightning Fabric is the only one here to touch devices and processes.

A run is one folder: ``config.yaml``, ``metrics.csv`` (one row an epoch) and ``checkpoint.pt``, replaced in one step
after every epoch. Each epoch draws its random numbers from (seed, epoch) alone, so a run that was killed and resumed
is the run that was never killed.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler
from tqdm.auto import tqdm

from sslib import checkpoint, datasets, features, losses, metrics
from sslib.config import Config, ConfigError, SslibError, dump, experiment_folder
from sslib.data.layout import write_atomic
from sslib.data.splits import too_few
from sslib.model import Output, SoundLocalizer
from sslib.prediction import predict

MOMENTUM = 0.01  # of the running frequency with which a node is foreground


class TrainingError(SslibError):
    """A training that cannot go on; the message says why and what to change."""


def fit(config: Config, folder: Path, *, retrain: bool = False, stop_after: int | None = None) -> Path:
    """Train one experiment, or go on where it stopped, or find it complete; return the run's folder, ``folder/run``.

    `retrain` starts over: a run that is there is replaced when the first new epoch is saved, not before. After the
    epoch `stop_after` the run stays incomplete and can be resumed. Raises ``CheckpointError`` when the folder holds a
    run of another configuration or of other data.
    """
    run = Path(folder) / "run"
    state = None if retrain else checkpoint.resumable(config, run)
    if state and state["epoch"] >= config.training.epochs:
        return run
    if config.training.devices > 1 and hasattr(sys, "ps1"):
        return _fit_by_command(config, run, retrain)
    fabric = start_fabric(config)
    fabric.seed_everything(config.seed, verbose=False)
    model = SoundLocalizer(config.model)
    # Baselines have fixed temperatures: a parameter that never has a gradient would keep processes waiting for it.
    model.scale.requires_grad_(config.objective.kind == "context")
    model, optimizer = fabric.setup(model, _optimizer(model, config))
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    batches, validate = TrainingBatches(fabric, config), _validation(fabric, config)
    history, data = state["history"] if state else [], checkpoint.data_identity(config)
    if history:
        fabric.print(f"goes on after epoch {len(history)} of {config.training.epochs}")
    for epoch in range(len(history) + 1, min(config.training.epochs, stop_after or config.training.epochs) + 1):
        fabric.seed_everything(_epoch_seed(config, epoch, fabric.global_rank), verbose=False)
        started = time.perf_counter()
        row = {"epoch": epoch} | _train_epoch(fabric, model, optimizer, batches, config, epoch) | validate(model.module)
        history.append(row | {"seconds": round(time.perf_counter() - started, 2)})
        if fabric.is_global_zero:
            checkpoint.save(run / checkpoint.NAME, config, data, model, optimizer, history)
            write_atomic(run / "config.yaml", dump(config))
            write_atomic(run / "metrics.csv", pd.DataFrame(history).to_csv(index=False))
        fabric.barrier()
        fabric.print(epoch_summary(history[-1], config.training.epochs))
    return run


def _fit_by_command(config: Config, run: Path, retrain: bool) -> Path:
    """Train by ``sslib train``: a notebook is one process, and Fabric refuses to start others from there."""
    if run.resolve() != experiment_folder(config) / "run":
        raise ConfigError(f"training.devices is {config.training.devices}: train by `python -m sslib train` in a shell")
    with tempfile.TemporaryDirectory() as folder:
        file = write_atomic(Path(folder) / "config.yaml", dump(config))
        command = [sys.executable, "-m", "sslib", "train", str(file), *(["--force"] if retrain else [])]
        how = {"env": os.environ | {"TQDM_DISABLE": "1"}, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, text=True, **how) as process:
            for line in process.stdout:
                print(line, end="")
    if process.returncode:
        raise TrainingError(f"`sslib train` on {config.training.devices} devices ended with an error: see above")
    return run


def start_fabric(config: Config):
    """Start Fabric as ``training`` says; under torchrun it joins the processes that are there."""
    from lightning_fabric import Fabric

    asked = config.training.model_dump(include={"accelerator", "devices", "precision"})
    try:
        fabric = Fabric(**asked, strategy="ddp" if config.training.devices > 1 else "auto")
    except Exception as error:  # of several kinds: what is asked for is not there
        raise ConfigError(f"training.accelerator {config.training.accelerator}, devices: {error}") from error
    fabric.launch()
    return fabric


def training_step(model: Any, batch: dict[str, Tensor], config: Config, fabric: Any = None) -> losses.Losses:
    """Take one batch of int16 sounds and uint8 images forward and compute its losses; the caller goes backward.

    With several processes the images and sounds of all of them are compared, with gradients to each.
    """
    image, boxes = features.images(batch["image"], config, augment=True).tensor_split([3], dim=1)
    spectrogram = features.spectrograms(batch["waveform"], config, augment=True)
    if config.objective.kind == "context" and config.objective.silent:
        silent = features.silent_sounds(config.objective.silent, batch["waveform"])
        spectrogram = torch.cat([spectrogram, features.spectrograms(silent, config)])
    output = model(image, spectrogram)
    if fabric is not None and fabric.world_size > 1:
        output = Output(*(None if part is None else _gather(part, fabric) for part in output))
        boxes = _gather(boxes, fabric) if config.objective.boxes else boxes
    return losses.objective(output, model.scale, config.objective, boxes)


def _gather(part: Tensor, fabric) -> Tensor:
    """Gather the rows of all processes, with gradients to each."""
    gathered = fabric.all_gather(part, sync_grads=True)  # (processes, B, …)
    if gathered.requires_grad:
        # Its backward pass sends memory as it lies: a gradient with other strides would arrive scrambled, unnoticed.
        gathered.register_hook(Tensor.contiguous)
    return gathered.flatten(0, 1)


def learning_rate(config: Config, step: int, steps: int) -> float:
    """Give the rate of step `step` (from 0) of `steps`: linear warm-up, then constant or a half cosine down to 0."""
    training = config.training
    rise = training.warmup * steps
    if step < rise:
        return training.learning_rate * (step + 1) / (rise + 1)
    if training.schedule == "constant":
        return training.learning_rate
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(steps - rise, 1)))


def _train_epoch(fabric, model, optimizer, batches: TrainingBatches, config: Config, epoch: int) -> dict[str, float]:
    model.train()
    count, sums = batches.count, {}
    shown = tqdm(batches.of_epoch(epoch), desc=f"epoch {epoch}", total=count, leave=False)
    for step, batch in enumerate(shown, start=(epoch - 1) * count):
        rate = learning_rate(config, step, config.training.epochs * count)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        result = training_step(model, batch, config, fabric)
        fabric.backward(result.total)
        optimizer.step()
        optimizer.zero_grad()
        if result.node_ranking is not None:
            _count_foreground(model, result.node_ranking, config.objective.foreground)
        target = torch.arange(len(result.logits), device=result.logits.device)
        found = (result.logits.argmax(dim=1) == target).float().mean()
        for name, value in {"loss": result.total, **result.terms, "accuracy": found}.items():
            sums[name] = sums.get(name, 0) + value.detach()
    means = {name: float(value) / count for name, value in sums.items()}
    if not math.isfinite(means["loss"]):
        raise TrainingError(f"the loss is not finite in epoch {epoch}: lower training.learning_rate")
    return means | {"scale": model.scale.item(), "learning_rate": rate}


@torch.no_grad()
def _count_foreground(model, node_ranking: Tensor, foreground: int) -> None:
    """Follow how often each node is foreground; the ranking holds the clips of all processes, so all count the same."""
    counts = torch.bincount(node_ranking[:, :foreground].flatten(), minlength=len(model.foreground_frequency))
    model.foreground_frequency.lerp_(counts / len(node_ranking), MOMENTUM)


class TrainingBatches:
    """The batches of this process, epoch by epoch; incomplete ones are left out."""

    def __init__(self, fabric, config: Config):
        self.fabric, self.config, self.size, name = fabric, config, config.training.batch_size, config.data.train
        self.clips = datasets.AVDataset(config, name, train=True)
        fabric.print(f"{name}: {self.clips.present}")
        mine = len(self.clips) // fabric.world_size
        if fault := too_few(config, mine):
            raise ConfigError(fault)
        self.count = mine // self.size
        if config.data.in_memory:
            self.clips = datasets.load_in_memory(self.clips, fabric.device)

    def of_epoch(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        """Yield ``image`` and ``waveform`` of each batch, on the device; the order comes from (seed, epoch) alone."""
        config, fabric, rank = self.config, self.fabric, self.fabric.global_rank
        if isinstance(self.clips, datasets.InMemory):
            yield from _from_memory(self.clips, self.size, fabric, _epoch_seed(config, epoch))
            return
        # Not by Fabric's wrapper of loaders: it counts epochs from the start of the process, also in a resumed run.
        sampler = DistributedSampler(self.clips, fabric.world_size, rank, seed=config.seed, drop_last=True)
        sampler.set_epoch(epoch)
        # Workers are seeded from here, so their number does not touch the random numbers of the augmentation.
        generator = torch.Generator().manual_seed(_epoch_seed(config, epoch, rank))
        how = {"sampler": sampler, "generator": generator, "drop_last": True, "collate_fn": datasets.collate}
        for batch in DataLoader(self.clips, self.size, num_workers=config.training.workers, **how):
            yield {key: fabric.to_device(batch[key]) for key in ("image", "waveform")}


def _from_memory(clips: datasets.InMemory, size: int, fabric, seed: int) -> Iterator[dict[str, Tensor]]:
    """Batches of this process in an order that all processes agree on."""
    order = torch.randperm(len(clips.ids), generator=torch.Generator().manual_seed(seed))
    order = order[fabric.global_rank :: fabric.world_size]
    for start in range(0, len(clips.ids) // fabric.world_size - size + 1, size):
        rows = order[start : start + size].to(clips.image.device)
        yield {"image": clips.image[rows], "waveform": clips.waveform[rows]}


def _validation(fabric, config: Config) -> Callable[[Any], dict[str, float]]:
    """Make a function that measures a model on the validation list: with boxes where the list has them.

    Images have the size of training: those of ``evaluation.image_sizes``, mirrored, are many times the work.
    """
    plain = config.evaluation.model_copy(update={"image_sizes": (), "mirror": False})
    config = config.model_copy(update={"evaluation": plain})
    dataset, truth = datasets.AVDataset(config, config.data.val), None
    annotations = dataset.layout.annotations(config.data.val)
    fabric.print(f"{config.data.val}: {dataset.present}")
    if all("boxes" in annotations.get(clip_id, {}) for clip_id in dataset.ids):
        truth = np.stack([metrics.ground_truth_map(annotations[i]) for i in dataset.ids]).astype(np.float32)
    clips = datasets.load_in_memory(dataset, fabric.device) if config.data.in_memory else dataset

    def validate(model) -> dict[str, float]:
        prediction = predict(model, clips, config, fabric.device)
        row = {"val_loss": prediction.loss, "val_accuracy": prediction.accuracy}
        if truth is not None:
            maps, seen = prediction.maps["similarity"], truth.any(axis=(1, 2))  # clips without a source have no truth
            row["val_pointing"] = float(metrics.pointing(maps[seen], truth[seen] > 0).mean())
            row["val_success"] = metrics.success_rate(metrics.ciou(maps, truth))
        return row

    return validate


def _epoch_seed(config: Config, epoch: int, rank: int = 0) -> int:
    return int(np.random.SeedSequence([config.seed, epoch, rank]).generate_state(1)[0])


def _optimizer(model: SoundLocalizer, config: Config) -> torch.optim.Optimizer:
    """Build Adam or AdamW; the learning rate of each step times ``lr_scale`` is that of a group of parameters."""
    training = config.training
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[training.optimizer]
    rest = [value for name, value in model.named_parameters() if not name.startswith("audio_encoder.")]
    scale = (training.audio_learning_rate or training.learning_rate) / training.learning_rate
    groups = [{"params": rest, "lr_scale": 1.0}, {"params": [*model.audio_encoder.parameters()], "lr_scale": scale}]
    return kind(groups, lr=training.learning_rate, weight_decay=training.weight_decay)


def epoch_summary(row: dict[str, Any], epochs: int) -> str:
    """Say in one line how an epoch went."""
    parts = [f"epoch {row['epoch']}/{epochs}"]
    parts += [f"{key} {row[key]:.3f}" for key in ("loss", "accuracy", "val_loss", "val_pointing") if key in row]
    return ", ".join(parts) + f", {row['seconds']:.0f} s"
