"""What prdc, dgm-eval and scikit-learn find on stored features: tests/eval/data/features.npz, which tests read.

Run by a Python of its own with `pip install prdc` (scikit-learn comes with it) and `pip install tqdm`, from the
checkout, with a clone of github.com/layer6ai-labs/dgm-eval beside it:

    PYTHON -m tests.peers.feature_oracle ../dgm-eval

Neither package is imported by the tests.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

FILE = Path(__file__).resolve().parents[1] / "eval" / "data" / "features.npz"
NEIGHBOURS = (3, 5)
"""k of precision and recall, and of density and coverage, in `eval fid`."""
SHARES = ("precision", "recall", "density", "coverage")


def make_features() -> tuple[np.ndarray, np.ndarray]:
    """150 real and 150 generated rows of 12 correlated features; dgm-eval demands as many of both."""
    rng = np.random.default_rng(15)
    mixing = rng.standard_normal((12, 12)) / np.sqrt(12)
    real, generated = rng.standard_normal((2, 150, 12))
    return real @ mixing, 0.5 + 0.8 * generated @ mixing


def make_scores() -> tuple[np.ndarray, np.ndarray]:
    """Scores of two sets of images, with ties between the sets and inside them."""
    rng = np.random.default_rng(16)
    return np.round(rng.normal(3.0, 0.5, 90), 1), np.round(rng.normal(3.4, 0.8, 70), 1)


def module(folder: Path, name: str) -> ModuleType:
    """One file of dgm-eval's metrics; its package would import every feature network."""
    spec = importlib.util.spec_from_file_location(name, folder / "dgm_eval" / "metrics" / f"{name}.py")
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def main(folder: Path) -> None:
    """Compute and write the file."""
    import prdc
    import sklearn
    from sklearn.metrics import roc_auc_score

    real, generated = make_features()
    found: dict[str, object] = {"real": real, "generated": generated}
    for peer, compute in (("prdc", prdc.compute_prdc), ("dgm-eval", module(folder, "prdc").compute_prdc)):
        for k in NEIGHBOURS:
            values = compute(real, generated, nearest_k=k)
            found |= {f"{peer} {name} k={k}": values[name] for name in SHARES}
    found["dgm-eval frechet"] = module(folder, "fd").compute_FD_with_reps(real, generated)
    found["dgm-eval kid"] = module(folder, "mmd").compute_mmd(real, generated, n_subsets=1, subset_size=len(real))[0]
    first, second = make_scores()
    truth = np.repeat([0, 1], [len(first), len(second)])
    found["scikit-learn auc"] = roc_auc_score(truth, np.concatenate([first, second]))
    found["made by"] = f"python -m tests.peers.feature_oracle ../dgm-eval; scikit-learn {sklearn.__version__}"
    np.savez(FILE, **{name: np.asarray(value) for name, value in found.items()})
    for name, value in found.items():
        if np.ndim(value) == 0:
            print(f"{name}: {value}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
