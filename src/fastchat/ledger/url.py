"""The address of a ledger: a PostgreSQL URL, as libpq defines it, with the name of a schema.

Source: https://www.postgresql.org/docs/current/libpq-connect.html, section 34.1.1.2.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode

from fastchat.errors import SettingError

__all__ = ["DEFAULT_SCHEMA", "EngineUrl", "parse_url"]

DEFAULT_SCHEMA = "fastchat"
_SCHEMES = ("postgresql", "postgres")
#: The parameters that asyncpg implements. It would send any other one to the server as a setting.
_PARAMETERS = (
    "dbname",
    "host",
    "passfile",
    "password",
    "port",
    "service",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "target_session_attrs",
    "user",
)
#: Of `target_session_attrs`: those with which a standby is not used. The first is the default.
_WRITABLE = ("primary", "read-write", "any")
#: Hosts with their ports: names, IPv4 addresses, IPv6 addresses in brackets, encoded paths.
_HOST = r"(?:\[[0-9a-zA-Z:.%_-]+\]|[^\[\]:@,]*)(?::[0-9]*)?"
_HOSTS = re.compile(rf"{_HOST}(?:,{_HOST})*", re.ASCII)
_URL = re.compile(r"([a-z]+)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,39}", re.ASCII)


class EngineUrl(NamedTuple):
    """Where a ledger is: `dsn` for asyncpg, the `schema`, and the URL without its password."""

    dsn: str
    schema: str
    shown: str

    @property
    def place(self) -> str:
        """The hosts, the database and the schema, as operators tell ledgers apart.

        It has no names of users, no passwords and no other parameters.
        """
        parts = _split(self.dsn)
        query = dict(parse_qsl(parts.query))
        hosts = parts.netloc.rpartition("@")[2]
        if not hosts:
            found = (query.get(key) for key in ("service", "host", "port"))
            hosts = ":".join(each for each in found if each)
        database = unquote(parts.path.removeprefix("/")) or query.get("dbname", "")
        schema = "" if self.schema == DEFAULT_SCHEMA else f"?schema={self.schema}"
        return f"{unquote(hosts)}/{database}{schema}"

    @property
    def dsns(self) -> list[str]:
        """An address for each host. asyncpg tries several only if they refuse to connect."""
        parts = _split(self.dsn)
        user, at, hosts = parts.netloc.rpartition("@")
        if hosts:
            netlocs = [f"{user}{at}{host}" for host in hosts.split(",")]
            return [_joined(parts._replace(netloc=netloc)) for netloc in netlocs]
        query = dict(parse_qsl(parts.query))
        names = query.get("host", "").split(",")
        ports = query.get("port", "").split(",")
        if len(ports) == 1:
            ports *= len(names)
        if len(names) == 1 or len(ports) != len(names):
            return [self.dsn]
        hosts_queries = [
            {**query, "host": name, "port": port} for name, port in zip(names, ports, strict=True)
        ]
        queries = [{key: value for key, value in each.items() if value} for each in hosts_queries]
        return [_joined(parts._replace(query=urlencode(each))) for each in queries]


def parse_url(url: str, name: str = "--engine") -> EngineUrl:
    """Read the URL of a ledger, from the setting `name`. Raises SettingError with the fault."""
    if not url.startswith(tuple(f"{scheme}://" for scheme in _SCHEMES)):
        raise SettingError(
            f"{name}: {_hidden(url)!r} does not begin with postgresql://, "
            "for example postgresql://chat@db.example/chat."
        )
    try:
        parts = _split(url)
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise _no_url(url, name) from None
    # A password that has one of these characters itself ends too early, or is taken for a port.
    if parts.fragment or "@" in parts.path or not _HOSTS.fullmatch(parts.netloc.rpartition("@")[2]):
        raise _no_url(url, name)
    schema = DEFAULT_SCHEMA
    kept = []
    for key, value in query:
        if key == "schema":
            schema = value
        elif key in _PARAMETERS:
            kept.append((key, value))
        else:
            if not key.isidentifier():
                raise _no_url(url, name)
            near = get_close_matches(key, (*_PARAMETERS, "schema"), 1)
            hint = (
                f"did you mean {near[0]!r}?"
                if near
                else f"known are {', '.join(_PARAMETERS)}, schema."
            )
            raise SettingError(f"{name}: the URL's parameter {key!r} is not known; {hint}")
    if not _SCHEMA.fullmatch(schema):
        raise SettingError(
            f"{name}: the schema {schema!r} must have 1 to 40 of the characters a-z, 0-9 and _, "
            "and must not begin with a digit."
        )
    attributes = dict(kept).get("target_session_attrs")
    if attributes is None:
        kept.append(("target_session_attrs", _WRITABLE[0]))
    elif attributes not in _WRITABLE:
        raise SettingError(
            f"{name}: target_session_attrs={attributes} can lead to a server that cannot be "
            f"written; it must be {' or '.join(_WRITABLE)}."
        )
    return EngineUrl(_joined(parts._replace(query=urlencode(kept))), schema, _hidden(url))


def _split(url: str) -> SplitResult:
    """The parts of a URL. `urlsplit` of newer Pythons refuses several hosts with brackets."""
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError("no URL")
    scheme, netloc, path, query, fragment = found.groups("")
    return SplitResult(scheme, netloc, path, query, fragment)


def _joined(parts: SplitResult) -> str:
    """Join the parts of a URL. `urlunsplit` would leave out the `//` if there is no host."""
    return f"{parts.scheme}://{parts.netloc}{parts.path}?{parts.query}"


def _no_url(url: str, name: str) -> SettingError:
    return SettingError(
        f"{name}: {_hidden(url)!r} is no URL of PostgreSQL; in a user's name and a password, the "
        "characters % / ? # @ : must be written as %25 %2F %3F %23 %40 %3A."
    )


def _hidden(url: str) -> str:
    """The URL without its password, for messages; also if the password makes it a wrong one."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    rest = re.sub(r"\A([^/@:?#]*):.*@", r"\1:…@", rest, flags=re.DOTALL)
    return unquote(re.sub(r"((?:ssl)?password=)[^&]*", r"\1…", scheme + separator + rest))
