"""Tests of the URL of a ledger."""

from __future__ import annotations

import pytest

from fastchat.errors import SettingError
from fastchat.ledger.url import parse_url


class TestUrl:
    def test_schema_is_taken_out(self) -> None:
        """asyncpg would take the parameter `schema` for a setting of the server."""
        url = parse_url("postgresql://chat@db.example:5433/chat?sslmode=require&schema=two")
        assert url.schema == "two"
        assert url.dsn == (
            "postgresql://chat@db.example:5433/chat?sslmode=require&target_session_attrs=primary"
        )

    def test_defaults(self) -> None:
        """Without a schema it is `fastchat`; both names of the scheme mean the same."""
        for scheme in ("postgresql", "postgres"):
            assert parse_url(f"{scheme}://db/chat").schema == "fastchat"

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql:///chat?host=/run/postgresql",
            "postgresql://%2Frun%2Fpostgresql/chat",
            "postgresql://u:p%40%2F%3F%23@h:5432/chat",
            "postgresql://[::1]:5432,[fe80::1%25eth0]/chat",
            "postgresql://a:1,b:2,c/chat?target_session_attrs=any",
            "postgresql://db/chat?user=me@server&passfile=/etc/p",
            "postgresql://",
        ],
    )
    def test_good_urls(self, url: str) -> None:
        """All forms of libpq are accepted."""
        parse_url(url)

    @pytest.mark.parametrize(
        ("url", "place"),
        [
            ("postgresql://u:secret@db:5433/chat?sslpassword=secret", "db:5433/chat"),
            ("postgresql://u@one:1,[::2]:2/chat?schema=two", "one:1,[::2]:2/chat?schema=two"),
            ("postgresql://%2Frun%2Fpostgresql/chat", "/run/postgresql/chat"),
            ("postgresql:///?host=one,two&port=1,2&dbname=chat", "one,two:1,2/chat"),
            ("postgresql:///chat?service=main", "main/chat"),
        ],
    )
    def test_place_tells_ledgers_apart(self, url: str, place: str) -> None:
        """Metrics and the status have no user, no password and no other parameter in it."""
        assert parse_url(url).place == place

    def test_hosts_have_addresses_of_their_own(self) -> None:
        """Each host is tried by itself, with the user, the database and the parameters."""
        url = parse_url("postgresql://u:p@one:1,[::2]:2/chat?target_session_attrs=any")
        assert url.dsns == [
            "postgresql://u:p@one:1/chat?target_session_attrs=any",
            "postgresql://u:p@[::2]:2/chat?target_session_attrs=any",
        ]
        url = parse_url("postgresql:///chat?host=one,two&port=1,2&target_session_attrs=any")
        assert url.dsns == [
            "postgresql:///chat?host=one&port=1&target_session_attrs=any",
            "postgresql:///chat?host=two&port=2&target_session_attrs=any",
        ]
        url = parse_url("postgresql:///chat?host=one,two&target_session_attrs=any")
        assert url.dsns == [
            "postgresql:///chat?host=one&target_session_attrs=any",
            "postgresql:///chat?host=two&target_session_attrs=any",
        ]
        url = parse_url("postgresql:///chat?host=/run/postgresql")
        assert url.dsns == [url.dsn]


class TestFaults:
    @pytest.mark.parametrize(
        ("url", "sentence"),
        [
            ("mysql://u@h/d", "does not begin with postgresql://"),
            ("db.example", "does not begin with postgresql://"),
            ("", "does not begin with postgresql://"),
            ("postgresql:db", "does not begin with postgresql://"),
            ("postgresql://h/d?sslmod=require", "'sslmod' is not known; did you mean 'sslmode'"),
            ("postgresql://h/d?shema=x", "did you mean 'schema'"),
            ("postgresql://h/d?wal_level=x", "'wal_level' is not known; known are dbname, host"),
            ("postgresql://h/d?connect_timeout=3", "'connect_timeout' is not known"),
            ("postgresql://h/d?schema=Two", "the schema 'Two' must have 1 to 40"),
            ("postgresql://h/d?schema=", "the schema '' must have 1 to 40"),
            ("postgresql://h/d?schema=1a", "must not begin with a digit"),
            ("postgresql://h/d?schema=" + "a" * 41, "must have 1 to 40"),
            ('postgresql://h/d?schema=a"b', "must have 1 to 40"),
            ("postgresql://h/d?target_session_attrs=standby", "it must be primary or read-write"),
            ("postgresql://h/d?target_session_attrs=prefer-standby", "it must be primary"),
            ("postgresql://h/d?sslmode", "is no URL of PostgreSQL"),
            ("postgresql://h:port/d", "is no URL of PostgreSQL"),
            ("postgresql://[::1/d", "is no URL of PostgreSQL"),
            ("postgresql://h/d#x", "is no URL of PostgreSQL"),
        ],
    )
    def test_fault_has_a_sentence(self, url: str, sentence: str) -> None:
        """The error names the option, says what is wrong, and how it is right."""
        with pytest.raises(SettingError) as caught:
            parse_url(url)
        assert str(caught.value).startswith("--engine: ")
        assert sentence in str(caught.value)


class TestPassword:
    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://u:s3cret@h/d",
            "postgresql://u:s3%2Fcret@h/d",
            "postgresql://u@h/d?password=s3cret&sslmode=require",
            "postgresql://u@h/d?sslpassword=s3cret",
            "postgresql://u:%73%33cret@h/d",
        ],
    )
    def test_shown_url_has_no_password(self, url: str) -> None:
        """The URL in messages has everything but the password."""
        shown = parse_url(url).shown
        assert "cret" not in shown
        assert "…" in shown
        assert shown.startswith("postgresql://u")

    @pytest.mark.parametrize("character", ["/", "?", "#", "@", ":", "%", "[", " ", "&", "=", "\\"])
    @pytest.mark.parametrize(
        "form",
        [
            "postgresql://u:{}@h/d",
            "postgresql://u:1{}@h/d?sslmode=require",
            "mysql://u:{}@h/d",
            "postgresql:u:{}@h/d",
            "u:{}@h",
            "postgresql://u:{}@h/d?x=1",
        ],
    )
    def test_password_is_in_no_error(self, form: str, character: str) -> None:
        """A password that should have been encoded makes a wrong URL, whose error hides it."""
        for password in (f"s3{character}cret", f"{character}s3cret", f"s3cret{character}"):
            url = form.format(password)
            try:
                shown = parse_url(url).shown
            except SettingError as error:
                shown = str(error)
            assert "s3" not in shown
            assert "cret" not in shown
