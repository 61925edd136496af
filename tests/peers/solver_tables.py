"""The tables of docs/samplers.md: orders of convergence, and the distance to diffusers' schedulers in float64.

python -m tests.peers.solver_tables
"""

from __future__ import annotations

import numpy as np

from core.config import ProcessConfig, SamplingConfig
from core.diffusion.process import make_process
from core.diffusion.samplers import make_steps, make_table, table_of
from core.diffusion.table import run
from tests.core.test_diffusion_samplers import (
    PROCESSES,
    curved_network,
    diffusers_loop,
    float64_copy,
    peer_options,
    relative,
    step_noise,
    x_start,
)
from tests.core.test_diffusion_solvers import DATA, ORDERS, STARTS, X0, slopes, uniform_levels

CLIPPED = {"thresholding": True, "sample_max_value": 1.0}
# sampler, its options; module, class, the peer's options, spacing
PEERS = [
    ("ddpm", {}, "scheduling_ddpm", "DDPMScheduler", {}, "trailing"),
    ("ddim", {}, "scheduling_ddim", "DDIMScheduler", {"clip_sample": False}, "trailing"),
    (
        "dpmsolver++",
        {"clip": True},
        "scheduling_dpmsolver_multistep",
        "DPMSolverMultistepScheduler",
        CLIPPED,
        "trailing",
    ),
    (
        "dpmsolver++2s",
        {"clip": True},
        "scheduling_dpmsolver_singlestep",
        "DPMSolverSinglestepScheduler",
        {"lower_order_final": True, **CLIPPED},
        "linspace",
    ),
    (
        "dpmsolver++3m",
        {},
        "scheduling_dpmsolver_multistep",
        "DPMSolverMultistepScheduler",
        {"solver_order": 3},
        "trailing",
    ),
    (
        "sde-dpmsolver++",
        {},
        "scheduling_dpmsolver_multistep",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++"},
        "trailing",
    ),
    *(
        (
            "unipc",
            {"order": k},
            "scheduling_unipc_multistep",
            "UniPCMultistepScheduler",
            {"solver_order": k},
            "trailing",
        )
        for k in (1, 2, 3)
    ),
]


def distance(sampler: str, options: dict, module: str, name: str, peer: dict, spacing: str, count: int) -> float:
    """Worst relative difference of a whole loop over three processes."""
    worst = 0.0
    for process_name in ("linear-eps", "linear-x0", "cosine-v"):
        copy = float64_copy(module)
        given = peer_options(PROCESSES[process_name], spacing)
        if "singlestep" in module:
            given = {k: v for k, v in given.items() if k not in ("timestep_spacing", "rescale_betas_zero_snr")}
        if sampler == "ddpm":
            given["clip_sample"] = False
        expected = diffusers_loop(copy, getattr(copy, name)(**given, **peer), count, sampler != "ddpm")
        config = SamplingConfig(sampler, count, spacing, **{"clip": False, **options})
        table = make_table(make_process(ProcessConfig(**PROCESSES[process_name])), config)
        found = run(table, curved_network, x_start(), step_noise)
        worst = max(worst, relative(found, expected))
    return worst


def main() -> None:
    """Print both tables as markdown."""
    print("| Sampler | Order | Gaussian data: 80-160, 160-320 steps | Mixture | Error at 320 steps, mixture |")
    print("|---|---|---|---|---|")
    for (sampler, order), _ in ORDERS.items():
        cells = [", ".join(f"{value:.2f}" for value in slopes(sampler, order, data)) for data in DATA]
        image, flow = DATA["mixture"]
        levels = uniform_levels(320)
        config = SamplingConfig(sampler, order=order, clip=False)
        rows, start = make_steps(X0, levels, config)
        table = table_of(X0, rows, config, start)
        found = run(table, lambda x, t, f=image, k=levels: f(x, k[int(t)]), STARTS, step_noise)
        error = np.median(np.abs(found - flow(STARTS, levels[0], levels[-1])))
        print(f"| `{sampler}` | {order or ''} | {cells[0]} | {cells[1]} | {error:.1e} |")
    print("\n| Sampler | Options | diffusers | Worst relative difference, 10 and 20 steps |\n|---|---|---|---|")
    for sampler, options, module, name, peer, spacing in PEERS:
        found = [distance(sampler, options, module, name, peer, spacing, count) for count in (10, 20)]
        words = ", ".join(f"{key} {value}" for key, value in options.items() if key != "clip")
        print(f"| `{sampler}` | {words} | `{name}` | {', '.join(f'{value:.1e}' for value in found)} |")


if __name__ == "__main__":
    main()
