"""Training: batches, timesteps, scalars of the optimiser, the loop, evaluation during training, averages after it.

training.py makes batches and takes steps, distillation.py with a teacher's images; levels.py draws timesteps,
optim.py computes scalars, and core/ahead.py makes batches ahead in a thread. loop.py is the training loop, run.py a run
in its folder, evaluation.py the distance to held-out images, posthoc_ema.py averages after training.
This room may import every room of core except core.worker and core.commands, and no framework: a twin supplies the
Trainer. tqdm is imported where it is used.
"""
