"""A peer of the baseline network: the original's structure in PyTorch's own layers, as its authors composed it.

Re-written from dome272/Diffusion-Models-pytorch, modules.py: `nn.MultiheadAttention` that returns its weights, an
embedding repeated over the pixels, and sizes wired in. Two departures: the image's size and the width are
arguments, and the time embedding is formed in the precision of the input, so that float64 is float64.
"""

import torch
from torch import nn


class SelfAttention(nn.Module):
    def __init__(self, channels, height, width):
        super().__init__()
        self.channels, self.height, self.width = channels, height, width
        self.mha = nn.MultiheadAttention(channels, 4, batch_first=True)
        self.ln = nn.LayerNorm([channels])
        self.ff_self = nn.Sequential(
            nn.LayerNorm([channels]), nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels)
        )

    def forward(self, x):
        tokens = x.reshape(-1, self.channels, self.height * self.width).swapaxes(1, 2)
        normed = self.ln(tokens)
        attended, _ = self.mha(normed, normed, normed)
        attended = attended + tokens
        out = self.ff_self(attended) + attended
        return out.swapaxes(2, 1).reshape(-1, self.channels, self.height, self.width)


class DoubleConv(nn.Module):
    def __init__(self, into, out, mid=None, residual=False):
        super().__init__()
        self.residual = residual
        mid = mid or out
        self.double_conv = nn.Sequential(
            nn.Conv2d(into, mid, kernel_size=3, padding=1, bias=False),
            nn.GroupNorm(1, mid),
            nn.GELU(),
            nn.Conv2d(mid, out, kernel_size=3, padding=1, bias=False),
            nn.GroupNorm(1, out),
        )

    def forward(self, x):
        return nn.functional.gelu(x + self.double_conv(x)) if self.residual else self.double_conv(x)


def over_pixels(embedding, x):
    return embedding[:, :, None, None].repeat(1, 1, x.shape[-2], x.shape[-1])


class Down(nn.Module):
    def __init__(self, into, out, time):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(into, into, residual=True), DoubleConv(into, out))
        self.emb_layer = nn.Sequential(nn.SiLU(), nn.Linear(time, out))

    def forward(self, x, t):
        x = self.maxpool_conv(x)
        return x + over_pixels(self.emb_layer(t), x)


class Up(nn.Module):
    def __init__(self, into, out, time):
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.conv = nn.Sequential(DoubleConv(into, into, residual=True), DoubleConv(into, out, into // 2))
        self.emb_layer = nn.Sequential(nn.SiLU(), nn.Linear(time, out))

    def forward(self, x, skip, t):
        x = self.conv(torch.cat([skip, self.up(x)], dim=1))
        return x + over_pixels(self.emb_layer(t), x)


class UNet(nn.Module):
    def __init__(self, c_in=3, c_out=3, time_dim=256, num_classes=None, height=64, width=64, base=64):
        super().__init__()
        self.time_dim = time_dim

        def attention(channels, level):
            return SelfAttention(channels, height >> level, width >> level)

        self.inc = DoubleConv(c_in, base)
        self.down1 = Down(base, 2 * base, time_dim)
        self.sa1 = attention(2 * base, 1)
        self.down2 = Down(2 * base, 4 * base, time_dim)
        self.sa2 = attention(4 * base, 2)
        self.down3 = Down(4 * base, 4 * base, time_dim)
        self.sa3 = attention(4 * base, 3)
        self.bot1 = DoubleConv(4 * base, 8 * base)
        self.bot2 = DoubleConv(8 * base, 8 * base)
        self.bot3 = DoubleConv(8 * base, 4 * base)
        self.up1 = Up(8 * base, 2 * base, time_dim)
        self.sa4 = attention(2 * base, 2)
        self.up2 = Up(4 * base, base, time_dim)
        self.sa5 = attention(base, 1)
        self.up3 = Up(2 * base, base, time_dim)
        self.sa6 = attention(base, 0)
        self.outc = nn.Conv2d(base, c_out, kernel_size=1)
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, time_dim)

    def pos_encoding(self, t, dtype):
        exponents = torch.arange(0, self.time_dim, 2, dtype=dtype) / self.time_dim
        angles = t.to(dtype)[:, None] * (1.0 / (10_000**exponents))
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)

    def forward(self, x, t, y=None):
        t = self.pos_encoding(t, x.dtype)
        if y is not None:
            t = t + self.label_emb(y)
        x1 = self.inc(x)
        x2 = self.sa1(self.down1(x1, t))
        x3 = self.sa2(self.down2(x2, t))
        x4 = self.sa3(self.down3(x3, t))
        x4 = self.bot3(self.bot2(self.bot1(x4)))
        x = self.sa4(self.up1(x4, x3, t))
        x = self.sa5(self.up2(x, x2, t))
        x = self.sa6(self.up3(x, x1, t))
        return self.outc(x)
