"""`batchyard submit`: jobs from a file in AWS's member names."""

from collections.abc import Mapping
from typing import IO, Any, Final

import click
import msgspec
import yaml

from batchyard.api.jobs.v1.jobs_service_pb2 import SubmitJobRequest, SubmitJobResponse
from batchyard.api.operations.v1.job_operations_service_pb2 import SubmitJobsRequest
from batchyard.cli import options
from batchyard.cli.brief import BriefCommand
from batchyard.cli.output import members_of, print_json
from batchyard.cli.session import Server, Session, read, server_options
from batchyard.cli.wait import wait_and_tell
from batchyard.gateway.transcoder import MemberError, compile_decoder, member_name

JOBS_A_CALL: Final = 1000

_MEMBERS: Final = frozenset(member_name(field) for field in SubmitJobRequest.DESCRIPTOR.fields)


def requests_in(text: str) -> list[SubmitJobRequest]:
    """Return the jobs of a file: one, a list of them, or several YAML documents.

    Raises ClickException that says which job is wrong, and where. What no job has is refused: a typing mistake in a
    member's name must not make another job.
    """
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise click.ClickException(f"the file is neither JSON nor YAML: {error}") from None
    jobs = [job for document in documents for job in (document if isinstance(document, list) else [document])]
    if not jobs:
        raise click.ClickException("there is no job in the file")
    decode = compile_decoder(SubmitJobRequest.DESCRIPTOR)
    requests = []
    for number, job in enumerate(jobs, start=1):
        try:
            # Through JSON, so that dates and other things of YAML alone are refused, or become what they look like.
            plain = msgspec.json.decode(msgspec.json.encode(job))
            _check_members(plain)
            requests.append(decode(plain))
        except (MemberError, TypeError, ValueError) as error:
            which = f"job {number} of {len(jobs)}: " if len(jobs) > 1 else ""
            raise click.ClickException(f"{which}{error}") from None
    return [request for request in requests if isinstance(request, SubmitJobRequest)]


def _check_members(job: Any) -> None:
    unknown = [name for name in job if name not in _MEMBERS] if isinstance(job, Mapping) else []
    if unknown:
        raise ValueError(f"SubmitJob has no member {unknown[0]!r}. It has: {', '.join(sorted(_MEMBERS))}")


async def submit_all(session: Session, requests: list[SubmitJobRequest]) -> tuple[list[SubmitJobResponse], list[str]]:
    """Submit jobs; return the answers, and why others were refused."""
    accepted: list[SubmitJobResponse] = []
    refused: list[str] = []
    for start in range(0, len(requests), JOBS_A_CALL):
        part = requests[start : start + JOBS_A_CALL]
        answer = await session.call(session.operations.SubmitJobs, SubmitJobsRequest(jobs=part))
        for request, result in zip(part, answer.results, strict=True):
            if result.WhichOneof("result") == "submitted":
                accepted.append(result.submitted)
            else:
                refused.append(f"{request.job_name or 'a job without a name'}: {result.error}")
    return accepted, refused


@click.command(cls=BriefCommand)
@options.option("--wait", is_flag=True, help="Wait until they have ended, as `batchyard wait` does.")
@server_options()
@click.argument("file", type=click.File("r", encoding="utf-8"))
def submit(*, server: Server, file: IO[str], wait: bool) -> None:
    """Submit the jobs in FILE and print their ids; `-` is stdin.

    FILE is JSON or YAML in the member names of AWS's SubmitJob (jobName, jobQueue, jobDefinition, ...): one job, a list
    of jobs, or several YAML documents. Each job is accepted or refused alone; exits with 1 if any is refused.
    """
    requests = requests_in(read(file, "jobs in JSON or YAML"))

    async def act(session: Session) -> int:
        accepted, refused = await submit_all(session, requests)
        for text in refused:
            click.echo(f"batchyard: {text}", err=True)
        if wait and accepted:
            job_ids = [job.job_id for job in accepted]
            code = await wait_and_tell(session, job_ids, as_json=server.as_json, timeout_s=None)
            return code or bool(refused)
        if server.as_json:
            print_json({"jobs": [members_of(job) for job in accepted], "errors": refused})
        else:
            for job in accepted:
                click.echo(job.job_id)
        return 1 if refused else 0

    server.run(act)
