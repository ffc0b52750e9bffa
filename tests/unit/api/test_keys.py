"""The keys of the API: their file, and what a server makes of it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastchat.api.digest_file import digest_of
from fastchat.api.key_file import list_keys, new_key, revoke_key, rights_of
from fastchat.api.keys import KEY, KEY_FILE, ApiKeys, ApiRight
from fastchat.errors import SettingError

ENTRY = {
    "name": "shop",
    "sha256": digest_of("x"),
    "rights": ["publish"],
    "rooms": ["order-*"],
    "rate": 1000,
    "created": "2026-01-01T00:00:00.000Z",
}


def made(file: Path, name: str = "shop", rooms: tuple[str, ...] = ("order-*",)) -> bytes:
    rights = [ApiRight.PUBLISH, ApiRight.READ]
    return new_key(file, name, rights=rights, rooms=rooms).encode()


def refused(content: Any) -> str:
    """The sentence about a file with this content, which shows none of the file's values."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(SettingError) as caught:
        KEY_FILE.parse(Path("keys.json"), data)
    assert str(caught.value).startswith("--api-key-file keys.json ")
    assert str(caught.value).endswith(".")
    return str(caught.value)


def test_file_has_no_key(tmp_path: Path) -> None:
    """The file has a digest of a new key and not the key, and only its owner can read it."""
    file = tmp_path / "keys.json"
    key = made(file)
    assert KEY.fullmatch(key.decode())
    assert key not in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["keys.json"]
    (found,) = KEY_FILE.read(file)
    assert found.name == "shop"
    assert found.rights == {"publish", "read"}
    assert found.speaker == ("k_shop", "shop")


def test_key_is_found_by_its_text(tmp_path: Path) -> None:
    """Only the whole text of a key finds it."""
    file = tmp_path / "keys.json"
    first, second = made(file), made(file, "other")
    keys = ApiKeys(file)
    for text, name in ((first, "shop"), (second, "other")):
        found = keys.find(text)
        assert found is not None
        assert found.key.name == name
    for text in (b"", first[:-1], first + b" ", first.upper(), digest_of(first.decode()).encode()):
        assert keys.find(text) is None


@pytest.mark.parametrize(
    ("rooms", "inside", "outside"),
    [
        (("order-*",), ("order-", "order-1"), ("order", "orders-1", "lobby")),
        (("lobby", "ops"), ("lobby", "ops"), ("lobby-2", "op")),
        (("*",), ("lobby", "日本"), ()),
    ],
)
def test_patterns(
    tmp_path: Path, rooms: tuple[str, ...], inside: tuple[str, ...], outside: tuple[str, ...]
) -> None:
    """A pattern is the name of a room, or a beginning followed by a star."""
    text = made(tmp_path / "k", rooms=rooms)
    active = ApiKeys(tmp_path / "k").find(text)
    assert active is not None
    assert all(map(active.matches, inside))
    assert not any(map(active.matches, outside))


def test_revoked_key_is_of_no_use_after_a_reload(tmp_path: Path) -> None:
    """After `reload`, a revoked key is unknown, and the budget of the others goes on."""
    file = tmp_path / "keys.json"
    text, other = made(file), made(file, "other")
    keys = ApiKeys(file)
    before, gone = keys.find(other), keys.find(text)
    assert before is not None
    assert gone is not None
    revoke_key(file, "shop")
    assert keys.find(text) is gone
    keys.reload()
    assert keys.find(text) is None
    assert not keys.is_active(gone)
    assert keys.find(other) is before


def test_bad_file_keeps_the_old_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the file cannot be used at a reload, the log says why, and the old keys stay."""
    file = tmp_path / "keys.json"
    text = made(file)
    keys = ApiKeys(file)
    file.write_text("{")
    keys.reload()
    assert keys.find(text) is not None
    assert "the old ones stay" in caplog.text
    file.unlink()
    keys.reload()
    assert keys.find(text) is not None


def test_name_of_a_key_is_reserved_in_its_rooms(tmp_path: Path) -> None:
    """A name that looks like a key's is reserved in the rooms of the key, and in no others."""
    made(tmp_path / "k", "shop")
    keys = ApiKeys(tmp_path / "k")
    assert keys.reserves("order-1", "Shop")
    assert keys.reserves("order-1", "sh0p")
    assert not keys.reserves("order-1", "shopper")
    assert not keys.reserves("lobby", "shop")


def test_file_that_others_can_read_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file whose mode lets others read it is used, with a warning that says what to run."""
    file = tmp_path / "keys.json"
    made(file)
    KEY_FILE.read(file)
    assert not caplog.records
    file.chmod(0o640)
    KEY_FILE.read(file)
    assert "chmod go= " in caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        ([], "JSON object"),
        ({"keys": {}}, "array"),
        ({"keys": [], "more": 1}, "one field"),
        ({"keys": [1]}, "number 1"),
        ({"keys": [{**ENTRY, "secret": "x"}]}, "number 1"),
        ({"keys": [{k: v for k, v in ENTRY.items() if k != "rate"}]}, "rate"),
        ({"keys": [{**ENTRY, "name": "Shop"}]}, "a name must have"),
        ({"keys": [{**ENTRY, "name": ["shop"]}]}, "a name must have"),
        ({"keys": [{**ENTRY, "sha256": "00"}]}, "sha256"),
        ({"keys": [{**ENTRY, "rights": ["write"]}]}, "rights"),
        ({"keys": [{**ENTRY, "rights": [["read"]]}]}, "rights"),
        ({"keys": [{**ENTRY, "rights": "read"}]}, "rights"),
        ({"keys": [{**ENTRY, "rooms": []}]}, "rooms"),
        ({"keys": [{**ENTRY, "rooms": "*"}]}, "rooms"),
        ({"keys": [{**ENTRY, "rooms": [1]}]}, "string"),
        ({"keys": [{**ENTRY, "rooms": ["*-order"]}]}, "beginning of names"),
        ({"keys": [{**ENTRY, "rooms": ["a*b*"]}]}, "beginning of names"),
        ({"keys": [{**ENTRY, "rooms": ["Lobby"]}]}, "'Lobby'"),
        ({"keys": [{**ENTRY, "rate": 0}]}, "rate"),
        ({"keys": [{**ENTRY, "rate": True}]}, "rate"),
        ({"keys": [{**ENTRY, "created": 1}]}, "created"),
        ({"keys": [ENTRY, {**ENTRY, "sha256": digest_of("y")}]}, "same name"),
        ({"keys": [ENTRY, {**ENTRY, "name": "other"}]}, "same sha256"),
        ({"keys": [ENTRY] * 1001}, "more than 1,000 keys"),
        (b" " * ((1 << 20) + 1), "bytes"),
    ],
)
def test_wrong_files_get_a_sentence(content: Any, said: str) -> None:
    """Whatever is wrong with a file is said in one sentence."""
    assert said in refused(content)


def test_missing_file_gets_a_sentence(tmp_path: Path) -> None:
    """The sentence about a missing file says how to make one."""
    with pytest.raises(SettingError, match="`fastchat key new` makes it"):
        ApiKeys(tmp_path / "none")
    with pytest.raises(SettingError, match="cannot be read: Is a directory"):
        ApiKeys(tmp_path)


def test_commands_change_the_file(tmp_path: Path) -> None:
    """A name can be used once, and `revoke` frees it; what is wrong changes nothing."""
    file = tmp_path / "keys.json"
    made(file)
    with pytest.raises(SettingError, match="has a key 'shop' already"):
        made(file)
    with pytest.raises(SettingError, match="has no key 'shopp'; it has these: shop"):
        revoke_key(file, "shopp")
    with pytest.raises(SettingError, match="--rate must be"):
        new_key(file, "b", rights=[ApiRight.READ], rooms=["*"], rate="0")
    with pytest.raises(SettingError, match="beginning of names"):
        new_key(file, "b", rights=[ApiRight.READ], rooms=["a*b"])
    with pytest.raises(SettingError, match="--rights must be some of publish, read, mod"):
        rights_of("publish,write")
    head, row = list_keys(file).splitlines()
    assert head.split() == ["NAME", "RIGHTS", "ROOMS", "RATE", "CREATED"]
    assert row.split()[:4] == ["shop", "publish,read", "order-*", "1000/s"]
    revoke_key(file, "shop")
    assert len(list_keys(file).splitlines()) == 1
    made(file)


def test_link_stays_a_link(tmp_path: Path) -> None:
    """If the file is a symbolic link, the file that it leads to is changed."""
    (tmp_path / "there").mkdir()
    link = tmp_path / "keys.json"
    link.symlink_to("there/keys.json")
    made(link)
    assert link.is_symlink()
    assert len(KEY_FILE.read(tmp_path / "there" / "keys.json")) == 1


def test_commands_at_the_same_time_lose_no_key(tmp_path: Path) -> None:
    """Several processes that add keys to one file at once add all of them."""
    file = tmp_path / "keys.json"
    code = (
        "import sys; from pathlib import Path; from fastchat.api.key_file import new_key\n"
        "for n in range(5):\n"
        "    new_key(Path(sys.argv[1]), f'{sys.argv[2]}-{n}', rights=[], rooms=['*'])"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(file), name]) for name in ("a", "b", "c")
    ]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len(KEY_FILE.read(file)) == 15
    assert os.listdir(tmp_path) == ["keys.json"]
