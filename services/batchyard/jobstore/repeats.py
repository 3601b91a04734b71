"""Requests that a client sends again because the answer was lost: they are answered as before, not carried out twice.

An AWS SDK repeats a request by itself with the same invocation id. The answer is stored under a key of everything that
makes two requests the same one, in the transaction that does what it says.
"""

from hashlib import blake2b
from typing import Final

from google.protobuf.message import Message

from batchyard.domain.names import Caller
from batchyard.jobstore.group import Group, Submission
from batchyard.rpc.identity import Invocation
from batchyard.storage.jobs import RequestKey

KEY_BYTES: Final = 16


def request_key(
    caller: Caller, invocation: Invocation | None, operation: str, request: Message, index: int = 0
) -> RequestKey | None:
    """Return what a repetition of the request has in common with it; None for one that does not say which it is.

    `index` is its place among others that were sent in one call.
    """
    if invocation is None:
        return None
    body = request.SerializeToString(deterministic=True)
    key = blake2b(body, digest_size=KEY_BYTES)
    for part in (caller.namespace, invocation.credential, operation, invocation.invocation_id, str(index)):
        key.update(b"\0" + part.encode())
    return RequestKey(key.digest())


def submit_once(group: Group, new: Submission, key: RequestKey, answer: bytes) -> bytes:
    """Take a job in, unless the same request was answered before; return the answer that stands."""
    known = group.answer_to(key)
    if known is not None:
        return known
    group.submit(new)
    group.keep_answer(key, answer)
    return answer
