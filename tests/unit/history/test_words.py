"""Tests of the words of texts in many scripts, as the search compares them."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastchat.history.search import matcher
from fastchat.history.words import FOLDING, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, World! x2", ["hello", "world", "x2"]),
        ("snake_case and don't", ["snake", "case", "and", "don", "t"]),
        ("今天天气很好", list("今天天气很好")),
        ("iPhone手机", ["iphone", "手", "机"]),
        ("학교에서", list("학교에서")),
        ("カタカナ", list("かたかな")),
        ("สวัสดี", list("สวัสดี")),
        ("Straße", ["strasse"]),
        ("a\u00adb\u200dc", ["abc"]),
        ("a\u2028b\u3000c\nd", ["a", "b", "c", "d"]),
        ("👍 ★ →", []),
        ("नमस्ते", ["नमस्ते"]),
        ("བོད་ཡིག", ["བོད", "ཡིག"]),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    """Words are folded; in scripts without spaces, each character is one."""
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("text", "query"),
    [
        # Scripts without spaces, and Korean
        ("今天天气很好", "天气"),
        ("今天天气很好", "好"),
        ("明日の会議は東京タワーで", "東京"),
        ("明日の会議は東京タワーで", "タワー"),
        ("学校에서 만나요", "学校"),
        ("학교에서 만나요", "학교"),
        ("วันนี้อากาศดีมาก", "อากาศ"),
        ("ສະບາຍດີຕອນເຊົ້າ", "ຕອນ"),
        ("សួស្តីពិភពលោក", "ពិភព"),
        ("မင်္ဂလာပါကမ္ဘာ", "ကမ္ဘာ"),
        ("去买iPhone手机", "iphone"),
        ("去买iPhone手机", "iPhone手机"),
        ("3月5日见", "5日"),
        ("\U00020000\U00020001\U0002a6d6", "\U00020001"),
        # Widths and forms
        ("ＡＢＣ", "ABC"),
        ("abc", "ＡＢＣ"),
        ("ﾀﾜｰ ﾊﾞｽ", "タワー"),
        ("ﾊﾞｽ", "バス"),
        ("らーめん", "ラーメン"),
        ("は\u3099す", "バス"),
        ("①番", "1番"),
        ("ﬁnal oﬃce", "final office"),
        ("𝓗𝓮𝓵𝓵𝓸", "hello"),
        ("２０２４", "2024"),
        ("٢٠٢٤", "2024"),
        ("२०२४", "2024"),
        # Case
        ("Καλημέρα κόσμε", "καλημερα"),
        ("ΟΔΥΣΣΕΥΣ", "οδυσσευς"),
        ("ὈΔΥΣΣΕΎΣ ᾳ", "οδυσσευσ"),
        ("STRASSE", "Straße"),
        ("STRAẞE", "strasse"),
        ("İstanbul", "istanbul"),
        ("ISPARTA", "ısparta"),
        ("ısparta", "isparta"),
        ("ԵՐԵՒԱՆ", "Երևան"),
        ("Ǆ", "ǆ"),
        # Marks and strokes
        ("Ёлка", "елка"),
        ("елка", "ЁЛКА"),
        ("Tiếng Việt ở Đà Nẵng", "tieng viet o da nang"),
        ("Łódź", "lodz"),
        ("Ærøskøbing", "aeroskobing"),
        ("Þór", "thor"),
        ("e\u0301te\u0301", "été"),
        ("x\u20dd", "x"),
        # Arabic and Hebrew
        ("مُحَمَّد", "محمد"),
        ("محـــمد", "محمد"),
        ("أحمد إبراهيم آمال ٱلله", "احمد ابراهيم امال الله"),
        ("مدرسة على", "مدرسه علي"),
        ("مؤمن شيئ", "مومن شيي"),
        ("کتاب یک", "كتاب يك"),
        ("می\u200cخواهم", "میخواهم"),
        ("\ufefb", "لا"),
        ("שָׁלוֹם", "שלום"),
        ('צה"ל', "צה״ל"),
        # Apostrophes
        ("м'ята", "м’ята"),
        ("мʼята", "м'ята"),
        ("Hawaiʻi", "Hawai'i"),
        # Indic scripts
        ("नमस्ते दुनिया", "दुनिया"),
        ("தமிழ்", "தமிழ்"),
        ("ক\u09cb", "ক\u09c7\u09be"),
    ],
    ids=ascii,
)
def test_query_finds_the_same_word_in_another_form(text: str, query: str) -> None:
    """Forms that people do not tell apart when they search are found, in either direction."""
    assert matcher(query)(text)
    assert matcher(text)(query) or len(words_of(text)) > len(words_of(query))


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("今天天气很好", "气天"),
        ("今天 气很好", "天很"),
        ("학교", "하"),
        ("か", "が"),
        ("や", "ゃ"),
        ("कमल", "कमला"),
        ("ดี", "ดา"),
        ("天氣", "天气"),
        ("شيء", "شي"),
        ("mother", "moth"),
    ],
)
def test_query_does_not_find_another_word(text: str, query: str) -> None:
    """Other words are not found, nor are words that are only written with the same characters."""
    assert not matcher(query)(text)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("Wörter", "wor*"),
        ("Кухня", "кух*"),
        ("天气", "天*"),
        ("天气", "天＊"),
        ("学生証", '"学生"*'),
        ("iPhone手机", '"手机"*'),
        ("買iPhone", '"買iph"*'),
    ],
)
def test_prefix_finds_words_of_any_script(text: str, query: str) -> None:
    """A star after a word or a phrase stands for any ending, whatever the width of the star."""
    assert matcher(query)(text)


@given(st.text(max_size=60))
def test_words_consist_of_letters_marks_and_digits(text: str) -> None:
    """No word has a character that would divide it in the index."""
    for word in words_of(text):
        assert word
        assert not any(char.isspace() or (char.isascii() and not char.isalnum()) for char in word)


def test_longest_messages_are_folded_completely() -> None:
    """Each of 4,000 letters counts, also if it is taken apart; a flood of ligatures is cut."""
    assert words_of("가" * 3999 + "힣")[-1] == "힣"
    assert words_of("ệ" * 3998 + " x")[-1] == "x"
    assert len(words_of("\ufdfa" * 4000)) < 4000


def test_every_character_can_be_folded() -> None:
    """No character raises an error, alone or after a letter."""
    for code in range(0, sys.maxunicode + 1, 7):
        words_of(f"a{chr(code)}")


def test_name_of_the_rules_has_the_version_of_unicode() -> None:
    """Another Unicode knows other forms of characters, so an index of it is built again."""
    assert FOLDING.endswith(unicodedata.unidata_version)
