"""The tables about webhooks and hooks in the settings file."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from fastchat.errors import SettingError
from fastchat.settings import load_settings
from fastchat.webhooks.config import EVENTS, Config, read_config
from support.receiver import SECRET, written_config

WEBHOOK = '[[webhook]]\nurl = "https://shop.example/events"\nsecret-file = "{secret}"\n'
HOOK = '[before-publish]\nurl = "http://127.0.0.1:9000/check"\n'


def config(folder: Path, text: str) -> Config:
    return read_config(written_config(folder, text))


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(SettingError) as raised:
        config(folder, text)
    return str(raised.value)


def test_server_without_a_file_has_no_hooks() -> None:
    """An empty name stands for no file."""
    assert read_config("") == Config()


def test_webhook_has_defaults(tmp_path: Path) -> None:
    """It is told of all events of all rooms, and has a name from its host."""
    (webhook,) = config(tmp_path, WEBHOOK).webhooks
    assert webhook.events == set(EVENTS)
    assert webhook.rooms.fullmatch("any room")
    assert re.fullmatch(r"shop\.example-[0-9a-f]{8}", webhook.name)
    assert webhook.target.secrets == (base64.b64decode(SECRET.removeprefix("whsec_")),)
    assert not webhook.target.may_be_private


def test_webhook_can_have_everything(tmp_path: Path) -> None:
    """A star at the end of a room's name stands for any characters."""
    text = WEBHOOK + 'name = "shop"\nevents = ["message", "join"]\nrooms = ["order-*", "a.b"]\n'
    (webhook,) = config(tmp_path, text).webhooks
    assert (webhook.name, webhook.events) == ("shop", {"message", "join"})
    rooms = ["order-1", "order-", "my-order-1", "a.b", "axb", "a.bc", "order-é"]
    assert [bool(webhook.rooms.fullmatch(room)) for room in rooms] == [
        *(True, True, False, True, False, False, True)
    ]


def test_hooks_have_defaults(tmp_path: Path) -> None:
    """Without an answer, a message is allowed and a join is refused."""
    read = config(tmp_path, HOOK + '[before-join]\nurl = "http://auth:80/"\ntimeout-ms = 250\n')
    publish, join = read.before_publish, read.before_join
    assert publish is not None
    assert join is not None
    assert (publish.timeout_s, publish.refuses) == (1.0, False)
    assert (join.timeout_s, join.refuses) == (0.25, True)
    assert publish.target.secrets == ()


def test_secrets_can_be_rotated(tmp_path: Path) -> None:
    """A file has several secrets, one a line, while receivers take over the new one."""
    read = config(tmp_path, WEBHOOK)
    (tmp_path / "secret").write_text(f"{SECRET}\nwhsec_{'A' * 32}\n", "ascii")
    (webhook,) = read_config(str(tmp_path / "fastchat.toml")).webhooks
    assert webhook.target.secrets == (*read.webhooks[0].target.secrets, bytes(24))


@pytest.mark.parametrize(
    "content", ["", "secret", "whsec_AAAA", SECRET.removeprefix("whsec_"), f"{SECRET}\n" * 5, "é"]
)
def test_weak_secret_is_refused(tmp_path: Path, content: str) -> None:
    """The error says what a secret looks like."""
    written_config(tmp_path, WEBHOOK)
    (tmp_path / "secret").write_text(content, "utf-8")
    with pytest.raises(SettingError, match=r"must have 1 to 4 lines, each whsec_ and 24 to 64"):
        read_config(str(tmp_path / "fastchat.toml"))


@pytest.mark.parametrize(
    "url",
    [
        *("", "shop.example", "ftp://shop.example/", "//shop.example/", "https://", "https://:80/"),
        *("https://me:pass@shop.example/", "https://shop.example/#x", "https://shop.example:0/"),
        *("https://shop.example:99999/", "https://shöp.example/", "https://shop.example/a b"),
        *("https://shop.example/\\r\\nX: y", "https://[::1/", "https://" + "a" * 2000 + "/"),
    ],
)
def test_url_must_be_one(tmp_path: Path, url: str) -> None:
    """A user in it would be logged by proxies."""
    assert "`url` must be" in complaint(tmp_path, f'[before-publish]\nurl = "{url}"\n')


@pytest.mark.parametrize(
    ("url", "is_fine"),
    [
        *[(f"http://{host}/", True) for host in ("127.0.0.1", "[::1]", "10.0.0.1", "localhost")],
        *[(f"http://{host}/", True) for host in ("shop", "shop.internal:80", "192.168.1.1")],
        *[(f"http://{host}/", False) for host in ("shop.example", "1.1.1.1", "[2606:4700::1]")],
    ],
)
def test_http_is_for_private_hosts(tmp_path: Path, url: str, is_fine: bool) -> None:
    """On the internet, others could read and change what is sent."""
    text = f'[before-publish]\nurl = "{url}"\n'
    if is_fine:
        hook = config(tmp_path, text).before_publish
        assert hook is not None
        assert hook.target.may_be_private
    else:
        assert "must begin with https://" in complaint(tmp_path, text)
        allowed = config(tmp_path, text + "allow-private = true\n").before_publish
        assert allowed is not None
        assert allowed.target.may_be_private


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('webhook = "x"', "write [[webhook]]"),
        ("[webhook]", "write [[webhook]]"),
        ("[[webhook]]", "webhook 1: `secret-file` is missing"),
        (WEBHOOK + WEBHOOK, "give one another `name`"),
        (WEBHOOK + "rooms = []", "`rooms` must be an array of strings"),
        (WEBHOOK + 'rooms = "*"', "`rooms` must be an array of strings"),
        (WEBHOOK + 'rooms = ["*-order"]', "'*-order' in `rooms` is neither the name of a room"),
        (WEBHOOK + 'rooms = ["Order-1"]', "'Order-1' in `rooms` is neither the name of a room"),
        (WEBHOOK + 'events = ["typing"]', "there is no event 'typing'; the events are message,"),
        (WEBHOOK + 'name = "A b"', "`name` must be 1 to 63"),
        (WEBHOOK + "secret = 'x'", "there is no key 'secret'; the keys are url, events,"),
        (WEBHOOK.replace("{secret}", "/none"), "/none cannot be read: No such file"),
        ("".join(WEBHOOK + f'name = "w{n}"\n' for n in range(17)), "at most 16 webhooks"),
        ("before-publish = 1", "before-publish must be a table"),
        ("[before-join]", "before-join: `url` is missing"),
        (HOOK + "timeout-ms = 10", "`timeout-ms` must be a whole number from 50 to 5,000"),
        (HOOK + "timeout-ms = true", "`timeout-ms` must be a whole number"),
        (HOOK + 'on-failure = "ignore"', '`on-failure` must be "allow" or "refuse"'),
        (HOOK + "allow-private = 1", "`allow-private` must be true or false"),
        ("[before", "is not valid TOML"),
    ],
)
def test_wrong_table_is_named(tmp_path: Path, text: str, words: str) -> None:
    """The error names the file, the table and the key."""
    found = complaint(tmp_path, text)
    assert words in found
    assert f"--config {tmp_path}" in found


def test_tables_do_not_disturb_settings(tmp_path: Path) -> None:
    """Settings are read from the same file, by other commands too."""
    file = Path(written_config(tmp_path, "port = 9000\n" + WEBHOOK + HOOK))
    settings = load_settings({}, {}, file)
    assert (settings.port, settings.config_file) == (9000, str(file))
