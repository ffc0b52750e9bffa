"""The text of a message in the body of an incoming webhook, as other chats have defined it.

Slack's and Mattermost's bodies have `text`, `blocks` and `attachments`; Discord's have `content`
and `embeds`. Parts of a text are lines of their own, in this order. All other fields are ignored:
colours and pictures, and also `channel` and `username`, because the operator has chosen both.

Slack encodes `<`, `>` and `&` as entities, and links as `<url|label>`. Discord does neither. Its
texts are taken as they are.

Sources: docs.slack.dev "Sending messages using incoming webhooks" and "Formatting message text";
docs.mattermost.com "Incoming webhooks"; discord.com "Execute Webhook".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import orjson

from fastchat.errors import CommandError
from fastchat.protocol import check_text
from fastchat.protocol.values import MAX_TEXT_CHARS

__all__ = ["MAX_DEPTH", "MAX_ITEMS", "InvalidPayload", "NoText", "text_in"]

#: Items of each list: blocks, attachments, embeds, and fields of these. Slack has at most 100.
MAX_ITEMS = 100
#: How deep values can be nested. Rich text in a block of an attachment is some 10 levels deep.
MAX_DEPTH = 16
#: Fields of a form; all but `payload` are ignored.
MAX_FORM_FIELDS = 16

#: `<target>` or `<target|label>`. Neither part has `<`, so the search never looks at a part twice.
_REFERENCE = re.compile(r"<([^<>|\s][^<>|\n]*)(?:\|([^<>\n]*))?>")
_LINK = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)

Fields = Mapping[str, Any]


class InvalidPayload(Exception):
    """The body is not what a webhook sends: no JSON, or values of other types."""


class NoText(Exception):
    """The body has nothing that can be shown."""


def text_in(body: bytes) -> str:
    """The text of the message in a body, which is JSON, or a form with JSON in `payload`.

    Some programs send JSON without saying so. Therefore the body itself shows what it is: JSON
    begins with a brace. A text that is too long for a message is cut, and ends with "…". Raises
    InvalidPayload or NoText.
    """
    data = body.strip()
    fields = _parsed(data if data.startswith(b"{") else _payload_of_form(data))
    text = "\n".join(filter(None, map(str.strip, _parts(fields))))
    if len(text) > MAX_TEXT_CHARS:
        text = text[: MAX_TEXT_CHARS - 1].rstrip() + "…"
    try:
        return check_text(text)
    except CommandError:
        raise NoText from None


def _payload_of_form(data: bytes) -> bytes:
    try:
        form = parse_qs(data.decode("ascii"), errors="strict", max_num_fields=MAX_FORM_FIELDS)
    except ValueError:
        raise InvalidPayload from None
    values = form.get("payload", ())
    if len(values) != 1:
        raise InvalidPayload
    return values[0].encode()


def _parsed(data: bytes) -> Fields:
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise InvalidPayload from None
    if type(fields) is not dict or _is_deeper(fields, MAX_DEPTH):
        raise InvalidPayload
    return fields


def _is_deeper(value: Any, depth: int) -> bool:
    if type(value) is dict:
        return depth == 0 or any(_is_deeper(each, depth - 1) for each in value.values())
    if type(value) is list:
        return depth == 0 or any(_is_deeper(each, depth - 1) for each in value)
    return False


def _parts(fields: Fields) -> Iterator[str]:
    # "The text is used as a fallback" if there are blocks (docs.slack.dev, chat.postMessage).
    yield from list(_blocks(fields)) or [_slack(_string(fields, "text"))]
    for attachment in _objects(fields, "attachments"):
        yield from _attachment(attachment)
    content = _string(fields, "content")
    if content != fields.get("text"):  # some programs send one text for Slack and for Discord
        yield content
    for embed in _objects(fields, "embeds"):
        yield from _embed(embed)


def _blocks(fields: Fields) -> Iterator[str]:
    for block in _objects(fields, "blocks"):
        shown = [_text_of(block), *map(_text_of, _objects(block, "fields"))]
        yield from filter(None, map(_slack, shown))


def _text_of(fields: Fields) -> str:
    """The `text` of a block, which is an object with a `text`; a block of Markdown has a string."""
    text = fields.get("text")
    if type(text) is dict:
        return _string(text, "text")
    return _string(fields, "text")


def _attachment(fields: Fields) -> Iterator[str]:
    shown = [
        _slack(_string(fields, "pretext")),
        _titled(_slack(_string(fields, "title")), _slack(_string(fields, "title_link"))),
        _slack(_string(fields, "text")),
        *_blocks(fields),
        *(
            _pair(_slack(_string(each, "title")), _slack(_scalar(each, "value")))
            for each in _objects(fields, "fields")
        ),
    ]
    if any(map(str.strip, shown)):
        yield from shown
    else:
        yield _slack(_string(fields, "fallback"))


def _embed(fields: Fields) -> Iterator[str]:
    shown = [
        _titled(_string(fields, "title"), _string(fields, "url")),
        _string(fields, "description"),
        *(
            _pair(_string(each, "name"), _scalar(each, "value"))
            for each in _objects(fields, "fields")
        ),
    ]
    if any(map(str.strip, shown)):
        yield from shown
    elif type(author := fields.get("author")) is dict:
        yield _titled(_string(author, "name"), _string(author, "url"))


def _titled(title: str, link: str) -> str:
    """A title with its link; a link without a title is not shown."""
    return f"{title} ({link})" if title.strip() and link and link != title else title


def _pair(title: str, value: str) -> str:
    return f"{title}: {value}" if title.strip() and value.strip() else title or value


# Values of fields


def _string(fields: Fields, name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if type(value) is not str:
        raise InvalidPayload
    return value


def _scalar(fields: Fields, name: str) -> str:
    """A value that can also be a number, or true or false, as in Mattermost's fields."""
    value = fields.get(name)
    if type(value) in (int, float, bool):
        return orjson.dumps(value).decode()
    return _string(fields, name)


def _objects(fields: Fields, name: str) -> Sequence[Fields]:
    items = fields.get(name)
    if items is None:
        return ()
    if type(items) is not list or len(items) > MAX_ITEMS:
        raise InvalidPayload
    if not all(type(each) is dict for each in items):
        raise InvalidPayload
    return items


# Slack's markup


def _slack(text: str) -> str:
    """A text of Slack's as a person reads it: references first, and then entities."""
    text = _REFERENCE.sub(_referenced, text)
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _referenced(found: re.Match[str]) -> str:
    target, label = found[1], found[2] or ""
    if target.startswith(("@", "#")):  # a user and a channel, by their ids
        return target[0] + label.lstrip("@#") if label else target
    if target.startswith("!"):  # <!here>, <!subteam^ID|@name>, <!date^…|text>
        return label or "@" + target[1:].partition("^")[0]
    if _LINK.match(target) is None:
        return found[0]  # no reference, but a text with angle brackets
    if not label or label == target or target == f"mailto:{label}":
        return label or target
    return f"{label} ({target})"
