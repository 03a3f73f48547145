"""Mapping a task over items: in this process, in processes that get killed, and on a real Dask cluster."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from sslib import parallel
from sslib.config import InputError


def note(folder, item):
    """Leave a mark of this run of `item` and its process, and answer with something computed."""
    (folder / f"{item}-{os.getpid()}-{time.monotonic_ns()}").touch()
    return item * item


def die(folder, item, of, always=False):
    """Like `note`, but the process dies of the item `of`: the first time only, or always."""
    first = folder / "died"
    if item == of and (always or not first.exists()):
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return note(folder, item)


def refuse(item):
    raise OSError(28, "No space left on device", str(item))


def slowly(folder, item):
    time.sleep(0.05)
    return note(folder, item)


def squares(count):
    return [(i, i * i) for i in range(count)]


def pids(folder):
    return {int(path.name.split("-")[1]) for path in folder.glob("*-*")}


@pytest.mark.parametrize("workers", [0, 2])
def test_every_item_once(tmp_path, workers):
    done = list(parallel.each(partial(note, tmp_path), range(20), workers=workers))
    assert sorted(done) == squares(20)
    assert len(list(tmp_path.glob("*-*"))) == 20
    assert (pids(tmp_path) == {os.getpid()}) == (workers == 0)


def test_no_items():
    assert list(parallel.each(refuse, [], workers=2)) == []


def test_a_killed_process_loses_nothing(tmp_path):
    done = list(parallel.each(partial(die, tmp_path, of=7), range(20), workers=2))
    assert sorted(done) == squares(20)
    assert (tmp_path / "died").exists() and len(pids(tmp_path)) > 2


def test_an_item_that_always_kills_is_named(tmp_path):
    done = []
    with pytest.raises(parallel.WorkerKilled, match=r"^7: .*died"):
        done.extend(parallel.each(partial(die, tmp_path, of=7, always=True), range(20), workers=2))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_of_the_task_ends_the_run(workers):
    with pytest.raises(OSError, match="No space left"):
        list(parallel.each(refuse, range(3), workers=workers))


def test_negative_workers():
    with pytest.raises(ValueError, match="workers is -1"):
        list(parallel.each(refuse, [1], workers=-1))


def test_workers_end_with_a_killed_main_process(tmp_path):
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from functools import partial; from pathlib import Path\n"
        "import test_parallel as t; from sslib import parallel\n"
        f"list(parallel.each(partial(t.slowly, Path({str(tmp_path)!r})), range(10_000), workers=2))"
    )
    main = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(pids(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    main.kill()
    main.wait()
    workers = pids(tmp_path)
    assert len(workers) == 2
    while any(map(psutil.pid_exists, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, workers))


def test_a_cluster_with_a_worker_killed_half_way(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(parallel, "ON_CLUSTER", 12)  # fewer than the items: futures must be handed out as others end
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options, host="127.0.0.1") as cluster:
        done = []
        for pair in parallel.each(partial(slowly, tmp_path), range(40), scheduler=cluster.scheduler_address):
            done.append(pair)
            if len(done) == 15:
                assert len(pids(tmp_path)) == 2
                os.kill(min(pids(tmp_path)), signal.SIGKILL)
        with pytest.raises(OSError, match="No space left"):
            list(parallel.each(refuse, range(3), scheduler=cluster.scheduler_address))
    assert sorted(done) == squares(40)


def test_a_scheduler_without_dask(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install sslib\[dask\]"):
        list(parallel.each(refuse, [1], scheduler="tcp://127.0.0.1:1"))


def test_tests_folder_is_importable_in_workers():
    """The tasks above are found by name in fresh processes because pytest puts this folder on the path."""
    assert str(Path(__file__).parent) in sys.path
