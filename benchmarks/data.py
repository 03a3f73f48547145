"""What preparing, storing and loading cost at a size that can be measured, and from this, by arithmetic, at VGGSound's.

    .venv/bin/python benchmarks/data.py [--clips 2000] [--folder FOLDER] [--workers 2]

The clips are generated: ten seconds, 320x240, 25 frames a second, H.264 and AAC (44.1 kHz, stereo). Up to 50 moving
scenes and 40 soundtracks are encoded; each file is its own pair of one of each, remuxed without encoding again, so that
making 2,000 takes a minute or two, and every file is decoded like any other. Rates "a core" are clips per second of
processor time, children included: what else the machine does at the time does not change them much.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import psutil
from PIL import Image

from sslib.config import Config
from sslib.data.layout import Layout
from sslib.data.media import JPEG_QUALITY, ClipWindow
from sslib.data.prepare import prepare
from sslib.data.store import STORE_NAME, Store, write_store
from sslib.stamps import generated

SECONDS, FPS, SIZE, RATE = 10, 25, (320, 240), 44100
SCENES, TRACKS = 50, 40
BATCH = 32
LOADERS = {"folders, cold": "folders", "LMDB, cold": "lmdb", "LMDB, cached": "lmdb", "in memory": "memory"}
RELEASE = {"frame": 196_608, "second": 96_000, "clip": 12 * 196_608 + 960_000}  # bytes, raw pixels and float32


class Cost(NamedTuple):
    wall: float  # s
    core: float  # s of processor time, all processes


def timed(work: Callable[[], Any]) -> Cost:
    """Run `work` here; the processes it starts are looked at ten times a second, as some are never waited for."""
    here, seen, done = psutil.Process(), {}, threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            for child in children(here):
                with contextlib.suppress(psutil.Error):
                    times = child.cpu_times()
                    seen[child.pid] = times.user + times.system

    watcher = threading.Thread(target=watch)
    wall, core = time.perf_counter(), time.process_time()
    watcher.start()
    work()
    wall = time.perf_counter() - wall
    done.set()
    watcher.join()
    return Cost(wall, time.process_time() - core + sum(seen.values()))


# Making the clips


def make(folder: Path, clips: int) -> None:
    """`clips` files ``clip_00000.mp4`` …, every one its own pair of a scene and a soundtrack."""
    folder.mkdir(parents=True, exist_ok=True)
    library = generated.generate_library(RATE, classes=40, backgrounds=SCENES)
    scenes = min(SCENES, clips)
    with tempfile.TemporaryDirectory() as temporary:
        parts = Path(temporary)
        for number in range(scenes):
            write_scene(parts / f"scene_{number}.mp4", library, number)
        for number in range(-(-clips // scenes)):
            write_track(parts / f"track_{number}.mp4", library, number)
        for number in range(clips):
            pair = parts / f"scene_{number % scenes}.mp4", parts / f"track_{number // scenes}.mp4"
            remux(pair, folder / f"clip_{number:05d}.mp4")


def write_scene(path: Path, library, number: int) -> None:
    """A cut-out that circles over a place along which the camera pans."""
    rng = np.random.default_rng(number)
    place = Image.fromarray(library.backgrounds[number % len(library.backgrounds)].rgb)
    place = Image.blend(place, Image.effect_noise(place.size, 90).convert("RGB"), 0.15)  # grain: JPEG of real size
    thing = Image.fromarray(library.cutouts[2 * (number % 40)].rgba).resize((110, 100))
    speed, phase = rng.uniform(0.05, 0.3), rng.uniform(0, 2 * np.pi)
    with av.open(path, "w") as file:
        stream = file.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for k in range(SECONDS * FPS):
            angle = 2 * np.pi * speed * k / FPS + phase
            left, top = round(70 + 60 * np.cos(angle / 3)), round(55 + 50 * np.sin(angle / 2))
            image = place.crop((left, top, left + SIZE[0], top + SIZE[1]))
            image.paste(thing, (round(105 + 90 * np.cos(angle)), round(70 + 60 * np.sin(angle))), thing)
            file.mux(stream.encode(av.VideoFrame.from_image(image)))
        file.mux(stream.encode())


def write_track(path: Path, library, number: int) -> None:
    """A library sound, over and over, its echo on the other side."""
    sound = np.resize(library.recordings[2 * (number % 40)].waveform, SECONDS * RATE)
    stereo = np.stack([sound, np.roll(0.6 * sound, 400 * (number + 1))]).astype(np.float32)
    with av.open(path, "w") as file:
        stream = file.add_stream("aac", rate=RATE, layout="stereo", bit_rate=128_000)
        for start in range(0, stereo.shape[1], 1024):
            part = np.ascontiguousarray(stereo[:, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = RATE, start
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def remux(parts: tuple[Path, Path], target: Path) -> None:
    with av.open(target, "w") as file:
        sources = [av.open(path) for path in parts]
        streams = [file.add_stream_from_template(source.streams[0]) for source in sources]
        packets = [(packet, s) for source, s in zip(sources, streams, strict=True) for packet in source.demux()]
        packets = [(packet, stream) for packet, stream in packets if packet.dts is not None]
        for packet, stream in sorted(packets, key=lambda pair: float(pair[0].dts * pair[0].time_base)):
            packet.stream = stream
            file.mux(packet)
        for source in sources:
            source.close()


def decode(folder: Path) -> None:
    """Every frame and every sample of every file by PyAV, in one thread: what cannot be saved when all are wanted."""
    for path in sorted(folder.glob("*.mp4")):
        with av.open(path) as file:
            for frame in file.decode(*file.streams):
                frame.planes[0]


# Loading


def config(root: Path, **data: Any) -> Config:
    return Config(exp_prefix="benchmark", exp_name="data", data={"root": root, "train": "all", "val": "all"} | data)


def load(root: Path, kind: str, workers: int) -> dict[str, float]:
    """Every clip once, in random order, in batches; this runs in a process of its own."""
    import torch
    from torch.utils.data import DataLoader, StackDataset

    from sslib import datasets

    dataset = datasets.AVDataset(config(root, loader="lmdb" if kind == "memory" else kind), "all", train=True)
    collate = datasets.collate
    if kind == "memory":
        clips = datasets.load_in_memory(dataset)
        dataset, collate = StackDataset(image=clips.image, waveform=clips.waveform), None
    torch.manual_seed(0)
    cost = timed(lambda: [None for _ in DataLoader(dataset, BATCH, True, num_workers=workers, collate_fn=collate)])
    return {"wall": cost.wall, "core": cost.core}


def measure(root: Path, kind: str, workers: int) -> dict[str, float]:
    """:func:`load` in a child: its seconds, and the peak of memory held by it and its workers, in GB.

    Pages that LMDB maps from files are not counted: the system takes them back when it wants them.
    """
    command = [sys.executable, __file__, "--load", kind, "--workers", str(workers), "--folder", str(root)]
    process, peak = psutil.Popen(command, stdout=subprocess.PIPE, text=True), 0
    while process.poll() is None:
        peak = max(peak, sum(map(held, [process, *children(process)])))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    return json.loads(process.stdout.read().splitlines()[-1]) | {"memory": peak / 1e9}


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def held(process: psutil.Process) -> int:
    """Bytes of a process's own and shared memory; what several share is divided among them."""
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it ended meanwhile
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem")))


def drop_cache(root: Path) -> None:
    """Ask the system to forget the files below `root`, so that they come from the disk."""
    os.sync()
    for path in root.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


# The tables


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def sizes(root: Path) -> dict[str, float]:
    """Mean bytes in LMDB: of a frame, of a second of sound, of a clip with all that belongs to it, and selected."""
    write_store(root)
    path = root / STORE_NAME
    whole, stored = size(path), Store(path)
    frames = [len(stored.frame(i, number)) for i in stored.present() for number in stored.frames(i)]
    sounds = [len(stored.audio(i)) for i in stored.present()]
    result = {"frame": np.mean(frames), "frames": len(frames) / len(sounds)}
    result |= {"second": np.mean(sounds) / SECONDS, "whole": whole / len(sounds)}
    write_store(root, ClipWindow.of(config(root).data))
    result["selected"] = size(path) / len(sounds)
    write_store(root)
    return result


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def costs(raw: Path, root: Path, clips: int, workers: int) -> dict[str, Cost]:
    """Decoding, preparing and storing, and a line of a table for each."""
    found = {"decode with PyAV, nothing else": timed(lambda: decode(raw))}
    found["prepare"] = timed(lambda: print(prepare(raw, root, workers=workers)))
    found["store"] = timed(lambda: write_store(root, workers=workers))
    ready = len(Layout(root).ids("all"))
    if ready != clips:
        raise SystemExit(f"{ready} of {clips} clips were prepared: see {root}/manifest.csv")
    rows = [
        [name, f"{clips / cost.core:.1f}", f"{clips * SECONDS / cost.core:.0f}×", f"{clips / cost.wall:.1f}"]
        for name, cost in found.items()
    ]
    print(table([f"{clips:,} clips, {workers} workers", "clips/s a core", "real time", "clips/s"], rows))
    return found


def loading(root: Path, clips: int, workers: tuple[int, ...] = (0, 1, 2)) -> None:
    rows = []
    for name, kind in LOADERS.items():
        row, memory = [name], 0.0
        for count in workers:
            if "cold" in name:
                drop_cache(root)
            result = measure(root, kind, count)
            row.append(f"{clips / result['wall']:,.0f}")
            memory = max(memory, result["memory"])
            if count == 0:
                row.insert(1, f"{clips / result['core']:,.0f}")
        rows.append([*row, f"{memory:.2f}"])
    head = ["clips/s, training geometry", "a core", *(f"{count} workers" for count in workers), "peak memory, GB"]
    print(table(head, rows))


def layout_table(bytes_of: dict[str, float]) -> None:
    rows = [
        ["a frame", f"{bytes_of['frame']:,.0f}", f"{RELEASE['frame']:,}"],
        ["a second of sound", f"{bytes_of['second']:,.0f}", f"{RELEASE['second']:,}"],
        [f"a clip: {bytes_of['frames']:.0f} frames, {SECONDS} s", f"{bytes_of['whole']:,.0f}", f"{RELEASE['clip']:,}"],
        ["a clip as configured: one frame, 3 s (--only)", f"{bytes_of['selected']:,.0f}", f"{RELEASE['clip']:,}"],
    ]
    print(table([f"bytes in LMDB (JPEG of quality {JPEG_QUALITY}, short side 256; FLAC)", "here", "the release"], rows))


def arithmetic(found: dict[str, Cost], clips: int, bytes_of: dict[str, float]) -> None:
    """Times and sizes that follow if every core does as much as here and the disks keep up: not measured."""
    rows = []
    for count in (10_000, 144_000, 200_000):
        need = {name: found[name].core * count / clips / 3600 for name in ("prepare", "store")}
        times = [f"{need['prepare'] / cores:.2f} + {need['store'] / cores:.2f}" for cores in (2, 16, 256)]
        disk = [f"{bytes_of[kind] * count / 1e9:.1f}" for kind in ("whole", "selected")]
        rows.append([f"{count:,}", *times, *disk, f"{RELEASE['clip'] * count / 1e9:,.0f}"])
    head = ["clips (arithmetic)", "2 cores, h", "16 cores, h", "16×16 cores, h"]
    print("Arithmetic, not measured: hours of prepare + store, GB in LMDB.\n")
    print(table([*head, "all frames and sound, GB", "one frame, 3 s, GB", "the release, GB"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="kept, and used again; default: a temporary one")
    parser.add_argument("--workers", type=int, default=2, help="of prepare and store")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        print("\n" + json.dumps(load(options.folder, options.load, options.workers)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        raw, root = (Path(options.folder or temporary) / name for name in ("raw", "data"))
        if len(list(raw.glob("*.mp4"))) != options.clips:
            made = timed(lambda: make(raw, options.clips))
            print(f"{options.clips} clips made in {made.wall:.0f} s, {size(raw) / options.clips / 1e3:.0f} kB each\n")
        shutil.rmtree(root, ignore_errors=True)  # of an earlier run: prepare would find it finished
        found = costs(raw, root, options.clips, options.workers)
        bytes_of = sizes(root)
        layout_table(bytes_of)
        loading(root, options.clips)
        arithmetic(found, options.clips, bytes_of)


if __name__ == "__main__":
    main()
