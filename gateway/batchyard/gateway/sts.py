"""The one operation of AWS's Security Token Service that is served: who am I.

STS speaks AWS's query protocol: a form goes in, XML comes out. The gateway answers by itself, as it alone knows.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from batchyard.domain.names import Caller
from batchyard.gateway.asgi import Request
from batchyard.gateway.aws_errors import AwsError, Protocol
from batchyard.rpc.identity import Invocation

FORM: Final = "application/x-www-form-urlencoded"
"""The content type of the protocol's requests."""
_NAMESPACE: Final = "https://sts.amazonaws.com/doc/2011-06-15/"
_SHOWN_CHARACTERS: Final = 64
_CODES: Final = {
    "AccessDeniedException": "AccessDenied",
    "ExpiredTokenException": "ExpiredToken",
    "IncompleteSignatureException": "IncompleteSignature",
    "InvalidSignatureException": "SignatureDoesNotMatch",
    "MissingAuthenticationTokenException": "MissingAuthenticationToken",
    "UnrecognizedClientException": "InvalidClientTokenId",
}
"""What the services of the query protocol say in place of what those of the JSON protocols say."""


@dataclass(frozen=True, slots=True)
class QueryProtocol(Protocol):
    """How AWS's services of the query protocol write their answers."""

    xml_namespace: str = ""

    def body_of(self, error: AwsError, request_id: str) -> bytes:
        """Return the body of an error's answer."""
        code = _CODES.get(error.error_type, error.error_type)
        sender = "Sender" if error.status < 500 else "Receiver"
        return (
            f'<ErrorResponse xmlns="{self.xml_namespace}"><Error><Type>{sender}</Type>'
            f"<Code>{escape(code)}</Code><Message>{escape(error.message)}</Message></Error>"
            f"<RequestId>{request_id}</RequestId></ErrorResponse>"
        ).encode("utf-8", "replace")


STS: Final = QueryProtocol(
    content_type="text/xml",
    client_error="ValidationError",
    server_error="InternalFailure",
    throttled=(400, "Throttling"),
    signing_name="sts",
    type_in_body=True,
    xml_namespace=_NAMESPACE,
)


class GetCallerIdentity:
    """Tells a caller for which account it acts."""

    name: Final = "GetCallerIdentity"

    async def call(
        self, _head: Request, body: bytes, caller: Caller, request_id: str, _invocation: Invocation | None = None
    ) -> bytes:
        """Return the answer's body; raise AwsError for any other operation."""
        action = _action_in(body)
        if action != self.name:
            shown = action[:_SHOWN_CHARACTERS] if action.isalnum() else "that"
            raise AwsError(
                400, "InvalidAction", f"Could not find operation {shown}: this server has {self.name} alone."
            )
        account = caller.namespace
        return (
            f'<GetCallerIdentityResponse xmlns="{_NAMESPACE}"><GetCallerIdentityResult>'
            f"<Arn>arn:aws:iam::{account}:root</Arn><UserId>{account}</UserId><Account>{account}</Account>"
            f"</GetCallerIdentityResult><ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>"
            "</GetCallerIdentityResponse>"
        ).encode()


def _action_in(body: bytes) -> str:
    try:
        return dict(parse_qsl(body.decode("ascii"), errors="strict")).get("Action", "")
    except ValueError:
        raise AwsError(400, "MalformedQueryString", "The request body is not a form.") from None
