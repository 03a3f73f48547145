"""Training: exact resume, the schedule, refused checkpoints, learning, and the same gradient from two processes."""

import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import videos

from sslib import checkpoint, config, datasets, engine, losses, metrics
from sslib.__main__ import clean_errors
from sslib.checkpoint import CheckpointError, load_checkpoint, load_model
from sslib.config import Config, ConfigError, SslibError
from sslib.data import prepare, store
from sslib.model import SoundLocalizer
from sslib.prediction import predict, sound_maps

AUGMENT = {"colour": 0.3, "shift": 0.5, "gain_db": 6, "mask": 0.2}


def state_of(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / "checkpoint.pt")["model"]


def metrics_of(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "metrics.csv").drop(columns="seconds")


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimizer and every number of every epoch, bit for bit."""
    first, second = (load_checkpoint(run / "checkpoint.pt") for run in (one, other))
    assert first["model"].keys() == second["model"].keys()
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    for number, values in first["optimizer"]["state"].items():
        for name, value in values.items():
            assert torch.equal(value, second["optimizer"]["state"][number][name]), (number, name)
    pd.testing.assert_frame_equal(metrics_of(one), metrics_of(other), check_exact=True)


@pytest.fixture(scope="module")
def settings(configure) -> Config:
    return configure(training={"augment": AUGMENT, "schedule": "cosine", "warmup": 0.2})


@pytest.fixture(scope="module")
def trained(settings, tmp_path_factory) -> Path:
    """The run that was never interrupted."""
    return engine.fit(settings, tmp_path_factory.mktemp("trained"))


def test_run_is_what_it_says(trained, settings):
    assert sorted(path.name for path in trained.iterdir()) == ["checkpoint.pt", "config.yaml", "metrics.csv"]
    assert config.load(trained / "config.yaml", root=settings.data.root.parent) == settings
    rows = pd.read_csv(trained / "metrics.csv")
    assert rows["epoch"].tolist() == [1, 2, 3]
    assert {"loss", "localization", "discrimination", "divergence", "accuracy", "val_loss", "val_accuracy",
            "val_pointing", "val_success", "scale", "learning_rate", "seconds"} <= set(rows.columns)  # fmt: skip
    assert np.isfinite(rows.to_numpy()).all()
    assert rows[["accuracy", "val_accuracy", "val_pointing", "val_success"]].stack().between(0, 1).all()
    total = rows["localization"] + 0.1 * rows["discrimination"] + 0.1 * rows["divergence"]
    np.testing.assert_allclose(rows["loss"], total, rtol=1e-5)


@pytest.mark.parametrize("stops", [(1,), (2,), (1, 2)])
def test_stopped_and_resumed_is_never_stopped(trained, settings, tmp_path, stops):
    for epoch in stops:
        run = engine.fit(settings, tmp_path, stop_after=epoch)
        assert load_checkpoint(run / "checkpoint.pt")["epoch"] == len(metrics_of(run)) == epoch
        torch.rand(7), np.random.rand(3)  # whatever else happens in between
    assert_same_run(engine.fit(settings, tmp_path), trained)


def test_killed_and_resumed_is_never_killed(trained, settings, tmp_path):
    """A process that gets SIGKILL after its first epoch, as early as its line can be read (it never ends by itself)."""
    (tmp_path / "config.yaml").write_text(config.dump(settings))
    code = f"""
        import time, torch
        from pathlib import Path
        from sslib import config, engine
        torch.set_num_threads(1)
        train = engine._train_epoch
        engine._train_epoch = lambda *arguments: time.sleep(3600) if arguments[-1] == 3 else train(*arguments)
        folder = Path({str(tmp_path)!r})
        engine.fit(config.load(folder / "config.yaml", root=folder), folder)
    """
    with subprocess.Popen([sys.executable, "-u", "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL) as process:  # fmt: skip
        for line in process.stdout:
            if line.startswith("epoch 1/3"):
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    assert 1 <= load_checkpoint(tmp_path / "run/checkpoint.pt")["epoch"] < 3
    assert_same_run(engine.fit(settings, tmp_path), trained)


def test_killed_while_a_checkpoint_is_written(trained, settings, tmp_path, monkeypatch):
    """The last whole one stays; half of the next one is not taken for it."""
    engine.fit(settings, tmp_path, stop_after=1)

    def half(state, path):
        Path(path).write_bytes(b"PK half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        engine.fit(settings, tmp_path)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "run/checkpoint.pt")["epoch"] == 1
    assert_same_run(engine.fit(settings, tmp_path), trained)


@pytest.mark.parametrize("data", [{"loader": "folders"}, {"loader": "lmdb"}, {"loader": "folders", "time": "random"}])
def test_loaders_resume_too(configure, tmp_path, data):
    settings = configure(data={"in_memory": False} | data, training={"epochs": 2, "augment": {"shift": 0.3}})
    store.write_store(settings.data.root)
    whole = engine.fit(settings, tmp_path / "whole")
    assert np.isfinite(metrics_of(whole).to_numpy()).all() and len(metrics_of(whole)) == 2
    engine.fit(settings, tmp_path / "parts", stop_after=1)
    assert_same_run(engine.fit(settings, tmp_path / "parts"), whole)


def test_folders_and_store_train_the_same_weights_with_or_without_workers(configure, tmp_path):
    runs = []
    for name, loader, workers in (("a", "folders", 0), ("b", "lmdb", 0), ("c", "lmdb", 2)):
        settings = configure(data={"in_memory": False, "loader": loader}, training={"epochs": 1, "workers": workers})
        store.write_store(settings.data.root)
        runs.append(state_of(engine.fit(settings, tmp_path / name)))
    for name, value in runs[0].items():
        assert torch.equal(value, runs[1][name]) and torch.equal(value, runs[2][name]), name


def test_seed_decides_the_weights(configure, settings, trained, tmp_path):
    again, other = engine.fit(settings, tmp_path / "again"), settings.model_copy(update={"seed": 1})
    assert_same_run(again, trained)
    different = state_of(engine.fit(other, tmp_path / "other", stop_after=1))
    assert not torch.equal(different["image_encoder.conv1.weight"], state_of(trained)["image_encoder.conv1.weight"])


def test_complete_run_is_found_not_trained_again(trained, settings, monkeypatch):
    before = (trained / "checkpoint.pt").stat().st_mtime_ns
    monkeypatch.setattr(engine, "start_fabric", lambda config: pytest.fail("it trains"))
    assert engine.fit(settings, trained.parent) == trained
    assert (trained / "checkpoint.pt").stat().st_mtime_ns == before


def test_retrain_starts_over(settings, trained, tmp_path):
    engine.fit(settings, tmp_path, stop_after=2)
    run = engine.fit(settings, tmp_path, retrain=True, stop_after=1)
    assert metrics_of(run)["epoch"].tolist() == [1]
    pd.testing.assert_frame_equal(metrics_of(run), metrics_of(trained)[:1], check_exact=True)


@pytest.mark.parametrize(
    "wrong", [{"training": {"batch_size": 25}}, {"data": {"train": "nowhere"}}, {"training": {"learning_rate": 1e30}}]
)
def test_retrain_that_fails_keeps_the_finished_run(settings, trained, tmp_path, wrong):
    """Whatever is wrong is found before the first new epoch is saved; until then nothing of the old run goes."""
    shutil.copytree(trained, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    other = Config.model_validate(config.merge(settings.model_dump(mode="json"), wrong))
    with pytest.raises((SslibError, FileNotFoundError)):
        engine.fit(other, tmp_path, retrain=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize("retrain", [True, False])
def test_results_of_other_weights_do_not_stay_beside_new_ones(settings, tmp_path, retrain):
    """An unfinished run that was evaluated goes on, or starts over: its tables are no longer those of its weights."""
    run = engine.fit(settings, tmp_path, stop_after=1)
    results = [run / name for name in ("summary.json", "clips.csv", "maps.npz", "thumbnail.png")]
    for path in [*results, run / "notes.txt"]:
        path.write_text("of the first epoch")
    with pytest.raises(ConfigError):  # nothing new is there yet
        engine.fit(Config.model_validate(config.merge(settings.model_dump(mode="json"),
                   {"training": {"batch_size": 25}})), tmp_path, retrain=True)  # fmt: skip
    assert all(path.exists() for path in results)
    engine.fit(settings, tmp_path, retrain=retrain, stop_after=2)
    assert not any(path.exists() for path in results) and (run / "notes.txt").exists()


# Batches and rates


def test_batches_of_an_epoch_are_a_permutation(configure):
    settings = configure()
    dataset = datasets.AVDataset(settings, "train", train=True)
    clips = datasets.load_in_memory(dataset)
    fabric = engine.start_fabric(settings)
    marked = clips._replace(waveform=torch.arange(24, dtype=torch.int16)[:, None].expand(-1, 5))

    def order(seed, size=8):
        batches = list(engine._from_memory(marked, size, fabric, seed))
        assert all(len(batch["image"]) == size for batch in batches)
        for batch in batches:
            assert torch.equal(
                batch["image"], clips.image[batch["waveform"][:, 0].long()]
            )  # pictures with their sounds
        return torch.cat([batch["waveform"][:, 0] for batch in batches]).tolist()

    assert sorted(order(1)) == list(range(24)) and order(1) == order(1)
    assert order(1) != order(2) != list(range(24))
    assert len(set(order(3, size=7))) == 21  # the incomplete batch is left out


def test_processes_share_the_clips_of_an_epoch(configure):
    class Rank:
        world_size = 2

        def __init__(self, rank):
            self.global_rank = rank

    dataset = datasets.AVDataset(configure(), "train", train=True)
    clips = datasets.load_in_memory(dataset)
    marked = clips._replace(waveform=torch.arange(24, dtype=torch.int16)[:, None])
    parts = [[int(v) for b in engine._from_memory(marked, 4, Rank(r), 5) for v in b["waveform"]] for r in (0, 1)]
    assert [len(part) for part in parts] == [12, 12] and sorted(parts[0] + parts[1]) == list(range(24))


def test_batch_larger_than_the_data_is_refused(configure, tmp_path):
    with pytest.raises(ValueError, match=r"batch_size 25 is larger than the 24 clips of 'train'"):
        engine.fit(configure(training={"batch_size": 25}), tmp_path)


def test_learning_rate_by_hand(configure):
    def rates(steps, **training):
        settings = configure(training={"learning_rate": 0.8} | training)
        return [engine.learning_rate(settings, step, steps) for step in range(steps)]

    assert rates(4) == [0.8] * 4
    assert rates(8, warmup=0.5) == pytest.approx([0.16, 0.32, 0.48, 0.64, 0.8, 0.8, 0.8, 0.8])
    quarter = 0.4 * (1 + math.cos(math.pi / 4))
    assert rates(4, schedule="cosine") == pytest.approx([0.8, quarter, 0.4, 0.8 - quarter])
    both = rates(8, schedule="cosine", warmup=0.5)
    assert both == pytest.approx([0.16, 0.32, 0.48, 0.64, 0.8, quarter, 0.4, 0.8 - quarter])
    for warmup in (0.0, 0.03, 0.1, 0.77):
        found = rates(100, schedule="cosine", warmup=warmup)
        top = int(np.argmax(found))
        assert (np.diff(found[: top + 1]) > 0).all() and (np.diff(found[top:]) < 0).all()
        assert min(found) > 0 and max(found) <= 0.8


def test_rates_of_a_run_are_those_of_the_schedule(trained, settings):
    last = [engine.learning_rate(settings, step, 9) for step in (2, 5, 8)]  # three epochs of three batches
    assert metrics_of(trained)["learning_rate"].tolist() == last


def test_the_audio_encoder_learns_at_its_own_rate(configure, tmp_path):
    def after_one_step(rate):
        settings = configure(
            training={"learning_rate": 1e-2, "audio_learning_rate": rate, "batch_size": 24, "epochs": 1}
        )
        run = engine.fit(settings, tmp_path / str(rate))
        return checkpoint.load_model(run / "checkpoint.pt", "cpu")[0].state_dict()

    slow, fast, same = after_one_step(1e-3), after_one_step(4e-3), after_one_step(None)
    for name in ("conv1.weight", "layer4.0.conv2.weight"):
        # Adam's first step is the rate itself, wherever the gradient is not next to nothing.
        moved = (fast["audio_encoder." + name] - slow["audio_encoder." + name]).abs().median()
        assert moved == pytest.approx(3e-3, rel=1e-2)
        assert (same["audio_encoder." + name] - slow["audio_encoder." + name]).abs().median() == pytest.approx(
            9e-3, rel=1e-2
        )
        assert torch.equal(fast["image_encoder." + name], slow["image_encoder." + name])


@pytest.mark.parametrize("kind, wanted", [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_optimizer(configure, kind, wanted):
    settings = configure(training={"optimizer": kind, "weight_decay": 0.3})
    model = SoundLocalizer(settings.model)
    found = engine._optimizer(model, settings)
    assert type(found) is wanted
    assert all((group["lr"], group["weight_decay"]) == (2e-3, 0.3) for group in found.param_groups)
    optimized = [id(p) for group in found.param_groups for p in group["params"]]
    assert sorted(optimized) == sorted(id(p) for p in model.parameters())


def test_frequency_of_foreground_nodes_by_hand(configure):
    model = SoundLocalizer(configure().model)
    order = torch.tensor([[3, 1, 0, 2, 4, 5, 6, 7], [3, 2, 1, 0, 4, 5, 6, 7]])
    engine._count_foreground(model, order, 2)
    share = torch.tensor([0, 0.5, 0.5, 1, 0, 0, 0, 0])
    torch.testing.assert_close(model.foreground_frequency, 0.99 * 0.5 + 0.01 * share)


def test_loss_goes_down(configure, tmp_path):
    settings = configure(training={"epochs": 10, "augment": {"crop": 1.0, "flip": False}})
    rows = metrics_of(engine.fit(settings, tmp_path))
    assert rows["loss"].iloc[-1] < 0.75 * rows["loss"].iloc[0]
    assert rows["accuracy"].iloc[-1] > 2 * rows["accuracy"].iloc[0] > 0


def test_base_model_trains(configure, tmp_path):
    run = engine.fit(configure(model={"reasoning": False}, training={"epochs": 1}), tmp_path)
    rows = metrics_of(run)
    assert {"discrimination", "divergence"}.isdisjoint(rows.columns) and np.isfinite(rows.to_numpy()).all()


def test_loss_that_is_not_finite_stops_the_run(configure, tmp_path):
    with pytest.raises(engine.TrainingError, match=r"not finite in epoch 1.*learning_rate"):
        engine.fit(configure(training={"learning_rate": 1e30}), tmp_path)
    assert not (tmp_path / "run/checkpoint.pt").exists()


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"training": {"learning_rate": 1e30}}, "not finite in epoch 1"),
        ({"training": {"batch_size": 25}}, "batch_size 25 is larger"),
        ({"data": {"seconds": 1e9}}, "are available"),  # of memory
    ],
)
def test_what_stops_a_training_is_one_sentence_on_the_command_line(configure, tmp_path, capsys, wrong, says):
    with pytest.raises(SystemExit), clean_errors():
        engine.fit(configure(**wrong), tmp_path)
    assert re.fullmatch(rf"sslib: .*{says}.*\n", capsys.readouterr().err.splitlines(keepends=True)[-1])


def test_a_bug_keeps_its_traceback():
    with pytest.raises(KeyError), clean_errors():
        raise KeyError("of ours")


# Prediction


def test_saliency_adds_what_stands_out_and_nothing_on_average(configure):
    visual = torch.tensor([[[[3.0, 0.0], [1.0, 2.0]], [[4.0, 1.0], [0.0, 0.0]]]])  # norms 5, 1, 1, 2
    sound = torch.tensor([[2.0, 0.0]])
    cosines = torch.tensor([[[0.6, 0.0], [1.0, 1.0]]])
    torch.testing.assert_close(sound_maps(visual, sound, configure()), cosines)
    want = cosines + 0.4 * (torch.tensor([[1.0, 0.0], [0.0, 0.25]]) - 1.25 / 4)
    torch.testing.assert_close(sound_maps(visual, sound, configure(evaluation={"saliency": 0.4})), want)
    flat = sound_maps(torch.ones(1, 2, 3, 3), sound, configure(evaluation={"saliency": 0.4}))
    torch.testing.assert_close(flat, torch.full((1, 3, 3), 0.5**0.5))


def test_prediction_is_that_of_single_clips(trained, configure):
    model, settings = load_model(trained / "checkpoint.pt")
    dataset = datasets.AVDataset(settings, "test")
    clips = datasets.load_in_memory(dataset)
    turned = np.roll(np.arange(len(dataset)), 1)
    found = predict(model, clips, settings, other_audio={"turned": turned})
    assert found.ids == dataset.ids and not model.training
    from sslib import features

    with torch.no_grad():
        for i in range(0, len(dataset), 4):
            visual = model.encode_image(features.images(clips.image[i : i + 1], settings))
            own, other = (
                model.encode_audio(features.spectrograms(clips.waveform[k : k + 1], settings)) for k in (i, turned[i])
            )
            nodes, _ = model.visual_reasoning(visual)
            for name, want in (
                ("similarity", model.similarity(visual, own)),
                ("turned", model.similarity(visual, other)),
                ("visual_only", model.visual_only(nodes)),
                ("visual_only_mean", nodes.mean(dim=1)),
            ):
                np.testing.assert_allclose(found.maps[name][i], want[0], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found.audio_embeddings[i], own[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.audio_embeddings, axis=1), 1, rtol=1e-5)
    assert np.abs(found.maps["similarity"]).max() <= 1 + 1e-6
    from_files = predict(model, dataset, settings, other_audio={"turned": turned})
    for name, maps in found.maps.items():
        np.testing.assert_array_equal(from_files.maps[name], maps)
    assert (from_files.loss, from_files.accuracy) == (found.loss, found.accuracy)


@pytest.mark.parametrize("workers", [0, 2])
def test_prediction_decodes_each_clip_once_and_draws_no_number(trained, monkeypatch, tmp_path, workers):
    """In ``training.workers`` processes, whatever is played; every decoding leaves a line in a file."""
    model, settings = load_model(trained / "checkpoint.pt")
    settings = Config.model_validate(config.merge(settings.model_dump(), {"training": {"workers": workers}}))
    dataset, read = datasets.AVDataset(settings, "test"), datasets.AVDataset.__getitem__
    want = predict(model, datasets.load_in_memory(dataset), settings)

    def noted(self, index):
        with (tmp_path / "read.txt").open("a") as file:
            file.write(f"{index} {os.getpid()}\n")
        return read(self, index)

    monkeypatch.setattr(datasets.AVDataset, "__getitem__", noted)
    torch.manual_seed(3)
    found = predict(model, dataset, settings, other_audio={"half": lambda waveform, ids: waveform // 2}, all_pairs=True)
    assert torch.equal(torch.rand(2), torch.rand(2, generator=torch.Generator().manual_seed(3)))
    rows = [line.split() for line in (tmp_path / "read.txt").read_text().splitlines()]
    assert sorted(int(index) for index, _ in rows) == list(range(len(dataset)))
    processes = {int(process) for _, process in rows}
    assert len(processes) == 2 and os.getpid() not in processes if workers else processes == {os.getpid()}
    np.testing.assert_array_equal(found.maps["similarity"], want.maps["similarity"])
    best = found.maps["similarity"].max(axis=(1, 2))
    np.testing.assert_allclose(np.diag(found.pair_scores), best, rtol=1e-5)


def test_validation_is_measured_on_val(trained):
    model, settings = load_model(trained / "checkpoint.pt")
    dataset = datasets.AVDataset(settings, "val", annotated=True)
    found = predict(model, dataset, settings)
    last = metrics_of(trained).iloc[-1]
    truth = np.stack([metrics.box_map(clip["boxes"].tolist()) for clip in (dataset[i] for i in range(len(dataset)))])
    assert last["val_pointing"] == pytest.approx(metrics.pointing(found.maps["similarity"], truth > 0).mean())
    assert last["val_success"] == pytest.approx(metrics.success_rate(metrics.ciou(found.maps["similarity"], truth)))
    assert last["val_loss"] == pytest.approx(found.loss) and last["val_accuracy"] == pytest.approx(found.accuracy)


# Checkpoints


@pytest.mark.parametrize(
    "overrides, named",
    [
        ({"training": {"learning_rate": 1e-3}}, "training.learning_rate"),
        ({"training": {"epochs": 4}}, "training.epochs"),
        ({"model": {"nodes": 9}}, "model.nodes"),
        ({"objective": {"divergence": 0.2}}, "objective.divergence"),
        ({"front_end": {"hop": 64}}, "front_end.hop"),
        ({"data": {"seconds": 0.5}}, "data.seconds"),
        ({"seed": 9}, "seed"),
        ({"training": {"augment": {"mask": 0.1}}}, "training.augment"),
    ],
)
def test_run_of_another_configuration_is_refused(trained, settings, overrides, named):
    values = config.merge(settings.model_dump(mode="json"), overrides)
    with pytest.raises(CheckpointError, match=f"another configuration .*{named}.*exp_name"):
        engine.fit(Config.model_validate(values), trained.parent)


def test_what_changes_no_weight_is_not_refused(trained, settings):
    changes = {"data": {"loader": "lmdb", "tests": ["test"], "require_all": True, "raw": "videos", "stamps": None},
               "training": {"workers": 2}, "exp_name": "other", "evaluation": {"resamples": 7}}  # fmt: skip
    values = config.merge(settings.model_dump(mode="json"), changes)
    assert engine.fit(Config.model_validate(values), trained.parent) == trained


def test_workers_that_draw_moments_decide_the_weights(configure, tmp_path):
    """They do so for a random time only; with another number of them a run cannot go on."""
    settings = configure(data={"in_memory": False, "time": "random"}, training={"workers": 1})
    engine.fit(settings, tmp_path, stop_after=1)
    with pytest.raises(CheckpointError, match=r"training\.workers"):
        engine.fit(Config.model_validate(config.merge(settings.model_dump(mode="json"), {"training": {"workers": 2}})),
                   tmp_path)  # fmt: skip


def copy_of_data(settings, root: Path) -> tuple[Config, datasets.Layout]:
    shutil.copytree(settings.data.root, root)
    moved = Config.model_validate(config.merge(settings.model_dump(mode="json"), {"data": {"root": str(root)}}))
    return moved, datasets.Layout(root)


def test_run_on_other_data_is_refused(trained, settings, tmp_path):
    moved, layout = copy_of_data(settings, tmp_path / "data")
    assert engine.fit(moved, trained.parent) == trained  # only moved
    ids = layout.ids("train")
    layout.write_split("more", [*ids, "a new clip in another list"])
    assert engine.fit(moved, trained.parent) == trained
    layout.write_split("train", [*ids[1:], ids[0]])  # of equal length, but in another order other batches
    with pytest.raises(CheckpointError, match=r"the clips of 'train' in .* are others than it was trained on"):
        engine.fit(moved, trained.parent)
    layout.write_split("train", ids)
    layout.write_info(**layout.info() | {"digest": "another"})
    with pytest.raises(CheckpointError, match="the files of 'train'"):
        engine.fit(moved, trained.parent)


def test_files_of_a_folder_without_digest_are_told_by_their_sizes(settings, tmp_path):
    moved, layout = copy_of_data(settings, tmp_path / "data")
    (layout.root / "dataset.json").unlink()
    run = engine.fit(moved, tmp_path, stop_after=1)
    layout.write_clip("new", np.zeros((80, 80, 3), np.uint8), np.zeros(8000, np.int16), 8000)
    layout.write_split("all", [*layout.ids("train"), "new"])
    assert engine.fit(moved, tmp_path, stop_after=1) == run
    layout.write_clip(layout.ids("train")[3], np.zeros((80, 80, 3), np.uint8), np.zeros(8000, np.int16), 8000)
    with pytest.raises(CheckpointError, match="the files of 'train'"):
        engine.fit(moved, tmp_path)


def test_files_of_prepared_videos_are_told_by_their_manifest(configure, tmp_path):
    """A new video in no list changes nothing; another video under the name of a listed one does."""
    names = [f"clip{number}" for number in range(5)]
    for number, name in enumerate(names[:4]):
        videos.make(tmp_path / "raw" / f"{name}.mp4", seconds=0.5 + number / 10)
    prepare.prepare(tmp_path / "raw", tmp_path / "own", workers=0)
    layout = datasets.Layout(tmp_path / "own")
    layout.write_split("train", names[:3])
    layout.write_split("val", names[3:4])
    settings = configure(data={"root": str(layout.root), "stamps": None}, training={"batch_size": 3, "epochs": 1})
    run = engine.fit(settings, tmp_path)
    videos.make(tmp_path / "raw" / "clip4.mp4", seconds=0.5)
    prepare.prepare(tmp_path / "raw", layout.root, workers=0)
    assert engine.fit(settings, tmp_path) == run
    videos.make(tmp_path / "raw" / "clip1.mp4", seconds=1.5)
    prepare.prepare(tmp_path / "raw", layout.root, workers=0)
    with pytest.raises(CheckpointError, match="the files of 'train'"):
        engine.fit(settings, tmp_path)


def test_checkpoint_of_an_earlier_version_is_refused_with_advice(trained, settings, tmp_path):
    (tmp_path / "run").mkdir()
    torch.save(load_checkpoint(trained / "checkpoint.pt") | {"format": 1}, tmp_path / "run/checkpoint.pt")
    for use in (lambda: load_model(tmp_path / "run/checkpoint.pt"), lambda: engine.fit(settings, tmp_path)):
        with pytest.raises(CheckpointError, match=r"earlier sslib: train again, or use the version it was made with"):
            use()


class Command:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def test_untrusted_pickle_is_refused_and_not_run(trained, tmp_path):
    state = load_checkpoint(trained / "checkpoint.pt")
    path = tmp_path / "run/checkpoint.pt"
    path.parent.mkdir()
    torch.save(state | {"extra": Command(tmp_path / "ran")}, path)
    for use in (
        load_checkpoint,
        load_model,
        lambda p: checkpoint.resumable(load_model(trained / "checkpoint.pt")[1], p.parent),
    ):
        with pytest.raises(CheckpointError, match="refused"):
            use(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 half a zip file"])
def test_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(path)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="refused"):
        load_checkpoint(path)
    for other in ([1], {"state_dict": {}}, {"format": 99}):
        torch.save(other, path)
        with pytest.raises(CheckpointError, match="no checkpoint of sslib"):
            load_checkpoint(path)


def test_weights_that_do_not_fit_are_refused(trained, tmp_path):
    state, path = load_checkpoint(trained / "checkpoint.pt"), tmp_path / "checkpoint.pt"
    name = "image_encoder.layer1.0.conv1.weight"

    def refused(model, says):
        torch.save(state | {"model": model}, path)
        with pytest.raises(CheckpointError, match=says):
            load_model(path)

    refused({key: value for key, value in state["model"].items() if key != name}, f"Missing key.*\\s.*{name}")
    refused(state["model"] | {"more.weight": torch.zeros(3)}, r"Unexpected key.*\s.*more\.weight")
    refused(state["model"] | {name: torch.zeros(8, 8, 5, 5)}, f"size mismatch for {name}")
    torch.save(state | {"config": config.merge(state["config"], {"model": {"width": 16}})}, path)
    with pytest.raises(CheckpointError, match="does not fit its own configuration"):
        load_model(path)


def test_checkpoint_with_parts_missing_is_refused(trained, tmp_path):
    state, path = load_checkpoint(trained / "checkpoint.pt"), tmp_path / "checkpoint.pt"
    for part in ("config", "model"):
        torch.save({key: value for key, value in state.items() if key != part}, path)
        with pytest.raises(CheckpointError, match=part):
            load_model(path)
    torch.save(state | {"config": {"exp_name": 3}}, path)
    with pytest.raises(CheckpointError, match="config"):
        load_model(path)


def test_loaded_model_is_the_trained_one(trained, settings):
    model, read = load_model(trained / "checkpoint.pt")
    assert read == settings and not model.training
    for name, value in state_of(trained).items():
        assert torch.equal(model.state_dict()[name], value), name
    assert not torch.equal(model.foreground_frequency, torch.full((8,), 0.5))


# Two processes

SCRIPT = """
import sys
from pathlib import Path
import torch
from sslib import config, datasets, engine, losses
from sslib.model import SoundLocalizer

torch.set_num_threads(1)
folder = Path(sys.argv[1])
settings = config.load(folder / "config.yaml", root=folder)
fabric = engine.start_fabric(settings)
fabric.seed_everything(5, verbose=False)
model = fabric.setup(SoundLocalizer(settings.model))
model.eval()  # batch norms and dropout see only their own process's clips
clips = torch.load(folder / "batch.pt")
mine = {name: value[fabric.global_rank * 4 : fabric.global_rank * 4 + 4] for name, value in clips.items()}
result = engine.training_step(model, mine, settings, fabric)
fabric.backward(result.total)
if fabric.is_global_zero:
    gradients = {name: value.grad for name, value in model.module.named_parameters()}
    found = {"total": result.total.detach(), "ranking": result.node_ranking, "gradients": gradients}
    torch.save(found, folder / "step.pt")
run = engine.fit(settings, folder)
print("world", fabric.world_size)
"""


def test_two_processes_are_one(configure, tmp_path):
    """The gradient of a batch of 8 is the same from one process and from two with 4 clips each; then both train."""
    still = {"crop": 1.0, "flip": False}
    settings = configure(training={"devices": 2, "augment": still, "epochs": 1, "batch_size": 4},
                         model={"feature_dropout": 0.0})  # fmt: skip
    clips = datasets.load_in_memory(datasets.AVDataset(settings, "train", train=True))
    batch = {"image": clips.image[:8], "waveform": clips.waveform[:8]}
    torch.save(batch, tmp_path / "batch.pt")
    (tmp_path / "config.yaml").write_text(config.dump(settings))
    (tmp_path / "script.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):  # what torchrun sets, without the time that it needs itself
        variables = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2,
                     "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}  # fmt: skip
        surroundings = os.environ | {name: str(value) for name, value in variables.items()}
        command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
        processes.append(subprocess.Popen(command, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                          text=True))  # fmt: skip
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)[-6000:]
    assert all("world 2" in output for output in outputs)
    together = torch.load(tmp_path / "step.pt")

    torch.manual_seed(5)
    model = SoundLocalizer(settings.model).eval()
    alone = engine.training_step(model, batch, settings)
    alone.total.backward()
    torch.testing.assert_close(together["total"], alone.total.detach())
    assert torch.equal(together["ranking"], alone.node_ranking)
    assert together["gradients"].keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        spread = float(parameter.grad.abs().max())
        torch.testing.assert_close(together["gradients"][name], parameter.grad, rtol=1e-4, atol=1e-5 * spread, msg=name)

    run = tmp_path / "run"
    rows = metrics_of(run)
    assert len(rows) == 1 and np.isfinite(rows.to_numpy()).all()
    trained, _ = load_model(run / "checkpoint.pt")
    prediction = predict(trained, datasets.AVDataset(settings, "val"), settings)
    assert rows["val_loss"].iloc[0] == pytest.approx(prediction.loss, rel=1e-4)


def test_a_notebook_trains_on_several_devices_by_the_command(configure, tmp_path, monkeypatch, capsys):
    """Fabric starts no processes from an interactive one; `sslib train` gets what `fit` was given."""
    settings, reports = configure(training={"devices": 2}), tmp_path / "reports/test/tiny"
    for name in ("sslib/config.py", "notebooks/x"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    given = []

    def popen(command, **options):
        given.append((config.load(command[4]), command[1:4] + command[5:]))
        code = f"import sys; print('epoch 1/3'); sys.exit({len(given) - 1})"
        return start([sys.executable, "-c", code], **options)

    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", popen)
    assert engine.fit(settings, reports) == reports / "run"
    assert capsys.readouterr().out == "epoch 1/3\n"
    with pytest.raises(engine.TrainingError, match=r"sslib train. on 2 devices"):
        engine.fit(settings, reports, retrain=True)
    assert given == [(settings, ["-m", "sslib", "train"]), (settings, ["-m", "sslib", "train", "--force"])]
    with pytest.raises(ConfigError, match="sslib train"):
        engine.fit(settings, tmp_path / "elsewhere")


@pytest.mark.parametrize("silent", [0, 2])
def test_step_is_the_objective_of_the_batch(configure, silent, monkeypatch):
    """What `fit` does with a batch is what notebook 02 shows in the open."""
    from sslib import features

    settings = configure(training={"augment": {"crop": 1.0, "flip": False}}, model={"feature_dropout": 0.0},
                         objective={"silent": silent, "global_contrast": 0.5 * silent})  # fmt: skip
    clips = datasets.load_in_memory(datasets.AVDataset(settings, "train", train=True))
    batch = {"image": clips.image[:6], "waveform": clips.waveform[:6]}
    model = SoundLocalizer(settings.model).eval()
    monkeypatch.setattr(features, "silent_sounds", lambda count, waveform: waveform[:count] // 9)  # else random
    sounds = torch.cat([batch["waveform"], features.silent_sounds(silent, batch["waveform"])])
    output = model(features.images(batch["image"], settings), features.spectrograms(sounds, settings))
    assert (output.silent is None) == (silent == 0) and len(output.audio) == 6
    want = losses.objective(output, model.scale, settings.objective)
    torch.testing.assert_close(engine.training_step(model, batch, settings).total, want.total)


def test_an_accelerator_that_is_not_there_is_one_sentence(configure):
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(ConfigError, match=r"training\.accelerator gpu, devices: .*gpu"):
        engine.start_fabric(configure(training={"accelerator": "gpu"}))
