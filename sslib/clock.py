"""One clock: which frame of a clip and which window of its sound a configuration uses. Loaders and store ask here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from sslib.config import Data


@dataclass(frozen=True)
class Selection:
    """The part of a clip that is used: the frame at its time and the sound around it (see ``config.Data``)."""

    time: Literal["middle", "random"] | float
    frame: int | None
    frame_rate: float
    seconds: float
    sample_rate: int

    @classmethod
    def of(cls, data: Data | dict[str, Any]) -> Selection:
        """The selection of a configuration, or of what :meth:`values` gave."""
        read = data.get if isinstance(data, dict) else lambda name: getattr(data, name)
        return cls(*(read(name) for name in cls.__dataclass_fields__))

    def values(self) -> dict[str, Any]:
        return asdict(self)

    def moment(self, samples: int, share: float = 0.5) -> float:
        """The time used, in seconds, of a clip of `samples`; a time not given is at `share` of its length."""
        return share * (samples / self.sample_rate) if isinstance(self.time, str) else self.time

    def frame_number(self, time: float) -> int:
        """The frame (1-based) shown at `time`: frame k shows (k - 1) / frame_rate. It may exceed the clip's last."""
        return self.frame or int(time * self.frame_rate + 0.5) + 1

    def cut(self, waveform: np.ndarray, time: float) -> np.ndarray:
        """The window of ``seconds`` around `time`."""
        return cut_sound(waveform, self.sample_rate, self.seconds, time)

    def window(self, samples: int, time: float) -> slice:
        """Where in a clip of `samples` :meth:`cut` cuts; all of a clip that is too short and will be tiled."""
        return _window(samples, round(self.seconds * self.sample_rate), self.sample_rate, time - self.seconds / 2)


def cut_sound(waveform: np.ndarray, sample_rate: int, seconds: float, centre: float) -> np.ndarray:
    """The window of `seconds` centred at `centre` seconds, shifted to stay inside; a shorter sound is tiled.

    Parameters
    ----------
    waveform : (samples,)

    Returns
    -------
    (round(seconds * sample_rate),) of the same dtype
    """
    samples = round(seconds * sample_rate)
    if len(waveform) < samples:
        return np.tile(waveform, -(-samples // len(waveform)))[:samples]
    return waveform[_window(len(waveform), samples, sample_rate, centre - seconds / 2)]


def _window(length: int, samples: int, sample_rate: int, begin: float) -> slice:
    if length < samples:
        return slice(0, length)
    start = min(max(round(begin * sample_rate), 0), length - samples)
    return slice(start, start + samples)
