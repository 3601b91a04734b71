"""A pipeline on AWS Batch: count the words of many texts, one child of an array for each, and add the counts up.

Nothing here knows of Batchyard: on AWS it would run as it is.
"""

from collections.abc import Sequence
from typing import Any

import boto3

COUNT = 'wc -w < "Ref::folder/in.$AWS_BATCH_JOB_ARRAY_INDEX" > "Ref::folder/out.$AWS_BATCH_JOB_ARRAY_INDEX"'
ADD = 'cat Ref::folder/out.* | awk "{sum += \\$1} END {print sum}"'
RETRY_LOST_HOSTS: Any = {
    "attempts": 3,
    "evaluateOnExit": [
        {"onStatusReason": "Host EC2*", "action": "RETRY"},
        {"onReason": "*", "action": "EXIT"},
    ],
}


def deploy(image: str = "busybox") -> None:
    """Register the job definitions."""
    batch = boto3.client("batch")
    for name, script in (("count-words", COUNT), ("add-counts", ADD)):
        properties: Any = {"image": image, "command": ["sh", "-c", script], "vcpus": 1, "memory": 64}
        batch.register_job_definition(
            jobDefinitionName=name, type="container", containerProperties=properties, retryStrategy=RETRY_LOST_HOSTS
        )


def start(folder: str, texts: int, *, queue: str = "default", tags: dict[str, str] | None = None) -> Sequence[str]:
    """Count the words of the texts `in.0`, `in.1` and so on in a folder; return the ids of both jobs."""
    batch = boto3.client("batch")
    common: Any = {"jobQueue": queue, "parameters": {"folder": folder}}
    if tags:
        common["tags"] = tags
    counts = batch.submit_job(
        jobName="count-words", jobDefinition="count-words", arrayProperties={"size": texts}, **common
    )
    total = batch.submit_job(
        jobName="add-counts", jobDefinition="add-counts", dependsOn=[{"jobId": counts["jobId"]}], **common
    )
    return counts["jobId"], total["jobId"]
