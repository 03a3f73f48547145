"""A function in a long-lived process of its own that can be killed: a decoder that hangs or crashes takes only that.

Plain subprocesses over a pipe, because the processes of a Dask worker may not have children by multiprocessing.
"""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any

from sslib.config import SslibError

START_LIMIT = 300.0  # s, to start and import: long, for a network drive under load
GRACE = 10.0  # s, after which a child that its parent did not stop (because it was killed) ends by itself


class ChildStopped(SslibError):
    """The function did not finish: it took longer than its limit or its process died; the message says which."""


class Child:
    """Calls `function` (of a module) in another process, which is started when needed and again after it was lost."""

    def __init__(self, function: Callable):
        self.function = function
        self.process: subprocess.Popen | None = None
        self.pipe: Connection | None = None

    def call(self, *arguments: Any, limit: float) -> Any:
        """The function's result, or the exception that it raised.

        Raises
        ------
        ChildStopped
            When it took longer than `limit` seconds, or its process died.
        """
        if self.process is None or self.process.poll() is not None:
            self._start()
        self.pipe.send((arguments, limit))
        succeeded, value = self._receive(limit)
        if not succeeded:
            raise value
        return value

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
        code = f"import sys; sys.path[:] = {sys.path!r}; from sslib.child import serve; serve({theirs.fileno()})"
        command = [sys.executable, "-c", code]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        theirs.close()
        self.pipe.send_bytes(pickle.dumps(self.function))
        self._receive(START_LIMIT)

    def _receive(self, limit: float) -> tuple[bool, Any]:
        try:
            if self.pipe.poll(limit):
                return self.pipe.recv()
        except (EOFError, OSError):
            code = self.process.wait()
            self.close()
            reason = f"signal {-code}, {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise ChildStopped(f"crashed ({reason})") from None
        self.close()
        raise ChildStopped(f"stopped after {limit:g} s")


def serve(descriptor: int) -> None:
    """The child's side: answer calls until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    pipe = Connection(descriptor)
    try:
        function = pickle.loads(pipe.recv_bytes())
        pipe.send((True, None))
        while True:
            arguments, limit = pipe.recv()
            signal.setitimer(signal.ITIMER_REAL, limit + GRACE)  # its default action ends the process, even inside C
            try:
                answer = True, function(*arguments)
            except Exception as error:
                answer = False, error
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send(answer)
    except (EOFError, BrokenPipeError):
        pass
