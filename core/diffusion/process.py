"""The forward process and the objective as tables over t.

Throughout the code t is 0-based: t = 0 ... T - 1 is the paper's t - 1, and the clean image is "before t = 0". Images
are in [-1, 1]. The twins gather a table's row, cast and multiply; none computes a coefficient (1 - alphas_cumprod in
float32 errs by 1.7e-4 at t = 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from core.config import ProcessConfig
from core.diffusion import schedules
from core.diffusion.predictions import conversions, loss_weight

Array = NDArray[np.float64]
Steps = NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Process:
    """Tables over t, each (T,) float64, read-only and finite."""

    config: ProcessConfig
    """What the tables were made from."""
    time: Array
    """Time that the network is given at a level: t, and T noise on the flow schedule."""
    betas: Array
    """Variance added from level t - 1 to t."""
    alphas: Array
    """Square of what x_{t-1} is multiplied by on its way to t: 1 - betas where the variance is preserved."""
    alphas_cumprod: Array
    """Square of signal: the share of the image's variance left at t."""
    alphas_cumprod_prev: Array
    """alphas_cumprod one level cleaner; 1 at t = 0."""
    signal: Array
    """Factor of the image in x_t = signal x_0 + noise eps; sqrt(alphas_cumprod)."""
    noise: Array
    """Factor of the noise in it; sqrt(1 - alphas_cumprod) where the variance is preserved."""
    target_x0: Array
    """a of target = a x_0 + b eps."""
    target_eps: Array
    """b of target = a x_0 + b eps."""
    x0_from_xt: Array
    """p of x0_hat = p x_t + q output."""
    x0_from_output: Array
    """q of x0_hat = p x_t + q output."""
    eps_from_xt: Array
    """Coefficient of x_t in eps_hat."""
    eps_from_output: Array
    """Coefficient of the network's output in eps_hat."""
    snr: Array
    """Signal-to-noise ratio signal^2 / noise^2."""
    weight: Array
    """Weight of the squared error of the network's output."""
    posterior_variance: Array
    """Variance of q(x_{t-1} | x_t, x_0); 0 at t = 0."""
    posterior_log_variance_clipped: Array
    """Its logarithm, with the value of t = 1 at t = 0."""
    posterior_mean_coef1: Array
    """Coefficient of x_0 in the mean of q(x_{t-1} | x_t, x_0)."""
    posterior_mean_coef2: Array
    """Coefficient of x_t in the mean of q(x_{t-1} | x_t, x_0)."""

    @property
    def timesteps(self) -> int:
        """Number T of levels."""
        return len(self.betas)


def make_process(config: ProcessConfig) -> Process:
    """All tables of a configured process.

    Args:
        config: schedule, prediction and loss weight.
    Returns:
        Tables of length config.timesteps.
    Raises:
        ValueError: an eps-prediction over a level that holds no signal.
    Source: Ho et al. 2020, eq. 4-7; Salimans and Ho 2022, appendix D (v); Hang et al. 2023, section 3.4 (min-SNR).
    """
    if config.schedule == "flow":
        signal, noise = schedules.flow(config)
        # What diffusers' flow-matching schedulers hand to a network: sigma times the number of levels.
        return from_levels(signal, noise, config.timesteps * noise, config)
    if config.schedule == "edm":
        # c_noise = ln(sigma) / 4 (Karras et al. 2022, table 1) is even in t; stretched to [0, T - 1] for the sinusoids.
        return from_levels(*schedules.edm(config), np.arange(config.timesteps, dtype=np.float64), config)
    return from_betas(schedules.betas(config), config)


def from_levels(signal: Array, noise: Array, time: Array, config: ProcessConfig) -> Process:
    """All tables of given levels whose variance need not be preserved.

    Prediction and loss weight are the configuration's.

    Args:
        signal, noise: (T,) float64, of falling signal-to-noise ratio; noise above 0.
        time: (T,) the time that the network receives.
        config: prediction and loss weight are read.
    Raises:
        ValueError: an eps-prediction over a level that holds no signal.
    Source: Kingma et al. 2021, appendix A.1-A.2: from s to t, x_t = (signal_t / signal_s) x_s + sqrt(beta) z with
        beta = noise_t^2 - (signal_t / signal_s)^2 noise_s^2 = noise_t^2 (1 - SNR_t / SNR_s), and its posterior.
    """
    signal_prev, noise_prev = np.append(1.0, signal[:-1]), np.append(0.0, noise[:-1])
    ratio = signal / signal_prev
    share = (ratio * noise_prev / noise) ** 2  # SNR_t / SNR_s; 0 at t = 0, after the clean image
    betas = noise**2 * (1 - share)
    return _process(
        config,
        time=time,
        betas=betas,
        alphas=ratio**2,
        alphas_cumprod=signal**2,
        alphas_cumprod_prev=signal_prev**2,
        signal=signal,
        noise=noise,
        snr=(signal / noise) ** 2,
        posterior_variance=noise_prev**2 * (1 - share),
        posterior_mean_coef1=signal_prev * (1 - share),
        posterior_mean_coef2=ratio * (noise_prev / noise) ** 2,
    )


def from_betas(betas: Array, config: ProcessConfig) -> Process:
    """All tables of given betas; prediction and loss weight are the configuration's.

    Args:
        betas: (T,) float64 in (0, 1); the last may be 1.
        config: prediction, loss_weight and min_snr_gamma are read.
    Returns:
        Tables of length T.
    Raises:
        ValueError: betas out of range, or an eps-prediction over a level that holds no signal.
    """
    betas = np.array(betas, dtype=np.float64)
    if betas.ndim != 1 or len(betas) < 2 or not (np.all(betas > 0) and np.all(betas[:-1] < 1) and betas[-1] <= 1):
        raise ValueError(f"betas of shape {betas.shape}: must be at least two numbers in (0, 1); the last may be 1")
    # Sums of log1p and expm1, since 1 - cumprod loses twelve digits where noise is small. log(0) = -inf gives
    # signal 0 and noise 1 exactly.
    with np.errstate(divide="ignore"):
        log_alphas_cumprod = np.cumsum(np.log1p(-betas))
    alphas_cumprod, signal = np.exp(log_alphas_cumprod), np.exp(0.5 * log_alphas_cumprod)
    variance = -np.expm1(log_alphas_cumprod)
    noise = np.sqrt(variance)
    alphas_cumprod_prev = np.append(1.0, alphas_cumprod[:-1])
    variance_prev = np.append(0.0, variance[:-1])
    # Ho et al. 2020, eq. 7.
    posterior_variance = betas * variance_prev / variance
    return _process(
        config,
        time=np.arange(len(betas), dtype=np.float64),
        betas=betas,
        alphas=1 - betas,
        alphas_cumprod=alphas_cumprod,
        alphas_cumprod_prev=alphas_cumprod_prev,
        signal=signal,
        noise=noise,
        snr=alphas_cumprod / variance,
        posterior_variance=posterior_variance,
        posterior_mean_coef1=np.sqrt(alphas_cumprod_prev) * betas / variance,
        posterior_mean_coef2=np.sqrt(1 - betas) * variance_prev / variance,
    )


def _process(config: ProcessConfig, **tables: Array) -> Process:
    """The tables that follow from the levels, and all of them read-only."""
    tables |= conversions(tables["signal"], tables["noise"], config)
    tables["weight"] = loss_weight(tables["snr"], tables["x0_from_output"], config)
    variance = tables["posterior_variance"]
    tables["posterior_log_variance_clipped"] = np.log(np.append(variance[1], variance[1:]))
    for table in tables.values():
        table.setflags(write=False)
    return Process(config, **tables)


def _rows(process: Process, t: Steps, *tables: Array, like: NDArray[Any] | None = None) -> list[Array]:
    """Entries of tables at t, shaped to multiply images."""
    t = np.asarray(t)
    if not np.issubdtype(t.dtype, np.integer) or t.ndim != 1:
        raise ValueError(f"t of type {t.dtype} and shape {t.shape}: must be integers of shape (B,)")
    if t.size and (t.min() < 0 or t.max() >= process.timesteps):
        raise ValueError(f"t from {t.min()} to {t.max()}: must be in [0, {process.timesteps - 1}]")
    if like is None:
        return [table[t] for table in tables]
    if len(like) != len(t):
        raise ValueError(f"t of length {len(t)}: must be as long as the batch, {len(like)}")
    return [table[t].reshape(-1, *[1] * (like.ndim - 1)) for table in tables]


def q_sample(process: Process, x_0: NDArray[Any], t: Steps, eps: NDArray[Any]) -> NDArray[Any]:
    """Noised images x_t.

    Args:
        x_0: (B, ...) images in [-1, 1].
        t: (B,) integers in [0, T).
        eps: (B, ...) standard normal noise.
    Returns:
        (B, ...) float64.
    Raises:
        ValueError: t out of range, not integer, or of another length than the batch.
    Source: Ho et al. 2020, eq. 4.
    """
    signal, noise = _rows(process, t, process.signal, process.noise, like=x_0)
    x_t: NDArray[Any] = signal * x_0 + noise * eps
    return x_t


def predict_x0(process: Process, x_t: NDArray[Any], t: Steps, output: NDArray[Any]) -> NDArray[Any]:
    """The clean image that the network's output means, not clipped.

    Args:
        x_t, output: (B, ...) noised images and the network's output for them.
        t: (B,) integers in [0, T).
    Returns:
        (B, ...) float64.
    Raises:
        ValueError: as q_sample().
    """
    p, q = _rows(process, t, process.x0_from_xt, process.x0_from_output, like=x_t)
    x_0: NDArray[Any] = p * x_t + q * output
    return x_0


def coefficients(process: Process, t: Steps, dtype: DTypeLike) -> dict[str, NDArray[Any]]:
    """What a training step multiplies by, gathered in float64 and then cast.

    Args:
        t: (B,) integers in [0, T).
        dtype: floating type of the result.
    Returns:
        time, signal, noise, target_x0, target_eps and weight, each (B,).
    Raises:
        ValueError: t out of range or not integer.
    """
    names = ("time", "signal", "noise", "target_x0", "target_eps", "weight")
    gathered = _rows(process, t, *(getattr(process, name) for name in names))
    return {name: values.astype(dtype) for name, values in zip(names, gathered, strict=True)}
