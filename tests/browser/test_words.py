"""The page's words: each language whole, each word used, and none anywhere else."""

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
#: The first argument of `t` or `partsOf`, as far as it holds no call.
ASKED = re.compile(r"\b(?:t|partsOf)\(([^(),]*)")
COMPARED = re.compile(r'[=!]== "[^"]*"')
#: What a person would read: it begins with a capital, or ends like a sentence.
WORDS = re.compile(r"^[A-Z][a-z]+( [a-z]|$)|[a-z] [a-z]+[.!?…]$")
#: Names of keys, of what browsers offer, and of languages.
NAMES = {
    "Escape", "Enter", "Tab", "Esc", "Ctrl", "Alt", "Files", "Notification", "English", "Chat",
}  # fmt: skip
#: What is there before any language is, or where none can be.
UNTRANSLATED = {"fastchat", "lobby", "fastchat needs JavaScript."}


def code_of(module: Path) -> str:
    return COMMENT.sub("", module.read_text("utf-8"))


def strings_in(code: str) -> list[str]:
    return [found[1] if found[1] is not None else found[2] for found in STRING.finditer(code)]


class Document(HTMLParser):
    """The keys that a document asks for, and what it says by itself."""

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


PAGE = Document((STATIC / "index.html").read_text("utf-8"))


@pytest.fixture(scope="module")
def words(blank: Any) -> dict[str, dict[str, Any]]:
    """Of each language: its words and the plural forms that it has."""
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


def test_languages_that_are_offered_are_there(blank: Any) -> None:
    """Each that the preferences offer has its file, and the other way round."""
    offered = blank.evaluate(
        "async () => Object.keys((await import('/static/text/translation.js')).LANGUAGES)"
    )
    assert sorted(offered) == LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
def test_language_says_what_english_says(words: Any, language: str) -> None:
    """It has the same keys, each with the same placeholders, and numbers in its own forms."""
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
def test_language_says_what_the_server_says(words: Any, language: str) -> None:
    """English has the server's sentences; another language its own for each code of an error."""
    own = {key for key in words[language]["words"] if key.startswith("error_")}
    assert own == (set() if language == "en" else {f"error_{code}" for code in ErrorCode})


def test_what_is_asked_for_is_there(words: Any) -> None:
    """The code and the document ask for no text that does not exist."""
    asked = {key for module in MODULES for key in _asked_in(code_of(module))} | PAGE.keys
    assert len(asked) > 50
    assert asked - words["en"]["words"].keys() == set()


def _asked_in(code: str) -> list[str]:
    found = (COMPARED.sub("", each) for each in ASKED.findall(code))
    return [key for each in found for key in re.findall(r'"([^"]*)"', each)]


def test_what_is_there_is_asked_for(words: Any) -> None:
    """There is no text that nothing shows."""
    named = {string for module in MODULES for string in strings_in(code_of(module))} | PAGE.keys
    named |= {key for module in MODULES for key in _asked_in(code_of(module))}
    codes = re.findall(r'\d+: "(\w+)"', code_of(STATIC / "client" / "close-codes.js"))
    assert words["en"]["words"].keys() - named - {f"closed_{name}" for name in codes} == set()


def test_words_are_nowhere_else() -> None:
    """What people read is in the languages' files alone."""
    assert [text for text in PAGE.said if text not in UNTRANSLATED] == []
    said = {
        f"{module.name}: {text}"
        for module in MODULES
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
def test_any_language_may_be_asked_for(visit: Any, asked: str, locale: str) -> None:
    """An address that asks for none that there is shows the reader's own, and a working page."""
    page = visit(at="x", locale="en-US")
    page.goto(f"{page.url.partition('#')[0]}?lang={asked}#x")
    found = page.evaluate("async () => (await import('/static/text/translation.js')).locale")
    assert found == locale
    assert page.locator("#name-title").text_content()
