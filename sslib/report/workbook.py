"""Run the workbook: papermill executes the numbered notebooks of ``notebooks/`` in order, each becomes a page.

What is executed lies beside its page in ``reports/<exp_prefix>/<exp_name>/``; the originals are never touched. A
notebook that is finished (same text, configuration, library, data and predecessors) is not executed again.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import jupytext
import nbformat
import numpy as np
import pandas as pd
import papermill
import torch
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from papermill.exceptions import PapermillExecutionError, strip_color
from traitlets import default

import sslib
from sslib import checkpoint, datasets, engine
from sslib.config import Config, ConfigError, Data, SslibError, experiment_folder, find, load, merge, root_for
from sslib.data import layout, parallel
from sslib.data.layout import Layout
from sslib.model import SoundLocalizer
from sslib.report import pages, text
from sslib.stamps import library as stamps

PREPARATION = "01_data_preparation"
PREPARED = {"data": True, "front_end": True, "training": {"batch_size"}, "evaluation": {"image_sizes"}}  # what it uses


class NotebookError(SslibError):
    """A notebook that cannot be run, or a cell of it that failed; the message says which and why."""


class OwnInterpreter(AsyncKernelManager):
    """Start kernels with this very Python, whatever kernels named python3 the user has installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        # A MPLBACKEND of the calling shell would leave the pages without figures. The only thing that a kernel itself
        # logs is that it was interrupted, after each failing cell. Figures have twice their pixels: sharp in print.
        quiet = get_kernel_dict(["--log-level=CRITICAL", "--InlineBackend.figure_formats=retina"])
        # Memory that is freed and taken again in every step stays in the process: 15 % of a training step on CPUs.
        kept = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), "4000000000")
        return KernelSpec(**quiet, env={"MPLBACKEND": "module://matplotlib_inline.backend_inline", **kept})

    @default("transport_encryption")
    def _encrypt(self) -> str:
        return "auto"  # spares the kernel's warning about plain TCP


def run(
    path: str | Path,
    only: tuple[str, ...] = (),
    force: bool = False,
    overrides: dict[str, Any] | None = None,
    index: bool = True,
) -> Path:
    """Execute the notebooks on one configuration, write their pages and return the folder of the experiment.

    Parameters
    ----------
    only : number prefixes of the notebooks to run, for example ``("02", "04")``; all of them when empty.
    force : execute finished notebooks again, and train again.
    overrides : nested mapping of literals that replace values of the file.
    index : renew ``reports/index.html`` at the end; a part of a larger run leaves that to its parent.

    Raises ``ConfigError`` or ``NotebookError``.
    """
    file, overrides = find(path), overrides or {}
    root = root_for(file)  # a file outside any clone means the one we stand in
    config = load(file, overrides)
    folder, failure = experiment_folder(config, root), None
    given = {"config": str(file), "overrides": overrides}
    chosen = [(path, _parameters(path, given, force)) for path in _choose(root / "notebooks", only, config.data)]
    for notebook, parameters in chosen:
        try:
            _step(notebook, config, root, parameters, force)
        except NotebookError as error:
            failure = error
        pages.link_pages(folder, root / "reports")
        if failure:
            break
    if index:
        write_index(root)
    if failure:
        raise failure
    return folder


def variants(path: str | Path, overrides: dict[str, Any] | None = None) -> dict[tuple[str, int], dict[str, Any]]:
    """Give the overrides that make each variant of ``ablations``, by (name, seed).

    One that an earlier one already is, as a level that the configuration itself has, is left out.
    """
    settings, known, found = load(path, overrides), [], {}
    for name, change in settings.ablations.variants.items():
        for seed in settings.ablations.seeds if change is not None else ():
            own = {"exp_name": f"{settings.exp_name}/variants/{name}-seed{seed}", "seed": seed, "ablations": {}}
            changed = merge(merge(overrides or {}, change), own)
            config = load(path, changed)
            same = checkpoint.recipe(config), config.data.tests, config.evaluation
            if same not in known:
                known.append(same)
                found[name, seed] = changed
    return found


def run_variants(
    path: str | Path, only: tuple[str, ...], variants: dict[Any, dict[str, Any]], jobs=1, force=False, scheduler=None
) -> dict[Any, Path]:
    """:func:`run` one configuration with several overrides (``exp_name`` among them); return folders by the same keys.

    Says first how long it takes. `jobs` run at a time. Each is a process that gets its share of the cores
    (unless ``OMP_NUM_THREADS`` says otherwise): small networks leave cores idle, and threads of two trainings on the
    same cores stall each other. With a `scheduler` they run on its Dask cluster instead. The first variant that
    fails raises its error; those under way are stopped, and go on from there when run again.
    """
    folders, root, configs = {}, root_for(find(path)), [load(path, overrides) for overrides in variants.values()]
    left = {experiment_folder(one, root) / "run": one for one in configs}
    print(expected_time(left, 1 if scheduler else jobs, scheduler, force), flush=True)
    if jobs == 1 and not scheduler:
        return {key: run(path, only, force, overrides, index=False) for key, overrides in variants.items()}
    task = functools.partial(_run_silently, path, only, force)
    for (key, _), folder in parallel.each(task, variants.items(), jobs, scheduler):
        print(f"{folder.name} is finished", flush=True)
        folders[key] = folder
    return {key: folders[key] for key in variants}


def expected_time(configs: dict[Path, Config], jobs: int, scheduler: str | None = None, force: bool = False) -> str:
    """Say how many trainings are left (run -> configuration), and how long they take: by epochs, else by some steps."""
    logs = [pd.read_csv(file) if (file := run / "metrics.csv").exists() else [] for run in configs]
    left = [one.training.epochs - len(log) * (not force) for one, log in zip(configs.values(), logs, strict=True)]
    left, known = np.maximum(left, 0), [log["seconds"] for log in logs if len(log)]
    jobs, total = min(jobs, np.count_nonzero(left)), None
    with contextlib.suppress(SslibError, OSError):  # what is wrong with the data, the trainings will say
        if left.any():
            of_one = pd.concat(known).median() if known else time_epoch([*configs.values()][left.argmax()], jobs)
            total = left.sum() * of_one / jobs
    return text.say("expected_time", np.count_nonzero(left), len(left), total, jobs, scheduler)


def time_epoch(config: Config, jobs: int = 1, limit: float = 5.0) -> float:
    """Estimate the seconds of an epoch by a few steps on the first clips, on a share of the cores as `jobs` have it."""
    config = config.model_copy(update={"training": config.training.model_copy(update={"devices": 1})})
    clips, fabric = datasets.AVDataset(config, config.data.train, train=True), engine.start_fabric(config)
    size = min(len(clips), config.training.batch_size, 32)  # a larger one may take a minute
    first, start = clips[0], time.perf_counter()
    batch = datasets.collate([first, *(clips[row] for row in range(1, size))])
    reading = 0 if config.data.in_memory else (time.perf_counter() - start) / max(1, config.training.workers)
    batch = {key: fabric.to_device(batch[key]) for key in ("image", "waveform")}
    model = fabric.setup(SoundLocalizer(config.model.model_copy(update={"imagenet": False})))
    threads, steps = torch.get_num_threads(), []
    torch.set_num_threads(max(1, threads // jobs))
    while len(steps) < 2 or (sum(steps[1:]) < limit and len(steps) < 11):
        part = batch if steps else {key: values[:2] for key, values in batch.items()}  # imports and the like, once
        start = time.perf_counter()
        loss = engine.training_step(model, part, config).total
        fabric.backward(loss)
        loss.item()  # a GPU has finished
        steps.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    return (median(steps[1:]) + reading) * len(clips) / size


def _run_silently(path: str | Path, only: tuple[str, ...], force: bool, variant: tuple[Any, dict[str, Any]]) -> Path:
    """Run a variant without a word: what it prints line by line would mix with that of the others."""
    with contextlib.redirect_stdout(io.StringIO()):
        return run(path, only, force, variant[1], index=False)


def write_index(root: Path) -> None:
    """Execute ``notebooks/index.ipynb``, the list of all experiments, to ``reports/index.html``."""
    notebook, reports = root / "notebooks" / "index.ipynb", root / "reports"
    if notebook.exists():
        parameters = _parameters(notebook, {"reports": str(reports)})
        _execute(notebook, reports / "index.ipynb", parameters, dict, show_code=False)


def _choose(folder: Path, only: tuple[str, ...], data: Data) -> list[Path]:
    """Return the numbered notebooks of `folder`, or those whose names begin with one of the given numbers."""
    notebooks = {path.name[:2]: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    if not notebooks:
        raise NotebookError(f"no numbered notebooks (01_name.ipynb) in {folder}: run this inside a clone of sslib")
    if unknown := [number for number in only if number not in notebooks]:
        raise NotebookError(f"no notebook {', '.join(unknown)}; there are {', '.join(notebooks)}")
    chosen = [path for number, path in notebooks.items() if not only or number in only]
    if data.raw and not data.raw.is_dir() and any(path.stem == PREPARATION for path in chosen):
        advice = "name the folder of your videos, or run the other notebooks alone (--only 02,03,04)"
        raise ConfigError(f"data.raw: there is no folder {data.raw}: {advice}")
    if not (data.raw or data.stamps or data.root.is_dir()):
        advice = f"`python -m sslib prepare VIDEOS {data.root}` makes it from videos"
        raise ConfigError(f"data.root: there is no folder {data.root}: {advice}; data/README.md, from published data")
    return chosen


def _parameters(notebook: Path, values: dict[str, Any], force: bool = False) -> dict[str, Any]:
    """Return what a notebook is handed: `values`, and ``retrain`` where it has that parameter.

    Refuses a notebook that lacks one of them (papermill only warns), or that its .py half differs from.
    """
    try:
        json.dumps(values, allow_nan=False)  # a NaN would make the executed copy invalid JSON
    except (TypeError, ValueError) as error:
        raise ConfigError(f"overrides must be plain finite values: {error}") from None
    try:
        known = papermill.inspect_notebook(str(notebook))
    except Exception as error:  # not a notebook, no kernelspec, no valid JSON
        raise NotebookError(f"{notebook}: cannot be read as a notebook: {error}") from None
    if unknown := sorted(set(values) - set(known)):
        names = ", ".join(known) or "none"
        raise NotebookError(f"{notebook}: its parameters cell has no {', '.join(unknown)} (it has: {names})")
    script = notebook.with_suffix(".py")
    if script.exists() and _cells(jupytext.read(script)) != _cells(nbformat.read(notebook, as_version=4)):
        advice = f"`jupytext --sync {script}` takes over the newer one"
        raise NotebookError(f"{notebook.name} and {script.name} differ: {advice}")
    return values | ({"retrain": force} if "retrain" in known else {})


def _step(notebook: Path, config: Config, root: Path, parameters: dict[str, Any], force: bool) -> None:
    """Execute one notebook unless it is finished, and say so in one line."""
    folder, data = experiment_folder(config, root), Layout(config.data.root)
    target, digest, lists = folder / notebook.name, _digest(notebook, config, root, folder), data.fingerprint()
    failed = target.with_suffix(".failed.ipynb").exists()  # the newest try, which may have changed the run
    known = _stamp(target) if target.with_suffix(".html").exists() and not failed else {}
    print(f"{notebook.stem} ", end="", flush=True)
    if not force and (known.get("digest"), known.get("lists")) == (digest, lists):
        print("finished before, skipped", flush=True)
        return

    def stamp() -> dict[str, Any]:
        # Notebook 01 writes lists itself: it is finished as long as they are what it left. The others only read them.
        return {"digest": digest, "lists": data.fingerprint() if notebook.stem == PREPARATION else lists}

    try:
        seconds = _execute(notebook, target, parameters, stamp, show_code=True)
    except BaseException as error:
        print("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", flush=True)
        raise
    print(f"{seconds:.0f} s", flush=True)


def _execute(
    notebook: Path, target: Path, parameters: dict[str, Any], stamp: Callable[[], dict[str, Any]], show_code: bool
) -> float:
    """Execute `notebook`, leave ``target`` (.ipynb) and its page beside it, or ``*.failed.ipynb`` and an error.

    It is a failed one until its last cell has run and what `stamp` returns was noted; a page of an earlier run stays
    until then. Returns the seconds that it took.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    failed, page = target.with_suffix(".failed.ipynb"), target.with_suffix(".html")
    start = time.perf_counter()
    try:
        done = papermill.execute_notebook(
            str(notebook), str(failed), parameters, cwd=str(notebook.parent), kernel_name="python3",
            progress_bar=False, kernel_manager_class=OwnInterpreter,
            stdout_file=sys.stdout,  # what a long cell prints (a line an epoch) is seen while it runs
        )  # fmt: skip
        seconds, finished = time.perf_counter() - start, datetime.now().astimezone()
        done.metadata["sslib"] = stamp() | {"finished": finished.isoformat(), "seconds": round(seconds, 1)}
        note = f"Run on {text.format_date(finished)} in {seconds:.0f} s with sslib {version('sslib')}."
        layout.write_atomic(page, pages.export(done, notebook.parent, show_code, note))
        layout.write_atomic(target, nbformat.writes(done))
        failed.unlink(missing_ok=True)
        return seconds
    except Exception as error:
        kept = f"\n{page} stays as it was: it is of an earlier run" if page.exists() else ""
        raise NotebookError(f"{notebook.name}: {_reason(error)}\nkept as {failed}{kept}") from error


def _reason(error: Exception) -> str:
    """Say why an execution failed, with the last lines of the traceback."""
    if not isinstance(error, PapermillExecutionError):
        return f"{type(error).__name__}: {error}"
    lines = strip_color("\n".join(error.traceback)).strip().splitlines()
    return f"cell {error.cell_index} failed with {error.ename}\n" + "\n".join(f"  {line}" for line in lines[-20:])


def _digest(notebook: Path, config: Config, root: Path, folder: Path) -> str:
    """Identify what a notebook's results depend on: its text, the configuration, sslib, and the runs before its own.

    Of notebook 01 also the files that clips are made from, and of the configuration what it uses: it may read much.
    Lists and annotations are compared apart (`_step`).
    """
    first = notebook.stem == PREPARATION
    settings = json.dumps(config.model_dump(mode="json", include=PREPARED if first else None), sort_keys=True)
    settings = settings.replace(str(root), "")
    files = [path for path in Path(sslib.__file__).parent.rglob("*.*") if path.suffix in {".py", ".csv", ".j2", ".css"}]
    code = [path.read_text(encoding="utf-8") for path in sorted(files)]
    earlier = [path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")) if path.name[:2] < notebook.name[:2]]
    before = list(filter(None, map(_stamp, earlier)))
    cells = _cells(nbformat.read(notebook, as_version=4))
    sources = _sources(config.data) if first else []
    return layout.digest([settings, code, cells, before, sources])


def _sources(data: Data) -> list[Any]:
    """List what clips are made from: the raw folder's files; for the embedded data set, media given or installed."""
    folders, installed = [data.raw] if data.raw else [], []
    if data.stamps and data.stamps.source != "generated":
        given = data.stamps.media or os.environ.get(stamps.MEDIA_VARIABLE)
        folders += [Path(given)] if given else []
        installed = [entry.path for entry in stamps.read_manifest() if (stamps.INSTALLED / entry.path).is_file()]
    return [layout.list_files(folder, without=data.root) for folder in folders] + installed


def _stamp(file: Path) -> dict[str, Any]:
    """Return what the runner wrote into a finished notebook; nothing when there is none or it failed."""
    try:
        return dict(nbformat.read(file, as_version=4).metadata.get("sslib", {}))
    except Exception:  # no such file, cut short by a full disk, edited by hand: not finished
        return {}


def _cells(notebook: nbformat.NotebookNode) -> list[list[Any]]:
    """Return what makes a notebook: kind, tags and text of its cells."""
    return [[cell.cell_type, pages.tags(cell), cell.source.strip()] for cell in notebook.cells]
