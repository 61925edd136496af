"""Real trainings, killed at random moments, that go on. tests/core/test_cli_crash.py kills a NumPy twin at each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.kill import Campaign, table

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_training_that_is_disturbed_ends_with_every_bit_of_one_that_was_not(backend, tmp_path):
    words = ["--framework", backend.name, "--kills", 15, "--seed", 1, "--results", tmp_path / "results.jsonl"]
    command = [sys.executable, "-m", "tests.chaos.kill", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(lines) >= 15 and table(lines) in done.stdout


def test_a_campaign_that_was_cut_off_goes_on(tmp_path):
    campaign = Campaign("torch", 3, tmp_path / "results.jsonl", tmp_path)
    assert campaign.lines() == []
    new = {"framework": "torch", "seed": 3, "case": 0}
    campaign.append([new, {**new, "case": 1}], "abc")
    with open(campaign.results, "a") as file:
        file.write('{"framework": "tor')
    campaign.append([{**new, "case": 2}, {**new, "seed": 4}], "abc")
    assert campaign.lines() == [{**new, "case": case, "commit": "abc"} for case in (0, 1, 2)]
