"""What `make demo` costs and reaches: wall clock, peak memory and the headline numbers, on a fresh clone.

    .venv/bin/python benchmarks/demo.py            runs `make demo` in a fresh clone
    .venv/bin/python benchmarks/demo.py --here     only prints the results of the demo that was run here
    .venv/bin/python benchmarks/demo.py --sweep [FOLDER] [--write]
                                                   prints what the variants of an experiment come to (default:
                                                   reports/demo/baselines), over all its seeds, as Markdown: the answer
                                                   and its tables; --write puts them, every other measure and the
                                                   figure into reports/, and the table of the first list into README.md

`make demo` is one training, and the last line of its results says so.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
from PIL import Image

from sslib.config import load
from sslib.evaluation import comparison
from sslib.evaluation.comparison import read_summary
from sslib.evaluation.tables import PROTOCOLS
from sslib.report import text

EXPERIMENT, SWEEP = "demo/stamps", "demo/baselines"
BEGIN, END = "<!-- benchmarks/demo.py --sweep --write -->\n", "<!-- end of it -->\n"  # in both README.md
LEGEND = "Percent: mean over clips and seeds [interval over recordings and seeds] (lowest–highest seed)."


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
    trained = summary["training"]
    lines = [f"training: {trained['seconds'] / 60:.1f} min, {trained['epochs']} epochs, validation included"]
    rows = pd.DataFrame(summary["tables"]).query("protocol in ('localization', 'masks')")
    for row in rows[rows["measure"].isin(["pointing", "miou", "success"])].itertuples():
        if row.method in ("model", "model, shuffled sounds", "visual-only (foreground nodes)", "centre square"):
            place = f"{row.split}, {row.subset}: {row.measure}, {row.method}"
            lines.append(f"{place}: {row.value:.3f} [{row.low:.3f}, {row.high:.3f}] over {row.clusters} recordings")
    differences = pd.DataFrame(summary["differences"]).query("protocol == 'masks' and measure == 'pointing'")
    for row in differences.itertuples():
        place = f"{row.split}, {row.subset}: pointing, model minus {row.control}"
        lines.append(f"{place}: {100 * row.value:+.1f} points [{100 * row.low:+.1f}, {100 * row.high:+.1f}]")
    return "\n".join([*lines, f"this is one training: seed {trained['seed']}"])


def sweep(folder: Path) -> tuple[str, str, str]:
    """Markdown of the variants in `folder`: the table of the first list, answer and tables, every other measure."""
    table, groups = pd.read_csv(folder / "comparison.csv"), []
    for name in table["run"].unique():
        runs = folder.glob(f"variants/{name}-seed*/run")
        seeds, runs = zip(*sorted((load(run / "config.yaml").seed, run) for run in runs), strict=True)
        groups.append(comparison.Group(name, [*runs], [*seeds]))
    configs = {group.name: load(group.runs[0] / "config.yaml") for group in groups}
    how = configs[groups[0].name].evaluation
    found = comparison.against(groups, configs, table, how)
    leading, plain = comparison.leading(table), table.drop(columns=["seconds", "parameters"])
    places = [*leading[["split", "subset"]].drop_duplicates().itertuples(index=False, name=None)]
    first = comparison.leading(plain).query("split == @places[0][0]")
    own = sorted(groups, key=lambda group: group.name != found["own"])  # it first, the others in their order
    minus = comparison.gains(comparison.leading(comparison.compare(own, how)))
    head = [text.compared(found, table), LEGEND, text.methods_table(leading)]
    head += [f"Points over {own[0].name}:", text.methods_table(minus, sign=True)]
    head += ["Points of pointing that the own sound adds over another clip's:"]
    head += [text.heard(comparison.heard(groups, how), found["published"])]
    head += ["F_LOC, percent, by seed:", silence_too(groups, places)]
    every = []
    for protocol in ("localization", "masks", "interaction"):
        rows = plain[plain["protocol"] == protocol]
        every += [f"### {protocol.capitalize()}", text.methods_table(rows, [*PROTOCOLS[protocol]])]
    return f"{LEGEND}\n\n{text.methods_table(first)}", "\n\n".join(head), "\n\n".join(every)


def silence_too(groups: list[comparison.Group], places: list[tuple[str, str]]) -> str:
    """F_LOC of each seed as Markdown: success where there is a source, and no claim where there is none."""
    rows: dict[str, dict[str, str]] = {}
    for group in groups:
        summaries = [pd.DataFrame(read_summary(run)["tables"]) for run in group.runs]
        found = [s.query("measure == 'f_loc' and method == 'model'").set_index(["split", "subset"]) for s in summaries]
        for place in places:
            cell = ", ".join(f"{100 * values.loc[place, 'value']:.1f}" for values in found)
            rows.setdefault(group.name, {})[text.subset_title(*place)] = cell
    return text.markdown_table(pd.DataFrame(rows).T)


def write(first: str, head: str, every: str, folder: Path, root: Path) -> None:
    """Put what :func:`sweep` made of `folder`, and its figure, into reports/ and README.md."""
    caption = "The same clips under every method, of the first seed: the first of evenly spaced classes"
    figure = f"![{caption}](methods.jpg)\n\n*{caption}. Outlined: what sounds.*"
    for readme, part in ((root, first), (root / "reports", f"{head}\n\n{figure}\n\n{every}")):
        before, _, rest = (readme / "README.md").read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        (readme / "README.md").write_text(f"{before}{BEGIN}\n{part}\n\n{END}{after}", encoding="utf-8")
    with Image.open(folder / "methods.png") as picture:  # a fifth of the bytes
        picture.convert("RGB").save(root / "reports" / "methods.jpg", quality=85, optimize=True)


def main() -> None:
    root = Path(__file__).resolve().parents[1]
    if "--here" in sys.argv:
        print(results(root))
        return
    if "--sweep" in sys.argv:
        named = [argument for argument in sys.argv[2:] if not argument.startswith("--")]
        folder = Path(named[0]) if named else root / "reports" / SWEEP
        first, head, every = sweep(folder)
        print(head)
        if "--write" in sys.argv:
            write(first, head, every, folder, root)
        return
    with tempfile.TemporaryDirectory() as temporary:
        clone = Path(temporary) / "sslib"
        subprocess.run(["git", "clone", "--quiet", str(root), str(clone)], check=True)
        seconds, memory = measure(["make", "demo"], clone)
        print(results(clone))
        print(f"make demo from a fresh clone: {seconds / 60:.1f} min wall clock, peak memory {memory:.1f} GB")


if __name__ == "__main__":
    main()
