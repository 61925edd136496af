"""The DDPM U-Net as a `keras.Model`, NHWC, in Keras layers and keras.ops only. Twin: torch_impl/unet.py.

Source: Ho et al. 2020; Dhariwal & Nichol 2021 (scale_shift, resampling residual blocks).
"""

from __future__ import annotations

import functools
from typing import Any

import keras
from keras import ops

from core.config import ModelConfig
from core.config.recipes import from_dict, to_dict
from core.networks.unet import unet_plan
from tf_impl.kernel import group_norm
from tf_impl.layers import Block, GroupNorm, TimeEmbedding, VectorEmbedding, conv, pixel_shuffle, pixel_unshuffle


@keras.saving.register_keras_serializable("diptych")
class UNet(keras.Model):
    """U-Net conditioned on the timestep, and optionally on classes, parameters or an image.

    Args:
        config: the network, in diffusers' keys.
        dtype: float32, float64, or a Keras dtype policy such as mixed_bfloat16.
    """

    def __init__(self, config: ModelConfig, dtype: Any = "float32") -> None:
        super().__init__(dtype=dtype, autocast=False)  # each layer casts its inputs; t keeps its precision
        plan = unet_plan(config)
        first, time = config.block_out_channels[0], plan.time_channels
        self.config = config
        self.gradient_checkpointing = False
        self.conv_in = conv(config.in_channels * config.patch_size**2, first, 3, dtype)
        self.time_embedding = TimeEmbedding(config, time, dtype)
        classes = config.num_class_embeds
        self.class_embedding = keras.layers.Embedding(classes, time, dtype=dtype) if classes else None
        if self.class_embedding is not None:
            self.class_embedding.build()
        numbers = config.vector_channels
        self.vector_embedding = VectorEmbedding(numbers, time, dtype) if numbers else None
        self.down_blocks = [Block(p, config, time, dtype) for p in plan.down]
        self.mid_block = Block(plan.mid, config, time, dtype) if plan.mid else None
        self.up_blocks = [Block(p, config, time, dtype) for p in plan.up]
        self.conv_norm_out = GroupNorm(config.norm_num_groups, first, config.norm_eps, dtype)
        self.conv_out = conv(first, config.out_channels * config.patch_size**2, 3, dtype)
        self.built = True  # every layer has made its variables

    def get_config(self) -> dict[str, Any]:
        """The network's entry in a .keras file."""
        return {"config": to_dict(self.config), "dtype": self.dtype_policy.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> UNet:
        """The network that a .keras file describes, without its weights."""
        return cls(from_dict(ModelConfig, config["config"], "model"), config["dtype"])

    def call(
        self,
        x: Any,
        t: Any = None,
        labels: Any = None,
        vector: Any = None,
        keep: Any = None,
        image: Any = None,
        training: bool = False,
    ) -> Any:
        """Evaluate the network.

        Args:
            x: (B, H, W, C), in [-1, 1] plus noise; or as keras's `fit` passes it: the tuple (x, t) or (x, t, labels),
                or a dict of all arguments by name.
            t: (B,) or scalar, 0-based timestep, which may be fractional.
            labels: (B,) int64 classes, for a class-conditional network only.
            vector: (B, P) parameters, standardised as in training, for a network with vector_channels = P only.
            keep: (B,) 1 where the vector counts, 0 where the input is unconditional; None means all 1.
            image: (B, H, W, C') in [-1, 1], concatenated to x, for a network with condition_channels = C' only.
            training: whether dropout acts.
        Returns:
            (B, H, W, C).
        Raises:
            ValueError: the size does not fit, or a condition is given or missing contrary to the configuration.
        """
        if isinstance(x, dict):
            return self.call(**x, training=training)
        if isinstance(x, tuple | list):
            x, t, labels = (*x, None)[:3]
        self.config.check_size(*x.shape[1:3])
        self.config.check_condition(labels, vector, image)
        time = self.time_embedding(ops.broadcast_to(t, (ops.shape(x)[0],)))  # (B, time_channels)
        if self.class_embedding is not None:
            time = time + self.class_embedding(labels)
        if self.vector_embedding is not None:
            time = time + self.vector_embedding(vector, ops.ones_like(vector[:, 0]) if keep is None else keep)
        if image is not None:
            x = ops.concatenate([x, image], axis=-1)
        if self.config.center_input_sample:
            x = 2 * x - 1
        x = self.conv_in(pixel_unshuffle(x, self.config.patch_size))
        skips = [x]
        for block in self.down_blocks:
            for i, resnet in enumerate(block.resnets):
                x = self._run(resnet, x, time, training=training)
                x = self._run(block.attentions[i], x) if block.attentions else x
                skips.append(x)
            if block.downsamplers:
                x = block.resize(x, time, training)
                skips.append(x)
        if self.mid_block is not None:
            x = self._run(self.mid_block.resnets[0], x, time, training=training)
            x = self._run(self.mid_block.attentions[0], x) if self.mid_block.attentions else x
            x = self._run(self.mid_block.resnets[1], x, time, training=training)
        for block in self.up_blocks:
            for i, resnet in enumerate(block.resnets):
                x = self._run(resnet, ops.concatenate([x, skips.pop()], axis=-1), time, training=training)
                x = self._run(block.attentions[i], x) if block.attentions else x
            x = block.resize(x, time, training)
        x = self.conv_out(group_norm(self.conv_norm_out, x, ops.silu))
        return pixel_shuffle(x, self.config.patch_size)

    def _run(self, layer: keras.layers.Layer, *inputs: Any, **options: Any) -> Any:
        """A layer's output. With gradient checkpointing the backward pass computes it again."""
        call = functools.partial(layer, **options)
        return keras.remat(call)(*inputs) if self.gradient_checkpointing else call(*inputs)
