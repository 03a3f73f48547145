"""How fast `sslib localize` is, and how much memory it needs, on a video of 360 lines as long as asked.

    python benchmarks/localize.py MODEL [--minutes 1] [--fps 5]

MODEL is a checkpoint or an exported folder. The video is drifting noise with a tone that comes and goes: a minute of it
is encoded, then its packets are repeated. Printed are seconds, times real time, and the peak of resident memory.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

RATE, FPS, SIZE = 44100, 30, (640, 360)


def minute(path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = np.kron(rng.integers(0, 255, (45, 160, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    seconds = np.arange(60 * RATE) / RATE
    tone = (0.3 * np.sin(2 * np.pi * 440 * seconds) * (np.sin(seconds) > 0)).astype(np.float32)
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "bf": "0"})
        (pictures.width, pictures.height), pictures.pix_fmt = SIZE, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for number in range(60 * FPS):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, number, axis=1)[:, : SIZE[0]].copy(), format="rgb24")
            container.mux(pictures.encode(frame))
            heard = tone[None, number * RATE // FPS : (number + 1) * RATE // FPS]
            piece = av.AudioFrame.from_ndarray((heard * 32767).astype(np.int16), format="s16", layout="mono")
            piece.sample_rate = RATE
            container.mux(sound.encode(piece))
        container.mux([*pictures.encode(None), *sound.encode(None)])


def repeat(source: Path, times: int, target: Path) -> None:
    with av.open(str(target), "w") as out:
        with av.open(str(source)) as first:
            tracks = {stream.index: out.add_stream_from_template(stream) for stream in first.streams}
        for number in range(times):
            with av.open(str(source)) as container:
                for packet in container.demux():
                    if packet.size:
                        shift = round(60 * number / packet.time_base)
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = tracks[packet.stream.index]
                        out.mux(packet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--minutes", type=int, default=1)
    parser.add_argument("--fps", type=float, default=5.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        one, video = Path(folder, "minute.mkv"), Path(folder, "video.mkv")
        minute(one)
        repeat(one, asked.minutes, video)
        command = [sys.executable, "-m", "sslib", "localize", str(video), "--model", str(asked.model)]
        start = time.perf_counter()
        subprocess.run([*command, "--out", f"{folder}/out.mp4", "--fps", str(asked.fps)], check=True)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # GiB
    print(f"{asked.minutes} min at {asked.fps:g} a second: {seconds:.1f} s, {60 * asked.minutes / seconds:.1f} times "
          f"real time, at most {peak:.2f} GiB")  # fmt: skip


if __name__ == "__main__":
    main()
