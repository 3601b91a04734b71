"""The API without an SDK: requests and answers as they are on the wire."""

import http.client
from typing import Any
from urllib.parse import urlsplit

import msgspec

from support.gateway import Response, authorization


class Wire:
    """One account on one connection, without an SDK."""

    def __init__(self, http_url: str, account: str) -> None:
        self.account = account
        self._connection = http.client.HTTPConnection(urlsplit(http_url).netloc)

    def send(self, verb: str, path: str, body: bytes = b"", headers: Any = None) -> Response:
        """Send a request; return the answer, whatever it is."""
        own = {"Authorization": authorization(self.account, region="eu-central-1"), **(headers or {})}
        self._connection.request(verb, path, body or None, own)
        answer = self._connection.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return Response(answer.status, names, answer.read())

    def call(self, operation: str, **members: Any) -> Any:
        """Call an operation that succeeds; return the members of the answer."""
        response = self.send("POST", f"/v1/{operation}", msgspec.json.encode(members))
        assert response.status == 200, response.body
        assert response.headers["content-type"] == "application/json"
        return response.members

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
