import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.pagination import decode_token, encode_token, page_size

positions = st.lists(st.text(st.characters(codec="utf-8")) | st.integers(-(2**63), 2**63 - 1), max_size=4)


@given(filter_key=st.text(st.characters(codec="utf-8")), position=positions)
def test_a_token_gives_its_position_back(filter_key: str, position: list[str | int]) -> None:
    assert decode_token(encode_token(filter_key, position), filter_key) == position


@given(position=positions)
def test_a_token_is_safe_in_a_url(position: list[str | int]) -> None:
    token = encode_token("listing", position)
    assert token.isascii()
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_a_token_of_another_listing_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="nextToken") as caught:
        decode_token(encode_token("queues of one account", ["a"]), "queues of another")
    assert caught.value.field == "nextToken"


@given(token=st.text(max_size=60))
def test_text_that_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidRequestError, match="nextToken"):
        decode_token(token, "listing")


@given(position=positions, data=st.data())
def test_a_changed_token_is_refused(position: list[str | int], data: st.DataObject) -> None:
    token = encode_token("listing", position)
    place = data.draw(st.integers(0, len(token) - 2))
    other = "A" if token[place] != "A" else "B"
    with pytest.raises(InvalidRequestError, match="nextToken"):
        decode_token(token[:place] + other + token[place + 1 :], "listing")


@pytest.mark.parametrize(("max_results", "size"), [(None, 100), (1, 1), (100, 100)])
def test_a_page_has_the_size_that_is_asked_for(max_results: int | None, size: int) -> None:
    assert page_size(max_results) == size


@pytest.mark.parametrize("max_results", [0, -1, 101])
def test_a_size_outside_1_to_100_is_refused(max_results: int) -> None:
    with pytest.raises(InvalidRequestError, match="maxResults must be between 1 and 100"):
        page_size(max_results)


def test_a_page_never_holds_more_than_100_even_where_more_may_be_asked_for() -> None:
    assert page_size(1000, maximum=1000) == 100
