"""Does a laptop stay usable while it trains? Training steps of the demo, alone and beside one process that is busy.

    python benchmarks/contention.py [--rounds 5]

Threads that wait for each other spin; beside a busy process they wait for one that does not run. `sslib/__init__.py`
has them sleep sooner. Each setting is measured in a process of its own, all settings in turn, as often as there are
rounds; printed are medians of steps per second, and what share of the speed of GCC's own setting is kept.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

SETTINGS = {
    "GCC's own": {"GOMP_SPINCOUNT": "300000"},
    "sslib's": {},
    "no spinning": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
SECONDS = 10


def train() -> None:
    """Print how many steps a second the demo's model takes on random clips."""
    from sslib import config, engine
    from sslib.model import SoundLocalizer

    import torch  # isort: skip  after sslib, which decides how its threads wait

    settings = config.load("notebooks/configs/demo.yaml")
    size, side = settings.training.batch_size, round(settings.data.image_size * settings.training.augment.crop)
    samples = round(settings.data.seconds * settings.data.sample_rate)
    batch = {
        "image": torch.randint(256, (size, 3, side, side), dtype=torch.uint8),
        "waveform": torch.randint(-3000, 3000, (size, samples), dtype=torch.int16),
    }
    model = SoundLocalizer(settings.model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    steps, start = -3, time.perf_counter()  # the first three warm up
    while steps < 1 or time.perf_counter() - start < SECONDS:
        engine.training_step(model, batch, settings).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        if steps == 0:
            start = time.perf_counter()
    print(steps / (time.perf_counter() - start))


def measure(environment: dict[str, str], busy: bool) -> float:
    """Steps per second of a process with these environment variables, alone or beside a busy one."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        command = [sys.executable, __file__, "--train"]
        done = subprocess.run(command, env=inherited | environment, stdout=subprocess.PIPE, text=True, check=True)
        return float(done.stdout)
    finally:
        if other:
            other.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train()
        return
    speeds = {(name, busy): [] for name in SETTINGS for busy in (False, True)}
    for _ in range(arguments.rounds):
        for (name, busy), values in speeds.items():
            values.append(measure(SETTINGS[name], busy))
    medians = {key: statistics.median(values) for key, values in speeds.items()}
    print(f"{os.cpu_count()} cores\n\n| waiting | steps/s alone | of GCC's own | beside a busy process | slower by |")
    print("| --- | ---: | ---: | ---: | ---: |")
    reference = medians[next(iter(SETTINGS)), False]
    for name in SETTINGS:
        alone, beside = medians[name, False], medians[name, True]
        print(f"| {name} | {alone:.2f} | {alone / reference:.0%} | {beside:.2f} | {alone / beside:.1f} |")


if __name__ == "__main__":
    main()
