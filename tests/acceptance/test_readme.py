"""The examples of the README do what it says."""

import subprocess
import sys
from pathlib import Path

from support.installation import start_up
from support.pages import block


def test_the_python_examples_run_a_job_each(tmp_path: Path) -> None:
    examples = [block("README.md", "python", "boto3"), block("README.md", "python", "grpc")]
    up = start_up(tmp_path / "data")
    try:
        printed = [
            subprocess.run(
                [sys.executable, "-c", with_addresses(example, up.http_url, up.grpc_target)],
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            ).stdout.split("\n")
            for example in examples
        ]
    finally:
        up.close()
    by_boto3, by_grpc = printed
    assert by_boto3 == ["SUCCEEDED 0", ""]
    assert by_grpc[-2:] == ["JOB_STATUS_SUCCEEDED", ""]


def with_addresses(example: str, http_url: str, grpc_target: str) -> str:
    """Return the example with the addresses of this installation in place of the usual ones."""
    assert ("http://127.0.0.1:8080" in example) != ("127.0.0.1:8081" in example)
    return example.replace("http://127.0.0.1:8080", http_url).replace("127.0.0.1:8081", grpc_target)
