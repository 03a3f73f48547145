"""From stored values to what the encoders see: waveform to log-spectrogram, image to normalized tensor, augmentation.

Everything is batched and runs on the device of its input. Random choices come from torch's global generator.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float, Int16, UInt8
from torch import Tensor

from sslib.config import Augment, Config

IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def log_spectrogram(
    waveform: Float[Tensor, "*batch samples"], sample_rate: int = 24000, window: int = 512, hop: int = 238
) -> Float[Tensor, "*batch F T"]:
    """Compute the paper's front end: log power density of short-time spectra.

    Equal to ``log(scipy.signal.spectrogram(x, sample_rate, nperseg=window, noverlap=window - hop)[2] + 1e-7) / 12``:
    Tukey window (0.25), mean of each frame removed, one-sided density. Samples are clipped to [-1, 1]; 3 s at 24 kHz
    give 257 x 301.
    """
    return torch.log(_power(waveform, sample_rate, window, hop) + 1e-7) / 12


def log_mel(
    waveform: Float[Tensor, "*batch samples"], sample_rate: int, window: int, hop: int, bands: int
) -> Float[Tensor, "*batch F T"]:
    """Compute log-mel bands of the same short-time spectra (librosa's Slaney bank), about zero mean, unit spread."""
    bank = _mel_bank(sample_rate, window, bands).to(waveform.device)
    power = _power(waveform, sample_rate, window, hop) * sample_rate  # full-scale noise lies near 1
    return (torch.log(torch.einsum("mf,...ft->...mt", bank, power) + 1e-6) + 6) / 4


def _power(waveform: Tensor, sample_rate: int, window: int, hop: int) -> Tensor:
    from scipy.signal.windows import tukey

    frames = waveform.clamp(-1, 1).unfold(-1, window, hop)  # (..., T, window)
    taper = torch.from_numpy(tukey(window, 0.25, sym=False)).to(waveform)
    spectrum = torch.fft.rfft((frames - frames.mean(dim=-1, keepdim=True)) * taper)
    power = spectrum.abs().square() / (sample_rate * taper.square().sum())
    power[..., 1 : (window + 1) // 2] *= 2  # the negative frequencies; DC and Nyquist have none
    return power.transpose(-1, -2)


@lru_cache
def _mel_bank(sample_rate: int, window: int, bands: int) -> Tensor:
    import librosa

    return torch.from_numpy(librosa.filters.mel(sr=sample_rate, n_fft=window, n_mels=bands))


def spectrograms(waveform: Int16[Tensor, "B n"], config: Config, augment: bool = False) -> Float[Tensor, "B 1 F T"]:
    """Turn stored int16 sounds into what the audio encoder sees, by the experiment's ``front_end``."""
    values, front_end, rate = waveform.float() / 32768, config.front_end, config.data.sample_rate
    if augment:
        values = augment_waveform(values, config.training.augment)
    if front_end.kind == "mel":
        spectrogram = log_mel(values, rate, front_end.window, front_end.hop, front_end.mel_bands)
    else:
        spectrogram = log_spectrogram(values, rate, front_end.window, front_end.hop)
    if augment and config.training.augment.mask:
        spectrogram = mask_spectrogram(spectrogram, config.training.augment.mask)
    return spectrogram[:, None]


def images(image: UInt8[Tensor, "B C H W"], config: Config, augment: bool = False) -> Float[Tensor, "B C S S"]:
    """Turn stored RGB images into what the image encoder sees: cropped (training), scaled to [0, 1], normalized.

    A fourth channel (boxes, ``objective.boxes``) is cropped and scaled alike.
    """
    size = config.data.image_size
    if augment:
        image = random_crop(image, size, config.training.augment.flip)
    values, boxes = (image.float() / 255).split([3, image.shape[1] - 3], dim=1)
    if augment:
        values = augment_colour(values, config.training.augment)
    normalized = (values - IMAGENET_MEAN.to(values.device)) / IMAGENET_STD.to(values.device)
    return torch.cat([normalized, boxes], dim=1) if boxes.shape[1] else normalized


def random_crop(image: UInt8[Tensor, "B C H W"], size: int, flip: bool = True) -> UInt8[Tensor, "B C size size"]:
    """Cut a window of `size` x `size` at a random place out of each image, and mirror half of them."""
    count, channels, height, width = image.shape
    rows = torch.randint(height - size + 1, (count, 1)) + torch.arange(size)
    columns = torch.randint(width - size + 1, (count, 1)) + torch.arange(size)
    if flip:
        mirrored = torch.rand(count, 1) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    index = (rows[:, :, None] * width + columns[:, None, :]).view(count, 1, -1).expand(-1, channels, -1)
    return image.flatten(2).gather(2, index.to(image.device)).view(count, channels, size, size)


def augment_colour(image: Float[Tensor, "B 3 H W"], config: Augment) -> Float[Tensor, "B 3 H W"]:
    """Change brightness, contrast and saturation of each image by random factors of 1 ± ``colour``."""
    if not config.colour:
        return image
    weights = torch.tensor([0.299, 0.587, 0.114], device=image.device)[:, None, None]

    def factor() -> Tensor:
        return (1 + config.colour * (2 * torch.rand(len(image), 1, 1, 1) - 1)).to(image.device)

    image = image * factor()
    middle = image.mean(dim=(1, 2, 3), keepdim=True)
    image = (image - middle) * factor() + middle
    grey = (image * weights).sum(dim=1, keepdim=True)
    return (grey + (image - grey) * factor()).clamp(0, 1)


def augment_waveform(waveform: Float[Tensor, "B samples"], config: Augment) -> Float[Tensor, "B samples"]:
    """Roll each sound in time and change its level, both by its own random amount."""
    count, samples = waveform.shape
    if config.shift:
        start = torch.randint(int(config.shift * samples) + 1, (count, 1))
        index = (start + torch.arange(samples)) % samples
        waveform = waveform.gather(1, index.to(waveform.device))
    if config.gain_db:
        gain = (2 * torch.rand(count, 1).to(waveform.device) - 1) * config.gain_db
        waveform = waveform * 10 ** (gain / 20)
    return waveform


def silent_sounds(count: int, waveform: Int16[Tensor, "B n"]) -> Int16[Tensor, "count n"]:
    """Make sounds of nothing, as long as those of `waveform`: white noise of -100 (silence) to -10 dB (RMS)."""
    noise = torch.randn(count, waveform.shape[1]) * 10 ** (-0.5 - 4.5 * torch.rand(count, 1))
    return (noise.clamp(-1, 1) * 32767).to(torch.int16).to(waveform.device)


def mask_spectrogram(spectrogram: Float[Tensor, "B F T"], fraction: float) -> Float[Tensor, "B F T"]:
    """Replace a random block of bands and one of frames by the sound's mean (SpecAugment, Park et al. 2019)."""
    mean = spectrogram.mean(dim=(1, 2), keepdim=True)
    for axis in (1, 2):
        size = spectrogram.shape[axis]
        length = (torch.rand(len(spectrogram), 1) * fraction * size).to(spectrogram.device)
        start = torch.rand(len(spectrogram), 1).to(spectrogram.device) * (size - length)
        index = torch.arange(size, device=spectrogram.device)
        hidden = (index >= start) & (index < start + length)  # (B, size)
        spectrogram = torch.where(hidden.unsqueeze(3 - axis), mean, spectrogram)
    return spectrogram
