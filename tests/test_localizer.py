"""A trained model for any picture and any sound: the maps are those of an evaluation, whatever form both come in."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import sslib
from sslib import checkpoint, datasets, engine, localizer, metrics
from sslib.config import InputError
from sslib.localizer import Localizer, read_picture
from sslib.prediction import predict

DRAWN = {"image_sizes": [48, 64], "mirror": True, "saliency": 0.3, "smoothing": 0.2}


@pytest.fixture(scope="module")
def run(configure, tmp_path_factory) -> Path:
    return engine.fit(configure(training={"epochs": 1}, evaluation=DRAWN), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(run) -> Localizer:
    return sslib.load(run / "checkpoint.pt")


@pytest.fixture(scope="module")
def clip(configure) -> tuple[str, Path, Path]:
    """A test clip's id, picture and sound."""
    data = datasets.AVDataset(configure(), "test")
    return data.ids[0], data.layout.frames(data.ids[0])[1], data.layout.audio(data.ids[0])


def test_map_is_that_of_an_evaluation(run, model, clip, configure):
    clip_id, picture, sound = clip
    data = datasets.AVDataset(configure(), "test")
    want = predict(checkpoint.load_model(run / "checkpoint.pt")[0], data, configure(evaluation=DRAWN)).maps[
        "similarity"
    ]
    want = metrics.smooth(want, 0.2)[0]
    height, width = read_picture(picture).shape[:2]
    heatmap, confidence, visible = model.localize(picture, sound)
    assert heatmap.dtype == np.float32 and heatmap.shape == (height, width) and data.ids[0] == clip_id
    np.testing.assert_allclose(heatmap, metrics.resize(want[None], (height, width))[0], atol=2e-6)
    assert confidence == pytest.approx(want.max(), abs=2e-6) and want.shape == (4, 4)
    assert visible is None  # it was never evaluated, so no threshold is known


def test_every_form_of_picture_and_sound_gives_the_same(model, clip):
    _, path, sound = clip
    samples, rate = soundfile.read(sound, dtype="int16")
    array = read_picture(path)
    pictures = [str(path), Image.open(path), array, Image.fromarray(array).convert("RGBA")]
    stereo = np.stack([samples, samples], axis=1)
    sounds = [
        (sound, None),
        (samples, rate),
        (samples / 32768, rate),
        (stereo, rate),
        (stereo.T.astype("float32") / 32768, rate),
    ]
    want = model.localize(path, sound).heatmap
    for picture in pictures:
        np.testing.assert_array_equal(model.localize(picture, sound).heatmap, want)
    for waveform, at in sounds:
        np.testing.assert_array_equal(model.localize(path, waveform, at).heatmap, want)
    grey = np.asarray(Image.open(path).convert("L"))
    assert np.array_equal(read_picture(grey), np.stack([grey] * 3, axis=2))
    u8 = np.round(samples / 256 + 128).clip(0, 255).astype(np.uint8)
    assert np.abs(model.localize(path, u8, rate).heatmap - want).max() < 0.2


def test_sound_of_another_rate_is_resampled_and_the_loudest_part_of_a_long_one_is_heard(model):
    rate, seconds = 48000, 5.0
    time = np.arange(round(seconds * rate)) / rate
    sound = 0.5 * np.sin(2 * np.pi * 1000 * time) * ((time >= 3) & (time < 4))
    waveform = model.loudest(model.read_sound(sound, rate))
    assert len(waveform) == model.samples == 8000
    assert np.sqrt(np.mean((waveform / 32768) ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
    spectrum = np.abs(np.fft.rfft(waveform))
    assert spectrum.argmax() == 1000  # Hz: 8000 samples at 8 kHz
    assert np.array_equal(model.loudest(np.arange(3000, dtype=np.int16))[3000:6000], np.arange(3000))  # tiled


@pytest.mark.parametrize(
    ("image", "audio", "rate", "says"),
    [
        ("none.jpg", np.zeros(9), 8000, "no picture none.jpg"),
        (np.zeros((4, 4, 3)), np.zeros(9), 8000, r"uint8 \(H, W, 3\)"),
        (np.zeros((4, 4, 4), np.uint8), np.zeros(9), 8000, r"uint8 \(H, W, 3\)"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros(9), None, "sample_rate"),
        (np.zeros((4, 4, 3), np.uint8), np.array([0, np.nan]), 8000, "not finite"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros(0), 8000, "a sound is"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((2, 2, 2)), 8000, "a sound is"),
        (np.zeros((4, 4, 3), np.uint8), "none.wav", None, "no sound file none.wav"),
    ],
)
def test_what_is_no_picture_or_sound_is_refused(model, image, audio, rate, says):
    with pytest.raises(InputError, match=says):
        model.localize(image, audio, rate)


def test_exported_model_says_the_same_and_what_it_is(run, model, clip, tmp_path):
    row = {"protocol": "masks", "method": "model", "measure": "pointing", "value": 0.5, "low": 0.4, "high": 0.6}
    tables = [row | {"clusters": 12}, row | {"method": "oracle", "clusters": 12}]
    (run / "summary.json").write_text(json.dumps({"tables": tables, "threshold": {"value": 0.25}}))
    loaded = sslib.load(run.parent)  # an experiment's folder
    (run / "summary.json").unlink()
    folder = loaded.export(tmp_path / "model")
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    again, about = sslib.load(folder), json.loads((folder / "model.json").read_text())
    want = model.localize(*clip[1:])
    found = again.localize(*clip[1:])
    np.testing.assert_array_equal(found.heatmap, want.heatmap)
    assert found.visible is (want.confidence > 0.25) and again.about == about == loaded.about
    assert about["metrics"] == tables[:1] and about["threshold"] == 0.25
    assert about["training"]["list"] == "train" and len(about["training"]["digest"]["clips"]) == 64  # of its ids
    assert set(about["config"]) == {"exp_prefix", "exp_name", "data", "front_end", "model", "evaluation"}
    assert str(run) not in (folder / "model.json").read_text()
    loaded.export(folder)  # again
    (folder / "mine.txt").touch()
    with pytest.raises(InputError, match=r"other files \(mine.txt\)"):
        loaded.export(folder)


def test_damaged_or_missing_models_are_refused(model, tmp_path, monkeypatch):
    folder = model.export(tmp_path / "model")
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(InputError, match="of format 99"):
        sslib.load(folder)
    (folder / "model.json").write_text(json.dumps(about))
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(InputError, match="no exported model"):
        sslib.load(folder)
    with pytest.raises(InputError, match="no checkpoint"):
        sslib.load(tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="make demo"):
        sslib.load()


def test_visible_is_what_exceeds_the_threshold(model):
    with torch.inference_mode():
        similarity = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    for threshold, want in ((None, None), (0.99, True), (1.01, False)):
        other = localizer.Localizer(model.model, model.config, model.about | {"threshold": threshold})
        assert other.localization(similarity, (8, 8)).visible is want


def test_four_lines_of_the_readme(run, clip, tmp_path, monkeypatch, capsys):
    readme = (Path(sslib.__file__).parents[1] / "README.md").read_text()
    [code] = [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "sslib.load" in block]
    assert len(list(filter(None, code.splitlines()))) == 4
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "reports/demo/stamps/run/checkpoint.pt"
    target.parent.mkdir(parents=True)
    shutil.copy(run / "checkpoint.pt", target)
    Image.open(clip[1]).save("photo.jpg")
    soundfile.write("call.wav", *soundfile.read(clip[2]))
    exec(code, {})
    assert re.match(r"\(80, 107\) 0\.\d+ ", capsys.readouterr().out)
