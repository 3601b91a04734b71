"""The benchmarks themselves, on a little work: they measure what ran, and read it back."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_case_is_measured_read_back_and_reported(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--scale", "0.02", "--to", str(tmp_path), "array-1000"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    line = json.loads((tmp_path / "results.jsonl").read_text())
    assert line["checks"] == {"exit_codes": {"0": 20}, "complete_logs": 20, "synchronous": 2}
    assert line["per_s"] > 0
    assert line["floor_per_s"] > 0
    assert set(line["cpu_us_each"]) == {"control plane", "agent", "launcher", "jobs"}
    assert "| array-1000 | batchyard | 20 |" in (tmp_path / "report.md").read_text()
