"""The race: contestants trained for the same time on the same images, drawn from and measured alike.

Each start leaves SET-MINUTESmin-CONTESTANT-seedSEED.json and a folder of that name with its images. A start that has
both is not done again, so a race that was cut off goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.files import file_hash, write_json
from core.reading import read_json
from eval.measure.distance import LEAST, PROTOCOL_N
from eval.measure.machine import Watch, refuse_spinning
from eval.measure.race_contestants import FACTS, Start, train_and_draw
from eval.measure.race_measure import measure_cell
from eval.measure.race_sets import Course, open_course
from eval.measure.race_table import CONTESTANTS, SETS, ContestantName, SetName
from eval.twins.interpreters import ROOT, find_python
from eval.twins.race_environment import peers_python

log = logging.getLogger(__name__)

MOST_MINUTES = 10_000.0
KINDS: dict[str, type] = {"made_from": dict, "samples_sha256": str, "measured": dict, "machine": dict, "facts": dict}


def read_result(path: Path) -> dict[str, Any]:
    """The result of a start whose images are there and unchanged.

    Raises:
        ValueError: the file is missing or damaged, or its images are; the message names the file.
    """
    result = read_json(path, KINDS)
    check = {name: result["facts"].get(name) for name in FACTS}
    if None in check.values():
        raise ValueError(f"{path}: facts lacks {', '.join(name for name, value in check.items() if value is None)}")
    samples = path.with_suffix("") / "samples.npy"
    if not samples.is_file() or file_hash(samples) != result["samples_sha256"]:
        raise ValueError(f"{samples}: is missing or not what {path.name} says")
    return result


def is_whole(path: Path) -> bool:
    """Whether a start is done: its result and its images are there and undamaged."""
    try:
        read_result(path)
    except ValueError as error:
        if path.exists():
            log.warning("%s; it does not count", error)
        return False
    return True


def check_folder(out: Path, courses: Mapping[SetName, Course], n: int, threads: int) -> None:
    """Demand that the results of a folder can stand in one table with those to come.

    Raises:
        ValueError: one was made with other images, another recipe, or another number of images or threads.
    """
    for path in results_in(out):
        found = read_json(path)["made_from"]
        wanted: dict[str, Any] = {"n": n, "threads": threads}
        if found["set"] in courses:
            wanted["course_sha256"] = courses[found["set"]].fingerprint()
        changed = [key for key, value in wanted.items() if found.get(key) != value]
        if changed:
            values = ", ".join(f"{key} {found.get(key)!s:.12} there, {wanted[key]!s:.12} here" for key in changed)
            raise ValueError(f"{path}: was made with other settings ({values}); name another --out")


def starts_of(
    courses: Sequence[Course],
    minutes: Sequence[float],
    contestants: Sequence[ContestantName],
    seeds: Sequence[int],
    **others: Any,
) -> list[Start]:
    """Every training of the race. Within a cell, the contestants take turns, a seed at a time."""
    return [
        Start(course, contestant, length, seed, **others)
        for course in courses
        for length in minutes
        for seed in seeds
        for contestant in contestants
    ]


def check(sets: Sequence[str], minutes: Sequence[float], contestants: Sequence[str], seeds: Sequence[int]) -> None:
    """Refuse what cannot be raced, before anything is trained."""
    for flag, values in {"set": sets, "minutes": minutes, "contestant": contestants, "seed": seeds}.items():
        for value in values:
            if list(values).count(value) > 1:
                raise ValueError(f"--{flag} {value}: given twice")
    for length in minutes:
        if not 0 < length <= MOST_MINUTES:
            raise ValueError(f"--minutes {length:g}: must be above 0 and at most {MOST_MINUTES:g}")


def race(
    sets: Sequence[SetName],
    minutes: Sequence[float],
    contestants: Sequence[ContestantName],
    seeds: Sequence[int],
    n: int = PROTOCOL_N,
    threads: int = 2,
    out: Path = Path("runs/race"),
    root: Path = ROOT,
) -> list[dict[str, Any]]:
    """Train, draw and measure what is missing of a grid.

    Args:
        sets, minutes, contestants, seeds: the grid.
        n: images that each contestant draws.
        threads: CPU threads of each contestant.
        out: folder of the race.
        root: the checkout.
    Returns:
        The results of all starts in the folder, those of earlier grids too.
    Raises:
        ValueError: input that the user must change. RunError: a contestant failed.
    """
    check(sets, minutes, contestants, seeds)
    if n < LEAST:
        raise ValueError(f"--n {n}: must be at least {LEAST}")
    if threads < 1:
        raise ValueError(f"--threads {threads}: must be at least 1")
    refuse_spinning()
    chosen = [CONTESTANTS[name] for name in contestants]
    for contestant in chosen:  # said now, not after an hour
        find_python(contestant.framework or "torch", root)
        if not contestant.framework:
            peers_python(root)
    out = out.resolve()
    courses = {name: open_course(name, out, threads, root) for name in sets}
    for name, course in courses.items():
        if n > (most := min(len(course.dataset.held_out), len(course.dataset.train))):
            raise ValueError(
                f"--n {n}: must be at most {most}, the images on either side of the split of {SETS[name].config}"
            )
    check_folder(out, courses, n, threads)
    starts = starts_of(list(courses.values()), minutes, contestants, seeds, n=n, threads=threads, root=root)
    out.mkdir(parents=True, exist_ok=True)
    for i, start in enumerate(starts, 1):
        _run(start, out / f"{start.key}.json", f"{i}/{len(starts)} {start.key}")
    for course in courses.values():
        for length in minutes:
            measure_cell(course, [path for path in results_in(out) if _in_cell(path, course.name, length)])
    return [read_result(path) for path in results_in(out)]


def _run(start: Start, path: Path, title: str) -> None:
    """Train, draw and write the result, unless it is there."""
    if is_whole(path):
        log.info("%s: done before", title)
        return
    log.info("%s: train", title)
    work, watch = path.with_suffix(""), Watch()
    facts = train_and_draw(start, work)
    watch.note()
    result = {"made_from": start.made_from(), "facts": facts, "machine": watch.record()}
    write_json(path, result | {"samples_sha256": file_hash(work / "samples.npy"), "measured": {}})


def results_in(out: Path) -> list[Path]:
    """The result files of a folder, those that are whole."""
    return [path for path in sorted(out.glob("*min-*-seed*.json")) if is_whole(path)]


def _in_cell(path: Path, name: SetName, minutes: float) -> bool:
    made_from = read_json(path)["made_from"]
    return bool(made_from["set"] == name and made_from["minutes"] == minutes)
