"""The verifier of signatures: AWS's own vectors, botocore as an oracle, and whatever can be wrong with a request."""

import hmac
import string
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch
from urllib.parse import quote

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from batchyard.gateway import sigv4
from batchyard.gateway.access_keys import AccessKey
from batchyard.gateway.asgi import Request
from batchyard.gateway.aws_errors import AwsError
from batchyard.gateway.identity import parse_authorization
from batchyard.gateway.sigv4 import SignatureVerifier

KEY_ID: Final = "AKIDEXAMPLE"
SECRET: Final = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
SIGNED_AT: Final = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
KEY: Final = AccessKey(SECRET, "210987654321")
HOST: Final = "127.0.0.1:8080"


def verified(
    request: Request,
    body: bytes = b"",
    *,
    key: AccessKey = KEY,
    service: str = "batch",
    now: datetime = SIGNED_AT,
) -> AccessKey:
    """Have a request verified whose one legal key this is."""
    verifier = SignatureVerifier({KEY_ID: key}, now.timestamp)
    authorization = parse_authorization(request.headers.get("authorization"))
    verifier.check_head(request, authorization, service)
    return verifier.verify(request, authorization, body)


def refusal(request: Request, body: bytes = b"", **circumstances: Any) -> tuple[int, str]:
    """Return status and type of the error with which a request is refused."""
    with pytest.raises(AwsError) as caught:
        verified(request, body, **circumstances)
    return caught.value.status, caught.value.error_type


INVALID: Final = (403, "InvalidSignatureException")
UNKNOWN: Final = (403, "UnrecognizedClientException")
INCOMPLETE: Final = (400, "IncompleteSignatureException")


def signed(
    verb: str = "POST",
    target: str = "/v1/submitjob",
    body: bytes = b'{"jobName":"a"}',
    headers: Mapping[str, str] | None = None,
    *,
    key_id: str = KEY_ID,
    secret: str = SECRET,
    token: str | None = None,
    at: datetime = SIGNED_AT,
    service: str = "batch",
    signer: type[SigV4Auth] = SigV4Auth,
) -> Request:
    """Return a request that botocore has signed, as it arrives."""
    outgoing = AWSRequest(verb, f"http://{HOST}{target}", headers=dict(headers or {}), data=body)
    with patch("botocore.auth.get_current_datetime", return_value=at):
        signer(Credentials(key_id, secret, token), service, "us-east-1").add_auth(outgoing)
    path, _, query = str(outgoing.url).removeprefix(f"http://{HOST}").partition("?")
    # As clients of HTTP do, what was signed apart from the host goes along; the user agent is never signed.
    arrived = {name.lower(): value for name, value in outgoing.headers.items()}
    return Request(verb, path, {"host": HOST, "user-agent": "Boto3/1", **arrived}, query)


def with_header(request: Request, name: str, value: str | None) -> Request:
    headers = {other: text for other, text in request.headers.items() if other != name}
    return replace(request, headers=headers if value is None else {**headers, name: value})


FORM: Final = {"content-type": "application/x-www-form-urlencoded"}
VECTORS: Final[Mapping[str, tuple[str, str, str, Mapping[str, str], bytes, str]]] = {
    # Of AWS's test suite: verb, path, query, headers other than host and x-amz-date, body, signature.
    "get-vanilla": ("GET", "/", "", {}, b"", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    "post-vanilla": ("POST", "/", "", {}, b"", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    "get-vanilla-query-order-key-case": (
        *("GET", "/", "Param2=value2&Param1=value1", {}, b""),
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    "get-vanilla-utf8-query": (
        *("GET", "/", "%E1%88%B4=bar", {}, b""),
        "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
    ),
    "get-unreserved": (
        *("GET", f"/-._~{string.digits}{string.ascii_uppercase}{string.ascii_lowercase}", "", {}, b""),
        "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
    ),
    "get-utf8": (
        *("GET", "/ሴ".encode().decode("latin-1"), "", {}, b""),
        "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85",
    ),
    "get-header-key-duplicate": (
        *("GET", "/", "", {"my-header1": "value2,value2,value1"}, b""),
        "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
    ),
    "get-header-value-trim": (
        *("GET", "/", "", {"my-header1": " value1", "my-header2": ' "a   b   c"'}, b""),
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    ),
    "post-header-key-sort": (
        *("POST", "/", "", {"my-header1": "value1"}, b""),
        "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
    ),
    "post-x-www-form-urlencoded": (
        *("POST", "/", "", FORM, b"Param1=value1"),
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
}


@pytest.mark.parametrize("vector", VECTORS)
def test_a_vector_of_awss_test_suite_is_verified(vector: str) -> None:
    verb, path, query, headers, body, signature = VECTORS[vector]
    headers = {"host": "example.amazonaws.com", "x-amz-date": "20150830T123600Z", **headers}
    scope = "20150830/us-east-1/service/aws4_request"
    parts = f"Credential={KEY_ID}/{scope}, SignedHeaders={';'.join(sorted(headers))}, Signature={signature}"
    request = Request(verb, path, {**headers, "authorization": f"AWS4-HMAC-SHA256 {parts}"}, query)
    assert verified(request, body, service="service") == KEY


_names = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=12).filter(
    lambda name: name[0] != "-" and name not in {"host", "authorization", "expect", "user-agent", "connection"}
)
_values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
_targets = st.builds(
    lambda segments, query: "/" + "/".join(segments) + (f"?{query}" if query else ""),
    st.lists(
        st.text(min_size=1, max_size=8).filter(lambda text: text not in (".", "..")).map(lambda t: quote(t, safe="")),
        max_size=4,
    ),
    st.lists(st.tuples(st.text(max_size=6), st.text(max_size=6)), max_size=4).map(
        lambda pairs: "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs)
    ),
)


@given(
    verb=st.sampled_from(["GET", "POST", "DELETE"]),
    target=_targets,
    headers=st.dictionaries(_names, _values, max_size=4),
    body=st.binary(max_size=64),
    token=st.none() | st.just("a token"),
)
def test_what_botocore_signs_is_verified(
    verb: str, target: str, headers: dict[str, str], body: bytes, token: str | None
) -> None:
    request = signed(verb, target, body, headers, token=token)
    assert verified(request, body, key=replace(KEY, session_token=token or "")).namespace == "210987654321"


@pytest.mark.parametrize("digest", ["UNSIGNED-PAYLOAD", sha256(b"signed").hexdigest()])
def test_a_header_never_stands_for_the_body(digest: str) -> None:
    request = signed(body=b"signed", headers={"x-amz-content-sha256": digest})
    assert refusal(request, b"other") == INVALID


def test_a_header_that_tells_the_hash_of_the_body_does_no_harm() -> None:
    assert verified(signed(body=b"a", headers={"x-amz-content-sha256": sha256(b"a").hexdigest()}), b"a") == KEY


PATH: Final = "/v1/tags/" + quote("arn:aws:batch:us-east-1:1:job-queue/a b+é", safe="")


@given(position=st.integers(0), byte=st.integers(1, 255))
def test_no_byte_of_the_body_can_be_changed(position: int, byte: int) -> None:
    body = bytearray(b'{"jobName":"a"}')
    request = signed(body=bytes(body))
    body[position % len(body)] ^= byte
    assert refusal(request, bytes(body)) == INVALID


@pytest.mark.parametrize("position", range(len(PATH)))
def test_no_character_of_the_path_can_be_changed(position: int) -> None:
    request = signed("GET", PATH, b"")
    other = "b" if PATH[position] != "b" else "c"
    assert refusal(replace(request, path=PATH[:position] + other + PATH[position + 1 :])) == INVALID


@pytest.mark.parametrize(
    "path", [PATH.replace("%2F", "/"), PATH.replace("%2F", "%2f"), PATH.replace("%2B", "+"), PATH + "/", "/" + PATH]
)
def test_another_spelling_of_the_path_is_another_path(path: str) -> None:
    assert refusal(replace(signed("GET", PATH, b""), path=path)) == INVALID


QUERY: Final = "tagKeys=a%2Bb&tagKeys=c%20d&empty="


@pytest.mark.parametrize(
    "query",
    [
        "tagKeys=a+b&tagKeys=c%20d&empty=",
        "tagKeys=a%2Bb&tagKeys=c%20e&empty=",
        "tagKeys=a%2Bb&tagKeys=c%20d&empty=&tagKeys=more",
        "tagKeys=a%2Bb&tagKeys=c%20d",
        "tagKeys=a%252Bb&tagKeys=c%20d&empty=",
        "tagKeys=a%2Bb&tagkeys=c%20d&empty=",
        "",
    ],
)
def test_the_query_cannot_be_changed(query: str) -> None:
    request = signed("DELETE", f"{PATH}?{QUERY}", b"")
    assert verified(request) == KEY
    assert refusal(replace(request, query=query)) == INVALID


def test_what_means_the_same_in_a_query_is_verified() -> None:
    request = signed("DELETE", f"{PATH}?{QUERY}", b"")
    assert verified(replace(request, query="empty&tagKeys=c+d&&tagKeys=a%2bb")) == KEY


def test_the_verb_cannot_be_changed() -> None:
    assert refusal(replace(signed("GET", PATH, b""), verb="DELETE")) == INVALID


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", "127.0.0.1:8081"),
        ("host", None),
        ("x-amz-date", "20150830T123601Z"),
        ("x-amz-date", None),
        ("content-type", "text/plain"),
        ("x-amz-target", "Logs_20140328.PutLogEvents"),
        ("x-amz-target", None),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ("x-amz-new", "not signed"),
    ],
)
def test_no_header_that_counts_can_be_changed_left_out_or_added(name: str, value: str | None) -> None:
    request = signed(headers={"content-type": "application/json", "x-amz-target": "Logs_20140328.GetLogEvents"})
    body = b'{"jobName":"a"}'
    assert verified(request, body) == KEY
    assert refusal(with_header(request, name, value), body) == INVALID


@pytest.mark.parametrize("name", ["host", "x-amz-date"])
def test_host_and_date_must_be_among_what_is_signed(name: str) -> None:
    request = signed()
    authorization = request.headers["authorization"]
    fewer = authorization.replace("host;x-amz-date", "host;x-amz-date".replace(name, "").strip(";"))
    assert refusal(with_header(request, "authorization", fewer), b'{"jobName":"a"}') == INVALID


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (KEY_ID, "AKIDOTHER", UNKNOWN),
        ("/us-east-1/", "/us-east-2/", INVALID),
        ("/batch/", "/logs/", INVALID),
        ("/20150830/", "/20150831/", INVALID),
        ("host;x-amz-date", "x-amz-date;host", INVALID),
        ("host;x-amz-date", "host;host;x-amz-date", INVALID),
        ("host;x-amz-date", "Host;x-amz-date", INVALID),
        ("host;x-amz-date", "host;x-absent;x-amz-date", INVALID),
        ("Signature=", "Signature=0", INVALID),
        ("Signature=", "Signature=é", INVALID),
        ("Signature=", "Sign=", INCOMPLETE),
        ("Signature=", "Signature=a, Signature=", INCOMPLETE),
        ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512", INCOMPLETE),
    ],
)
def test_no_part_of_the_authorization_can_be_changed(old: str, new: str, expected: tuple[int, str]) -> None:
    request = signed()
    authorization = request.headers["authorization"]
    assert old in authorization
    changed = with_header(request, "authorization", authorization.replace(old, new, 1))
    assert refusal(changed, b'{"jobName":"a"}') == expected


@given(st.integers(0, 63), st.sampled_from(string.hexdigits + "xé"))
def test_no_digit_of_the_signature_can_be_changed(position: int, digit: str) -> None:
    request = signed()
    head, _, signature = request.headers["authorization"].rpartition("Signature=")
    changed = signature[:position] + digit + signature[position + 1 :]
    if changed != signature:
        assert (
            refusal(with_header(request, "authorization", f"{head}Signature={changed}"), b'{"jobName":"a"}') == INVALID
        )


@given(st.text(st.characters(max_codepoint=255), max_size=40), st.integers(0, 250), st.integers(0, 250))
def test_whatever_stands_in_the_authorization_is_refused_in_the_same_way(text: str, start: int, end: int) -> None:
    request = signed()
    authorization = request.headers["authorization"]
    changed = authorization[:start] + text + authorization[end:]
    if changed != authorization:
        with pytest.raises(AwsError) as caught:
            verified(with_header(request, "authorization", changed))
        assert caught.value.status in (400, 403)


def test_a_signature_by_another_secret_is_refused() -> None:
    assert refusal(signed(secret="x" * 40), b'{"jobName":"a"}') == INVALID


def test_an_unknown_key_is_not_known_whatever_signed_it() -> None:
    assert refusal(signed(key_id="AKIDOTHER"), b'{"jobName":"a"}') == UNKNOWN
    assert refusal(signed(key_id="AKIDOTHER", secret=""), b'{"jobName":"a"}') == UNKNOWN


def test_an_unknown_key_costs_what_a_wrong_signature_costs() -> None:
    verifier = SignatureVerifier({KEY_ID: KEY}, SIGNED_AT.timestamp)

    def work(key_id: str) -> list[str]:
        done: list[str] = []

        def noting(name: str) -> Any:
            def call(*arguments: Any) -> Any:
                done.append(name)
                return getattr(hmac, name)(*arguments)

            return call

        request = signed(key_id=key_id, secret="x" * 40)
        counted = SimpleNamespace(**{name: noting(name) for name in ("new", "digest", "compare_digest")})
        with patch.object(sigv4, "hmac", counted), pytest.raises(AwsError):
            verifier.verify(request, parse_authorization(request.headers["authorization"]), b"")
        return done

    assert work("AKIDOTHER") == work(KEY_ID) == ["digest"] * 4 + ["new"] + ["compare_digest"] * 2
    assert work("AKIDOTHER") == work(KEY_ID) == ["new"] + ["compare_digest"] * 2


@pytest.mark.parametrize(
    ("late", "accepted"), [(-901, False), (-899, True), (0, True), (899, True), (901, False), (10**8, False)]
)
def test_clocks_may_be_a_quarter_of_an_hour_apart(late: int, accepted: bool) -> None:
    request, now = signed(), SIGNED_AT + timedelta(seconds=late)
    if accepted:
        assert verified(request, b'{"jobName":"a"}', now=now) == KEY
    else:
        assert refusal(request, b'{"jobName":"a"}', now=now) == INVALID


@pytest.mark.parametrize(
    "text", ["", "Sun, 30 Aug 2015 12:36:00 GMT", "20150830T1236Z", "20150830T126000Z", "\u0662\u06600150830T123600Z"]
)
def test_a_date_must_be_one(text: str) -> None:
    assert refusal(with_header(signed(), "x-amz-date", text)) == INVALID


def test_a_key_that_is_given_another_secret_has_no_old_one() -> None:
    keys = {KEY_ID: KEY}
    verifier = SignatureVerifier(keys, SIGNED_AT.timestamp)
    old, new, body = signed(), signed(secret="x" * 40), b'{"jobName":"a"}'
    assert verifier.verify(old, parse_authorization(old.headers["authorization"]), body) == KEY
    keys[KEY_ID] = AccessKey("x" * 40)
    assert verifier.verify(new, parse_authorization(new.headers["authorization"]), body) == keys[KEY_ID]
    with pytest.raises(AwsError, match="does not match"):
        verifier.verify(old, parse_authorization(old.headers["authorization"]), body)


def test_a_session_token_must_be_that_of_the_key() -> None:
    key, body = replace(KEY, session_token="right"), b'{"jobName":"a"}'
    assert verified(signed(token="right"), body, key=key) == key
    assert refusal(signed(token="wrong"), body, key=key) == UNKNOWN
    assert refusal(signed(), body, key=key) == UNKNOWN
    assert refusal(signed(token="right"), body) == UNKNOWN


def test_a_key_ends_when_its_record_says_so() -> None:
    key, body = replace(KEY, expires=SIGNED_AT + timedelta(seconds=5)), b'{"jobName":"a"}'
    assert verified(signed(), body, key=key, now=SIGNED_AT + timedelta(seconds=4)) == key
    assert refusal(signed(), body, key=key, now=SIGNED_AT + timedelta(seconds=5)) == (403, "ExpiredTokenException")
    assert refusal(signed(secret="x" * 40), body, key=key, now=SIGNED_AT + timedelta(seconds=5)) == INVALID


def test_a_presigned_request_is_refused() -> None:
    presigned = signed("GET", PATH, b"", signer=SigV4QueryAuth)
    assert "X-Amz-Signature" in presigned.query
    assert refusal(presigned) == (403, "MissingAuthenticationTokenException")
    both = with_header(presigned, "authorization", signed("GET", PATH, b"").headers["authorization"])
    assert refusal(both) == INCOMPLETE


def test_no_error_tells_a_secret() -> None:
    for request in (
        signed(),
        signed(token="wrong"),
        signed(key_id="AKIDOTHER"),
        signed(at=SIGNED_AT.replace(year=2001)),
    ):
        with pytest.raises(AwsError) as caught:
            verified(request, b"another body")
        assert SECRET not in caught.value.message
    assert SECRET not in repr(KEY)
