"""The comparison: known differences are found at their known size, bad input is refused, the page stands alone."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from eval.__main__ import main
from eval.measure.compare import compare
from eval.pages.compare_page import compare_sections
from eval.pages.page import Cell, Figure, Figures, Notice, Table, Text, render
from eval.pages.plots import histogram_plot, image_grid, line_plot


def rings(count, seed, radius=(5.0, 8.0), noise=0.01, size=(24, 28), channels=1):
    """Noisy rings on a grey sky, radii uniform, so that their distributions are known."""
    g = np.random.Generator(np.random.Philox(key=seed))
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    r = np.hypot(y - (size[0] - 1) / 2, x - (size[1] - 1) / 2)
    radii = g.uniform(*radius, count)[:, None, None]
    clean = 0.1 + 0.7 * np.exp(-0.5 * ((r - radii) / 1.5) ** 2)
    images = clean[..., None] + noise * g.standard_normal((count, *size, channels))
    return np.clip(images, 0, 1).astype(np.float32)


def by_key(result):
    return {metric["key"]: metric for metric in result["metrics"]}


@pytest.fixture(scope="module")
def result():
    train = rings(150, 9)
    real = rings(240, 0)
    copies = rings(120, 1)
    copies[:30] = train[:30]
    generated = {"same": copies, "wide": rings(120, 2, (7.0, 10.0)), "noisy": rings(120, 3, noise=0.03)}
    return compare(real, generated, train), (real, generated, train)


def test_a_known_shift_of_the_radius_is_found(result):
    metric = by_key(result[0])["ring_radius"]
    assert metric["sets"]["wide"]["mean"] == pytest.approx(2.0, abs=0.25)
    assert metric["sets"]["same"]["mean"] < 0.5
    assert metric["sets"]["wide"]["ratio"] == pytest.approx(
        metric["sets"]["wide"]["mean"] / metric["floor"]["mean"], rel=1e-12
    )


def test_a_known_excess_of_noise_is_found(result):
    metric = by_key(result[0])["sky_noise"]
    assert metric["sets"]["noisy"]["mean"] == pytest.approx(0.02, abs=0.005)
    assert metric["sets"]["noisy"]["mean"] > 5 * metric["floor"]["max"]


def test_the_same_distribution_lies_near_its_floor_in_every_metric(result):
    for metric in result[0]["metrics"]:
        assert metric["floor"]["min"] <= metric["floor"]["mean"] <= metric["floor"]["max"]
        assert metric["sets"]["same"]["ratio"] < 3, metric["key"]


def test_copies_of_training_images_are_found(result):
    nearest = result[0]["nearest"]
    assert nearest["sets"]["same"]["copies"] == 30 and nearest["sets"]["real"]["copies"] == 0
    assert 0.25 <= nearest["sets"]["same"]["share_closer"] < 0.30
    assert all(c["image"] == c["train"] < 30 and c["distance"] == 0 for c in nearest["sets"]["same"]["closest"])
    assert nearest["sets"]["real"]["share_closer"] <= 0.0125


def test_protocol_counts_and_warnings(result):
    assert result[0]["protocol"]["n"] == 120
    assert any("below the protocol's 2,000" in w for w in result[0]["warnings"])
    real = rings(41, 4)
    dark = np.concatenate([rings(40, 5), np.zeros((3, 24, 28, 1), np.float32)])
    small = compare(real, {"dark": dark}, np.concatenate([rings(9, 6), real[:2]]))
    assert small["protocol"]["n"] == 20
    text = "\n".join(small["warnings"])
    assert "41 images; its two halves limit N to 20" in text
    assert "dark: in 3 of 43 images nothing rises above the sky" in text
    assert "2 of the real images are exact copies" in text
    json.dumps(small, allow_nan=False)


def test_nothing_depends_on_a_global_generator_and_the_seed_moves_the_cut():
    real, generated = rings(40, 7), {"g": rings(20, 8)}
    first = compare(real, generated)
    np.random.seed(1)
    assert compare(real, generated) == first
    assert compare(real, generated, seed=1)["metrics"] != first["metrics"]


def test_lengths_are_in_arcsec_where_the_scale_is_given():
    real, generated = rings(40, 7), {"g": rings(20, 8, (7.0, 10.0))}
    px, arcsec = compare(real, generated), compare(real, generated, pixel_scale=0.05)
    assert arcsec["protocol"]["length_unit"] == "arcsec"
    assert by_key(arcsec)["ring_radius"]["floor"]["mean"] == pytest.approx(
        0.05 * by_key(px)["ring_radius"]["floor"]["mean"]
    )
    np.testing.assert_allclose(
        arcsec["curves"]["power_spectrum"]["x"], np.array(px["curves"]["power_spectrum"]["x"]) * 20
    )


def test_undefined_numbers_are_null_and_a_floor_of_zero_has_no_ratio():
    flat = np.full((8, 8, 8, 1), 0.5, np.float32)
    outcome = compare(flat, {"flat": flat[:4]})
    metrics = by_key(outcome)
    assert metrics["ring_radius"]["sets"]["flat"]["mean"] is None
    assert metrics["peak"]["floor"]["mean"] == 0 and metrics["peak"]["sets"]["flat"]["ratio"] is None
    json.dumps(outcome, allow_nan=False)
    assert compare_sections(outcome, flat, {"flat": flat[:4]})


def test_three_channels(tmp_path):
    real, generated = rings(40, 7, channels=3), {"g": rings(20, 8, channels=3)}
    sections = compare_sections(compare(real, generated, real[:5]), real, generated, real[:5])
    render(tmp_path / "page.html", "t", sections)


def test_compare_refuses():
    real = rings(8, 0)
    for call, words in (
        (lambda: compare(real, {}), "at least one"),
        (lambda: compare(real, {"real": real}), "none of them 'real'"),
        (lambda: compare(real, {"g": real[:, :20]}), r"g: images of \(20, 28, 1\)"),
        (lambda: compare(real, {"g": real}, real[:, :20]), "train: images of"),
        (lambda: compare(real[:3], {"g": real}), "at least 4 real"),
        (lambda: compare(real, {"g": real[:1]}), "2 of every generated"),
        (lambda: compare(real, {"g": real - 1}), "g: image 0 has"),
        (lambda: compare(real, {"g": real}, seed=-1), "seed = -1"),
        (lambda: compare(real, {"g": real}, pixel_scale=-1.0), "pixel_scale = -1.0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "real.npy", rings(60, 0))
    np.save(tmp_path / "train.npy", rings(30, 9))
    np.savez(tmp_path / "b.npz", images=rings(30, 2))
    folder = tmp_path / "torch <run>"
    folder.mkdir()
    np.save(folder / "samples.npy", rings(30, 1))
    manifest = {"framework": "pytorch", "sampler": "ddim", "steps": 50, "weights": "<EMA>", "nested": {"a": 1}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


class Page(HTMLParser):
    """Collects what a page would load, its ids and whether its tags close."""

    VOID = ("meta", "img", "br", "link", "hr")

    def __init__(self, text):
        super().__init__()
        self.loads, self.ids, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key in ("src", "href", "xlink:href", "srcset", "action"):
                self.loads.append(value)
            if key == "id":
                self.ids.append(value)
        if tag in ("script", "link", "iframe"):
            self.loads.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_command_writes_json_and_a_page_that_stands_alone(files, capsys):
    arguments = ["compare", "--real", f"{files}/real.npy", "--generated", f"{files}/torch <run>", f"tf={files}/b.npz"]
    arguments += ["--train", f"{files}/train.npy", "--out", f"{files}/out/deep", "--pixel-scale", "0.05"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "N = 30 images a side" in out and "Ring radius" in out and "warning: N = 30" in out
    stored = json.loads((files / "out/deep/compare.json").read_text())
    assert list(stored["counts"]) == ["real", "torch <run>", "tf"]
    assert stored["manifests"]["torch <run>"]["nested"] == {"a": 1}
    text = (files / "out/deep/report.html").read_text()
    page = Page(text)
    assert page.open == [] and all(x.startswith(("data:image/png;base64,", "#")) for x in page.loads)
    assert not re.findall(r"@import|url\((?!#)", text)
    assert "torch &lt;run&gt;" in text and "<run>" not in text and "&lt;EMA&gt;" in text and "nested" not in text
    assert "below the protocol" in text and "not FID" in text and "prefers-color-scheme" in text
    assert str(files) not in text
    assert sorted(p.name for p in (files / "out/deep").iterdir()) == ["compare.json", "report.html"]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == stored


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--real": "absent.npy"}, "absent.npy: no such file"),
        ({"--real": "pickled.npy"}, "pickled objects, which could run code"),
        ({"--real": "broken.npz"}, "broken.npz: not a whole .npz file"),
        ({"--real": "nokey.npz"}, "nokey.npz: holds x; must hold an array named images"),
        ({"--real": "empty"}, "empty: no images"),
        ({"--real": "statistics.npz"}, "statistics.npz: holds saved statistics: must be images"),
        ({"--real": "text.txt"}, "text.txt: unknown kind of file"),
        ({"--generated": "nan.npy"}, "nan.npy[2]: 1 of 672 values are not finite"),
        ({"--generated": "range.npy"}, "range.npy[0]: values from"),
        ({"--generated": "size.npy"}, "images of (20, 28, 1)"),
        ({"--generated": "badmanifest"}, "badmanifest/manifest.json: not valid JSON"),
        ({"--generated": "listmanifest"}, "listmanifest/manifest.json: holds no JSON object"),
        ({"--generated": "real.npy"}, "the name 'real' is taken"),
        ({"--out": "text.txt"}, "is a file: must be a folder"),
        ({"--pixel-scale": "0"}, "pixel_scale = 0.0"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(files, capsys, monkeypatch, change, words):
    monkeypatch.chdir(files)
    bad = rings(30, 3)
    np.save("range.npy", bad * 3)
    np.save("size.npy", bad[:, :20])
    bad[2, 0, 0, 0] = np.nan
    np.save("nan.npy", bad)
    np.save("pickled.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.savez("nokey.npz", x=bad)
    np.savez("statistics.npz", mu=np.zeros(3), sigma=np.eye(3))
    (files / "broken.npz").write_bytes(b"PK\x03\x04 not a zip")
    (files / "text.txt").write_text("x")
    (files / "empty").mkdir()
    for name, text in (("badmanifest", "{"), ("listmanifest", "[]")):
        (files / name).mkdir()
        np.save(files / name / "samples.npy", rings(30, 1))
        (files / name / "manifest.json").write_text(text)
    options = {"--real": "real.npy", "--generated": "b.npz", "--out": "out", **change}
    assert main(["compare", *(word for pair in options.items() for word in pair)]) == 2
    captured = capsys.readouterr()
    error = captured.err.strip().splitlines()[-1]
    assert captured.out == "" and error.startswith("error: ") and words in error
    assert not (files / "out").exists()


def test_two_sets_of_one_name_are_refused(files, capsys):
    arguments = ["compare", "--real", f"{files}/real.npy", "--generated", f"{files}/b.npz", f"{files}/b.npz"]
    assert main([*arguments, "--out", f"{files}/out"]) == 2
    assert "the name 'b' is taken; give it one with NAME=" in capsys.readouterr().err


def test_interrupt_and_a_disk_that_fails(files, capsys, monkeypatch):
    arguments = ["compare", "--real", f"{files}/real.npy", "--generated", f"{files}/b.npz", "--out", f"{files}/out"]
    for error, code in ((KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 1)):

        def fail(*_args, error=error, **_options):
            raise error

        monkeypatch.setattr("eval.pages.compare_page.render", fail)
        assert main(arguments) == code
    assert "error: [Errno 28] No space left on device" in capsys.readouterr().err


def test_help_shows_examples_and_loads_nothing_heavy():
    program = (
        "import sys; from eval.__main__ import main\n"
        "try: main(['compare', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'scipy', 'matplotlib', 'jinja2', 'PIL', 'torch', 'tensorflow', 'keras'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "python -m eval compare --real held_out.npy" in done.stdout and "--pixel-scale" in done.stdout


def test_page_escapes_text_and_checks_tables(tmp_path):
    svg = line_plot({"a": {"x": [1, 2], "y": [1, 3]}}, "x <", "y", label='"quoted" <label>')
    sections = [
        Notice("a < b & c"),
        Text("one\n\ntwo <b>", "Head <i>"),
        Table(["", "v"], [["r <", Cell("1", "d >", "good")]], caption="cap <"),
        Figures([Figure(svg, "f <", "c <")], wide=True),
    ]
    render(tmp_path / "deep/p.html", "T <t>", sections, lead="l <")
    text = (tmp_path / "deep/p.html").read_text()
    assert Page(text).open == []
    for token in ("<b>", "<i>", "T <t>", "a < b"):
        assert token not in text
    assert text.count("<p>") == 2 and 'class="good"' in text and 'class="figures wide"' in text
    with pytest.raises(ValueError, match=r"rows\[0\]: 1 cells: must be 2"):
        Table(["a", "b"], [["x"]])


def test_plots_take_the_page_colour_and_repeat_bit_for_bit():
    curve = {"x": [1, 2], "y": [1, 10], "low": [0.5, 5], "high": [2, 20]}
    plot = line_plot({"real": curve, "g": curve}, "x", "y", label="l", log_y=True)
    assert plot == line_plot({"real": curve, "g": curve}, "x", "y", label="l", log_y=True)
    assert plot != line_plot({"real": curve, "g": curve}, "x", "y", label="l")
    assert "currentColor" in plot and "#010203" not in plot and plot.startswith("<svg") and "<g id=" not in plot
    assert "real" in histogram_plot([0, 1, 2], {"real": [0.5, 0.5]}, "x", label="l")


def test_image_grid_places_pixels():
    import base64
    import io

    from PIL import Image

    def pixels(markup):
        data = re.search(r"base64,([^\"]+)", markup).group(1)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))

    images = np.stack([np.full((4, 6, 3), v) for v in (0.0, 0.5, 1.0)])
    sheet = pixels(image_grid(images, 2, label="<l>", gap=2))
    scale = 52  # 720 pixels over 6 + 2 + 6, rounded up
    assert sheet.shape == (10 * scale, 14 * scale, 4)
    small = sheet[::scale, ::scale]
    assert (small[:4, :6] == [0, 0, 0, 255]).all() and (small[:4, 8:] == [128, 128, 128, 255]).all()
    assert (small[6:, :6] == 255).all() and (small[:, 6:8, 3] == 0).all() and (small[6:, 8:, 3] == 0).all()
    signed = pixels(image_grid(np.array([-1.0, 0, 1]).reshape(3, 1, 1, 1), 3, label="d", signed=True, gap=0))
    low, zero, high = signed[0, [0, 360, 719], :3].astype(int)
    assert low[2] > low[0] and high[0] > high[2] and zero.min() > 240
    assert "&lt;l&gt;" in image_grid(images, 2, label="<l>")
    with pytest.raises(ValueError, match="columns"):
        image_grid(images, 0, label="l")
