"""The file of access keys: what is read from it, and what it is refused for."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from batchyard.gateway.access_keys import AccessKey, AccessKeyFile, AccessKeysError, read_access_keys

SECRET = "a-secret-of-enough-characters"


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_reads_every_member(tmp_path: Path) -> None:
    text = f"""
        [keys.AKIDONE]
        secret = "{SECRET}"
        [keys.AKIDTWO]
        secret = "{SECRET}2"
        account = "210987654321"
        session_token = "token"
        expires = 2030-01-31T12:00:00Z
    """
    assert read_access_keys(written(tmp_path, text)) == {
        "AKIDONE": AccessKey(SECRET),
        "AKIDTWO": AccessKey(f"{SECRET}2", "210987654321", "token", datetime(2030, 1, 31, 12, tzinfo=UTC)),
    }


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o660, 0o601])
def test_refuses_a_file_that_others_may_read_or_change(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path, f'[keys.A]\nsecret = "{SECRET}"', mode)
    with pytest.raises(AccessKeysError, match=f"mode {mode:04o}.*chmod 600"):
        read_access_keys(path)


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640])
def test_takes_a_file_of_its_owner_and_of_a_group_that_may_read_it(tmp_path: Path, mode: int) -> None:
    assert read_access_keys(written(tmp_path, f'[keys.A]\nsecret = "{SECRET}"', mode)) == {"A": AccessKey(SECRET)}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must have tables"),
        ("keys = 1", "must have tables"),
        ("[keys]", "must have tables"),
        (f'[keys.A]\nsecret = "{SECRET}"\n[other]', "must have tables"),
        ("[keys.A", "is not TOML"),
        ("keys.A = 1", "keys.A must be a table"),
        ("[keys.A]", "secret must be a text"),
        ('[keys.A]\nsecret = "short"', "16 characters"),
        (f'[keys."A/B"]\nsecret = "{SECRET}"', "is no access key id"),
        (f'[keys.A]\nsecret = "{SECRET}"\naccount = 123456789012', "account must be a text of 12 digits"),
        (f'[keys.A]\nsecret = "{SECRET}"\naccount = "1234"', "account must be a text of 12 digits"),
        (f'[keys.A]\nsecret = "{SECRET}"\nsession_token = ""', "session_token"),
        (f'[keys.A]\nsecret = "{SECRET}"\nexpires = 2030-01-31T12:00:00', "with its zone"),
        (f'[keys.A]\nsecret = "{SECRET}"\nexpires = "2030"', "with its zone"),
        (f'[keys.A]\nsecret = "{SECRET}"\naccuont = "1"', "has no accuont"),
    ],
)
def test_says_what_is_wrong_and_no_secret(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(AccessKeysError) as caught:
        read_access_keys(written(tmp_path, text))
    assert told in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_change_of_the_file_counts_within_a_second(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    path = written(tmp_path, f'[keys.A]\nsecret = "{SECRET}"\n[keys.B]\nsecret = "{SECRET}"')
    keys = AccessKeyFile(path, lambda: now_s)
    assert sorted(keys) == ["A", "B"]
    written(tmp_path, f'[keys.A]\nsecret = "{SECRET}-2"\n[keys.C]\nsecret = "{SECRET}"')
    assert keys["B"] == AccessKey(SECRET)
    now_s = 1.0
    assert "B" not in keys
    assert keys["A"] == AccessKey(f"{SECRET}-2")
    # What is wrong, or away, changes nothing.
    for wrong in ("[keys", None):
        path.unlink() if wrong is None else written(tmp_path, wrong)
        now_s += 1.0
        assert sorted(keys) == ["A", "C"]
    assert "is not TOML" in caplog.text
    assert "cannot read" in caplog.text
    written(tmp_path, f'[keys.D]\nsecret = "{SECRET}"')
    now_s += 1.0
    assert list(keys) == ["D"]


def test_says_that_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(AccessKeysError, match="cannot read"):
        read_access_keys(tmp_path / "absent.toml")
