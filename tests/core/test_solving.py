"""`edit solve` over batches with keyed noise, its operators and files, and the verb, run by NumPy's executor."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from core.config import ProcessConfig, SamplingConfig
from core.diffusion.measurements import Blur, Downscale, Mask, gaussian_psf
from core.diffusion.posterior import Observed
from core.diffusion.process import make_process
from core.images import intensity_and_slope
from core.inference.editing import Editor
from core.inference.measuring import measure, read_operator
from core.inference.sampling import Conditioned
from core.inference.solving import chi_squared, solve
from tests.command_line import RECIPE, run
from tests.numpy_impl.sampler import Network

PROCESS = make_process(ProcessConfig(prediction="v"))
SHAPE = (4, 6, 1)
OPERATORS = {
    "blur": Blur(gaussian_psf(1.0, SHAPE[:2])),
    "downscale": Downscale(2),
    "mask": Mask(np.arange(24).reshape(4, 6) % 4 > 0),
}


def gaussian_network(x, t):
    """The optimal network for independent pixels N(0, 0.3^2), a multiple of x."""
    place = np.abs(PROCESS.time - np.ravel(t)[0]).argmin()
    signal, noise = PROCESS.signal[place], PROCESS.noise[place]
    eps = noise * x / (signal**2 * 0.09 + noise**2)
    return signal * eps - noise * (x - noise * eps) / signal


def editor(batch_size=64, draws=3, **options):
    config = SamplingConfig(
        **{"sampler": "ddim", "steps": 20, "spacing": "quadratic", "batch_size": batch_size, **options}
    )
    return Editor(Conditioned(Network(gaussian_network), {}), PROCESS, config, "float64", 3, 5, draws=draws)


def pictures(count=4):
    return np.clip(0.5 + 0.15 * np.random.default_rng(0).standard_normal((count, *SHAPE)), 0, 1)


def exact_variance(level):
    """Of independent pixels N(0, 0.3^2)."""
    return 0.09 * level.noise**2 / (0.09 * level.signal**2 + level.noise**2)


def solved(name, edit, method="pigdm"):
    observed = Observed(OPERATORS[name], 0.05, intensity_and_slope, method, 0.3, exact_variance)
    x = pictures()
    y = measure(x, OPERATORS[name], 0.05, 3, 5)
    return solve(edit, y, observed, SHAPE, x), observed, y


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("method", ("pigdm", "dps"))
def test_draws_do_not_depend_on_the_batch_nor_on_their_number(name, method):
    counted = []
    small = dataclasses.replace(editor(5), progress=counted.append)
    found, _, _ = solved(name, small, method)
    whole, _, _ = solved(name, editor(), method)
    fewer, _, _ = solved(name, editor(draws=2), method)
    assert found.images.shape == (4, 3, *SHAPE) and np.array_equal(found.images, whole.images)
    assert np.array_equal(fewer.images, found.images[:, :2])
    assert sum(counted) == 12 * found.table.nfe and found.table.nfe == 20
    assert np.abs(found.images[:, 0] - found.images[:, 1]).max() > 0.02
    assert found.picture().shape == (4 * 6 + 2, 5 * 8 + 2, 1)
    assert found.columns[0].shape == found.images[:, 0].shape


@pytest.mark.parametrize(("name", "prior"), [("downscale", 0.15**2 / 4), ("mask", 0.15**2)])
def test_draws_have_the_residual_of_the_exact_posterior(name, prior):
    """The measured values A image are independent and N(0.5, prior), so their posterior is known."""
    found, observed, y = solved(name, editor(draws=100, sampler="dpmsolver++", steps=50))
    share = 0.05**2 / (prior + 0.05**2)
    expected = share**2 * ((y - 0.5) / 0.05) ** 2 + prior / (prior + 0.05**2)
    where = np.broadcast_to(observed.operator.valid, y.shape).astype(bool)
    assert found.facts["residual_chi_squared"] == pytest.approx(expected[where].mean(), rel=0.05)
    values = chi_squared(pictures(), y, observed)
    assert values.shape == (4,) and found.facts["residual_chi_squared_of_truth"] == pytest.approx(values.mean())
    other = dataclasses.replace(observed, noise=0.1)
    assert chi_squared(pictures(), y, other) == pytest.approx(values / 4)


def test_unknown_pixels_of_a_measurement_count_for_nothing():
    observed = Observed(OPERATORS["mask"], 0.05, intensity_and_slope)
    y = measure(pictures(), OPERATORS["mask"], 0.05, 3, 5)
    assert not y[:, ~OPERATORS["mask"].known].any()
    changed = np.where(OPERATORS["mask"].valid, y, 0.7)
    a, b = (solve(editor(), values, observed, SHAPE).images for values in (y, changed))
    assert np.array_equal(a, b)
    assert np.array_equal(chi_squared(pictures(), y, observed), chi_squared(pictures(), changed, observed))


@pytest.mark.parametrize(
    ("sampler", "method", "message"),
    [
        ("dpmsolver++", "dps", "--sampler dpmsolver\\+\\+: must be ddpm or ddim with --method dps"),
        ("heun", "pigdm", "--sampler heun: must be one of ddpm, ddim"),
    ],
)
def test_samplers_that_cannot_be_guided_are_refused(sampler, method, message):
    with pytest.raises(ValueError, match=message):
        solved("blur", editor(sampler=sampler), method)


@pytest.mark.parametrize(
    "sampler", ("ddpm", "dpmsolver++", "dpmsolver++2s", "dpmsolver++3m", "unipc", "ipndm", "euler")
)
def test_samplers_of_one_evaluation_a_step_are_guided(sampler):
    found, _, _ = solved("downscale", editor(sampler=sampler, draws=20))
    assert found.table.nfe == 20 and 0.6 < found.facts["residual_chi_squared"] < 1.4


def test_operators_are_read_by_their_names(tmp_path):
    np.save(tmp_path / "hole.npy", np.arange(24).reshape(4, 6) < 6)
    np.save(tmp_path / "psf.npy", np.array([[1.0, 2.0, 1.0]]))
    Image.fromarray(np.array([[0, 4, 0], [4, 8, 4]], np.uint8)).save(tmp_path / "psf.png")
    assert read_operator("blur:1", (4, 6)).psf == pytest.approx(OPERATORS["blur"].psf)
    assert read_operator("downscale:2", (4, 6)) == OPERATORS["downscale"]
    assert np.array_equal(read_operator(f"mask:{tmp_path / 'hole.npy'}", (4, 6)).known[:, 0], [False, True, True, True])
    assert read_operator(f"psf:{tmp_path / 'psf.npy'}", (4, 6)).psf[0] == pytest.approx([0.5, 0.25, 0, 0, 0, 0.25])
    assert read_operator(f"psf:{tmp_path / 'psf.png'}", (4, 6)).psf[3, 0] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--operator: missing; must be blur:SIGMA"),
        ("sharpen:2", "--operator sharpen:2: must be blur:SIGMA"),
        ("mask", "--operator mask: must be blur:SIGMA"),
        ("blur", "--operator blur: must have a number above 0"),
        ("blur:0", "must have a number above 0 and at most 6"),
        ("blur:nan", "must have a number above 0"),
        ("blur:7", "at most 6"),
        ("downscale:4", "must have a whole number that divides 4 and 6"),
        ("downscale:1.5", "must have a whole number"),
        ("mask:missing.png", "--operator mask:missing.png: no such file"),
        ("psf:missing.png", "--operator psf:missing.png: no such file"),
        ("psf:WIDE", "1x9 pixels: must be at most 4x6"),
        ("psf:ZERO", "must be finite, with a sum above 0"),
        ("psf:HUGE", "must be finite, with a sum above 0"),
    ],
)
def test_operators_that_mean_nothing_are_one_line(tmp_path, text, message):
    for name, values in (("WIDE", np.ones((1, 9))), ("ZERO", np.zeros((3, 3))), ("HUGE", np.full((3, 3), 1e308))):
        np.save(tmp_path / f"{name}.npy", values)
        text = text.replace(name, str(tmp_path / f"{name}.npy"))
    with pytest.raises(ValueError, match=message):
        read_operator(text, (4, 6))


# --- the verb ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("solving")
    text = RECIPE.replace("CACHE", str(folder / "cache")).replace("[data]", "[data]\nheld_out = 0.4")
    (folder / "tiny.toml").write_text(text.replace("[process]", '[process]\nprediction = "v"\nstretch = 0.02'))
    code, _, err = run("train", "--config", folder / "tiny.toml", "--run", folder / "run")
    assert code == 0, err
    return folder / "run"


@pytest.mark.parametrize(
    ("flags", "nfe", "sampler"),
    [
        (["--operator", "blur:1"], 50, "dpmsolver++"),
        (["--operator", "downscale:4", "--steps", 12, "--sampler", "ddpm"], 12, "ddpm"),
        (["--operator", "downscale:2", "--method", "dps", "--step", 0.5, "--steps", 15], 15, "ddpm"),
    ],
)
def test_the_verb_writes_draws_a_picture_and_a_manifest(trained, tmp_path, flags, nfe, sampler):
    out = tmp_path / "out"
    words = ("edit", "solve", trained, "--n", 3, "--first", 1, "--draws", 2, "--noise", 0.05, *flags, "--out", out)
    code, said, err = run(*words)
    assert code == 0, err
    assert said.splitlines()[-1] == f"wrote {out / 'draws.npy'}, {out / 'draws.png'}"
    assert said.startswith("residual chi squared: ")
    draws, truth, measured = (np.load(out / f"{name}.npy") for name in ("draws", "truth", "measured"))
    assert draws.shape == (3, 2, 8, 16, 1) and draws.dtype == np.float32 and 0 <= draws.min() <= draws.max() <= 1
    assert truth.shape == (3, 8, 16, 1) and measured.ndim == 4 and measured.dtype == np.float32
    with Image.open(out / "draws.png") as picture:
        assert picture.size == (4 * 18 + 2, 3 * 10 + 2)
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["edit"], manifest["nfe"], manifest["sampler"]) == ("solve", nfe, sampler)
    assert manifest["operator"] == flags[1] and manifest["noise_of_measurement"] == 0.05 and manifest["draws"] == 2
    code, _, err = run(*words)
    assert code == 2 and "already holds samples" in err
    np.save(tmp_path / "y.npy", measured[..., 0])
    again = ("edit", "solve", trained, tmp_path / "y.npy", "--n", 3, "--draws", 2, "--noise", 0.05, *flags)
    assert run(*again, "--out", tmp_path / "again")[0] == 0
    assert not (tmp_path / "again" / "truth.npy").exists()
    assert np.load(tmp_path / "again" / "draws.npy").shape == draws.shape
    with Image.open(tmp_path / "again" / "draws.png") as picture:
        assert picture.size == (3 * 18 + 2, 3 * 10 + 2)


def test_measurements_may_lie_outside_the_range(trained, tmp_path):
    np.save(tmp_path / "y.npy", np.random.default_rng(0).normal(0.1, 0.2, (2, 4, 8)))
    words = ("edit", "solve", trained, tmp_path / "y.npy", "--operator", "downscale:2", "--noise", 0.2, "--n", 2)
    code, _, err = run(*words, "--steps", 5, "--out", tmp_path / "out")
    assert code == 0, err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "edit solve: no run or checkpoint given"),
        (["RUN", "--operator", "blur:1"], "--noise 0: must be given, above 0"),
        (["RUN", "--noise", 0.1], "--operator: missing; must be blur:SIGMA"),
        (["RUN", "--operator", "blur:1", "--noise", -1], "--noise -1: must be given, above 0"),
        (["RUN", "--operator", "downscale:3", "--noise", 0.1], "must have a whole number that divides 8 and 16"),
        (["RUN", "--operator", "blur:1", "--noise", 0.1, "--draws", 0], "--draws 0: must be at least 1"),
        (["RUN", "--operator", "blur:1", "--noise", 0.1, "--step", 2], "--step with --method pigdm: must be left out"),
        (["RUN", "--operator", "blur:1", "--noise", 0.1, "--step", 0], "--step 0: must be above 0"),
        (["RUN", "--operator", "blur:1", "--noise", 0.1, "--n", 99], "held-out images; raise data.held_out"),
        (
            ["RUN", "Y", "--operator", "downscale:2", "--noise", 0.1, "--n", 2],
            "8x16 pixels: must have 4x8, as --operator measures",
        ),
        (["RUN", "Y", "--operator", "blur:1", "--noise", 0.1, "--n", 3], "--first 0 --n 3: must be at most 2 together"),
        (["RUN", "--operator", "blur:1", "--noise", 0.1, "--n", 1, "--sampler", "heun"], "--sampler heun: must be one"),
        (["RUN", "--operator", "blur:1", "--noise", 0.1, "--n", 1, "--class-name", "a"], "is not class-conditional"),
    ],
)
def test_what_cannot_be_done_is_one_line(trained, tmp_path, words, message):
    np.save(tmp_path / "y.npy", np.zeros((2, 8, 16)))
    places = {"RUN": trained, "Y": tmp_path / "y.npy"}
    code, _, err = run("edit", "solve", *(places.get(word, word) for word in words), "--out", tmp_path / "out")
    assert code == 2 and message in err.splitlines()[-1], err
    assert not (tmp_path / "out").exists()
