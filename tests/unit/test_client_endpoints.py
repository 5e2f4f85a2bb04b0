"""Several controllers, as a client sees them: whom it asks, when it goes on to the next, what it tells it has seen."""

from __future__ import annotations

import pytest

from weft.client.endpoints import EndPoints
from weft.kit.errors import Rejected
from weft.wire.api import AT_LEAST, SEEN


def test_whoever_fails_is_passed_over_by_the_next_and_after_the_last_comes_the_first() -> None:
    ends = EndPoints("https://c1:8640, https://c2:8640,unix:///run/c3")
    assert ends.url == "https://c1:8640"
    ends.failed(0)
    assert ends.url == "https://c2:8640"
    ends.failed(0)  # somebody who was slower to notice
    assert ends.url == "https://c2:8640"
    ends.failed(1)
    ends.failed(2)
    assert ends.url == "https://c1:8640"


def test_a_client_tells_the_newest_that_it_has_seen_of_a_store() -> None:
    ends = EndPoints("http://127.0.0.1:1,http://127.0.0.1:2")
    assert ends.headers() == {}
    ends.note({SEEN: "7@x.1"})
    ends.note({SEEN: "5@x.1"})
    assert ends.headers() == {AT_LEAST: "7@x.1"}
    # Of another release's controller at the same store: its revisions are the same.
    ends.note({SEEN: "6@x.2"})
    assert ends.headers() == {AT_LEAST: "7@x.2"}
    ends.note({SEEN: "2@y.1"})
    assert ends.headers() == {AT_LEAST: "2@y.1"}
    ends.note({})
    assert ends.headers() == {AT_LEAST: "2@y.1"}


@pytest.mark.parametrize("urls", ["", ",", "http://c1:8640,ftp://c2", "c1:8640"])
def test_what_is_no_url_is_refused(urls: str) -> None:
    with pytest.raises(Rejected, match="is not a controller's URL"):
        EndPoints(urls)
