"""The variables that a job finds in its environment."""

from batchyard.agent.runtimes.secrets import NO_SECRETS, Secrets
from batchyard.agent.state import Offer


def job_variables(offer: Offer, agent_id: str, secrets: Secrets = NO_SECRETS) -> dict[str, str]:
    """Return the job's own variables and secrets, overlaid by those that describe the job.

    Raises SecretError for a secret that it can't have.
    """
    spec = offer.spec
    variables = {pair.name: pair.value for pair in spec.container.environment}
    variables.update(secrets.variables(spec.container.secrets))
    if spec.container.job_role_arn:
        # As AWS's libraries read it; what it means is up to whoever gives the job its credentials.
        variables.setdefault("AWS_ROLE_ARN", spec.container.job_role_arn)
    variables["AWS_BATCH_JOB_ID"] = offer.job_id
    variables["AWS_BATCH_JOB_ATTEMPT"] = str(offer.attempt)
    variables["AWS_BATCH_JQ_NAME"] = spec.job_queue_name
    variables["AWS_BATCH_CE_NAME"] = offer.compute_environment
    if offer.array_index is not None:
        variables["AWS_BATCH_JOB_ARRAY_INDEX"] = str(offer.array_index)
        variables["AWS_BATCH_JOB_ARRAY_SIZE"] = str(spec.array_size)
    # For locks outside of Batchyard: a higher fence is a later run. Together they name a run on its host.
    variables["BATCHYARD_FENCE"] = fence_text(offer)
    variables["BATCHYARD_AGENT_ID"] = agent_id
    return variables


def fence_text(offer: Offer) -> str:
    """Return a run's fence as text."""
    return f"{offer.fence[0]}-{offer.fence[1]}"
