"""What `make demo` costs and reaches: wall clock, peak memory and the headline numbers, on a fresh clone.

    .venv/bin/python benchmarks/demo.py            runs `make demo` in a fresh clone
    .venv/bin/python benchmarks/demo.py --here     only prints the results of the demo that was run here

The last lines are what README.md prints.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil

from sslib.evaluation.comparison import read_summary

EXPERIMENT = "demo/stamps"


def measure(command: list[str], folder: Path) -> tuple[float, float]:
    """Run `command` in `folder`: seconds, and the peak in GB of the memory that its processes hold together."""
    start, peak = time.perf_counter(), 0
    process = psutil.Popen(command, cwd=folder)
    while process.poll() is None:
        peak = max(peak, sum(held(p) for p in [process, *process.children(recursive=True)]))
        time.sleep(1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    return time.perf_counter() - start, peak / 1e9


def held(process: psutil.Process) -> int:
    """Bytes of one process, shared pages divided among those who share them."""
    try:
        return process.memory_full_info().pss
    except psutil.Error:  # it ended meanwhile
        return 0


def results(folder: Path) -> str:
    """Training time and headline numbers of the demo under `folder`."""
    run = folder / "reports" / EXPERIMENT / "run"
    summary = read_summary(run)
    epochs = pd.read_csv(run / "metrics.csv")
    lines = [f"training: {epochs['seconds'].sum() / 60:.1f} min, {len(epochs)} epochs, validation included"]
    rows = pd.DataFrame(summary["tables"]).query("protocol in ('localization', 'masks')")
    for row in rows[rows["measure"].isin(["pointing", "miou", "success"])].itertuples():
        if row.method in ("model", "model, shuffled sounds", "visual-only (foreground nodes)", "centre square"):
            place = f"{row.split}, {row.subset}: {row.measure}, {row.method}"
            lines.append(f"{place}: {row.value:.3f} [{row.low:.3f}, {row.high:.3f}] over {row.clusters} recordings")
    differences = pd.DataFrame(summary["differences"]).query("protocol == 'masks' and measure == 'pointing'")
    for row in differences.itertuples():
        place = f"{row.split}, {row.subset}: pointing, model minus {row.control}"
        lines.append(f"{place}: {100 * row.value:+.1f} points [{100 * row.low:+.1f}, {100 * row.high:+.1f}]")
    return "\n".join(lines)


def main() -> None:
    root = Path(__file__).resolve().parents[1]
    if "--here" in sys.argv:
        print(results(root))
        return
    with tempfile.TemporaryDirectory() as temporary:
        clone = Path(temporary) / "sslib"
        subprocess.run(["git", "clone", "--quiet", str(root), str(clone)], check=True)
        seconds, memory = measure(["make", "demo"], clone)
        print(results(clone))
        print(f"make demo from a fresh clone: {seconds / 60:.1f} min wall clock, peak memory {memory:.1f} GB")


if __name__ == "__main__":
    main()
