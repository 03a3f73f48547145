"""One clock: which frame of a clip and which window of its sound a configuration uses. Loaders and store ask here."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sslib.data.media import MediaError

if TYPE_CHECKING:
    from sslib.config import Data

TAKE_OFF = "take the clip off the list, or name another time or frame in data"


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
        """The time used, in seconds, of a clip of `samples`; a time not given is at `share` of its length.

        Raises
        ------
        MediaError
            When the clip ends before ``data.time``.
        """
        length = samples / self.sample_rate
        if isinstance(self.time, str):
            return share * length
        if self.time > length:
            raise MediaError(f"its sound ends at {length:.2f} s, before data.time ({self.time:g} s): {TAKE_OFF}")
        return self.time

    def frame_number(self, time: float, there: Collection[int]) -> int:
        """Which of the frames `there` (1-based numbers) is used at `time`: the nearest, where frame k shows (k - 1) /
        frame_rate; with ``data.frame`` that one.

        A picture is on display until the next one comes, so the last one also serves the half of its time that is
        nearer to a next. A single picture is a still and serves every time. Where no time is named (middle, random) and
        sound goes on after the pictures, it is the last one.

        Raises
        ------
        MediaError
            When that frame is not there.
        """
        number, last = self.frame or int(time * self.frame_rate + 0.5) + 1, max(there)
        if number in there:
            return number
        if self.frame is None and (
            len(there) == 1 or number == last + 1 or (number > last and isinstance(self.time, str))
        ):
            return last
        wanted = "data.frame" if self.frame else f"{time:.2f} s, data.frame_rate {self.frame_rate:g}"
        has = f"it has {len(there)}, numbered {min(there)} to {last}"
        raise MediaError(f"no frame {number} ({wanted}): {has}; {TAKE_OFF}")

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
