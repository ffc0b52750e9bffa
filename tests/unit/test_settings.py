"""Settings: their sources, and the errors about wrong ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from fastchat.errors import SettingError
from fastchat.settings import (
    Settings,
    did_you_mean,
    flag_of,
    ignored_variables,
    load_settings,
    setting_fields,
)


def written(folder: Path, text: str) -> Path:
    file = folder / "fastchat.toml"
    file.write_text(text, "utf-8")
    return file


def complaint(
    flags: dict[str, Any], environment: dict[str, str] | None = None, file: Path | None = None
) -> str:
    """The sentence of a SettingError."""
    with pytest.raises(SettingError) as caught:
        load_settings(flags, environment or {}, file)
    sentence = str(caught.value)
    assert sentence.endswith((".", "?"))
    assert "\n" not in sentence
    return sentence


def test_defaults_are_valid() -> None:
    """Without any source every setting has a valid value."""
    assert load_settings({}, {}, None) == Settings()


def test_flags_are_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    """For each setting, the highest source that has it counts."""
    file = written(tmp_path, "port = 1\nlog-level = 'error'\nhost = '::1'\n")
    environment = {"FASTCHAT_PORT": "2", "FASTCHAT_LOG_LEVEL": "debug"}
    settings = load_settings({"port": "3"}, environment, file)
    assert (settings.port, settings.log_level, settings.host) == (3, "debug", "::1")
    assert settings.max_lag_bytes == Settings().max_lag_bytes


#: Other settings that a setting is valid with only.
NEEDED_SETTINGS: dict[str, dict[str, Any]] = {
    "api_port": {"api_key_file": "keys.json"},
    "auth": {"jwt_key_file": ("key",)},
    "machine": {"engine": ("postgresql://db.example/chat",)},
    "engine_patience": {"engine": ("postgresql://db.example/chat",)},
    "jwt_key_file": {"auth": "jwt"},
    "jwt_audience": {"auth": "jwt", "jwt_key_file": ("key",)},
    "jwt_issuer": {"auth": "jwt", "jwt_key_file": ("key",)},
    "jwt_user_claim": {"auth": "jwt", "jwt_key_file": ("key",)},
    "ssl_keyfile": {"ssl_certfile": "certificate.pem"},
}


def another_value(field: dataclasses.Field[object]) -> tuple[object, str, str]:
    """A value other than the default, as text and in TOML."""
    value: object
    if field.metadata["choices"]:
        value = field.metadata["choices"][-1]
    elif isinstance(field.default, tuple):
        values = ("https://a.example", "https://b.example")
        if field.name == "trusted_proxy":
            values = ("192.0.2.1", "10.0.0.0/8")
        if field.name == "engine":
            values = ("postgresql://chat:secret@db1,db2/chat",)
        return values, ", ".join(values), repr(list(values))
    elif isinstance(field.default, bool):
        return not field.default, str(not field.default).lower(), str(not field.default).lower()
    else:
        value = "x" if isinstance(field.default, str) else field.default + 1  # type: ignore[operator]
    return value, str(value), repr(value)


@pytest.mark.parametrize("field", setting_fields(), ids=lambda field: field.name)
def test_every_setting_can_come_from_every_source(
    field: dataclasses.Field[object], tmp_path: Path
) -> None:
    """The flag, the environment variable and the key are three spellings of one name."""
    company = NEEDED_SETTINGS.get(field.name, {})
    value, text, toml = another_value(field)
    settings = Settings(**{**company, field.name: value})
    assert getattr(settings, field.name) != field.default
    assert load_settings({**company, field.name: text}, {}, None) == settings
    assert load_settings(company, {f"FASTCHAT_{field.name.upper()}": text}, None) == settings
    assert (
        load_settings(company, {}, written(tmp_path, f"{flag_of(field)[2:]} = {toml}")) == settings
    )


def test_limits_are_switched_off_together() -> None:
    """`limits` switches off all limits, whatever else is set, and nothing else."""
    on, off = Settings(), load_settings({"limits": "off", "room_rate": "7"}, {}, None)
    different = {
        field.name: getattr(off, field.name)
        for field in setting_fields()
        if getattr(off, field.name) != getattr(on, field.name)
    }
    assert different.pop("limits") == "off"
    assert len(different) > 10
    assert not any(different.values())
    assert Settings(**dataclasses.asdict(off)) == off


def test_proxy_must_be_an_address_or_a_range() -> None:
    """A host name as a trusted proxy is refused."""
    assert "--trusted-proxy must be an address" in complaint({"trusted_proxy": "proxy.example"})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"machine": "a"}, "--machine has no effect without --engine"),
        ({"engine_patience": "60"}, "--engine-patience has no effect without --engine"),
        ({"engine": ["postgresql://a/b"], "machine": "A"}, "--machine must be 1 to 63"),
        ({"engine": ["postgresql://a/b"], "history": "sqlite"}, "--history has no effect with"),
        (
            {"engine": ["postgresql://a/b"], "durability": "power-loss"},
            "--durability has no effect",
        ),
        (
            {"engine": ["postgresql://a/b"] * 2},
            "--engine has postgresql://a/b twice; give each URL",
        ),
        ({"engine": ["mysql://a:secret@b/c"]}, "--engine: 'mysql://a:…@b/c' does not begin with"),
    ],
)
def test_engine_needs_its_own_settings_and_no_others(flags: dict[str, Any], words: str) -> None:
    """A setting that has no effect with an engine, or without one, is refused."""
    assert words in complaint(flags)


def test_urls_of_the_engine_are_separated_by_white_space() -> None:
    """The URL of an engine can have commas, so these separate nothing in the environment."""
    url, other = "postgresql://db1,db2/chat?target_session_attrs=read-write", "postgresql://db3/x"
    assert load_settings({}, {"FASTCHAT_ENGINE": f"{url}\n{other} "}, None).engine == (url, other)
    assert "FASTCHAT_ENGINE has" in complaint({}, {"FASTCHAT_ENGINE": f"{url} {url}"})
    assert "FASTCHAT_ENGINE: 'x' does not begin" in complaint({}, {"FASTCHAT_ENGINE": "x"})


def test_empty_engine_is_refused() -> None:
    """A secret that is not set must not begin a chat of one machine."""
    for value in ("", " ", "\n"):
        assert "FASTCHAT_ENGINE is empty" in complaint({}, {"FASTCHAT_ENGINE": value})
    assert "--engine is empty" in complaint({"engine": [""]})


def test_tokens_and_their_keys_are_set_together(tmp_path: Path) -> None:
    """A key without `--auth jwt` is refused, because no token would be checked."""
    assert "--jwt-key-file" in complaint({"auth": "jwt"})
    for name in ("jwt_key_file", "jwt_audience", "jwt_issuer"):
        assert "without --auth jwt" in complaint({name: "x"})
    assert "array of strings" in complaint({}, file=written(tmp_path, "jwt-key-file = 'key'"))
    assert "array of strings" in complaint({}, file=written(tmp_path, "jwt-key-file = [5]"))


@pytest.mark.parametrize(("cpus", "limit", "workers"), [(3, "max 100000", 3), (1, "max", 1)])
def test_auto_is_a_worker_for_each_usable_cpu(
    cpus: int, limit: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every source `auto` is the number of CPUs that this process can use."""
    limited(monkeypatch, tmp_path, set(range(cpus)), limit)
    file = written(tmp_path, "workers = 'auto'")
    assert load_settings({"workers": "auto"}, {}, None).workers == workers
    assert load_settings({}, {"FASTCHAT_WORKERS": "auto"}, None).workers == workers
    assert load_settings({}, {}, file).workers == workers


def limited(monkeypatch: pytest.MonkeyPatch, folder: Path, affinity: set[int], limit: str) -> None:
    """A machine on which this process can use these CPUs for this share of the time."""
    (folder / "cpu.max").write_text(f"{limit}\n", "ascii")
    monkeypatch.setattr("fastchat.settings._CPU_MAX", folder / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: affinity)


@pytest.mark.parametrize(
    ("cpus", "limit", "workers"),
    [(64, "200000 100000", 2), (64, "150000 100000", 2), (4, "50000 100000", 1), (900, "", 256)],
)
def test_container_is_not_given_more_workers_than_cpus(
    cpus: int, limit: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container with two of 64 CPUs `auto` is two; it is never above 256."""
    limited(monkeypatch, tmp_path, set(range(cpus)), limit)
    assert load_settings({"workers": "auto"}, {}, None).workers == workers


def test_wrong_number_of_workers_is_answered_with_the_range(tmp_path: Path) -> None:
    """Every source gives the same sentence, with the setting's name in that source."""
    right = "must be a number from 1 to 256, or auto, not"
    assert complaint({"workers": "x"}) == f"--workers {right} 'x'."
    assert complaint({"workers": "257"}) == f"--workers {right} 257."
    assert complaint({}, {"FASTCHAT_WORKERS": "-1"}) == f"FASTCHAT_WORKERS {right} '-1'."
    file = written(tmp_path, "workers = 257")
    assert complaint({}, file=file) == f"--config {file}: workers {right} 257."
    right = 'must be an integer from 1 to 256, or "auto", not'
    file = written(tmp_path, "workers = 'x'")
    assert complaint({}, file=file) == f'--config {file}: workers {right} the string "x".'
    file = written(tmp_path, "workers = true")
    assert complaint({}, file=file) == f"--config {file}: workers {right} the boolean true."
    assert "port must be an integer" in complaint({}, file=written(tmp_path, "port = 'auto'"))


def test_history_is_on_disk_by_default() -> None:
    """A server that is started without settings stores its messages on the disk."""
    settings = Settings()
    assert (settings.history, settings.data) == ("sqlite", "fastchat-data")
    assert (settings.durability, settings.history_max_age) == ("process", 0)


def test_other_variables_are_ignored() -> None:
    """Environment variables that are not fastchat's are ignored."""
    assert load_settings({}, {"PORT": "1", "FASTCHAT_TIMEOUT_UNIT": "2"}, None) == Settings()


@pytest.mark.parametrize("low_high", [("port", "0"), ("port", "65535"), ("max_lag_seconds", "1")])
def test_bounds_belong_to_the_range(low_high: tuple[str, str]) -> None:
    """The lowest and the highest value of a range are allowed."""
    name, value = low_high
    assert getattr(load_settings({name: value}, {}, None), name) == float(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "-1"),
        ("port", "65536"),
        ("port", "http"),
        ("port", ""),
        ("port", "80.0"),
        ("port", "9" * 5000),
        ("max_message_bytes", "1023"),
        ("max_message_bytes", "64k"),
        ("max_lag_bytes", "0"),
        ("max_lag_seconds", "0"),
        ("max_lag_seconds", "nan"),
        ("max_lag_seconds", "inf"),
        ("max_lag_seconds", "soon"),
        ("history_max_messages", "-1"),
        ("history_max_messages", "0"),
        ("workers", "0"),
        ("workers", "257"),
        ("workers", "two"),
        ("workers", ""),
        ("workers", "Auto"),
        ("workers", "2.0"),
        ("workers", "9" * 5000),
        ("admin_port", "65536"),
        ("admin_port", "auto"),
        ("history", "redis"),
        ("history", ""),
        ("durability", "none"),
        ("history_max_age", "-1"),
        ("history_max_age", "nan"),
        ("history_max_age", "1d"),
        ("log_level", "loud"),
        ("log_level", "INFO"),
        ("log_format", "xml\nline"),
        ("allow_origin", "chat.example"),
        ("debug_echo", "yes"),
        ("debug_echo", "True"),
        ("debug_echo", ""),
    ],
)
def test_error_names_the_setting_and_its_wrong_value(name: str, value: str) -> None:
    """One sentence names the flag or the variable, and the value."""
    flag = "--" + name.replace("_", "-")
    assert flag in complaint({name: value})
    sentence = complaint({}, {f"FASTCHAT_{name.upper()}": value})
    assert flag in sentence or f"FASTCHAT_{name.upper()}" in sentence


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("port = '8080'", 'port must be an integer, not the string "8080".'),
        ("port = true", "port must be an integer, not the boolean true."),
        ("port = 80.0", "port must be an integer, not the float 80.0."),
        ("port = [80]", "port must be an integer, not an array."),
        ("port = {}", "port must be an integer, not a table."),
        ("[port]\nx = 1", "port must be an integer, not a table."),
        ("port = 1979-05-27", "port must be an integer, not the date or time 1979-05-27."),
        ("port = 07:32:00", "port must be an integer, not the date or time 07:32:00."),
        ("port = -1", "port must be from 0 to 65,535, not -1."),
        ("max-lag-seconds = false", "max-lag-seconds must be a number, not the boolean false."),
        ("max-lag-seconds = nan", "max-lag-seconds must be from 1 to 3,600, not nan."),
        ("host = 5", "host must be a string, not the integer 5."),
        ('host = "a\\nb\\u0000"', "host must not contain the character U+0000."),
        ("data = ''", "data is empty; give a path, or leave the setting out."),
        ("history = 'redis'", "history must be sqlite or memory, not 'redis'."),
        ("log-level = ['info']", "log-level must be a string, not an array."),
        (
            "allow-origin = 'https://chat.example'",
            'allow-origin must be an array of strings, not the string "https://chat.example".',
        ),
        (
            "allow-origin = ['*', 5]",
            "allow-origin must be an array of strings, and the integer 5 is in it.",
        ),
        ("allow-origin = ['']", "allow-origin must be an array of strings, and an empty one is in"),
        ("allow-origin = ['https://chat.example/']", "allow-origin must be a scheme, a host"),
        ("allow-frame = ['x']", "allow-frame must be a scheme, a host name"),
        ("trusted-proxy = ['x']", "trusted-proxy must be an address such as"),
        ("auth = 'jwt'", "auth jwt needs --jwt-key-file"),
        ("jwt-issuer = 'x'", "jwt-issuer has no effect without --auth jwt"),
        ("jwt-user-claim = 'x'", "jwt-user-claim has no effect without --auth jwt"),
        ("auth = 'optional'", "auth optional needs --jwt-key-file"),
        (
            "auth = 'jwt'\njwt-key-file = ['x']\nguest-rights = 'read'",
            "guest-rights has no effect with --auth jwt",
        ),
        (
            "auth = 'jwt'\njwt-key-file = ['x']\njwt-user-claim = ''",
            "jwt-user-claim must be the name of a claim",
        ),
        ("ssl-keyfile = 'x'", "ssl-keyfile has no effect without --ssl-certfile"),
        ("debug-echo = 1", "debug-echo must be a boolean, true or false, not the integer 1."),
        ("debug-echo = 'true'", "debug-echo must be a boolean, true or false, not the string"),
        ("prot = 80", 'there is no setting "prot"; did you mean port?'),
        (
            "max_lag_bytes = 99999",
            'there is no setting "max_lag_bytes"; did you mean max-lag-bytes?',
        ),
        ("Port = 80", 'there is no setting "Port"; did you mean port?'),
        ("FASTCHAT_PORT = 80", 'there is no setting "FASTCHAT_PORT"; did you mean port?'),
        ("--port = 80", 'there is no setting "--port"; did you mean port?'),
        ("colour = 1", 'there is no setting "colour".'),
        ("[server]\nport = 1", 'there is no setting "server"; settings are not in tables, but'),
        ("'a\\b' = 1", 'there is no setting "a\\\\b".'),
    ],
)
def test_error_names_the_file_and_the_key(line: str, sentence: str, tmp_path: Path) -> None:
    """An error about the file names the file, the key, and what is wrong in TOML's words."""
    file = written(tmp_path, line)
    with pytest.raises(SettingError) as caught:
        load_settings({}, {}, file)
    assert str(caught.value).startswith(f"--config {file}: {sentence}")
    assert "\n" not in str(caught.value)


# A value that nobody uses is not read


def test_overridden_value_is_not_read(tmp_path: Path) -> None:
    """A flag wins whatever the environment and the file have, and a variable over the file."""
    file = written(tmp_path, "port = 'http'\nhost = 5")
    environment = {"FASTCHAT_PORT": "http", "FASTCHAT_HOST": "::1"}
    settings = load_settings({"port": "3"}, environment, file)
    assert (settings.port, settings.host) == (3, "::1")


def test_command_reads_its_own_settings_only(tmp_path: Path) -> None:
    """A wrong value of another command's setting does not matter, in any source."""
    file = written(tmp_path, "port = 'http'\nauth = 'jwt'\ndata = 'here'\n")
    environment = {"FASTCHAT_WORKERS": "many", "FASTCHAT_LIMITS": "?"}
    settings = load_settings({}, environment, file, only={"data"})
    assert settings == Settings(data="here")


# Kubernetes

#: The variables of a service `fastchat` with two ports, and of a service `fastchat-admin`.
SERVICES = {
    "FASTCHAT_SERVICE_HOST": "10.0.0.1",
    "FASTCHAT_SERVICE_PORT": "8080",
    "FASTCHAT_SERVICE_PORT_HTTP": "8080",
    "FASTCHAT_PORT": "tcp://10.0.0.1:8080",
    "FASTCHAT_PORT_8080_TCP": "tcp://10.0.0.1:8080",
    "FASTCHAT_PORT_8080_TCP_PROTO": "tcp",
    "FASTCHAT_PORT_8080_TCP_PORT": "8080",
    "FASTCHAT_PORT_8080_TCP_ADDR": "10.0.0.1",
    "FASTCHAT_PORT_53_UDP": "udp://10.0.0.1:53",
    "FASTCHAT_ADMIN_SERVICE_HOST": "fd00::1",
    "FASTCHAT_ADMIN_SERVICE_PORT": "9100",
    "FASTCHAT_ADMIN_PORT": "tcp://[fd00::1]:9100",
    "FASTCHAT_ADMIN_PORT_9100_TCP": "tcp://[fd00::1]:9100",
}


def test_address_of_a_service_is_no_port(tmp_path: Path) -> None:
    """The variables that Kubernetes sets for services change no setting, and the file still
    counts."""
    assert load_settings({}, SERVICES, None) == Settings()
    file = written(tmp_path, "port = 1")
    assert load_settings({}, SERVICES, file).port == 1
    assert load_settings({"admin_port": "2"}, SERVICES, file).admin_port == 2


def test_address_of_a_service_is_mentioned_once() -> None:
    """Each ignored port is one sentence, unless a flag sets the port."""
    first, second = ignored_variables({}, SERVICES)
    assert first.startswith("FASTCHAT_ADMIN_PORT is ignored")
    assert "use --admin-port" in first
    assert second.startswith("FASTCHAT_PORT is ignored")
    assert list(ignored_variables({"port": "1", "admin_port": "1"}, SERVICES)) == []


@pytest.mark.parametrize("value", ["http", "tcp:8080", "http://10.0.0.1:8080", "tcp://", ""])
def test_other_text_for_a_port_is_refused(value: str) -> None:
    """Only the form of Kubernetes is ignored."""
    assert "FASTCHAT_PORT must be a whole number" in complaint({}, {"FASTCHAT_PORT": value})


def test_address_of_a_service_is_refused_elsewhere(tmp_path: Path) -> None:
    """A flag and a file with such an address are mistakes."""
    assert "--port must be" in complaint({"port": "tcp://10.0.0.1:8080"})
    file = written(tmp_path, "port = 'tcp://10.0.0.1:8080'")
    assert "port must be an integer" in complaint({}, file=file)


def test_misspelt_variable_is_mentioned() -> None:
    """A variable that is almost a setting is named, and any other one is not."""
    environment = {
        "FASTCHAT_PROT": "1",
        "FASTCHAT_MAX_LAG_BYTE": "1",
        "FASTCHAT_TOKEN": "x",
        "FASTCHAT_TIMEOUT_UNIT": "1",
        "FASTCHAT_OPERATOR": "x",
        "PORT": "1",
    }
    assert list(ignored_variables({}, environment)) == [
        "FASTCHAT_MAX_LAG_BYTE is ignored, because there is no such setting; did you mean "
        "FASTCHAT_MAX_LAG_BYTES?",
        "FASTCHAT_PROT is ignored, because there is no such setting; did you mean FASTCHAT_PORT?",
    ]


# Paths


@pytest.mark.parametrize("name", ["data", "ssl_certfile", "ssl_keyfile", "jwt_key_file"])
@pytest.mark.parametrize("empty", ["", "  "])
def test_empty_path_is_refused(name: str, empty: str) -> None:
    """An empty path is a mistake, such as a variable of a shell that is not set."""
    flag = "--" + name.replace("_", "-")
    value = [empty] if name == "jwt_key_file" else empty
    ending = "is empty; give a path, or leave the setting out."
    assert complaint({name: value}) == f"{flag} {ending}"
    variable = f"FASTCHAT_{name.upper()}"
    assert complaint({}, {variable: empty}) == f"{variable} {ending}"


# Guesses


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--prot", "--port"),
        ("--max_lag_bytes", "--max-lag-bytes"),
        ("--Host", "--host"),
        ("--histroy", "--history"),
        ("--fly", ""),
        ("-p", ""),
        ("", ""),
    ],
)
def test_guess_is_close_or_missing(word: str, meant: str) -> None:
    """A word that is close to a known one gets it as a hint, and any other word gets none."""
    known = [flag_of(field) for field in setting_fields()]
    assert did_you_mean(word, known) == (f"; did you mean {meant}?" if meant else "")


def test_whole_number_is_a_valid_float(tmp_path: Path) -> None:
    """`max-lag-seconds = 5` means 5.0."""
    settings = load_settings({}, {}, written(tmp_path, "max-lag-seconds = 5"))
    assert settings.max_lag_seconds == 5.0
    assert type(settings.max_lag_seconds) is float


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The error for a missing file, a folder, bad TOML and bytes that are not text names the
    file."""
    assert "missing.toml" in complaint({}, file=tmp_path / "missing.toml")
    assert str(tmp_path) in complaint({}, file=tmp_path)
    assert "TOML" in complaint({}, file=written(tmp_path, "port = "))
    (tmp_path / "bytes.toml").write_bytes(b"host = '\xff'")
    assert "bytes.toml" in complaint({}, file=tmp_path / "bytes.toml")
