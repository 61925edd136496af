"""Write the lock files of `make envs LOCKED=1`: every package of an environment, with the hashes of its files.

It runs `uv pip compile` on the requirement files beside this script and needs the package index. Versions that a lock
file has already are kept where they fit.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LINUX, MACOS = "x86_64-manylinux_2_28", "aarch64-apple-darwin"
LOCKS = {
    "pytorch-cpu-linux-x86_64": ("pytorch.txt", LINUX),
    "pytorch-cuda-linux-x86_64": ("pytorch.txt", LINUX),
    "pytorch-cpu-macos-arm64": ("pytorch.txt", MACOS),
    "tensorflow-cpu-linux-x86_64": ("tensorflow-cpu.txt", LINUX),
    "tensorflow-cuda-linux-x86_64": ("tensorflow.txt", LINUX),
    "tensorflow-cpu-macos-arm64": ("tensorflow.txt", MACOS),
}
"""Lock file, as lock_file() of make_envs.py names it -> its requirement file and uv's name of the platform."""

OPTIONS = "--quiet --no-config --no-header --no-annotate --generate-hashes --only-binary :all: --python-version 3.11"


def make(name, wheels):
    """Write a lock file; returns whether uv succeeded."""
    requirements, platform = LOCKS[name]
    lock = HERE / "lock" / (name + ".txt")
    new = lock.with_suffix(".new")
    command = ["uv", "pip", "compile", *OPTIONS.split(), "--python-platform", platform, "--output-file", new.name]
    if name.startswith("pytorch-cpu-linux"):  # PyPI has the CUDA build alone
        command += ["--find-links", wheels] if wheels else ["--torch-backend", "cpu"]
    if lock.exists():
        shutil.copy(lock, new)  # uv keeps its versions
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"}  # the first that torch has wheels for
    done = subprocess.run([*command, "../" + requirements], cwd=str(lock.parent), env=environment).returncode == 0
    if done:
        head = (
            f"# Made by envs/make_locks.py with `uv pip compile` from {requirements}, for Python 3.11; do not edit.\n"
        )
        new.write_text(head + new.read_text(encoding="utf-8"), encoding="utf-8")
        os.replace(new, lock)
    new.unlink(missing_ok=True)
    print(f"{lock}: {'written' if done else 'uv failed, left as it was'}", file=sys.stderr)
    return done


def main():
    parser = argparse.ArgumentParser(description="Write the lock files in envs/lock from the requirement files.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"lock files to write: {', '.join(LOCKS)} (default: all)"
    )
    parser.add_argument("--wheels", help="folder with PyTorch's CPU wheel, where its index cannot be reached")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in LOCKS]
    if unknown or not shutil.which("uv"):
        parser.error(f"{unknown[0]}: must be one of {', '.join(LOCKS)}" if unknown else "uv is not on PATH: install it")
    return 0 if all([make(name, args.wheels) for name in args.names or LOCKS]) else 1


if __name__ == "__main__":
    sys.exit(main())
