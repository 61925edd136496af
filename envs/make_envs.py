"""Make the two environments, .venvs/pytorch and .venvs/tensorflow, from the requirement files beside this script.

This script runs before anything is installed, so it needs the standard library only, and parses on Python 3.8. An
environment is complete only with its stamp, which is written last. The stamp holds the hashes of the requirement files.
With --locked, every package must have a hash that stands in a lock file, which make_locks.py writes.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENVS = HERE.parent / ".venvs"
TESTED, UNTESTED = (3, 11), ((3, 12), (3, 13))
TOOLS = ("venv", "uv", "conda", "mamba", "micromamba")
MODULES = {"pytorch": ("torch",), "tensorflow": ("tensorflow", "keras")}
CHECKED = ["--require-hashes", "--only-binary", ":all:"]  # nothing is built: what a build installs has no hash
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class SetupError(Exception):
    """An error with a one-line message and an exit code: 1 where a step failed, 2 where the user must act."""

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


def say(text):
    print(text, file=sys.stderr, flush=True)


def dotted(version):
    return ".".join(map(str, version))


def requirement_files(name, test, cpu):
    """The requirement files of an environment, by name."""
    main = "tensorflow-cpu.txt" if name == "tensorflow" and cpu else name + ".txt"
    return [main, "test-" + name + ".txt"] if test else [main]


def lock_file(name, cpu):
    """The lock file of an environment on this kind of machine, by its name in this folder."""
    system = {"Linux": "linux", "Darwin": "macos"}.get(platform.system(), platform.system())
    device = "cpu" if cpu or system == "macos" else "cuda"
    lock = f"lock/{name}-{device}-{system}-{platform.machine()}.txt"
    if not (HERE / lock).exists():
        raise SetupError(f"there is no envs/{lock}: leave LOCKED=1 out, or write the file with envs/make_locks.py", 2)
    return lock


def hashes(names):
    """SHA-256 of requirement files and of the files that they include with -r, by name."""
    found = {}
    todo = list(names)
    while todo:
        name = todo.pop()
        text = (HERE / name).read_text(encoding="utf-8")
        found[name] = hashlib.sha256(text.encode()).hexdigest()
        included = [line.split()[1] for line in text.splitlines() if line.startswith("-r ")]
        todo.extend(other for other in included if other not in found)
    return found


class Environment:
    """An environment's folder, and the two files that tell a complete environment from an incomplete one."""

    def __init__(self, name):
        self.name = name
        self.folder = VENVS / name
        self.python = self.folder / "bin" / "python"
        self.stamp = self.folder / "diptych-stamp.json"
        self.incomplete = VENVS / (name + ".incomplete")  # beside the folder, which tools want empty
        self.log = VENVS / (name + ".log")

    def read_stamp(self):
        """{"cpu": bool, "locked": bool, "files": {name: hash}}, or None where there is no complete environment."""
        if self.incomplete.exists() or not self.python.exists():
            return None
        try:
            return json.loads(self.stamp.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def usable(self):
        """Whether packages can be installed into the existing folder."""
        if self.incomplete.exists() or not self.python.exists():
            return False
        return subprocess.run([str(self.python), "-m", "pip", "--version"], capture_output=True).returncode == 0

    def run(self, step, command):
        """Run a command. Its output goes to the log and its downloads to stderr; a failure raises SetupError."""
        VENVS.mkdir(exist_ok=True)
        with open(self.log, "a", encoding="utf-8") as log:
            log.write("$ " + " ".join(command) + "\n")
            log.flush()
            try:
                child = subprocess.Popen(
                    command,
                    cwd=str(HERE),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                )
            except OSError as error:
                raise SetupError(f"{self.name}: {step} failed: {command[0]}: {error.strerror}", 1) from None
            reason = ""
            for line in child.stdout:
                log.write(line)
                if line.lstrip().startswith(("Downloading", "Installing collected")):
                    say("    " + line.strip()[:110])
                if line.strip() and (not reason.lower().startswith("error") or line.lower().startswith("error")):
                    reason = line.strip()[:300]  # the last error line, or else the last line
            code = child.wait()
        if code:
            raise SetupError(
                f"{self.name}: {step} failed: {reason or f'exit code {code}'} (whole output: {self.log})", 1
            )


def choose_python():
    """A Python that can make a venv, and its version. An untested version is the second choice, with a warning."""
    names = [f"python{major}.{minor}" for major, minor in (TESTED, *UNTESTED)]
    candidates = [sys.executable] + [path for path in map(shutil.which, names) if path]
    probe = "import sys, importlib.util as u; print(*sys.version_info[:2], u.find_spec('ensurepip') is not None)"
    usable, without_pip = {}, {}
    for candidate in candidates:
        answer = subprocess.run([candidate, "-c", probe], capture_output=True, text=True)
        if answer.returncode == 0:  # a name on PATH may be a launcher for a version that is not installed
            major, minor, has_pip = answer.stdout.split()
            (usable if has_pip == "True" else without_pip).setdefault((int(major), int(minor)), candidate)
        if TESTED in usable:
            return usable[TESTED], TESTED
    for version in UNTESTED:
        if version in usable:
            say(f"warning: Python {dotted(version)} is untested; the version tested is {dotted(TESTED)}")
            return usable[version], version
    for version in (TESTED, *UNTESTED):
        if version in without_pip:
            text = f"Python {dotted(version)} lacks ensurepip, so it cannot make a venv: install it"
            raise SetupError(f"{text} (Debian, Ubuntu: apt install python3-venv python{dotted(version)}-venv)", 2)
    have = dotted(sys.version_info[:2])
    raise SetupError(
        f"Python {have} cannot be used: install Python 3.11 (3.12 and 3.13 are untested), or uv or conda", 2
    )


def create(env, tool):
    """Make an environment that holds pip alone."""
    if tool == "venv":
        python, version = choose_python()
        say(f"[{env.name} 1/3] creating {env.folder} with Python {dotted(version)}")
        env.run("making the venv", [python, "-m", "venv", str(env.folder)])
        return
    say(f"[{env.name} 1/3] creating {env.folder} with {tool}")
    if tool == "uv":
        env.run("uv venv", ["uv", "venv", "--seed", "--python", "3.11", str(env.folder)])
        return
    packages = ["--override-channels", "--channel", "conda-forge", "python=3.11", "pip"]
    env.run(tool + " create", [tool, "create", "--yes", "--prefix", str(env.folder), *packages])


def install(env, tool, files, cpu, locked):
    """Install requirement or lock files, and import the framework to find a package that is only partly copied."""
    command = [str(env.python), "-m", "pip", "install", "--disable-pip-version-check"]
    if tool == "uv":
        command = ["uv", "pip", "install", "--python", str(env.python)]
    if env.name == "pytorch" and cpu:
        command += ["--extra-index-url", TORCH_CPU_INDEX]
        if tool == "uv":  # otherwise uv takes packages of the extra index from there alone
            command += ["--index-strategy", "unsafe-best-match"]
    command += CHECKED if locked else []
    for name in files:
        command += ["-r", name]
    say(f"[{env.name} 2/3] installing {', '.join(files)} (log: {env.log})")
    env.run("installing packages", command)
    say(f"[{env.name} 3/3] importing {', '.join(MODULES[env.name])}")
    code = "import " + ", ".join(MODULES[env.name])
    try:
        env.run("importing the framework", [str(env.python), "-c", code])
    except SetupError:
        env.incomplete.touch()  # the next call rebuilds it
        raise


def bring_up_to_date(name, test, cpu_asked, locked, tool):
    """Make, upgrade or keep one environment; returns whether something was done."""
    env = Environment(name)
    stamp = env.read_stamp()
    for key, asked, how in (("cpu", cpu_asked, "CPU=1"), ("locked", locked, "LOCKED=1 alone")):
        if asked and env.python.exists() and not env.incomplete.exists() and not (stamp and stamp.get(key)):
            text = f"was not made with {how}: remove it (rm -r {env.folder}) and run this again"
            raise SetupError(f"{env.folder} {text}", 2)
    cpu = bool(cpu_asked or (stamp and stamp["cpu"]))  # an environment made for the CPU stays one
    files = requirement_files(name, test, cpu)
    installed = [lock_file(name, cpu)] if locked else files
    wanted = hashes([*files, *installed])
    if stamp and all(stamp["files"].get(key) == value for key, value in wanted.items()):
        return False
    if tool != "venv" and shutil.which(tool) is None:
        raise SetupError(f"--tool {tool}: not on PATH; install it or take one of {', '.join(TOOLS)}", 2)
    if stamp and stamp.get("locked") and not locked:
        say(f"[{name}] was made with LOCKED=1; packages are now installed without a check of their hashes")
    VENVS.mkdir(exist_ok=True)
    env.log.write_text("", encoding="utf-8")
    if not env.usable():
        if env.folder.exists():
            say(f"[{name}] removing the broken or unfinished {env.folder}")
            shutil.rmtree(env.folder)
        env.incomplete.touch()
        create(env, tool)
    env.stamp.unlink(missing_ok=True)
    install(env, tool, installed, cpu, locked)
    temporary = env.stamp.with_suffix(".tmp")
    known = {**(stamp or {}).get("files", {}), **wanted}
    temporary.write_text(json.dumps({"cpu": cpu, "locked": locked, "files": known}, indent=1))
    os.replace(temporary, env.stamp)
    env.incomplete.unlink(missing_ok=True)
    return True


def main():
    parser = argparse.ArgumentParser(description="Make whichever of the two environments is missing or out of date.")
    packages = parser.add_mutually_exclusive_group()
    packages.add_argument("--test", action="store_true", help="install the packages of the tests and of make lint too")
    packages.add_argument(
        "--locked", action="store_true", help="install only files whose hashes stand in envs/lock, for Python 3.11"
    )
    parser.add_argument(
        "--cpu", action="store_true", help="install CPU builds, a far smaller download, for Linux without a GPU"
    )
    parser.add_argument(
        "--tool", choices=TOOLS, help="program that makes the environments (default: uv where it is on PATH, else venv)"
    )
    args = parser.parse_args()
    tool = args.tool or ("uv" if shutil.which("uv") else "venv")
    start = time.monotonic()
    try:
        done = [bring_up_to_date(name, args.test, args.cpu, args.locked, tool) for name in MODULES]
    except SetupError as failure:
        say(f"error: {failure}")
        return failure.code
    except OSError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted: run the same command again to continue")
        return 130
    say(f"environments made in {time.monotonic() - start:.0f} s" if any(done) else "environments are up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
