"""The pipeline, run for real: its jobs are processes of this machine, and what they print is read back."""

from pathlib import Path

import pipeline
import pytest

from batchyard.testing.account import Batchyard


@pytest.fixture(scope="module", autouse=True)
def deployed(batchyard: Batchyard) -> None:
    pipeline.deploy()


def texts(folder: Path, *contents: str) -> str:
    for number, content in enumerate(contents):
        (folder / f"in.{number}").write_text(content)
    return str(folder)


def test_the_words_of_all_texts_are_counted(batchyard: Batchyard, tmp_path: Path) -> None:
    folder = texts(tmp_path, "one two", "three", "four five six")
    counts, total = batchyard.wait_all(pipeline.start(folder, 3))
    assert counts["arrayProperties"]["statusSummary"]["SUCCEEDED"] == 3
    assert total["status"] == "SUCCEEDED"
    assert batchyard.logs(total) == ["6"]


def test_a_missing_text_fails_the_sum_too(batchyard: Batchyard, tmp_path: Path) -> None:
    folder = texts(tmp_path, "one two")
    counts, total = batchyard.wait_all(pipeline.start(folder, 2))
    assert (counts["status"], total["status"]) == ("FAILED", "FAILED")
    assert total["statusReason"] == "Dependent Job failed"
    (line,) = batchyard.logs(f"{counts['jobId']}:1")
    assert "in.1" in line


def test_a_lost_host_is_nothing_to_worry_about(batchyard: Batchyard, tmp_path: Path) -> None:
    folder = texts(tmp_path, "one two", "three")
    counts, total = batchyard.wait_all(pipeline.start(folder, 2, tags={"batchyard:fault": "1:host-terminated"}))
    first = batchyard.describe([f"{counts['jobId']}:0"])[0]
    assert [attempt["statusReason"][:8] for attempt in first["attempts"]] == ["Host EC2", "Essentia"]
    assert batchyard.logs(total) == ["3"]


def test_each_test_can_have_an_account_of_its_own(fresh_batchyard: Batchyard) -> None:
    batch = fresh_batchyard.client()
    assert batch.describe_job_definitions()["jobDefinitions"] == []
    pipeline.deploy()
    assert len(batch.describe_job_definitions()["jobDefinitions"]) == 2
