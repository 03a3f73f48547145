"""The command line: ``python -m sslib run CONFIG`` and the same work without notebooks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from sslib.config import ConfigError, SslibError, experiment_folder, load, merge, resolve, root_for

HELP = "Visual sound source localization: data, training, evaluation and report."
app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="a YAML file, e.g. notebooks/configs/demo.yaml")]
Changes = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="e.g. training.epochs=2; repeatable")]


@contextmanager
def clean_errors() -> Iterator[None]:
    """End with one message instead of a traceback for an error that sslib found itself; a bug keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted; run the same command again to go on", err=True)
        sys.exit(130)
    except (SslibError, FileNotFoundError, PermissionError) as error:
        typer.echo(f"sslib: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


@app.command()
@clean_errors()
def run(
    config: ConfigFile,
    only: Annotated[str, typer.Option(metavar="NUMBERS", help="these notebooks only, e.g. 02,04")] = "",
    force: Annotated[bool, typer.Option("--force", help="execute finished notebooks again, train again")] = False,
    changes: Changes = [],  # noqa: B006  typer copies it
) -> None:
    """Execute the numbered notebooks on one configuration; write reports/index.html."""
    from sslib.report import workbook

    numbers = tuple(number.strip().zfill(2) for number in only.split(",") if number.strip())
    folder = workbook.run(config, numbers, force, overrides(changes))
    typer.echo(f"pages:  {folder}\nreport: {root_for(folder) / 'reports' / 'index.html'}")


@app.command()
@clean_errors()
def train(
    config: ConfigFile,
    force: Annotated[bool, typer.Option("--force", help="start over where a run is there")] = False,
    changes: Changes = [],  # noqa: B006
) -> None:
    """Train on one configuration, without notebooks; an interrupted run goes on."""
    settings = load(config, overrides(changes))
    from sslib import engine

    typer.echo(engine.fit(settings, experiment_folder(settings), retrain=force))


@app.command()
@clean_errors()
def evaluate(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="a checkpoint, maps by clip id, or runs")],
    config: Annotated[str, typer.Option(metavar="CONFIG", help="of maps: where the test data lie")] = "",
    name: Annotated[str, typer.Option("--list", metavar="NAME", help="of maps: test list (default: the first)")] = "",
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="where to write; default: beside PATH")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="the PATHs are finished runs: compare them")] = False,
    changes: Changes = [],  # noqa: B006
) -> None:
    """Evaluate a checkpoint (run/checkpoint.pt) or maps of any model (a folder or .npz), or compare finished runs.

    Prints the tables; writes clips.csv, summary.json and, of a checkpoint, maps.npz. How maps are named:
    reports/README.md. Results on other data than those beside a checkpoint need a folder of their own (--out).
    """
    if compare:
        return _compare(paths, out, changes)
    for path in paths:
        folder = out / path.stem if out and len(paths) > 1 else out
        places = (path, path / "checkpoint.pt", path / "run" / "checkpoint.pt")
        found = next((place for place in places if place.is_file() and place.suffix not in (".npz", ".npy")), None)
        if path.suffix in (".npz", ".npy") or (path.is_dir() and (config or not found)):
            _evaluate_maps(path, config, name, folder, changes)
        elif config or name:
            raise ConfigError(f"{path}: --config and --list are for maps; a checkpoint has its own (--set)")
        else:
            _evaluate_checkpoint(found or path, folder, changes)


def _evaluate_checkpoint(path: Path, out: Path | None, changes: list[str]) -> None:
    from sslib import checkpoint
    from sslib.evaluation import comparison
    from sslib.evaluation import run as evaluation
    from sslib.report.galleries import save_thumbnail

    values, there = checkpoint.load_checkpoint(path)["config"], path.with_name("summary.json")
    settings = resolve(merge(values, overrides(changes)), root_for(path), str(path))
    if not out:
        held = comparison.read_summary(path.parent)["config"] if there.exists() else values
        held = resolve(held, root_for(path), str(there)).data
        if (held.root, held.tests) != (settings.data.root, settings.data.tests):
            what = f"results beside {path} are of {', '.join(held.tests)} in {held.root}"
            raise ConfigError(f"{what}: give those of other data a folder of their own (--out FOLDER)")
    summary = evaluation.evaluate(path.parent, settings, out)
    save_thumbnail(summary.parent, settings)
    _print_tables(summary)


def _print_tables(summary: Path, before: str = "") -> None:
    from sslib.evaluation import comparison
    from sslib.report import text

    rows = [row for row in comparison.read_summary(summary.parent)["tables"] if row["protocol"] != "class"]
    typer.echo(f"{before}{text.tables_text(rows)}\n\n{summary}")


def _evaluate_maps(path: Path, config: str, name: str, out: Path | None, changes: list[str]) -> None:
    if not config:
        raise ConfigError(f"{path}: maps need --config CONFIG, which says where their test data lie")
    from sslib.evaluation import run as evaluation

    settings = load(config, overrides(changes))
    folder = out or path.with_name(f"{path.stem}-evaluation")
    summary, coverage = evaluation.evaluate_maps(path, settings, name or settings.data.tests[0], folder)
    _print_tables(summary, f"{coverage}\n\n")


def _compare(paths: list[Path], out: Path | None, changes: list[str]) -> None:
    from sslib.evaluation import comparison
    from sslib.report import text

    changed = overrides(changes)
    if unused := sorted(set(changed) - {"evaluation"}):
        raise ConfigError(f"--compare: nothing but evaluation.* has a meaning here, not {', '.join(unused)}")
    settings = resolve({"exp_prefix": "comparison", "exp_name": "comparison"} | changed, Path.cwd(), "--set")
    table = comparison.compare(comparison.group_runs(paths), settings.evaluation)
    typer.echo(text.comparison_text(table))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        table.to_csv(out / "comparison.csv", index=False)
        typer.echo(f"\n{out / 'comparison.csv'}")


@app.command()
@clean_errors()
def prepare(
    raw: Annotated[Path, typer.Argument(metavar="RAW_FOLDER", help="holds videos, in any folders below")],
    data: Annotated[Path, typer.Argument(metavar="DATA_FOLDER", help="gets frames, sounds and manifest.csv")],
    fps: Annotated[float, typer.Option(help="frames per second to take")] = 1.0,
    at: Annotated[float | None, typer.Option(help="take one frame only, at this time in s (VGG-SS: 5.0)")] = None,
    sample_rate: Annotated[int, typer.Option(help="of the sound, in Hz")] = 24000,
    max_seconds: Annotated[float, typer.Option(help="longer videos are rejected, unless --clip-seconds")] = 60.0,
    clip_seconds: Annotated[float | None, typer.Option(help="cut longer videos into clips of this length")] = None,
    time_limit: Annotated[float, typer.Option(help="seconds that decoding one clip may take")] = 60.0,
    workers: Annotated[int, typer.Option(help="processes; 0: this one only")] = 1,
    scheduler: Annotated[str | None, typer.Option(help="address of a Dask scheduler, tcp://HOST:8786")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="try unchanged rejected clips again")] = False,
) -> None:
    """Turn a folder of raw videos into a data folder; running again does what is missing or changed."""
    from sslib.data import prepare as videos

    limits = {
        "max_seconds": max_seconds,
        "clip_seconds": clip_seconds,
        "time_limit": time_limit,
        "workers": workers,
        "scheduler": scheduler,
    }
    rates = {"frame_rate": fps, "at": at, "sample_rate": sample_rate}
    typer.echo(videos.prepare(raw, data, **rates, **limits, retry=retry))


@app.command()
@clean_errors()
def store(
    folder: Annotated[Path, typer.Argument(help="holds video_frames/ and audios/")],
    only: Annotated[str, typer.Option(metavar="CONFIG", help="keep only the frame and the sound that it uses")] = "",
    workers: Annotated[int, typer.Option(min=0, help="processes; default: one a core")] = os.cpu_count() or 1,
    scheduler: Annotated[str, typer.Option(metavar="ADDRESS", help="of a Dask cluster, instead of processes")] = "",
    verify: Annotated[bool, typer.Option("--verify", help="compare checksums of what is there")] = False,
) -> None:
    """Write a data folder into LMDB shards; what is there and unchanged stays."""
    from sslib.data.media import ClipWindow
    from sslib.data.store import STORE_NAME, verify_store, write_store

    if verify:
        faults = verify_store(folder / STORE_NAME, workers, scheduler or None)
        typer.echo("\n".join(faults) or f"{folder / STORE_NAME}: every shard is what was written")
        raise typer.Exit(1 if faults else 0)
    write_store(folder, ClipWindow.of(load(only).data) if only else None, workers, scheduler or None)
    typer.echo(folder / STORE_NAME)


@app.command()
@clean_errors()
def localize(
    path: Annotated[Path, typer.Argument(metavar="VIDEO", help="a video with sound, or a picture with --sound")],
    sound: Annotated[Path | None, typer.Option(metavar="FILE", help="of a picture: the sound to look for")] = None,
    model: Annotated[Path | None, typer.Option(help="checkpoint or exported folder; default: the demo's")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="default: NAME_overlay.mp4 (.png) in this folder")
    ] = None,
    fps: Annotated[float, typer.Option(help="moments per second to look at and to show")] = 5.0,
    force: Annotated[bool, typer.Option("--force", help="replace an output that is there")] = False,
) -> None:
    """Show where the sound of a video comes from: a video, a table (.csv) and a page (.html). Run again to go on."""
    import sslib
    from sslib.report import overlay, own_video

    localizer = sslib.load(model)
    if sound is None:
        out = own_video.localize_video(localizer, path, out or Path(f"{path.stem}_overlay.mp4"), fps, force)
        typer.echo(f"{out}\n{out.with_suffix('.csv')}\n{out.with_suffix('.html')}")
    else:
        out = out or Path(f"{path.stem}_overlay.png")
        found = overlay.localize_picture(localizer, path, sound, out, force)
        typer.echo(f"confidence {found.confidence:.3f}{', no visible source' * (found.visible is False)}\n{out}")


@app.command()
@clean_errors()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="run/checkpoint.pt or an experiment's folder")
    ],
    folder: Annotated[Path, typer.Argument(metavar="MODEL_FOLDER", help="gets model.safetensors and model.json")],
) -> None:
    """Write a trained model as weights and one JSON that says what it was trained on and how good it is."""
    import sslib

    typer.echo(sslib.load(checkpoint).export(folder))


def overrides(changes: list[str]) -> dict[str, Any]:
    """Read ``["training.epochs=2"]`` as ``{"training": {"epochs": 2}}``; values are YAML."""
    nested: dict[str, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"--set {change}: expected KEY=VALUE, for example --set training.epochs=2")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {change}: the value is not readable as YAML") from None
        for part in reversed(key.split(".")):
            value = {part: value}
        nested = merge(nested, value)
    return nested


if __name__ == "__main__":
    app(prog_name="sslib")
