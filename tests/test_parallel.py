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

from sslib.config import InputError
from sslib.data import parallel


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


def threads(item):
    return os.environ["OMP_NUM_THREADS"], os.getpid()


def squares(count):
    return [(i, i * i) for i in range(count)]


def pids(folder):
    return {int(path.name.split("-")[1]) for path in folder.glob("*-*")}


def marks(folder):
    return {int(path.name.split("-")[0]) for path in folder.glob("*-*")}


def wait_for_end(processes, limit=30):
    """Whether all of them have ended within `limit` seconds."""
    deadline = time.monotonic() + limit
    while any(map(psutil.pid_exists, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(psutil.pid_exists, processes))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_item_once(tmp_path, workers):
    done = list(parallel.each(partial(note, tmp_path), range(20), workers=workers))
    assert sorted(done) == squares(20)
    assert len(list(tmp_path.glob("*-*"))) == 20
    assert (pids(tmp_path) == {os.getpid()}) == (workers < 2)


def test_no_items():
    assert list(parallel.each(refuse, [], workers=2)) == []


def test_a_killed_process_ends_the_run_with_a_sentence(tmp_path):
    """What has finished stays: the task's marks are there, and the same run again does the rest."""
    done = []
    with pytest.raises(parallel.WorkerKilled, match=r"run the same again.* what has finished stays"):
        done.extend(parallel.each(partial(die, tmp_path, of=7), range(20), workers=2))
    assert (tmp_path / "died").exists() and {item for item, _ in done} <= marks(tmp_path)
    assert sorted(parallel.each(partial(die, tmp_path, of=7), range(20), workers=2)) == squares(20)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_of_the_task_ends_the_run(workers):
    with pytest.raises(OSError, match="No space left") as caught:
        list(parallel.each(refuse, range(3), workers=workers))
    assert caught.value.errno == 28


def test_a_run_that_is_left_early(tmp_path, recwarn):
    """The consumer's error (a full disk) is what is seen, at once, and no worker goes on."""
    with pytest.raises(KeyError, match="consumer"):
        for _ in parallel.each(partial(slowly, tmp_path), range(10_000), workers=2):
            raise KeyError("consumer")
    assert wait_for_end(pids(tmp_path)) and len(marks(tmp_path)) < 100 and not recwarn.list


def test_threads_are_divided_among_workers_which_end_soon_after(monkeypatch):
    """Every worker with a thread for every core is slower than one worker."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(parallel, "IDLE", 0.5)
    done = dict(parallel.each(threads, range(4), workers=2))
    share = {number for number, _ in done.values()}
    assert share == {str(max(1, (os.cpu_count() or 1) // 2))} and wait_for_end({pid for _, pid in done.values()})


def test_negative_workers():
    with pytest.raises(ValueError, match="workers is -1"):
        list(parallel.each(refuse, [1], workers=-1))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_main_process(tmp_path, number):
    """Killed, or by Ctrl-C, which the terminal sends to all of them."""
    code = (
        f"import signal, sys; sys.path[:0] = {sys.path!r}\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell ignores it in the background
        "from functools import partial; from pathlib import Path\n"
        "import test_parallel as t; from sslib.data import parallel\n"
        f"list(parallel.each(partial(t.slowly, Path({str(tmp_path)!r})), range(10_000), workers=2))"
    )
    main = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(pids(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    if number == signal.SIGINT:
        os.killpg(main.pid, number)
    else:
        main.kill()
    output = main.communicate(timeout=60)[1]
    assert len(pids(tmp_path)) == 2 and wait_for_end(pids(tmp_path))
    if number == signal.SIGINT:
        # loky's tracker, a process of its own, may say after it that a folder was already gone
        assert output.count("Traceback") == 1 and "\nKeyboardInterrupt\n" in output


def test_a_cluster_with_a_worker_killed_half_way(tmp_path):
    distributed = pytest.importorskip("distributed")
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


def test_an_item_that_kills_every_worker_of_a_cluster_ends_the_run(tmp_path):
    """Or one that waited at the same worker when it died: the scheduler cannot tell them apart."""
    distributed, dask = pytest.importorskip("distributed"), pytest.importorskip("dask")
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(**options, host="127.0.0.1") as cluster,
        pytest.raises(parallel.WorkerKilled, match=r"^\d+: .*died"),
    ):
        task = partial(die, tmp_path, of=7, always=True)
        list(parallel.each(task, range(20), scheduler=cluster.scheduler_address))


def test_a_scheduler_without_dask(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install sslib\[dask\]"):
        list(parallel.each(refuse, [1], scheduler="tcp://127.0.0.1:1"))


def test_tests_folder_is_importable_in_workers():
    """The tasks above are found by name in fresh processes because pytest puts this folder on the path."""
    assert str(Path(__file__).parent) in sys.path
