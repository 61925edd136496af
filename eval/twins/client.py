"""The twins as programs: `run_verb` runs a verb to its end, `Worker` keeps a twin alive and exchanges arrays."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.exits import RunError
from eval.twins.interpreters import PACKAGES, ROOT, Framework, child_environment, find_python


class _Tail(threading.Thread):
    """Reads a child's stderr to its end, keeps the last of it and, with echo, passes all of it on."""

    def __init__(self, descriptor: int, echo: bool) -> None:
        super().__init__(daemon=True)
        self._descriptor, self._echo, self._bytes = descriptor, echo, b""
        self.start()

    def run(self) -> None:
        while chunk := os.read(self._descriptor, 65536):
            self._bytes = (self._bytes + chunk)[-8192:]
            if self._echo:
                sys.stderr.write(chunk.decode(errors="replace"))
                sys.stderr.flush()
        os.close(self._descriptor)

    def lines(self) -> list[str]:
        """The last lines, once the child has ended; a progress bar's redraws count as one line."""
        self.join(timeout=5)
        text = self._bytes.decode(errors="replace").replace("\r\n", "\n")
        lines = [line.rstrip("\r ").split("\r")[-1] for line in text.split("\n")]
        return [line for line in lines if line][-12:]


def _start(
    command: list[str], root: Path, threads: int, echo: bool, **options: Any
) -> tuple[subprocess.Popen[bytes], _Tail]:
    """Start a twin, its stdout a pipe of ours and its stderr read by a thread, so that neither can block it."""
    environment = child_environment(threads)
    reading, writing = os.pipe()
    try:
        child = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=writing, **options)
    except OSError as error:
        os.close(reading)
        raise RunError(f"cannot start {command[0]}: {error.strerror}") from error
    finally:
        os.close(writing)
    return child, _Tail(reading, echo)


def run_verb(
    framework: Framework,
    args: Sequence[str],
    *,
    threads: int = 0,
    timeout: float | None = None,
    root: Path = ROOT,
) -> str:
    """Run `python -m torch_impl ARGS` (or tf_impl) to its end, its progress going to our stderr.

    Args:
        framework: torch or tensorflow.
        args: verb and flags; relative paths in them are taken from the checkout.
        threads: CPU threads; 0 for the framework's choice.
        timeout: seconds, or None for no limit.
        root: the checkout.
    Returns:
        What it wrote to stdout.
    Raises:
        ValueError: it exited 2 (input or options that the user must change), with its last line.
        RunError: it failed otherwise, or ran past the timeout, with its last lines.
        KeyboardInterrupt: Ctrl-C, after the child has saved and ended.
    """
    command = [*find_python(framework, root), "-m", PACKAGES[framework], *args]
    return run_program(
        command, f"{PACKAGES[framework]} {' '.join(args[:1])}", threads=threads, timeout=timeout, root=root
    )


def run_program(
    command: list[str], name: str, *, threads: int = 0, timeout: float | None = None, root: Path = ROOT
) -> str:
    """Run a program as run_verb() runs a verb; `name` stands for it in messages."""
    child, tail = _start(command, root, threads, echo=True)
    try:
        out, _ = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        raise RunError(f"{name}: stopped after {timeout} s, the time allowed") from None
    except KeyboardInterrupt:
        child.wait()  # Ctrl-C reached the child too; it saves before it ends
        raise
    except SystemExit:  # a signal that reached this process alone, see leaving_on_signals()
        child.terminate()
        child.wait()
        raise
    last = tail.lines()
    if child.returncode == 130:
        raise KeyboardInterrupt
    if child.returncode == 2:
        raise ValueError(f"{name}: {last[-1] if last else 'exit code 2'}")
    if child.returncode:
        raise RunError("\n".join([f"{name}: exit code {child.returncode}", *last]))
    return out.decode()


class Worker:
    """One twin kept alive, answering requests: arrays in, arrays out.

    The protocol: a line of JSON to its stdin, {"task", "input": path of an .npz or null, "output": path of an .npz,
    "options"}; one line from its stdout, {"ok": true, "info"} or {"ok": false, "error", "kind": "input" or "run"}.
    """

    def __init__(
        self,
        framework: Framework,
        *,
        threads: int = 0,
        timeout: float = 600.0,
        root: Path = ROOT,
        module: str = "",
    ) -> None:
        """Start nothing yet; `with Worker("torch") as worker:` does.

        Args:
            framework: torch or tensorflow.
            threads: CPU threads; 0 for the framework's choice.
            timeout: seconds that one call may take.
            root: the checkout.
            module: what to run instead of the twin, in its environment; it speaks the same protocol.
        """
        if not timeout > 0:
            raise ValueError(f"timeout = {timeout}: must be above 0 seconds")
        words = [module] if module else [PACKAGES[framework], "worker"]
        self._command = [*find_python(framework, root), "-m", *words]
        if threads:  # variables reach what reads them at import; the flag reaches the rest, and the worker's manifest
            self._command += ["--threads", str(threads)]
        self.name = " ".join(words)
        self._threads, self._timeout, self.root = threads, timeout, root
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Worker:
        # Its own process group: `conda run` stands between us and the interpreter, and both must go at the end.
        self._child, self._tail = _start(
            self._command, self.root, self._threads, False, stdin=subprocess.PIPE, start_new_session=True
        )
        self._stdin, self._stdout = cast(IO[bytes], self._child.stdin), cast(IO[bytes], self._child.stdout)
        self._folder = tempfile.TemporaryDirectory(prefix="diptych-")
        self._received = b""
        return self

    def __exit__(self, *_: object) -> None:
        self._stop(grace=10.0)
        self._folder.cleanup()

    def call(
        self, task: str, arrays: Mapping[str, ArrayLike] | None = None, /, **options: Any
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Have the twin do one task.

        Args:
            task: name of the task.
            arrays: name -> array, of any shape and of any dtype but object.
            options: what JSON can say.
        Returns:
            Arrays (none where the task wrote no file) and the answer's info.
        Raises:
            ValueError: an array or option cannot be sent, or the twin found the input wrong.
            RunError: the task failed, or the worker died, ran past its time or broke the protocol.
        """
        if self._child is None:
            raise RuntimeError(f"{self.name}: not running; use it in a with statement and not after it failed")
        self._signal(signal.SIGCONT)
        source, target = (Path(self._folder.name) / name for name in ("input.npz", "output.npz"))
        try:
            if arrays is not None:
                np.savez(source, allow_pickle=False, **{name: np.asarray(a) for name, a in arrays.items()})
            request = json.dumps(
                {
                    "task": task,
                    "input": str(source) if arrays is not None else None,
                    "output": str(target),
                    "options": options,
                }
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.name}: task {task!r} cannot be sent: {error}") from error
        try:
            self._stdin.write(request.encode() + b"\n")
            self._stdin.flush()
        except BrokenPipeError:
            raise self._failure(f"died before task {task!r}") from None
        try:
            info = self._answer(task)
            if not target.exists():
                return {}, info
            with np.load(target, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}, info
        finally:
            source.unlink(missing_ok=True)
            target.unlink(missing_ok=True)

    def pause(self) -> None:
        """Stop the process where it stands, so that it takes no processor. call() and the end let it go on."""
        self._signal(signal.SIGSTOP)

    def _signal(self, signum: signal.Signals) -> None:
        """Send a signal to the process and its children."""
        if self._child is not None and self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signum)

    def _answer(self, task: str) -> dict[str, Any]:
        line = self._read_line(task)
        try:
            answer = json.loads(line)
            if answer["ok"] is True:
                return dict(answer["info"])
            error, kind = str(answer["error"]), answer["kind"]
        except (ValueError, KeyError, TypeError):
            raise self._failure(f"answered task {task!r} with {line[:200]!r}, which is not of the protocol") from None
        raise (ValueError if kind == "input" else RunError)(f"{self.name}: {task}: {error}")

    def _read_line(self, task: str) -> str:
        deadline = time.monotonic() + self._timeout
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._stdout], [], [], left)[0]:
                raise self._failure(f"did not answer task {task!r} within {self._timeout:g} s", grace=0.0)
            chunk = os.read(self._stdout.fileno(), 65536)
            if not chunk:
                raise self._failure(f"died during task {task!r}")
            self._received += chunk
        line, self._received = self._received.split(b"\n", 1)
        return line.decode(errors="replace")

    def _failure(self, what: str, grace: float = 1.0) -> ValueError | RunError:
        """Stop the worker and say what happened: its own error where it exited with 2, else its last lines."""
        child = self._child
        self._stop(grace)
        if child is not None and child.returncode == 2 and (lines := self._tail.lines()):
            return ValueError(f"{self.name}: {lines[-1].removeprefix('error: ')}")
        return RunError("\n".join([f"{self.name} {what}", *self._tail.lines()]))

    def _stop(self, grace: float) -> None:
        """Close its stdin, which ends it, and kill it where it has not ended `grace` seconds later."""
        self._signal(signal.SIGCONT)
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        try:
            child.wait(grace)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        self._stdout.close()
