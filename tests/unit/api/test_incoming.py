"""The texts of messages in the bodies of incoming webhooks."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest

from fastchat.api.incoming import MAX_DEPTH, MAX_ITEMS, InvalidPayload, NoText, text_in

#: As Alertmanager 0.25 sends it from `slack_configs` with its default templates.
ALERTMANAGER = {
    "channel": "#ops",
    "username": "Alertmanager",
    "attachments": [
        {
            "title": "[FIRING:1] DiskFull (db-1 critical)",
            "title_link": "http://alerts.example:9093/#/alerts?receiver=chat",
            "text": "",
            "fallback": "[FIRING:1] DiskFull (db-1 critical) | http://alerts.example:9093",
            "callback_id": "",
            "footer": "",
            "color": "danger",
            "mrkdwn_in": ["fallback", "pretext", "text"],
        }
    ],
}
#: As Grafana sends it from a contact point of the type Slack.
GRAFANA = {
    "channel": "#ops",
    "username": "Grafana",
    "text": "",
    "attachments": [
        {
            "color": "#D63232",
            "title": "[FIRING:1] CPU &gt; 90 %",
            "title_link": "http://grafana.example/alerting/list",
            "text": "**Firing**\n\nValue: A=93.1\nSource: <http://grafana.example/a?x=1&amp;y=2|rule>",
            "fallback": "[FIRING:1] CPU",
            "fields": [{"title": "host", "value": "web-1", "short": True}],
            "footer": "Grafana v10.4",
            "footer_icon": "https://grafana.com/static/assets/img/fav32.png",
            "ts": 1764521100,
        }
    ],
}
#: A section, a header and fields, as slack_sdk's models make them.
BLOCKS = {
    "text": "Only a fallback",
    "blocks": [
        {"type": "header", "text": {"type": "plain_text", "text": "Deploy", "emoji": True}},
        {"type": "divider"},
        {
            "type": "section",
            "text": {"type": "mrkdwn", "text": "*shop* by <@U024BE7LH|ann>"},
            "fields": [
                {"type": "mrkdwn", "text": "*Version:* 1.2"},
                {"type": "mrkdwn", "text": "*Took:* 31 s"},
            ],
        },
    ],
}
#: As a workflow that reports a push of GitHub to Discord sends it.
DISCORD = {
    "username": "GitHub",
    "avatar_url": "https://github.example/a.png",
    "content": "",
    "embeds": [
        {
            "title": "[shop:main] 1 new commit",
            "url": "https://github.example/shop/compare/a...b",
            "description": "[`0d1a26e`](https://github.example/c/0d1a26e) Fix a &lt;b&gt; - ann",
            "color": 7506394,
            "author": {"name": "ann", "url": "https://github.example/ann"},
            "fields": [{"name": "Branch", "value": "main", "inline": True}],
            "footer": {"text": "GitHub"},
        }
    ],
}


def text_of(payload: Any) -> str:
    return text_in(json.dumps(payload).encode())


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"text": "Hello"}, "Hello"),
        (
            ALERTMANAGER,
            "[FIRING:1] DiskFull (db-1 critical) (http://alerts.example:9093/#/alerts?receiver=chat)",
        ),
        (
            GRAFANA,
            "[FIRING:1] CPU > 90 % (http://grafana.example/alerting/list)\n**Firing**\n\n"
            "Value: A=93.1\nSource: rule (http://grafana.example/a?x=1&y=2)\nhost: web-1",
        ),
        (BLOCKS, "Deploy\n*shop* by @ann\n*Version:* 1.2\n*Took:* 31 s"),
        (
            DISCORD,
            "[shop:main] 1 new commit (https://github.example/shop/compare/a...b)\n"
            "[`0d1a26e`](https://github.example/c/0d1a26e) Fix a &lt;b&gt; - ann\nBranch: main",
        ),
    ],
    ids=["slack", "alertmanager", "grafana", "blocks", "discord"],
)
def test_bodies_of_known_programs(payload: Any, text: str) -> None:
    """The text has all that a person needs, in lines."""
    assert text_of(payload) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<https://a.example|A &amp; B>", "A & B (https://a.example)"),
        ("<https://a.example/?x=1&amp;y=2>", "https://a.example/?x=1&y=2"),
        ("<https://a.example|https://a.example>", "https://a.example"),
        ("<https://a.example|>", "https://a.example"),
        ("<mailto:ann@a.example|ann@a.example>", "ann@a.example"),
        ("<@U1> <@U1|ann> <#C1|ops> <#C1>", "@U1 @ann #ops #C1"),
        ("<!here> <!channel> <!subteam^S1|@dba>", "@here @channel @dba"),
        ("<!date^1392734382^{date_short}|Feb 18>", "Feb 18"),
        ("a < b > c <div> <>", "a < b > c <div> <>"),
        ("&lt;https://a.example|x&gt;", "<https://a.example|x>"),
        ("&amp;lt; &amp;amp;", "&lt; &amp;"),
    ],
)
def test_markup_of_slack(text: str, shown: str) -> None:
    """References become texts, then entities become characters, each of them once."""
    assert text_of({"text": text}) == shown


def test_markup_in_a_text_for_discord_stays() -> None:
    """Discord encodes nothing, so nothing is decoded."""
    text = "&lt; <https://a.example|x>"
    assert text_of({"content": text}) == text


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"text": "a", "attachments": [{"pretext": "p", "title": "t", "text": "x"}]}, "a\np\nt\nx"),
        ({"attachments": [{"title": "t", "fallback": "f"}]}, "t"),
        ({"attachments": [{"title_link": "https://a.example", "fallback": "f"}]}, "f"),
        (
            {"attachments": [{"fields": [{"title": "a", "value": 5}, {"value": True}]}]},
            "a: 5\ntrue",
        ),
        ({"attachments": [{"fields": [{"title": "a", "value": ""}]}]}, "a"),
        ({"attachments": [{"fallback": "f", "blocks": BLOCKS["blocks"][:1]}]}, "Deploy"),
        ({"text": "a", "blocks": [{"type": "divider"}]}, "a"),
        ({"text": "a", "blocks": [], "attachments": None}, "a"),
        ({"blocks": [{"type": "markdown", "text": "# T"}]}, "# T"),
        ({"text": "a", "content": "a"}, "a"),
        ({"text": "a", "content": "b"}, "a\nb"),
        ({"embeds": [{"author": {"name": "ann"}}, {"title": "t"}]}, "ann\nt"),
        ({"content": "a", "channel": "#x", "username": "root", "icon_emoji": ":x:"}, "a"),
        ({"text": " \x00a\r\nb\x1b \n"}, "a\nb"),
    ],
)
def test_parts_are_lines_in_order(payload: Any, text: str) -> None:
    """Empty parts are left out, and fallbacks are used only if there is nothing else."""
    assert text_of(payload) == text


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"text": ""},
        {"text": " \n\t"},
        {"text": "\x00\x07"},
        {"attachments": [{"color": "danger"}], "embeds": [{}]},
        {"blocks": [{"type": "divider"}]},
    ],
)
def test_bodies_without_a_text(payload: Any) -> None:
    """A body that would be an empty message has no text."""
    with pytest.raises(NoText):
        text_of(payload)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"Hello",
        b'"Hello"',
        b"[]",
        b'{"text":"a"',
        b'{"text":"\xff"}',
        b'{"text":"\\ud800"}',
        b"text=Hello",
        b"payload=Hello",
        b"payload=",
        b"payload=%ff%7B%7D",
        b"payload=%7B%7D&payload=%7B%7D",
        b"payload=\xc3\xa4",
        b"&".join([b"a=1"] * 20),
        b'{"a":' * 2000,
        *(
            json.dumps(value).encode()
            for value in (
                {"text": 5},
                {"text": ["a"]},
                {"attachments": {}},
                {"attachments": ["a"]},
                {"attachments": [{"text": {}}]},
                {"attachments": [{"fields": [{"value": []}]}]},
                {"attachments": [{"text": "a"}] * (MAX_ITEMS + 1)},
                {"blocks": [{"text": {"text": 5}}]},
                {"blocks": [{"fields": [5]}]},
                {"embeds": [{"title": 5}]},
                {"text": "a", "more": nested(MAX_DEPTH)},
            )
        ),
    ],
)
def test_bodies_that_are_none(body: bytes) -> None:
    """What is neither JSON nor a form, or has values of wrong types, is refused."""
    with pytest.raises(InvalidPayload):
        text_in(body)


def test_forms() -> None:
    """A form has JSON in `payload`, as Slack's documentation does it with curl."""
    payload = json.dumps({"text": "50 % + ä &amp; <https://a.example|x>"}, ensure_ascii=False)
    text = "50 % + ä & x (https://a.example)"
    assert text_in(urlencode({"payload": payload, "other": ""}).encode()) == text
    assert text_in(b"payload=" + quote_plus(payload).encode() + b"\n") == text


def test_limits_are_inclusive() -> None:
    """The deepest and longest body that is allowed is read."""
    assert text_of({"text": "a", "more": nested(MAX_DEPTH - 1)}) == "a"
    lines = text_of({"attachments": [{"text": "a"}] * MAX_ITEMS})
    assert lines.count("a") == MAX_ITEMS


@pytest.mark.parametrize(("length", "cut"), [(4000, False), (4001, True), (60_000, True)])
def test_long_texts_are_cut(length: int, cut: bool) -> None:
    """A text that does not fit into a message ends with an ellipsis."""
    text = text_of({"text": "x" * length})
    assert text == ("x" * 3999 + "…" if cut else "x" * length)
