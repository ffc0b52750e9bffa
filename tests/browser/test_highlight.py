"""The matches that the page marks in the results of a search, and the words that it compares."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from fastchat.history.words import words_of
from support.browser import Visit

PIECES = (
    "async ([text, query]) => (await import('/static/text/highlight.js')).piecesOf(text, query)"
)
WORDS = "async (texts) => texts.map((await import('/static/text/words.js')).wordsOf)"


@pytest.mark.parametrize(
    ("text", "query", "pieces"),
    [
        ("The quick brown fox", "brown fo*", ["The quick ", "brown", " ", "fox", ""]),
        ("今天天气很好", "天气*", ["今天", "天气", "很好"]),
        ("今天天气很好", "气天", ["今天天气很好"]),
        ("天 气 天气", "天气", ["", "天", " ", "气", " ", "天气", ""]),
        ("去买iPhone手机", "iphone手", ["去买", "iPhone手", "机"]),
        ("학교에서", "학교", ["", "학교", "에서"]),
        ("วันนี้อากาศดีมาก", "อากาศ", ["วันนี้", "อากาศ", "ดีมาก"]),
        ("Die Straße", "STRASSE", ["Die ", "Straße", ""]),
        ("Καλημέρα, κόσμος", "καλημερα κοσμοσ", ["", "Καλημέρα", ", ", "κόσμος", ""]),
        ("هذا مُحَمَّد", "محمد", ["هذا ", "مُحَمَّد", ""]),
        ("x ＡＢＣ", "abc", ["x ", "ＡＢＣ", ""]),
        ("ラーメン屋", "らーめん", ["", "ラーメン", "屋"]),
        ("ﾗｰﾒﾝ", "ラーメン", ["", "ﾗｰﾒﾝ", ""]),
        ("nothing", "★ *", ["nothing"]),
        ("quick, brown", '"quick brown"', ["", "quick", ", ", "brown", ""]),
        ("brown quick", '"quick brown"', ["brown quick"]),
    ],
)
def test_matches_are_marked_in_any_script(
    blank: Any, text: str, query: str, pieces: list[str]
) -> None:
    """Every second piece is a match, by the same rules as on the server."""
    assert blank.evaluate(PIECES, [text, query]) == pieces


def test_page_and_server_make_the_same_words(blank: Any) -> None:
    """The page's words are those of the server, for texts in many scripts."""
    texts = [
        "Hello, World! snake_case don't x2 C++",
        "今天天气很好，去买iPhone手机。3月5日",
        "明日の会議は東京タワーで。らーめん ﾗｰﾒﾝ ﾊﾞｽ ヴ が か 々〆",
        "학교에서 만나요 ㅋㅋㅋ ㄱㅏ",
        "วันนี้อากาศดีมาก น้ำ ສະບາຍດີ សួស្តី မင်္ဂလာပါ",
        "Καλημέρα κόσμος ΟΔΥΣΣΕΥΣ ᾳ",
        "Ёлка мой ї м’ята мʼята",
        "İstanbul ISPARTA ısparta Straße STRAẞE",
        "Tiếng Việt Đà Nẵng Łódź Ærøskøbing Þór œuvre ﬁn 𝓗𝓮𝓵𝓵𝓸",
        "مُحَمَّد محـــمد أحمد مدرسة على کتاب می\u200cخواهم ﻻ ٢٠٢٤ ۲۰۲۴",
        'שָׁלוֹם צה"ל צה״ל',
        "नमस्ते दुनिया २०२४ தமிழ் বাংলা",
        "ＡＢＣ １２３ ①番 Ⅷ ½ x²",
        "བོད་ཡིག ქართული Երևան",
        "👍🏽 ★ a\u00adb\u2060c",
    ]
    assert blank.evaluate(WORDS, texts) == [words_of(text) for text in texts]


def test_result_of_a_search_has_its_match_marked(visit: Visit) -> None:
    """A search in Chinese finds the message, and marks the word that was searched."""
    page = visit("Ann")
    page.fill("#composer", "今天天气很好")
    page.press("#composer", "Enter")
    page.keyboard.press("Control+k")
    page.fill("#search-field", "天气")
    expect(page.locator("#results mark")).to_have_text(["天气"])
