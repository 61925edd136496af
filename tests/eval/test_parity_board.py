"""The ladder's board: how tensors are compared, what is red, and what cannot be compared."""

import json

import numpy as np
import pytest

from core.config import ModelConfig, Recipe
from eval.parity.closeness import NotCloseError
from eval.parity.ladder import Board, Twins
from eval.parity.report import write
from eval.parity.rungs_images import grey_levels
from eval.parity.rungs_network import gradients
from eval.parity.subject import Subject, random_weights
from eval.parity.tolerances import EXACT, GRADIENT_FLOAT64


def test_named_tensors_are_each_held_against_their_own_size():
    board = Board(rung=6)
    expected = {"large": np.array([1.0, -1000.0]), "small": np.array([0.001, 0.0])}
    board.all_close("gradient", {**expected, "small": np.array([0.001, 1e-8])}, expected, GRADIENT_FLOAT64)
    (m,) = board.measurements
    assert m.measured == pytest.approx(1e-5) and not m.ok and m.rung == 6 and m.why == GRADIENT_FLOAT64.why
    assert m.where.startswith("small at [1]: ") and "1e-08, expected 0" in m.where


def test_what_is_all_rounding_is_held_against_the_largest_of_all():
    board = Board()
    expected = {"weight": np.array([10.0]), "bias": np.array([1e-12])}
    found = {**expected, "bias": np.array([-1e-12])}
    board.all_close("gradient", found, expected, GRADIENT_FLOAT64)
    board.all_close("gradient", found, expected, GRADIENT_FLOAT64, floor=0.0)
    # In float32 the rounding is larger; what the floor is looked up in is float64's.
    rough = {**expected, "bias": np.array([1e-5])}
    board.all_close("gradient", found, rough, GRADIENT_FLOAT64, oracle=expected)
    assert [m.measured for m in board.measurements] == pytest.approx([2e-13, 2.0, 1e-6])
    assert [m.ok for m in board.measurements] == [True, False, False]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"a": np.ones(2)}, "1 names on one side only: b"),
        ({"a": np.ones(2), "b": np.ones(3), "c": np.ones(1)}, "1 names on one side only: c"),
        ({"a": np.ones(2), "b": np.ones((3, 1))}, "b: shape (3, 1), expected (3,)"),
        ({"a": np.ones(2, np.float32), "b": np.ones(3)}, "a: dtype float32, expected float64"),
        ({"a": np.ones(2), "b": np.array([1.0, np.nan, 1.0])}, "b: found nan at (1,), not finite"),
    ],
)
def test_what_cannot_be_compared_is_red(found, message):
    board = Board()
    board.all_close("state", found, {"a": np.ones(2), "b": np.ones(3)}, GRADIENT_FLOAT64)
    (m,) = board.measurements
    assert m.measured == np.inf and not m.ok and m.where == message


class OtherPixel(Twins):
    """Workers whose float32 gradients are 1e-3 apart on the images of `apart`, as near ties of pooling make them."""

    apart: tuple[int, ...] = ()

    def both(self, task, arrays, **options):
        """Gradients of one parameter; batches are counted as they come."""
        self.sizes = [*getattr(self, "sizes", []), len(arrays["batch/t"])]
        dtype, image = arrays["weights/outc.weight"].dtype, len(self.sizes) - 2
        off = 1e-3 * (dtype == np.float32 and image in self.apart)
        return [({"loss": np.ones((), dtype), "grad/a": np.array([0.5, 1 + x], dtype)}, {}) for x in (0, off)]


@pytest.mark.parametrize(("apart", "ok"), [((), True), ((0, 2, 3), True), ((0, 1, 2, 3), False)])
def test_where_pooling_decides_float32_gradients_are_taken_image_by_image(apart, ok):
    """One image without a near tie is enough; a fault is in all of them."""
    config = ModelConfig((8, 8), block_out_channels=(4, 8, 16, 16), architecture="baseline")
    twins, board, recipe = OtherPixel(), Board(6), Recipe(config)
    twins.apart = apart
    gradients(twins, Subject("baseline", recipe, random_weights(recipe)), board)
    assert twins.sizes == [4, 1, 1, 1, 1]
    last = board.measurements[-1]
    assert last.quantity == "gradient, nearest of 4 images" and last.ok is ok and last.dtype == "float32"
    each = ", ".join("1.0e-03" if image in apart else "0.0e+00" for image in range(4))
    assert last.where.endswith(f"; image by image {each}")


def test_grey_levels_are_counted_after_rounding_and_a_flat_picture_compares_nothing():
    board, picture = Board(), np.linspace(0, 1, 48, dtype=np.float32).reshape(1, 6, 8, 1)
    grey_levels(board, "near", np.clip(picture + 0.4 / 255, 0, 1), picture)
    grey_levels(board, "far", np.clip(picture + 2.4 / 255, 0, 1), picture)
    flat = np.full_like(picture, 0.5)
    grey_levels(board, "flat", flat, flat)
    broken = picture.copy()
    broken[0, 2, 3] = np.nan
    with np.errstate(invalid="ignore"):
        grey_levels(board, "broken", broken, picture)
    assert [m.measured for m in board.measurements] == [1, 3, np.inf, np.inf]
    assert [m.ok for m in board.measurements] == [True, False, False, False]
    assert all(m.unit == "grey levels" for m in board.measurements)


def test_what_could_not_be_compared_has_no_number_in_the_json(tmp_path):
    """JSON has no infinity."""
    board, recipe = Board(1), Recipe()
    board.all_close("state", {}, {"a": np.ones(2)}, EXACT)
    made = {"command": "command", "seconds": 1.0, "environments": {}}
    with pytest.raises(NotCloseError):
        write(tmp_path, board, Subject("nothing", recipe, {}), made)
    (entry,) = json.loads((tmp_path / "parity.json").read_text())["rungs"]
    assert entry["measured"] is None and entry["ok"] is False
