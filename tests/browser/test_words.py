"""The page's words: each language is complete, each text is used, and no text is elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fastchat.errors import ErrorCode

STATIC = Path(__file__).parent.parent.parent / "static"
MODULES = sorted(file for file in STATIC.rglob("*.js") if file.parent.name != "lang")
LANGUAGES = sorted(file.stem for file in (STATIC / "lang").glob("*.js"))

COMMENT = re.compile(r"(?m)^\s*//.*$")
STRING = re.compile(r'"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`')
#: The first argument of `t` or `partsOf`, if it holds no call.
ASKED = re.compile(r"\b(?:t|partsOf)\(([^(),]*)")
COMPARED = re.compile(r'[=!]== "[^"]*"')
#: A text for people: it starts with a capital letter, or ends like a sentence.
WORDS = re.compile(r"^[A-Z][a-z]+( [a-z]|$)|[a-z] [a-z]+[.!?…]$")
#: Names of keys, of browsers' functions and of languages.
NAMES = {
    "Escape", "Enter", "Tab", "Esc", "Ctrl", "Alt", "Key", "Slash", "Files", "Notification",
    "English", "Chat",
}  # fmt: skip
#: Texts that are shown before a language has loaded, or if none can be loaded.
UNTRANSLATED = {"fastchat", "lobby", "fastchat needs JavaScript."}


def code_of(module: Path) -> str:
    return COMMENT.sub("", module.read_text("utf-8"))


def strings_in(code: str) -> list[str]:
    return [found[1] if found[1] is not None else found[2] for found in STRING.finditer(code)]


class DocumentTexts(HTMLParser):
    """The keys that a document refers to, and the texts that it contains itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.keys: set[str] = set()
        self.said: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name.startswith("data-t"):
                self.keys.add(value or "")
            elif name in ("aria-label", "title", "placeholder", "alt") and value:
                self.said.append(value)

    def handle_data(self, data: str) -> None:
        if re.search("[A-Za-z]", data):
            self.said.append(data.strip())


PAGE = DocumentTexts((STATIC / "index.html").read_text("utf-8"))


@pytest.fixture(scope="module")
def words(blank: Any) -> dict[str, dict[str, Any]]:
    """Return the words and the plural forms of each language."""
    found: dict[str, dict[str, Any]] = blank.evaluate(
        """async (languages) => Object.fromEntries(await Promise.all(languages.map(
          async (language) => [language, { ...(await import(`/static/lang/${language}.js`)),
            forms: new Intl.PluralRules(language).resolvedOptions().pluralCategories }])))""",
        LANGUAGES,
    )
    return found


def placeholders(text: str | dict[str, str]) -> set[str]:
    texts = [text] if isinstance(text, str) else text.values()
    return {name for each in texts for name in re.findall(r"\{(\w+)\}", each)}


def test_offered_languages_have_files(blank: Any) -> None:
    """Each language in the preferences has its file, and each file is offered."""
    offered = blank.evaluate(
        "async () => Object.keys((await import('/static/text/translation.js')).LANGUAGES)"
    )
    assert sorted(offered) == LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_the_keys_of_english(words: Any, language: str) -> None:
    """Each language has the same keys, each with the same placeholders, and its own plural
    forms."""
    english, own = words["en"]["words"], words[language]["words"]
    own = {key: text for key, text in own.items() if not key.startswith("error_")}
    assert own.keys() == english.keys()
    assert {key: placeholders(text) for key, text in own.items()} == {
        key: placeholders(text) for key, text in english.items()
    }
    for key, text in own.items():
        assert isinstance(text, str) == isinstance(english[key], str), key
        if not isinstance(text, str):
            assert "other" in text, key
            assert set(text) <= set(words[language]["forms"]), key


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_explains_the_server_s_errors(words: Any, language: str) -> None:
    """English has the server's sentences, and each other language has its own for each error
    code."""
    own = {key for key in words[language]["words"] if key.startswith("error_")}
    assert own == (set() if language == "en" else {f"error_{code}" for code in ErrorCode})


def test_every_used_key_exists(words: Any) -> None:
    """The code and the document refer to existing texts only."""
    asked = {key for module in MODULES for key in _keys_used_in(code_of(module))} | PAGE.keys
    assert len(asked) > 50
    assert asked - words["en"]["words"].keys() == set()


def _keys_used_in(code: str) -> list[str]:
    found = (COMPARED.sub("", each) for each in ASKED.findall(code))
    return [key for each in found for key in re.findall(r'"([^"]*)"', each)]


def test_every_key_is_used(words: Any) -> None:
    """Each text is shown somewhere."""
    named = {string for module in MODULES for string in strings_in(code_of(module))} | PAGE.keys
    named |= {key for module in MODULES for key in _keys_used_in(code_of(module))}
    codes = re.findall(r'\d+: "(\w+)"', code_of(STATIC / "client.js"))
    assert words["en"]["words"].keys() - named - {f"closed_{name}" for name in codes} == set()


def test_texts_are_in_the_languages_files_only() -> None:
    """The page's texts for people are in the languages' files alone. The errors of the client are
    for the programs of others."""
    assert [text for text in PAGE.said if text not in UNTRANSLATED] == []
    said = {
        f"{module.name}: {text}"
        for module in MODULES
        if module != STATIC / "client.js"
        for text in strings_in(code_of(module))
        if WORDS.search(text) and text not in NAMES
    }
    assert said == set()


@pytest.mark.parametrize(
    ("asked", "locale"),
    [
        ("en-GB", "en-GB"),
        ("EN", "EN"),
        ("constructor", "en-US"),
        ("__proto__", "en-US"),
        ("en_US", "en-US"),
        ("en-", "en-US"),
        ("xx", "en-US"),
        ("<b>", "en-US"),
    ],
)
def test_unknown_language_falls_back_to_the_reader_s(visit: Any, asked: str, locale: str) -> None:
    """An unknown language in the address gives a working page in the reader's own language."""
    page = visit(at="x", locale="en-US")
    page.goto(f"{page.url.partition('#')[0]}?lang={asked}#x")
    found = page.evaluate("async () => (await import('/static/text/translation.js')).locale")
    assert found == locale
    assert page.locator("#name-title").text_content()
