"""The command line of eval: `python -m eval VERB`.

Standard library at module level: what a verb needs is imported when it runs, so that --help answers at once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Literal

from tyro.conf import Positional

from core.config import Sampler, Spacing

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
    from eval.verbs.compare import run

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
    from eval.verbs.demo import run

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
    from eval.pages.benchmark_page import run

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


def fid(
    real: Positional[str],
    generated: Positional[str],
    extractor: Literal["lens", "inception", "pixels"] = "lens",
    resize: Literal["clean", "legacy"] = "clean",
    weights: str | None = None,
    train: str | None = None,
    n: int = 0,
    fit: Literal["exact", "resize", "crop", "pad"] = "exact",
    eight_bit: bool = False,
    seed: int = 0,
    out: str | None = None,
    expect: str | None = None,
    save_statistics: str | None = None,
    framework: Literal["torch", "tensorflow"] | None = None,
    torch_python: str | None = None,
    tf_python: str | None = None,
    json: bool = False,
) -> int:
    """The Fréchet distance of generated to real images, with everything that it depends on written beside it.

    REAL and GENERATED are each a run, a folder with samples.npy, a folder or zip of .npy files or pictures, a .npy, .npz or
    IDX file, or saved statistics (.npz with mu and sigma, as pytorch-fid and clean-fid publish them). A run as REAL is its
    held-out images; as GENERATED, images drawn from it, 2,000 or as many as there are held out. With the distance come its interval, its real-against-real
    floor at the same N, KID, precision, recall, density and coverage. One-channel images are given to Inception three times
    over. What makes the number meaningless is refused, what weakens it is said.

    For instance:

      python -m eval fid runs/lens-64-torch runs/lens-64-torch --out fid.json

      python -m eval fid real.zip images --fit resize --extractor inception

      python -m eval fid runs/lens-64-torch runs/lens-64-torch --expect published.json

    Args:
        real: real images.
        generated: generated images.
        extractor: lens, trained on simulated lenses, needs no download; inception is FID's, once fetched; pixels, thumbnails
            of 16 x 16 without any network, serve images of which neither knows.
        resize: how images are brought to Inception's 299 pixels: clean (antialiased bicubic) or legacy (as in 2017).
        weights: file with the extractor's weights.
        train: real images that measure the floor, none of them in REAL; without it half of REAL does.
        n: images a side; 0 for as many as there are.
        fit: how files of another size are brought to that of the generated images.
        eight_bit: round both sides to 256 grey levels.
        seed: of the choice of real images and of the draws.
        out: file for the result, JSON.
        expect: a result file to reproduce; exit code 1 where it is not.
        save_statistics: .npz file for the real images' mean and covariance.
        framework: who takes the features and draws from a run; the first found where not given.
        torch_python: Python that has PyTorch; found by itself where not given.
        tf_python: Python that has TensorFlow; found by itself where not given.
        json: print the result as JSON instead of a table.
    """
    from eval.verbs.fid import Request
    from eval.verbs.fid_result import run

    request = Request(real, generated, extractor, resize, weights, train, n, fit, eight_bit, seed, framework)
    files = {"out": out, "expect": expect, "statistics": save_statistics}
    print(run(request, **files, as_json=json, pythons={"torch": torch_python, "tensorflow": tf_python}))
    return 0


def sweep(
    run: Positional[str],
    samplers: tuple[Sampler, ...] = ("dpmsolver++", "unipc", "heun", "ddim", "ddpm"),
    nfe: tuple[int, ...] = (5, 10, 15, 20, 50, 100),
    spacing: Spacing | None = None,
    n: int = 0,
    extractor: Literal["lens", "inception"] = "lens",
    out: str | None = None,
    framework: Literal["torch", "tensorflow"] | None = None,
    torch_python: str | None = None,
    tf_python: str | None = None,
) -> int:
    """Distance against evaluations of the network, for several samplers of one run: sweep.json, curves.svg, report.html.

    A sampler is asked for in evaluations, not in steps (heun takes two a step), and every distance stands beside the real-against-real floor. What
    was drawn before is not drawn again, so a sweep that was cut off goes on.

    For instance:

      python -m eval sweep runs/lens-64-torch

      python -m eval sweep runs/demo/torch --samplers dpmsolver++ ddim --nfe 5 10 20 50 --n 500

    Args:
        run: run whose network draws, and whose held-out images are the real ones.
        samplers: sampling methods.
        nfe: evaluations of the network an image.
        spacing: grid of the steps; the recipe's where not given.
        n: images a point; 0 for as many as are held out, at most 2,000.
        extractor: as `eval fid`.
        out: folder for the three files; RUN/sweep where not given.
        framework: who draws; the first found where not given.
        torch_python: Python that has PyTorch; found by itself where not given.
        tf_python: Python that has TensorFlow; found by itself where not given.
    """
    from eval.verbs.sweep import run as measure

    pythons: dict[Literal["torch", "tensorflow"], str | None] = {"torch": torch_python, "tensorflow": tf_python}
    print(measure(run, samplers, nfe, n=n, extractor=extractor, out=out, framework=framework, pythons=pythons, spacing=spacing))  # fmt: skip
    return 0


def damage(
    out: str = "runs/damage",
    n: int = 1500,
    size: int = 64,
    field_of_view: float = 7.5,
    seed: int = 0,
    framework: Literal["torch", "tensorflow"] = "torch",
    python: str | None = None,
) -> int:
    """Spoil simulated lenses in known ways and see which metrics notice: tables, damage.json and damage.md.

    Seven kinds of damage at five strengths, and images without substructure, against whole images; the lens extractor's
    metrics beside those of pixels and spectra. Some minutes on two CPU cores.

    For instance:

      python -m eval damage

      python -m eval damage --size 32 --field-of-view 5 --out runs/damage-32

    Args:
        out: folder for damage.json and damage.md.
        n: images a set.
        size: height and width of the images in pixels.
        field_of_view: side of the images in arcsec.
        seed: seed of images, damage and random cuts.
        framework: the twin that evaluates the lens extractor.
        python: Python that has the framework; found by itself where not given.
    """
    from eval.studies.damage import run

    log.info("simulating %s images and measuring them", f"{11 * n:,}")
    print(run(out, n=n, size=size, field_of_view=field_of_view, seed=seed, framework=framework, python=python))
    return 0


def conditioning(
    checkpoint: str,
    out: str = "runs/conditioning",
    n: int = 448,
    guidance: tuple[float, ...] = (1.0, 2.0),
    seed: int = 0,
    framework: Literal["torch", "tensorflow"] = "torch",
    python: str | None = None,
    threads: int = 0,
) -> int:
    """Ask for lenses of known Einstein radius and see what the lens extractor finds: table, picture, conditioning.json.

    For instance:

      python -m eval conditioning --checkpoint runs/lens-conditional-torch

    Args:
        checkpoint: run or checkpoint of a network with data.condition theta_e, trained on simulated lenses.
        out: folder for conditioning.json, conditioning.md and conditioning.png.
        n: images a guidance.
        guidance: factors of guidance; 1 is off.
        seed: seed of the noise and of the numbers that are not asked for.
        framework: the twin that draws and evaluates the lens extractor.
        python: Python that has the framework; found by itself where not given.
        threads: CPU threads; 0 for the framework's choice.
    """
    from eval.studies.conditioning import run

    print(run(checkpoint, out, n=n, guidance=guidance, seed=seed, framework=framework, python=python, threads=threads))
    return 0


VERBS: dict[str, Callable[..., int]] = {
    "compare": compare,
    "demo": demo,
    "benchmark": benchmark,
    "parity": parity,
    "fid": fid,
    "sweep": sweep,
    "damage": damage,
    "conditioning": conditioning,
}


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
