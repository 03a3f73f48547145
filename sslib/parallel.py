"""One idempotent task mapped over many clips or shards: in this process, in worker processes, or on a Dask cluster.

A worker may be killed at any moment (a batch system's limits, a lack of memory, a node that leaves), and its task then
runs again elsewhere: a task writes to a temporary name and renames when it has finished. Every item's result is
yielded exactly once; an exception that a task raises ends the whole run.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, TypeVar

from tqdm.auto import tqdm

from sslib.config import InputError, SslibError

Item = TypeVar("Item")
Result = TypeVar("Result")
Pairs = Iterator[tuple[Any, Any]]

QUEUED = 2  # items handed out for each local worker: none waits for work, and few are in doubt when one is killed
ON_CLUSTER = 1024  # futures a Dask scheduler holds at once, however many items there are


class WorkerKilled(SslibError):
    """An item that ends the process which works on it, even when it is the only one; the message names it."""


def each(
    task: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int = 1,
    scheduler: str | None = None,
    desc: str = "",
) -> Iterator[tuple[Item, Result]]:
    """Yield ``(item, task(item))`` as they finish, in any order, with a progress bar.

    Parameters
    ----------
    task : a function that can be pickled (of a module, or ``functools.partial`` of one), idempotent as above.
    items : what can be pickled and is cheap to send: names, not arrays.
    workers : processes on this machine; 0 works in this process. They are started fresh (not forked), so a script
        that calls this needs its ``if __name__ == "__main__":``.
    scheduler : address of a Dask scheduler (``tcp://HOST:8786``), which then hands out the tasks instead. All its
        workers must see the same folders under the same paths and have this package. On Slurm, for 16 nodes::

            from dask_jobqueue import SLURMCluster      # pip install dask-jobqueue
            cluster = SLURMCluster(cores=16, processes=16, memory="32GB", walltime="04:00:00")
            cluster.scale(jobs=16)
            for item, result in each(task, items, scheduler=cluster.scheduler_address): ...

    desc : what the progress bar says.

    Raises
    ------
    WorkerKilled
        When a process died of an item, and again when the item was tried alone (on a cluster: as often as its setting
        ``distributed.scheduler.allowed-failures`` allows).
    RuntimeError
        For a scheduler's address without the package ``distributed``.
    ConnectionError
        When there is no scheduler at that address.
    """
    items = list(items)
    if workers < 0:
        raise InputError(f"workers is {workers}: 0 works in this process, 1 and more start processes")
    if scheduler:
        pairs = _on_cluster(task, items, scheduler)
    elif workers:
        pairs = _in_processes(task, items, workers)
    else:
        pairs = ((item, task(item)) for item in items)
    with tqdm(total=len(items), desc=desc, disable=not items) as bar:
        for pair in pairs:
            bar.update()
            yield pair


def _in_processes(task: Callable, items: list, workers: int) -> Pairs:
    """Work in `workers` processes. When one dies, what was under way is tried again one by one, the rest as before."""
    waiting = items[::-1]
    while waiting:
        count = min(workers, len(waiting))
        doubtful = yield from _until_broken(task, waiting, count, QUEUED * count)
        while doubtful:
            guilty = yield from _until_broken(task, doubtful, 1, 1)
            if guilty:
                raise WorkerKilled(f"{guilty[0]}: a process that worked on it died, and died again with it alone")


def _until_broken(task: Callable, waiting: list, workers: int, at_once: int) -> Generator[tuple[Any, Any], None, list]:
    """Take items off the end of `waiting` until there are none; return those under way when a process died."""
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    futures: dict[Future, Any] = {}
    try:
        while waiting or futures:
            try:
                while waiting and len(futures) < at_once:
                    futures[pool.submit(task, waiting[-1])] = waiting[-1]
                    waiting.pop()
            except BrokenProcessPool:
                break
            finished = wait(futures, return_when=FIRST_COMPLETED).done
            if any(isinstance(future.exception(), BrokenProcessPool) for future in finished):
                break
            for future in finished:
                yield futures.pop(future), future.result()
        wait(futures)
        doubtful = []
        for future, item in futures.items():
            if isinstance(future.exception(), BrokenProcessPool):
                doubtful.append(item)
            else:
                yield item, future.result()
        return doubtful
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """In a worker: leave when the main process is gone, or a killed run would leave its workers behind for good."""

    def watch() -> None:
        connection.wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_cluster(task: Callable, items: list, address: str) -> Pairs:
    """Hand the task out through a Dask scheduler, which gives the work of a killed worker to another one."""
    try:
        from distributed import Client, KilledWorker, as_completed
    except ModuleNotFoundError as error:
        raise InputError("a scheduler needs the package distributed: pip install sslib[dask]") from error
    try:
        client = Client(address, set_as_default=False)
    except OSError as error:
        raise InputError(f"no Dask scheduler answers at {address}: {error}") from error
    waiting, items_of = items[::-1], {}
    with client:
        results = as_completed(loop=client.loop)

        def hand_out() -> None:
            future = client.submit(task, waiting[-1], pure=False)
            items_of[future.key] = waiting.pop()
            results.add(future)

        while waiting and len(items_of) < ON_CLUSTER:
            hand_out()
        for future in results:
            item = items_of.pop(future.key)
            try:
                result = future.result()  # waits for the second run where a worker took its result to the grave
            except KilledWorker as error:
                raise WorkerKilled(
                    f"{item}: the workers that worked on it died, one after the other: {error}"
                ) from error
            if waiting:
                hand_out()
            yield item, result
