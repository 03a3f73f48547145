"""How fast the explorer of notebook 05 answers: from a widget's new value to pictures and sound, in milliseconds.

    python benchmarks/explorer.py CONFIG [--rounds 30]

CONFIG names a trained experiment, for example notebooks/configs/demo.yaml. Printed are median and worst of each widget;
a browser's own share (tens of milliseconds) is not in it.
"""

import argparse
import statistics
import time

from sslib import config as configuration
from sslib import datasets, load
from sslib.report.explorer import SOUNDS, Explorer
from sslib.report.rooms import ExplorerRoom


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--rounds", type=int, default=30)
    asked = parser.parse_args()
    settings = configuration.load(asked.config)
    data = datasets.AVDataset(settings, settings.data.tests[0])
    room = ExplorerRoom(Explorer(data, {"model": load(configuration.experiment_folder(settings))}))
    moves = {
        "another clip (never seen)": lambda k: room.steps["next"].click(),
        "another sound": lambda k: setattr(room.other, "value", data.ids[k]),
        "the share of a mixture": lambda k: setattr(room.share, "value", k % 20 / 20),
        "threshold": lambda k: setattr(room.low, "value", (1 + k % 20) / 25),
        "opacity": lambda k: setattr(room.opacity, "value", k % 20 / 20),
    }
    for name, move in moves.items():
        room.sound.value = SOUNDS[2] if "mixture" in name else SOUNDS[1]
        seconds = []
        for number in range(1, asked.rounds + 1):
            start = time.perf_counter()
            move(number)
            seconds.append(1000 * (time.perf_counter() - start))
        print(f"{name:28} {statistics.median(seconds):6.0f} {max(seconds):6.0f}")


if __name__ == "__main__":
    main()
