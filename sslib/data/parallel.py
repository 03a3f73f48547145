"""One idempotent task for many items, in processes of this machine or on a Dask cluster; a process to be killed.

A worker may be killed at any moment, so a task writes to a temporary name and renames when it has finished: running it
again does what is missing, and running it twice does no harm.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm.auto import tqdm

from sslib.config import InputError, SslibError

IDLE = 5.0  # s, after which worker processes without work end
START_LIMIT = 300.0  # s, for a process to start and import: long, for a network drive under load
GRACE = 10.0  # s, after which a process that its parent did not stop (because it was killed) ends by itself


class WorkerKilled(SslibError):
    """A worker died of what it did, or was killed; what had finished before stays."""


class Crashed(SslibError):
    """The process of a function died."""


class TimedOut(Crashed):
    """A function took longer than its limit, and its process was killed."""


def each(
    task: Callable, items: Iterable, workers: int = 1, scheduler: str | None = None, desc: str = ""
) -> Iterator[tuple[Any, Any]]:
    """Yield ``(item, task(item))`` once for every item as they finish, in any order, with the progress bar `desc`.

    `task` is an idempotent function of a module, or ``functools.partial`` of one; what it raises ends the whole run.
    Items are pickled: names, not arrays. With 0 or 1 `workers` the work is done in this process. A Dask `scheduler`
    (``tcp://HOST:8786``) hands out the tasks instead; its workers must see the same folders under the same paths.

    Raises ``WorkerKilled`` when a worker process died, and ``InputError`` when there is no such scheduler.
    """
    items = list(items)
    if workers < 0:
        raise InputError(f"workers is {workers}: 0 works in this process, 2 and more start processes")
    if scheduler:
        pairs = _on_cluster(task, items, scheduler)
    elif workers > 1 and len(items) > 1:
        pairs = _in_processes(task, items, min(workers, len(items)))
    else:
        pairs = ((item, task(item)) for item in items)
    with closing(pairs):
        yield from tqdm(pairs, total=len(items), desc=desc, disable=not items)


def _in_processes(task: Callable, items: list, workers: int) -> Iterator[tuple[Any, Any]]:
    """Work in `workers` processes; joblib divides the cores' threads among them."""
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    options = {"initializer": _end_with_parent, "initargs": (os.getpid(),), "idle_worker_timeout": IDLE}
    parallel = joblib.Parallel(workers, backend="loky", return_as="generator_unordered", batch_size=1, **options)
    pairs = parallel(joblib.delayed(_pair)(task, item) for item in items)
    try:
        for pair in pairs:  # noqa: UP028, as `yield from` would close the pairs before the warning is off
            yield pair
    except TerminatedWorkerError as error:
        advice = "run the same again, with fewer workers where it happens again; what has finished stays"
        raise WorkerKilled(f"a worker process was killed, most often for a lack of memory: {advice}") from error
    finally:
        with warnings.catch_warnings(action="ignore"):  # of results that nobody took, where the caller met an error
            pairs.close()


def _pair(task: Callable, item: Any) -> tuple[Any, Any]:
    return item, task(item)


def _end_with_parent(parent: int) -> None:
    """In a worker: leave when the main process is gone, or a killed run would leave its workers behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's business, which ends its workers

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_cluster(task: Callable, items: list, address: str) -> Iterator[tuple[Any, Any]]:
    """Work on a Dask cluster. Not through joblib 1.6: it waits without end for an item that kills its workers."""
    try:
        from distributed import Client, KilledWorker, as_completed

        client = Client(address, set_as_default=False)
    except (ModuleNotFoundError, OSError) as error:
        raise InputError(f"no Dask scheduler at {address} ({error}); its package: pip install sslib[dask]") from error
    with client:
        item_of = dict(zip(client.map(task, items, pure=False), items, strict=True))
        for future in as_completed(item_of, loop=client.loop):
            try:
                yield item_of[future], future.result()  # runs a second time where a worker took it to the grave
            except KilledWorker as error:
                raise WorkerKilled(f"{item_of[future]}: the workers that worked on it died, one by one") from error
            future.release()


class KillableProcess:
    """Run a generator (of a module) in a long-lived process of its own: where it hangs or crashes, only that is lost.

    A plain subprocess with a pipe, because the processes of a Dask worker may not have children by multiprocessing.
    """

    def __init__(self, function: Callable):
        self.function, self.process = function, None

    def stream(self, *arguments: Any, limit: float) -> Iterator[Any]:
        """Yield what the function yields, raise what it raises; ``TimedOut`` after `limit` s for one; ``Crashed``."""
        if self.process is None or self.process.poll() is not None:
            self._start()
        answer = self._ask(limit, (arguments, limit))
        try:
            while answer:
                yield answer[0]
                answer = self._ask(limit)
        except GeneratorExit:  # nobody wants the rest, which would be in the way of the next call
            self.close()
            raise

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.pipe.close()
            self.process = None

    def _start(self) -> None:
        self.close()
        self.pipe, theirs = Pipe()
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({theirs.fileno()})"
        command = [sys.executable, "-c", code]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        theirs.close()
        self._ask(START_LIMIT, self.function)

    def _ask(self, limit: float, *message: Any) -> list | None:
        """Send a message, if there is one, and return the next value, in a list; None at the end."""
        try:
            for one in message:
                self.pipe.send(one)
            if not self.pipe.poll(limit):
                self.close()
                raise TimedOut(f"stopped after {limit:g} s")
            value, error = self.pipe.recv()
        except (EOFError, OSError):
            code = self.process.wait()
            raise Crashed(f"crashed ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})") from None
        if error:
            raise error
        return value


def serve(descriptor: int) -> None:
    """Answer calls, in the process of a :class:`KillableProcess`, until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    pipe = Connection(descriptor)
    with suppress(EOFError, BrokenPipeError):
        function = pipe.recv()
        pipe.send((None, None))
        while True:
            arguments, limit = pipe.recv()
            signal.setitimer(signal.ITIMER_REAL, limit + GRACE)  # its default action ends the process, even inside C
            try:
                for value in function(*arguments):
                    signal.setitimer(signal.ITIMER_REAL, 0)  # who takes it may be busy with the one before
                    pipe.send(([value], None))
                    signal.setitimer(signal.ITIMER_REAL, limit + GRACE)
                answer = None, None
            except Exception as error:
                answer = None, error
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send(answer)


class Journal:
    """What came of each item, a dataclass with an ``id``, on disk as soon as it is added. The last of an id counts.

    The file only grows. Raises ``filelock.Timeout`` while another process holds the journal of this folder.
    """

    def __init__(self, folder: Path, name: str, kind: type):
        self.lock = FileLock(folder / ".lock", timeout=0)  # a file that is never replaced
        self.lock.acquire()
        self.file = (folder / name).open("a+b", buffering=0)
        self.file.seek(0)
        *lines, torn = self.file.read().split(b"\n")
        self.file.truncate(self.file.tell() - len(torn))  # what was being written when the process died
        self.rows = {row.id: row for row in (kind(**json.loads(line)) for line in lines)}

    def add(self, *rows: Any) -> None:
        lines = b"".join(json.dumps(asdict(row)).encode() + b"\n" for row in rows)
        if self.file.write(lines) != len(lines):
            raise OSError(28, "no space for a line", self.file.name)
        self.rows |= {row.id: row for row in rows}

    def close(self) -> None:
        self.file.close()
        self.lock.release()
