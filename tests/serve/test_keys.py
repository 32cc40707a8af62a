"""API keys: what a line may say, whose key it is, and how much of it a minute."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from cm3.errors import ConfigError
from cm3.serve.keys import Bucket, Key, Keys
from cm3.serve.problem import Problem

SECRET, OTHER = "studio-secret-0123456789", "another-secret-0123456789"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def keys(text: str, clock: Clock | None = None) -> Keys:
    """Keys of the variable's text."""
    return Keys.read(None, text, clock or Clock())


def key(text: str, clock: Clock) -> Key:
    """The key of one line."""
    found = keys(text, clock).find(f"Bearer {text.split()[1]}")
    assert found is not None
    return found


def refusal(key: Key) -> Problem:
    with pytest.raises(Problem) as caught, key.request():
        pass
    return caught.value


def test_a_key_is_found_by_its_bearer() -> None:
    known = keys(f"studio {SECRET}; page {OTHER}")
    assert len(known) == 2
    for said, name in ((f"Bearer {SECRET}", "studio"), (f"bearer  {OTHER} ", "page")):
        found = known.find(said)
        assert found is not None and found.name == name


@pytest.mark.parametrize(
    "said",
    [None, "", "Bearer", "Bearer ", SECRET, f"Basic {SECRET}", f"Bearer {SECRET}x", f"Bearer {SECRET[:-1]}", "\udcff"],
)
def test_none_and_a_wrong_key_are_refused_alike(said: str | None) -> None:
    known, messages = keys(f"studio {SECRET}"), set()
    for given in (said, "Bearer wrong"):
        with pytest.raises(Problem) as caught:
            known.find(given)
        problem = caught.value
        assert problem.status == 401 and problem.code == "invalid_api_key"
        assert problem.headers["WWW-Authenticate"] == "Bearer"
        messages.add(str(problem.body))
    assert len(messages) == 1


def test_without_keys_everyone_may_ask() -> None:
    assert not len(Keys()) and Keys().find(None) is None and Keys.read().find("Bearer x") is None


def test_a_file_and_the_variable_are_read_together(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n  studio {SECRET} concurrent 2 requests-per-minute 5\n")
    known = Keys.read(file, f"page {OTHER}\n")
    studio, page = known.find(f"Bearer {SECRET}"), known.find(f"Bearer {OTHER}")
    assert studio is not None and page is not None
    assert (studio.concurrent, page.concurrent, page.requests) == (2, None, None)
    assert studio.requests is not None and studio.requests.size == 5


def test_a_file_may_hold_hashes_in_the_place_of_keys() -> None:
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    known = keys(f"studio sha256:{digest}")
    found = known.find(f"Bearer {SECRET}")
    assert found is not None and found.name == "studio"
    with pytest.raises(Problem):
        known.find(f"Bearer sha256:{digest}")


def test_keys_travel_as_hashes_with_their_limits() -> None:
    known = keys(f"studio {SECRET} requests-per-minute 5 pictures-per-minute 6 concurrent 7; page {OTHER}")
    again = keys(known.text)
    assert SECRET not in known.text and again.text == known.text and Keys().text == ""
    studio, page = again.find(f"Bearer {SECRET}"), again.find(f"Bearer {OTHER}")
    assert studio is not None and studio.requests is not None and studio.pictures is not None
    assert (studio.requests.size, studio.pictures.size, studio.concurrent) == (5, 6, 7)
    assert page is not None and page.name == "page" and page.requests is None


def test_keys_are_held_as_hashes_only() -> None:
    known = keys(f"studio {SECRET} concurrent 1")
    held = repr([(digest, vars(key)) for digest, key in known._keys])
    assert SECRET not in held and "studio" in held


def test_a_file_that_all_may_read_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"studio {SECRET}\n")
    monkeypatch.setattr(logging.getLogger("cm3.serve"), "propagate", True)
    for mode, told in ((0o640, 0), (0o644, 1)):
        caplog.clear()
        file.chmod(mode)
        Keys.read(file)
        assert [r.levelname for r in caplog.records] == ["WARNING"] * told
        assert not told or ("chmod o-r" in caplog.text and SECRET not in caplog.text)


WRONG = {
    "studio": "has no key; write NAME KEY",
    "stu/dio " + SECRET: "must be 1 to 64 of",
    "studio short": "the key of 'studio' must be 16 to 256",
    "studio sha256:12": "the key of 'studio' must be 16 to 256",
    f"studio {SECRET} requests-per-hour 3": "'requests-per-hour': is none of .* Did you mean 'requests-per-minute'",
    f"studio {SECRET} concurrent": "limit concurrent=''",
    f"studio {SECRET} concurrent 0": "limit concurrent=0: must be an integer, 1 to",
    f"studio {SECRET} concurrent 1.5": "limit concurrent='1.5': must be an integer",
    f"studio {SECRET} concurrent 1000001": "1 to 1000000",
    f"studio {SECRET} concurrent 2 concurrent 2": "is given twice",
    f"studio {SECRET}; page {SECRET}": "entry 2: has the key of 'studio'",
    f"studio {SECRET}; studio {OTHER}": "entry 2: has the name 'studio' again",
    " # none ; ": "holds no key",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_line_is_named_and_its_key_is_not(text: str) -> None:
    with pytest.raises(ConfigError, match=WRONG[text]) as caught:
        keys(text)
    said = str(caught.value)
    assert said.startswith("CM3_API_KEYS") and "\n" not in said and SECRET not in said


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none: the file of API keys cannot be read \(No such file"):
        Keys.read(tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"bytes: the file of API keys cannot be read \(is no UTF-8"):
        Keys.read(tmp_path / "bytes")
    (tmp_path / "line").write_text(f"# x\nstudio {SECRET} twice 2\n")
    with pytest.raises(ConfigError, match="line:2: limit 'twice'"):
        Keys.read(tmp_path / "line")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("cm3.serve"), "propagate", True)
    caplog.set_level(logging.INFO, "cm3.serve")
    return caplog


def written(file: Path, text: str) -> None:
    """Put another file in the place of one, as editors and `mv` do."""
    other = file.with_suffix(".new")
    other.write_text(text)
    other.chmod(0o600)
    other.replace(file)


def name_of(known: Keys, secret: str) -> str | None:
    try:
        found = known.find(f"Bearer {secret}")
    except Problem as problem:
        assert problem.status == 401
        return None
    return found.name if found is not None else None


def test_a_file_that_changes_is_read_again(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    file, third = tmp_path / "keys", "third-secret-0123456789"
    written(file, f"studio {SECRET}\n")
    known = Keys.read(file, f"fixed {third}")
    assert (name_of(known, SECRET), name_of(known, OTHER), name_of(known, third)) == ("studio", None, "fixed")
    written(file, f"page {OTHER}\n")
    assert (name_of(known, SECRET), name_of(known, OTHER), name_of(known, third)) == (None, "page", "fixed")
    (told,) = log.records
    assert "was read again, and there are 2 API keys" in told.getMessage() and OTHER not in log.text


@pytest.mark.parametrize(
    ("text", "said"), [("", "holds no key"), (f"page {OTHER} twice 2", ":1: limit 'twice'"), (None, "cannot be read")]
)
def test_a_file_that_is_broken_leaves_the_keys(
    tmp_path: Path, log: pytest.LogCaptureFixture, text: str | None, said: str
) -> None:
    file = tmp_path / "keys"
    written(file, f"studio {SECRET}\n")
    known = Keys.read(file)
    if text is None:
        file.unlink()
    else:
        written(file, text)
    for _ in range(3):
        assert (name_of(known, SECRET), name_of(known, OTHER)) == ("studio", None)
    (told,) = log.records  # once, and not at each request
    assert told.levelname == "ERROR" and said in told.getMessage() and "the API keys stay as they were" in log.text
    written(file, f"page {OTHER}\n")
    assert (name_of(known, SECRET), name_of(known, OTHER)) == (None, "page")


def test_what_was_used_of_a_limit_stays_used_when_the_file_is_read_again(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "keys"
    written(file, f"studio {SECRET} requests-per-minute 2 pictures-per-minute 5 concurrent 2\n")
    known = Keys.read(file, clock=clock)
    asker = known.find(f"Bearer {SECRET}")
    assert asker is not None
    with asker.request():
        asker.draw(4)
        written(file, f"atelier {SECRET} requests-per-minute 2 pictures-per-minute 9 concurrent 1\n")
        assert known.find(f"Bearer {SECRET}") is asker and asker.name == "atelier"
        assert "1 at a time" in refusal(asker).message
    with asker.request():
        asker.draw(9)
    assert "2 a minute" in refusal(asker).message


def test_a_bucket_fills_evenly_and_never_over(clock: Clock) -> None:
    bucket = Bucket(6, clock)  # one in ten seconds
    assert (bucket.left, bucket.wait(6), bucket.reset) == (6, 0, 0)
    bucket.take(4)
    assert (bucket.left, bucket.wait(2), bucket.wait(3), bucket.reset) == (2, 0, 10, 40)
    clock.now += 10
    assert (bucket.left, bucket.wait(3), bucket.wait(4)) == (3, 0, 10)
    clock.now += 3600
    assert (bucket.left, bucket.wait(6), bucket.reset) == (6, 0, 0)


@pytest.mark.parametrize("a_minute", [1, 7, 60, 999, 1_000_000])
def test_whoever_waits_as_told_is_served(clock: Clock, a_minute: int) -> None:
    bucket = Bucket(a_minute, clock)
    clock.now += 1e6 / 3
    bucket.take(a_minute)
    for count in (1, max(1, a_minute // 2), a_minute):
        wait = bucket.wait(count)
        assert wait > 0
        clock.now += wait
        assert bucket.wait(count) == 0 and bucket.left >= count
        bucket.take(count)


def test_requests_a_minute_are_held_and_told(clock: Clock) -> None:
    asker = key(f"studio {SECRET} requests-per-minute 2", clock)
    for left in (1, 0):
        with asker.request():
            assert asker.headers["x-ratelimit-limit-requests"] == "2"
            assert asker.headers["x-ratelimit-remaining-requests"] == str(left)
    problem = refusal(asker)
    assert problem.status == 429 and problem.code == "rate_limit_exceeded" and "2 a minute" in problem.message
    assert problem.headers["Retry-After"] == "30" and problem.headers["x-ratelimit-reset-requests"] == "60.000s"
    clock.now += 30
    with asker.request():
        pass
    assert refusal(asker).status == 429


def test_requests_at_a_time_are_held(clock: Clock) -> None:
    asker = key(f"studio {SECRET} concurrent 2", clock)
    with asker.request():
        with asker.request():
            problem = refusal(asker)
            assert problem.status == 429 and problem.headers["Retry-After"] == "1" and "2 at a time" in problem.message
        with asker.request():
            pass
    with pytest.raises(ZeroDivisionError), asker.request():
        raise ZeroDivisionError
    assert asker.running == 0 and asker.headers == {}


def test_a_request_past_the_limit_of_those_at_a_time_costs_none_of_the_minute(clock: Clock) -> None:
    asker = key(f"studio {SECRET} concurrent 1 requests-per-minute 2", clock)
    with asker.request():
        refusal(asker)
    with asker.request():
        pass
    assert asker.running == 0


def test_pictures_a_minute_are_held(clock: Clock) -> None:
    asker = key(f"studio {SECRET} pictures-per-minute 6", clock)
    asker.draw(4)
    with pytest.raises(Problem) as caught:
        asker.draw(3)
    assert caught.value.status == 429 and caught.value.headers["Retry-After"] == "10"
    assert caught.value.headers["x-ratelimit-remaining-images"] == "2"
    asker.draw(2)
    asker.draw(0)
    clock.now += 600
    with pytest.raises(Problem, match="n: 7 pictures, and this API key may draw 6 a minute") as caught:
        asker.draw(7)
    assert (caught.value.status, caught.value.param) == (400, "n")


def test_a_key_without_limits_has_none(clock: Clock) -> None:
    asker = key(f"studio {SECRET}", clock)
    asker.draw(10**6)
    for _ in range(1000):
        with asker.request():
            pass
