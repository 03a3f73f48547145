"""From stored values to what the encoders see: against librosa, scipy and pictures whose pixels tell their place."""

import librosa
import numpy as np
import pytest
import scipy.signal
import torch

from sslib import features
from sslib.config import Augment


def sound(count: int = 3, samples: int = 4000) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy((8000 * rng.standard_normal((count, samples))).clip(-32768, 32767).astype(np.int16))


def picture(count: int = 4, size: int = 20) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def numbered(count: int, height: int = 30, width: int = 40) -> torch.Tensor:
    """Each pixel holds its row, its column and the number of its picture."""
    grid = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    number = torch.arange(count)[:, None, None, None].expand(-1, 1, height, width)
    return torch.cat([grid.expand(count, -1, -1, -1), number], dim=1).to(torch.uint8)


def test_spectrogram_of_a_tone_peaks_at_its_frequency():
    time = torch.arange(72000) / 24000
    spectrogram = features.log_spectrogram(torch.sin(2 * torch.pi * 3000 * time))
    assert spectrogram.shape == (257, 301)
    assert (spectrogram.argmax(dim=0) == round(3000 / (24000 / 512))).all()


def test_spectrogram_of_silence_is_the_floor():
    assert torch.allclose(features.log_spectrogram(torch.zeros(2, 1000)), torch.log(torch.tensor(1e-7)) / 12)


@pytest.mark.parametrize("rate, window, hop, bands", [(16000, 512, 200, 64), (8000, 256, 128, 32)])
def test_log_mel_is_the_filter_bank_of_librosa(rate, window, hop, bands):
    waveform = sound(samples=rate).numpy() / 32768
    _, _, power = scipy.signal.spectrogram(waveform, rate, nperseg=window, noverlap=window - hop)
    mel = np.stack([librosa.feature.melspectrogram(S=p * rate, sr=rate, n_fft=window, n_mels=bands) for p in power])
    got = features.log_mel(torch.from_numpy(waveform).float(), rate, window, hop, bands)
    assert got.shape == mel.shape
    np.testing.assert_allclose(got, (np.log(mel + 1e-6) + 6) / 4, atol=1e-3)
    alone = features.log_mel(torch.from_numpy(waveform[1]).float(), rate, window, hop, bands)
    np.testing.assert_allclose(alone, got[1], atol=1e-5)


def test_sounds_of_nothing_are_noise_down_to_silence():
    torch.manual_seed(0)
    made = features.silent_sounds(200, sound(samples=1000))
    assert made.shape == (200, 1000) and made.dtype == torch.int16
    level = 20 * torch.log10((made.double() / 32768).square().mean(dim=1).sqrt())
    assert level.min() < -95 and -15 < level.max() < -9 and -65 < level.median() < -45
    assert features.silent_sounds(0, sound(samples=1000)).shape == (0, 1000)


@pytest.mark.parametrize("kind, bands", [("spectrogram", 129), ("mel", 32)])
def test_sounds_are_what_the_front_end_says(configure, kind, bands):
    config = configure(front_end={"kind": kind})
    stored = sound(samples=8000)
    got = features.spectrograms(stored, config)
    assert got.shape == (3, 1, bands, (8000 - 256) // 128 + 1)
    scaled = stored.float() / 32768
    if kind == "mel":
        want = features.log_mel(scaled, 8000, 256, 128, 32)
    else:
        want = features.log_spectrogram(scaled, 8000, 256, 128)
    torch.testing.assert_close(got[:, 0], want)


def test_images_are_normalized_as_imagenet(configure):
    got = features.images(picture(), configure(data={"image_size": 20}))
    want = (picture().double() / 255).permute(0, 2, 3, 1) - torch.tensor([0.485, 0.456, 0.406])
    want = (want / torch.tensor([0.229, 0.224, 0.225])).permute(0, 3, 1, 2)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("flip", [True, False])
def test_random_crop_is_a_window_of_its_own_picture(flip):
    torch.manual_seed(0)
    count, size = 200, 12
    crops = features.random_crop(numbered(count), size, flip).int()
    mirrored = 0
    rows, columns = set(), set()
    for i, (row, column, number) in enumerate(crops):
        assert (number == i).all()
        turned = bool(column[0, 0] > column[0, -1])
        mirrored += turned
        top, left = int(row[0, 0]), int(column.min())
        rows.add(top), columns.add(left)
        want = torch.arange(left, left + size)
        assert (column == (want.flip(0) if turned else want)).all()
        assert (row == torch.arange(top, top + size)[:, None]).all()
    assert rows == set(range(30 - size + 1)) and columns == set(range(40 - size + 1))  # every place, none outside
    assert mirrored == 0 if not flip else 75 <= mirrored <= 125  # 100 +- 3.5 sigma


def test_boxes_are_cropped_and_mirrored_with_their_picture(configure):
    """Where the picture is white is where its fourth channel says so, whatever becomes of it."""
    torch.manual_seed(0)
    inside = 255 * (torch.rand(9, 1, 30, 40) < 0.3).byte()
    config = configure(training={"augment": {"colour": 0.2}}, data={"image_size": 20})
    got = features.images(inside.expand(-1, 4, -1, -1), config, augment=True)
    white = got[:, :3] * features.IMAGENET_STD + features.IMAGENET_MEAN > 0.5
    assert got.shape == (9, 4, 20, 20) and torch.equal(got[:, 3:].expand(-1, 3, -1, -1), white.float())


def test_crop_of_the_whole_picture_is_the_picture():
    assert torch.equal(features.random_crop(picture(), 20, flip=False), picture())


def test_random_choices_repeat_with_torchs_seed(configure):
    augment = {"colour": 0.4, "shift": 0.5, "gain_db": 6, "mask": 0.3}
    config = configure(training={"augment": augment}, data={"image_size": 16})

    def draw(seed):
        torch.manual_seed(seed)
        return features.images(picture(), config, augment=True), features.spectrograms(sound(), config, augment=True)

    one, again, other = draw(1), draw(1), draw(2)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_no_augmentation_is_the_identity(configure):
    config = configure(training={"augment": {"crop": 1.0, "flip": False}}, data={"image_size": 20})
    assert torch.equal(features.spectrograms(sound(), config, augment=True), features.spectrograms(sound(), config))
    assert torch.equal(features.images(picture(), config, augment=True), features.images(picture(), config))


def test_no_colour_is_the_identity():
    image = picture().float() / 255
    assert torch.equal(features.augment_colour(image, Augment(colour=0)), image)


@pytest.mark.parametrize("colour", [1.0, 0.5, 0.1])
def test_colours_stay_in_range(colour):
    torch.manual_seed(0)
    for image in (picture(50).float() / 255, torch.zeros(5, 3, 4, 4), torch.ones(5, 3, 4, 4)):
        got = features.augment_colour(image, Augment(colour=colour))
        assert got.min() >= 0 and got.max() <= 1 and got.isfinite().all()


def test_grey_stays_grey_whatever_the_colour_change():
    torch.manual_seed(0)
    grey = torch.rand(50, 1, 6, 6).expand(-1, 3, -1, -1)
    got = features.augment_colour(grey, Augment(colour=1.0))
    assert (got - got[:, :1]).abs().max() < 1e-5
    assert (got - grey).abs().max() > 0.1


def test_colour_changes_are_an_affine_lightness_and_a_scaled_chroma():
    """Brightness and contrast: lightness becomes a x lightness + b; saturation scales what is left of each pixel."""
    torch.manual_seed(0)
    image = 0.4 + 0.2 * torch.rand(300, 3, 5, 5)  # nothing is clipped
    got = features.augment_colour(image, Augment(colour=0.2))
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    light, new = ((part * weights).sum(dim=1, keepdim=True) for part in (image, got))
    x, y = (part.flatten(1) - part.flatten(1).mean(dim=1, keepdim=True) for part in (light, new))
    slope = (x * y).sum(dim=1) / (x * x).sum(dim=1)  # brightness x contrast
    torch.testing.assert_close(y, slope[:, None] * x, rtol=0, atol=1e-5)
    assert 0.64 <= slope.min() < 0.72 and 1.32 < slope.max() <= 1.44
    chroma, changed = (image - light).flatten(1), (got - new).flatten(1)
    scale = (chroma * changed).sum(dim=1) / (chroma * chroma).sum(dim=1)
    torch.testing.assert_close(changed, scale[:, None] * chroma, rtol=0, atol=1e-5)
    saturation = scale / slope
    assert 0.8 <= saturation.min() + 1e-3 < 0.85 and 1.15 < saturation.max() <= 1.2 + 1e-3


def test_shift_rolls_a_sound():
    torch.manual_seed(0)
    waveform = torch.arange(100.0).expand(40, -1)
    got = features.augment_waveform(waveform, Augment(shift=0.3))
    starts = set()
    for row in got:
        start = int(row[0])
        starts.add(start)
        torch.testing.assert_close(row, torch.arange(100.0).roll(-start))
    assert max(starts) <= 30 and len(starts) > 10


def test_gain_is_in_decibels():
    torch.manual_seed(0)
    waveform = torch.randn(300, 50)
    got = features.augment_waveform(waveform, Augment(gain_db=6.0))
    ratio = got / waveform
    assert (ratio / ratio[:, :1] - 1).abs().max() < 1e-3
    decibels = 20 * ratio[:, 0].log10()
    assert -6.001 <= decibels.min() < -5 and 5 < decibels.max() <= 6.001


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_mask_hides_at_most_its_share(share):
    torch.manual_seed(0)
    spectrogram = torch.rand(300, 40, 70, dtype=torch.float64)
    got = features.mask_spectrogram(spectrogram, share)
    hidden = got != spectrogram
    bands, frames = hidden.all(dim=2), hidden.all(dim=1)
    assert torch.equal(hidden, bands[:, :, None] | frames[:, None, :])
    for lines, size in ((bands, 40), (frames, 70)):
        assert lines.sum(dim=1).max() <= int(np.ceil(share * size))
        assert lines.sum(dim=1).max() >= 0.8 * share * size
        edges = torch.nn.functional.pad(lines.int(), (1, 1)).diff(dim=1)
        assert ((edges == 1).sum(dim=1) <= 1).all()  # one block
    mean = spectrogram.mean(dim=(1, 2), keepdim=True).expand_as(spectrogram)
    torch.testing.assert_close(got[hidden], mean[hidden])
    torch.testing.assert_close(features.mask_spectrogram(spectrogram, 0.0), spectrogram)
