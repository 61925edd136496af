"""Several processes of a twin that train one network, started as torchrun and TF_CONFIG start them."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from eval.twins.interpreters import PACKAGES, ROOT, Framework, child_environment, find_python


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def start_together(
    framework: Framework, count: int, words: Sequence[str], logs: Path, root: Path = ROOT, launcher: Sequence[str] = ()
) -> list[subprocess.Popen[bytes]]:
    """Start a verb in several processes on this machine, one thread each.

    Args:
        framework: torch, by torchrun; or tensorflow, one process a worker.
        count: number of processes.
        words: verb and flags.
        logs: folder of process-I.txt, where each process's output goes.
        root: the checkout.
        launcher: further flags of torchrun.
    Returns:
        torchrun, or the workers by their number.
    """
    python, package = find_python(framework, root), PACKAGES[framework]
    commands, environments = [[*python, "-m", package, *words]] * count, [child_environment(1) for _ in range(count)]
    if framework == "torch":
        flags = ["--standalone", "--nproc-per-node", str(count), *launcher, "-m", "--", package]
        commands, environments = [[*python, "-m", "torch.distributed.run", *flags, *words]], environments[:1]
    else:
        workers = [f"127.0.0.1:{port}" for port in free_ports(count)]
        for i, environment in enumerate(environments):
            task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": i}}
            environment["TF_CONFIG"] = json.dumps(task)
    logs.mkdir(parents=True, exist_ok=True)
    started = []
    for i, (command, environment) in enumerate(zip(commands, environments, strict=True)):
        with open(logs / f"process-{i}.txt", "wb") as log:
            started.append(
                subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT, stdin=-3)
            )
    return started


def wait_for(started: Sequence[subprocess.Popen[bytes]], timeout: float) -> list[int]:
    """The exit codes; every process is killed after `timeout` seconds."""
    try:
        return [one.wait(timeout) for one in started]
    finally:
        for one in started:
            one.kill()
            one.wait()
