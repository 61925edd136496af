"""The verb `synthesise-ema`: averages the weights of a run over any length, after training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.checkpoints.pretrained import refuse_pretrained
from core.command_line import name_the_word, read_flags
from core.config import WIDEST_PROFILE
from core.twin import Twin


@dataclass(frozen=True)
class SynthesiseCommand:
    """Make a checkpoint of weights averaged over any length of the training, after training.

    The run must have training.ema_profiles. The result serves for sampling; training cannot continue from it.

    Examples:
      python -m PACKAGE synthesise-ema runs/mine --sigma-rel 0.12 --out runs/mine/ema-0.12
      python -m PACKAGE synthesise-ema runs/mine --sigma-rel 0.08 --step 20000 --out early
    """

    run: str = ""
    """Folder of the run. The first word after `synthesise-ema` names it too."""
    sigma_rel: float = 0.1
    """Length of the average, as the standard deviation of its weighting over steps, relative to all steps; in
    (0, 0.2887). Raise it for a longer average."""
    step: int = 0
    """Optimiser step at which the average ends; 0 takes the last step with a snapshot."""
    out: str = ""
    """Folder to write. It must not exist."""

    def __post_init__(self) -> None:
        if not 0 < self.sigma_rel < WIDEST_PROFILE:
            raise ValueError(f"--sigma-rel {self.sigma_rel}: must be above 0 and below {WIDEST_PROFILE:.4f}")


def synthesise_ema(twin: Twin, argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    argv = name_the_word(SynthesiseCommand, argv, "synthesise-ema", "run", "run")
    command = read_flags(SynthesiseCommand(), twin.package, argv, "synthesise-ema")
    if not command.run or not command.out:
        raise ValueError("synthesise-ema: needs a run and --out; for example: synthesise-ema runs/mine --out averaged")
    refuse_pretrained(command.out, "--out")
    path, out = Path(command.run), Path(command.out)
    if out.exists():
        raise ValueError(f"--out {out}: exists already; name another")
    if not (path / "recipe.json").is_file():
        raise ValueError(f"{path}: no run there (no recipe.json)")
    from core.checkpoints.checkpoint import resolve_checkpoint, write_pipeline
    from core.checkpoints.run_folder import RunFolder
    from core.checkpoints.scheduler_config import scheduler_to_diffusers
    from core.config.recipes import load_recipe, to_dict
    from core.files import atomic_folder, write_json
    from core.networks.specs import check_weights
    from core.reading import read_json
    from core.training.posthoc_ema import synthesise

    recipe = load_recipe(path / "recipe.json")
    snapshots = RunFolder(path).averages(recipe)
    if not snapshots:
        raise ValueError(f"{path}: no averages to work from; train with training.ema_profiles, such as [0.05, 0.1]")
    step = command.step or max(t for t, _, _ in snapshots)
    weights = synthesise(snapshots, step, command.sigma_rel)
    check_weights(weights, recipe.model, str(path / "averages"))
    data = read_json(resolve_checkpoint(path) / "data.json")
    with atomic_folder(out) as folder:
        write_pipeline(folder, recipe.model, weights, scheduler_to_diffusers(recipe.process, recipe.sampling))
        write_json(folder / "recipe.json", to_dict(recipe))
        write_json(folder / "data.json", data)
        made = {"run": str(path), "sigma_rel": command.sigma_rel, "step": step, "snapshots": len(snapshots)}
        write_json(folder / "averaged.json", made)
    print(f"wrote {out}: sigma_rel {command.sigma_rel:g} at step {step}, from {len(snapshots)} snapshots")
    return 0
