"""Batches and noise made ahead in a thread."""

import threading
import time

import numpy as np
import pytest

from core.ahead import Ahead
from core.config import ProcessConfig, SamplingConfig
from core.diffusion.process import make_process
from core.diffusion.samplers import make_table
from core.inference.sampling import Conditioned, KeyedNoise, run_table
from core.training.training import Training
from tests.command_line import refused, run, weights_of
from tests.numpy_impl.sampler import Network
from tests.numpy_impl.trainer import Trainer


def test_two_batches_are_made_ahead_and_none_beyond_the_last():
    made, release = [], threading.Event()

    def make(step):
        made.append((step, threading.current_thread()))
        if step == 2:
            release.set()
        return 10 * step

    ahead = Ahead(make, range(5), 2)
    assert ahead.take(0) == 0 and release.wait(5)
    assert [ahead.take(step) for step in range(1, 5)] == [10, 20, 30, 40]
    assert [step for step, _ in made] == [0, 1, 2, 3, 4]
    assert threading.current_thread() not in {thread for _, thread in made}
    assert len({thread for _, thread in made}) == 1
    assert ahead.take(4) == 40 and ahead.take(7) == 70, "a step again, and one beyond the last"


def test_an_error_is_raised_at_its_step():
    def make(step):
        if step == 2:
            raise ValueError("images[7]: not finite")
        return step

    ahead = Ahead(make, range(5), 2)
    assert [ahead.take(0), ahead.take(1)] == [0, 1]
    with pytest.raises(ValueError, match=r"images\[7\]: not finite"):
        ahead.take(2)


def test_the_thread_ends_with_its_owner():
    ahead = Ahead(lambda step: step, range(5), 2)
    ahead.take(0)
    (thread,) = ahead.pool._threads
    del ahead
    thread.join(5)
    assert not thread.is_alive()


@pytest.fixture
def on_a_gpu(monkeypatch):
    """The NumPy twin as if its steps ran beside the host; the names of the threads that put a batch there."""
    threads, put = [], Trainer.put

    def noted(self, batch):
        threads.append(threading.current_thread().name)
        return put(self, batch)

    monkeypatch.setattr(Trainer, "put", noted)
    monkeypatch.setattr(Trainer, "asynchronous", True)
    return threads


def test_a_run_with_batches_made_ahead_is_the_same(recipe, tmp_path, on_a_gpu, monkeypatch):
    folders = tmp_path / "ahead", tmp_path / "plain"
    assert run("train", "--config", recipe, "--run", folders[0])[0] == 0
    assert len(on_a_gpu) == 4 and all(name.startswith("ahead") for name in on_a_gpu)
    monkeypatch.setattr(Trainer, "asynchronous", False)
    assert run("train", "--config", recipe, "--run", folders[1])[0] == 0
    assert len(on_a_gpu) == 8 and threading.current_thread().name == on_a_gpu[-1]
    assert weights_of(folders[0]) == weights_of(folders[1])


def test_importance_sampling_makes_no_batch_before_it_has_the_losses(recipe, tmp_path, on_a_gpu, monkeypatch):
    step = Trainer.step

    def with_losses(self, batch, scalars):
        return {**step(self, batch, scalars), "losses": np.ones(len(batch["t"]))}

    monkeypatch.setattr(Trainer, "step", with_losses)
    flags = ("--training.timestep-sampling", "importance")
    assert run("train", "--config", recipe, "--run", tmp_path / "run", *flags)[0] == 0
    assert on_a_gpu == [threading.current_thread().name] * 4


def test_an_error_and_a_signal_end_a_run_as_without_a_thread(recipe, tmp_path, on_a_gpu, monkeypatch):
    monkeypatch.setattr(Trainer, "interrupt_at", 2)
    code, out, _ = run("train", "--config", recipe, "--run", tmp_path / "stopped")
    assert code == 130 and "go on with" in out
    monkeypatch.setattr(Trainer, "interrupt_at", None)
    batch = Training.batch

    def broken(self, step):
        if step == 3:
            raise ValueError("data/7.npy: not finite")
        return batch(self, step)

    monkeypatch.setattr(Training, "batch", broken)
    folder = tmp_path / "broken"
    assert refused(2, "train", "--config", recipe, "--run", folder) == "error: data/7.npy: not finite"
    assert (folder / "latest").read_text() == "step-00000002\n"
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("ahead") for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.name.startswith("ahead") for thread in threading.enumerate())


@pytest.mark.parametrize("options", [{"sampler": "ddpm"}, {"sampler": "heun", "churn": 0.5}, {"sampler": "ddim"}])
def test_noise_drawn_one_row_ahead_gives_the_same_images(options, monkeypatch):
    process = make_process(ProcessConfig(50))
    table, threads, taken = make_table(process, SamplingConfig(steps=6, **options)), [], []
    network, real = Network(lambda x, t: np.tanh(x) / 2), KeyedNoise.__call__

    def noted(self, purpose, part, step=0):
        threads.append((purpose, threading.current_thread().name.split("_")[0]))
        taken.append((purpose, len(part), step))
        return real(self, purpose, part, step)

    monkeypatch.setattr(KeyedNoise, "__call__", noted)
    found = []
    for network.asynchronous in (False, True):
        taken.clear(), threads.clear()
        images = run_table(table, Conditioned(network, {}), KeyedNoise(3, range(5), (4, 6, 2), "float64"), 3)
        found.append((images.tobytes(), sorted(taken)))
    assert found[0] == found[1]
    assert all((name == "ahead") == (purpose == "sampler") for purpose, name in threads)
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("ahead") for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.name.startswith("ahead") for thread in threading.enumerate())
