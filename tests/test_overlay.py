"""One's own video with the place of its sound: what is drawn, written, kept, resumed and refused."""

import itertools
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import videos
from PIL import Image
from typer.testing import CliRunner

import sslib
from sslib import checkpoint
from sslib.__main__ import app
from sslib.data import stream
from sslib.localizer import Localization, Localizer
from sslib.model import SoundLocalizer
from sslib.report import overlay, own_video
from sslib.report.overlay import OverlayError, localize_picture
from sslib.report.own_video import localize_video


@pytest.fixture(scope="module")
def model(configure, tmp_path_factory) -> Localizer:
    """An untrained model: where it points is no matter here."""
    torch.manual_seed(0)
    config, path = configure(), tmp_path_factory.mktemp("model") / "checkpoint.pt"
    weights = SoundLocalizer(config.model)
    checkpoint.save(path, config, {"clips": "", "files": ""}, weights, torch.optim.SGD(weights.parameters()), [])
    return sslib.load(path)


@pytest.fixture
def video(tmp_path) -> Path:
    """Six seconds of 25 pictures a second; its sound is stereo, a tone to the left that ends at 4 s."""
    sound = np.concatenate([videos.tone(4.0), np.zeros((1, 2 * videos.RATE), np.float32)], axis=1)
    return videos.make(tmp_path / "in.mp4", seconds=6.0, size=(160, 120), sounds=[np.concatenate([sound, 0 * sound])])


def read_back(path: Path) -> tuple[list[np.ndarray], np.ndarray, av.container.InputContainer]:
    """The pictures of a video and its sound, float (channels, samples)."""
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
        return pictures, sound, container


def test_overlay_has_the_pictures_at_their_times_and_the_original_sound(model, video, tmp_path, monkeypatch):
    monkeypatch.setattr(own_video, "PART", 7)  # moments: several parts are joined
    monkeypatch.setattr(own_video, "draw", lambda picture, *_: picture)  # its number stays legible
    out = localize_video(model, video, tmp_path / "out.mp4")
    pictures, sound, _ = read_back(out)
    assert [videos.number(picture) for picture in pictures] == list(range(0, 150, 5))
    assert pictures[0].shape == (120, 160, 3)
    assert len(sound) == 2 and sound.shape[1] / 48000 == pytest.approx(6.0, abs=0.05)
    left, right = sound
    assert videos.pitch(left[48000:96000], 48000) == pytest.approx(440, abs=2)
    assert np.abs(left[48000:96000]).max() == pytest.approx(0.25, abs=0.02) and np.abs(right).max() < 0.02
    ends = np.flatnonzero(np.abs(left) > 0.05)[-1] / 48000
    assert ends == pytest.approx(4.0, abs=0.03)
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["time_s"].tolist() == pytest.approx([k / 5 for k in range(30)])
    assert set(table["source"][:20]) == {"visible"} and set(table["source"][23:]) == {"silence"}
    assert table["loudness_dbfs"][5] == pytest.approx(
        20 * np.log10(0.125 / np.sqrt(2)), abs=0.2
    )  # mean of the channels
    assert not (tmp_path / "out.mp4.parts").exists()


def test_times_of_the_container_are_those_of_the_table(model, video, tmp_path, monkeypatch):
    monkeypatch.setattr(own_video, "PART", 7)
    with av.open(str(localize_video(model, video, tmp_path / "out.mp4", 2.5))) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([k / 2.5 for k in range(15)], abs=1e-3)


def test_rows_are_those_of_localize(model, video, tmp_path):
    localize_video(model, video, tmp_path / "out.mp4")
    table = pd.read_csv(tmp_path / "out.csv")
    moments = list(stream.VideoStream(video, 5, model.sample_rate, model.samples))
    for number in (0, 7, 29):
        want = model.localize(moments[number].picture, moments[number].waveform, model.sample_rate)
        y, x = np.unravel_index(want.heatmap.argmax(), want.heatmap.shape)
        assert table["confidence"][number] == pytest.approx(want.confidence, abs=1e-4)
        assert (table["peak_x"][number], table["peak_y"][number]) == (x, y)


def test_stopped_run_goes_on_and_ends_as_one_that_was_not(model, video, tmp_path, monkeypatch):
    monkeypatch.setattr(own_video, "PART", 7)
    localize_video(model, video, tmp_path / "whole.mp4")
    calls, encode_images = itertools.count(), model.encode_images

    def stop(pictures):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return encode_images(pictures)

    monkeypatch.setattr(model, "encode_images", stop)
    with pytest.raises(KeyboardInterrupt):
        localize_video(model, video, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists() and not (tmp_path / "out.html").exists()
    localize_video(model, video, tmp_path / "out.mp4")
    assert next(calls) == 2 + 1 + 3  # two parts, the one that was stopped, and the three that were missing
    assert (tmp_path / "out.csv").read_text() == (tmp_path / "whole.csv").read_text()
    for one, other in zip(read_back(tmp_path / "out.mp4")[0], read_back(tmp_path / "whole.mp4")[0], strict=True):
        np.testing.assert_array_equal(one, other)


def test_parts_of_other_work_are_not_joined(model, video, tmp_path, monkeypatch):
    monkeypatch.setattr(own_video, "PART", 7)
    monkeypatch.setattr(own_video, "_join", lambda *_: 1 / 0)
    for rate in (5.0, 2.0):
        with pytest.raises(ZeroDivisionError):
            localize_video(model, video, tmp_path / "out.mp4", rate)
    monkeypatch.undo()
    localize_video(model, video, tmp_path / "out.mp4", 2.0)
    assert len(pd.read_csv(tmp_path / "out.csv")) == 12


def test_rotated_video_stays_upright_and_odd_sides_are_made_even(model, tmp_path):
    turned = videos.make(tmp_path / "a.mp4", seconds=1.0, size=(162, 98), rotation=90)
    pictures, _, _ = read_back(localize_video(model, turned, tmp_path / "out.mp4"))
    assert pictures[0].shape == (162, 98, 3)


def test_drawing_marks_the_peak_or_says_that_there_is_none():
    picture = np.full((90, 120, 3), 100, np.uint8)
    heatmap = np.zeros((90, 120), np.float32)
    heatmap[20:30, 80:90] = 1
    found = Localization(heatmap, 0.5, True)
    drawn = overlay.draw(picture, found, overlay.VISIBLE).astype(int)
    assert (drawn[60:, :60] == 100).all()  # where the map is low nothing changes
    assert np.abs(drawn[22:28, 82:88] - 100).mean() > 30
    for what in (overlay.UNSEEN, overlay.UNHEARD):
        drawn = overlay.draw(picture, found, what)
        assert (drawn[:60] == 100).all() and (drawn[60:] != 100).any()  # words at the bottom, no colour


def test_states():
    loud, quiet = np.full(800, 3000, np.int16), np.full(800, 20, np.int16)  # 20 of 32768: −64 dBFS
    heatmap = np.zeros((2, 2))
    assert overlay.state(Localization(heatmap, 0.1, False), loud)[0] == "no visible source"
    assert overlay.state(Localization(heatmap, 0.1, None), loud)[0] == "visible"
    assert overlay.state(Localization(heatmap, 0.9, True), quiet)[0] == "silence"


def test_picture_and_sound(model, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", videos.tone(2.0)[0], videos.RATE)
    found = localize_picture(model, tmp_path / "a.png", tmp_path / "a.wav", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as drawn:
        assert drawn.size == (80, 60)
        assert np.array_equal(drawn, overlay.draw(np.asarray(Image.open(tmp_path / "a.png")), found, "visible"))
    with pytest.raises(OverlayError, match="exists and is kept"):
        localize_picture(model, tmp_path / "a.png", tmp_path / "a.wav", tmp_path / "out.png")
    with pytest.raises(OverlayError, match=r"\.png or \.jpg"):
        localize_picture(model, tmp_path / "a.png", tmp_path / "a.wav", tmp_path / "out.mp4")


def test_page_holds_the_video_and_asks_for_nothing(model, video, tmp_path, monkeypatch):
    localize_video(model, video, tmp_path / "out.mp4")
    page = (tmp_path / "out.html").read_text()
    assert set(re.findall(r'(?:src|href)="(\w+:[^;]+)', page)) <= {
        "data:video/mp4",
        "data:image/png",
        "data:image/jpeg",
    }
    assert "in.mp4" in page and "out.csv" in page and "<h1>" in page and "alt=" in page
    monkeypatch.setattr(overlay, "EMBEDDED", 10)
    localize_video(model, video, tmp_path / "out.mp4", force=True)
    assert 'src="out.mp4"' in (tmp_path / "out.html").read_text()


def test_output_that_exists_is_kept(model, video, tmp_path):
    (tmp_path / "out.mp4").write_text("mine")
    with pytest.raises(OverlayError, match="exists and is kept"):
        localize_video(model, video, tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_text() == "mine"
    localize_video(model, video, tmp_path / "out.mp4", force=True)
    assert (tmp_path / "out.mp4").stat().st_size > 1000


def test_full_disk_leaves_nothing_that_looks_whole(model, video, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "out.csv")

    monkeypatch.setattr(own_video, "write_atomic", full)
    with pytest.raises(OverlayError, match=r"No space left.*run it again"):
        localize_video(model, video, tmp_path / "out.mp4")
    assert not [path for path in tmp_path.glob("out*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("none.mp4", None, "no video"),
        ("empty.mp4", b"", "empty file"),
        ("text.mp4", b"words " * 99, "not a video"),
        ("picture.mp4", b"\xff\xd8\xff\xe0" + bytes(99), "a picture"),
    ],
)
def test_command_says_in_a_sentence_what_is_wrong(model, tmp_path, monkeypatch, name, make, says):
    monkeypatch.chdir(tmp_path)
    model.export(tmp_path / "model")
    if make is not None:
        Path(name).write_bytes(make)
    result = CliRunner().invoke(app, ["localize", name, "--model", "model"])
    assert result.exit_code == 1 and says in result.output and "Traceback" not in result.output
    assert name in result.output
    assert not list(tmp_path.glob("*overlay*"))


def test_command_localizes_and_exports(model, video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.export(tmp_path / "model")
    result = CliRunner().invoke(app, ["localize", str(video), "--model", "model", "--fps", "2"])
    assert result.exit_code == 0 and "in_overlay.mp4" in result.output
    assert {path.name for path in tmp_path.glob("in_overlay*")} == {
        f"in_overlay.{kind}" for kind in ("mp4", "csv", "html")
    }
    shutil.copy(video, "sound.mp4")
    Image.new("RGB", (40, 30)).save("a.png")
    result = CliRunner().invoke(app, ["localize", "a.png", "--sound", "sound.mp4", "--model", "model"])
    assert result.exit_code == 0 and "confidence" in result.output and Path("a_overlay.png").is_file()
    assert CliRunner().invoke(app, ["export", "model", "copy"]).exit_code == 0
    assert Path("copy/model.json").is_file()


def test_samples_that_are_not_numbers_are_silence_and_said(model, tmp_path):
    sound = videos.tone(3.0, 48000)
    sound[0, 48000:96000] = np.nan
    video = videos.make(tmp_path / "a.mov", seconds=3.0, rate=48000, audio="pcm_f32le", sounds=[sound])
    _, heard, _ = read_back(localize_video(model, video, tmp_path / "out.mp4"))
    assert np.abs(heard[0][60000:84000]).max() < 0.01 < 0.2 < np.abs(heard[0][100000:140000]).max()
    assert "not numbers" in (tmp_path / "out.html").read_text()
