"""The command line of eval: `python -m eval VERB`.

Standard library at module level: what a verb needs is imported when it runs, so that --help answers at once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Literal

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


def demo(
    out: str = "runs/demo",
    config: str = "configs/demo.toml",
    n: int = 512,
    fresh: bool = False,
    torch_python: str | None = None,
    tf_python: str | None = None,
) -> int:
    """Train and sample in both frameworks, and show the results side by side: report.html and picture.png.

    Some ten minutes on two CPU cores. A demo that was cut off goes on where it stopped when it is started again.

    For instance:

      python -m eval demo

      python -m eval demo --out runs/again --fresh

    Args:
        out: folder of the demo.
        config: recipe that both frameworks train.
        n: images to draw from each framework's network.
        fresh: start anew where the folder holds a demo.
        torch_python: Python that has PyTorch; found by itself where not given.
        tf_python: Python that has TensorFlow; found by itself where not given.
    """
    from eval.demo import run

    print(f"wrote {run(config, out, n=n, fresh=fresh, pythons={'torch': torch_python, 'tensorflow': tf_python})}")
    return 0


def benchmark(
    config: str = "configs/demo.toml",
    repetitions: int = 5,
    steps: int = 10,
    samples: int = 64,
    batch_size: int = 0,
    sampling_steps: int = 0,
    threads: int = 2,
    peer: Literal["none", "diffusers"] = "none",
    out: str = "runs/benchmark",
    torch_python: str | None = None,
    tf_python: str | None = None,
    json: bool = False,
) -> int:
    """Time training and sampling in both frameworks, in turn: a table, benchmark.json and report.html.

    Timings on a shared machine are noisy; only the ratios, taken within each repetition, count.

    For instance:

      python -m eval benchmark

      python -m eval benchmark --config configs/cifar10.toml --batch-size 8 --sampling-steps 10 --samples 8 --peer diffusers

    Args:
        config: recipe whose network, batch size and sampler are timed; its data are not read.
        repetitions: interleaved repetitions.
        steps: optimiser steps a repetition.
        samples: images a repetition.
        batch_size: images an optimiser step; 0 for the recipe's.
        sampling_steps: evaluations of the network an image; 0 for the recipe's.
        threads: CPU threads of each framework.
        peer: a third contestant in training, which the PyTorch environment must have.
        out: folder for benchmark.json and report.html.
        torch_python: Python that has PyTorch; found by itself where not given.
        tf_python: Python that has TensorFlow; found by itself where not given.
        json: print the result as JSON instead of a table.
    """
    from eval.benchmark_page import run

    text = run(
        config,
        out,
        repetitions=repetitions,
        steps=steps,
        samples=samples,
        batch_size=batch_size,
        sampling_steps=sampling_steps,
        threads=threads,
        peer=peer,
        pythons={"torch": torch_python, "tensorflow": tf_python},
        as_json=json,
    )
    print(text)
    return 0


def parity(
    config: str = "configs/demo.toml",
    checkpoint: str | None = None,
    out: str = "runs/parity",
    images: int = 64,
    ddpm_images: int = 2,
    long_steps: int = 300,
    stop_at_red: bool = False,
    torch_python: str | None = None,
    tf_python: str | None = None,
) -> int:
    """Climb the parity ladder: the same network in both frameworks, compared from its tables to whole trainings.

    Writes report.html and parity.json: every comparison with its worst element, its tolerance and why. Exit code 1 where
    one is red. Minutes on two CPU cores; a large network wants fewer images and a shorter run.

    For instance:

      python -m eval parity

      python -m eval parity --checkpoint runs/mine --out runs/mine/parity

      python -m eval parity --config configs/cifar10.toml --images 4 --ddpm-images 0 --long-steps 0

    Args:
        config: recipe whose network, with random weights, is compared.
        checkpoint: run, checkpoint or pipeline folder whose network is compared instead.
        out: folder for parity.json and report.html.
        images: images a sampler.
        ddpm_images: images of the whole DDPM, every level one step; 0 for none.
        long_steps: optimiser steps of the longer run, whose drift is plotted; 0 for none.
        stop_at_red: end with the first rung that is red; what comes after it is mostly its consequence.
        torch_python: Python that has PyTorch; found by itself where not given.
        tf_python: Python that has TensorFlow; found by itself where not given.
    """
    from eval.parity.report import run

    pythons: dict[Literal["torch", "tensorflow"], str | None] = {"torch": torch_python, "tensorflow": tf_python}
    sizes = {"images": images, "ddpm_images": ddpm_images, "long_steps": long_steps}
    print(run(config, checkpoint, out, **sizes, pythons=pythons, stop_at_red=stop_at_red))
    return 0


VERBS: dict[str, Callable[..., int]] = {"compare": compare, "demo": demo, "benchmark": benchmark, "parity": parity}


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
    except (OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
