"""The command line of eval: `python -m eval VERB`.

Standard library at module level: what a verb needs is imported when it runs, so that --help answers at once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

log = logging.getLogger("eval")


def compare(
    real: str,
    generated: tuple[str, ...],
    out: str,
    train: str | None = None,
    pixel_scale: float | None = None,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Hold generated images against real ones: a table, compare.json and a self-contained report.html.

    A set of images is a .npy file, a .npz file (key images) or a folder with samples.npy and, as an option, manifest.json;
    (N, H, W, C), floats in [0, 1]. NAME=PATH gives a set a name.

    For instance:

      python -m eval compare --real held_out.npy --generated runs/a/samples runs/b/samples --out report

      python -m eval compare --real held_out.npy --generated torch=a.npy tf=b.npy --train train.npy --out report --json

    Args:
        real: real images, held out of training; at least twice as many as generated uses them all.
        generated: one or more sets of generated images, each PATH or NAME=PATH.
        out: folder for compare.json and report.html.
        train: training images, to look for copies among the generated ones.
        pixel_scale: arcsec per pixel; without it lengths are in pixels.
        seed: seed of the random cuts of the real set.
        json: print the result as JSON instead of a table.
    """
    from eval.compare_run import run

    log.info("reading and comparing; this takes seconds for thousands of small images")
    print(run(real, generated, out, train=train, pixel_scale=pixel_scale, seed=seed, as_json=json))
    return 0


VERBS: dict[str, Callable[..., int]] = {"compare": compare}


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; the exit code is 0, 1 (the run failed), 2 (input to change) or 130 (interrupted)."""
    import tyro

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        code: int = tyro.extras.subcommand_cli_from_dict(
            VERBS,
            prog="python -m eval",
            description="Numbers and pages from files of images: no network, no framework.",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
