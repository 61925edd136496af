"""CONTRIBUTING.md's recipe "Add a network", carried out as it is written in a copy of the code, and evaluated there."""

import pytest

from eval.twins.interpreters import find_python
from tests.copied_checkout import Checkout

NETWORK = """
import numpy as np
from core.config import ModelConfig
from core.networks.specs import count_parameters, initial_weights
from PACKAGE.sampler import make_network

sizes = {"sample_size": (4, 6), "block_out_channels": (8,), "in_channels": 2, "out_channels": 3}
config = ModelConfig(architecture="pixelwise", **sizes)
assert count_parameters(config) == 2 * 3 + 3
try:
    ModelConfig(architecture="pixelwise", layers_per_block=3)
except ValueError as error:
    assert "layers_per_block" in str(error)
weights = initial_weights(config, 0, "float64")
weights["conv.bias"][:] = 1, 2, 3
x = np.random.default_rng(0).standard_normal((5, 4, 6, 2))
output = make_network(config, weights, "float64").bind().evaluate(x, np.full(5, 7.0))
expected = x @ weights["conv.weight"][:, :, 0, 0].T + weights["conv.bias"]
np.testing.assert_allclose(output, expected, rtol=1e-12)
"""
TORCH = '''
"""One 1x1 convolution. Twin: tf_impl/pixelwise.py."""

from typing import Any

import torch
from torch import nn

from core.config import ModelConfig


class Pixelwise(nn.Module):
    """A network that sees one pixel at a time and no noise level."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.conv = nn.Conv2d(config.in_channels, config.out_channels, 1)

    def forward(self, x: torch.Tensor, t: torch.Tensor, **condition: Any) -> torch.Tensor:
        return self.conv(x)
'''
KERAS = '''
"""One 1x1 convolution. Twin: torch_impl/pixelwise.py."""

from typing import Any

import keras

from core.config import ModelConfig
from tf_impl.layers import conv


class Pixelwise(keras.Model):
    """A network that sees one pixel at a time and no noise level."""

    def __init__(self, config: ModelConfig, dtype: Any = "float32") -> None:
        super().__init__(dtype=dtype, autocast=False)
        self.config = config
        self.conv = conv(config.in_channels, config.out_channels, 1, dtype)
        self.built = True

    def call(self, x: Any, t: Any = None, training: bool = False, **condition: Any) -> Any:
        return self.conv(x)
'''


def add_a_network(checkout: Checkout) -> None:
    """The recipe's steps 1 to 3."""
    checkout.add(
        "core/networks/pixelwise.py",
        '''
        """One 1x1 convolution, for a network of the tests."""

        from core.config import ModelConfig
        from core.networks.parameters import ParamSpec


        def pixelwise_specs(config: ModelConfig) -> dict[str, ParamSpec]:
            """The parameters."""
            shape = (config.out_channels, config.in_channels, 1, 1)
            return {
                "conv.weight": ParamSpec(shape, "conv", "fan_avg"),
                "conv.bias": ParamSpec(shape[:1], "bias", "zeros"),
            }
        ''',
    )
    specs = "from core.networks.pixelwise import pixelwise_specs"
    row = '"pixelwise": Network(pixelwise_specs, lambda config: 0, "DiptychPixelwise")'
    checkout.define("core/networks/specs.py", specs, "NETWORKS", row)
    file = "core/config/architectures.py"
    checkout.change(file, "Architecture = Literal[", 'Architecture = Literal["pixelwise", ')
    keys = '("sample_size", "in_channels", "out_channels", "block_out_channels")'
    checkout.define(file, "", "ARCHITECTURES", f'"pixelwise": ArchitectureRow(lambda config: None, {keys})')
    for package, text in (("torch_impl", TORCH), ("tf_impl", KERAS)):
        checkout.add(f"{package}/pixelwise.py", text)
        imported = f"from {package}.pixelwise import Pixelwise"
        checkout.define(f"{package}/weights.py", imported, "NETWORKS", '"pixelwise": Pixelwise')


@pytest.mark.parametrize("framework", ["torch", pytest.param("tensorflow", marks=pytest.mark.cross)])
def test_add_a_network(tmp_path, framework):
    checkout = Checkout(tmp_path / "checkout")
    add_a_network(checkout)
    package = {"torch": "torch_impl", "tensorflow": "tf_impl"}[framework]
    checkout.python("-c", NETWORK.replace("PACKAGE", package), interpreter=find_python(framework))
