"""Tests of the names of rooms and users, and of names that look alike."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol.names import check_room, check_username, name_key, room_key

# Rooms


@pytest.mark.parametrize("name", ["a", "lobby", "0", "-", "_", ".", "..", "a.b-c_d", "x" * 64])
def test_valid_room_name_is_returned_unchanged(name: str) -> None:
    """1 to 64 of a-z, 0-9, '-', '_' and '.' are a valid name of a room."""
    assert check_room(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "x" * 65, "Lobby", "a b", "a/b", "a\n", "\na", "a\x00", "#a", "😀", "é é", "кухня/1"),
        *("кухня\n", "ку#хня", "ку?хня", "ку%хня", "й" * 65, "е\u0308" * 65, "\U00020000" * 49),
        *("Кухня!", "кух,ня", "“кухня”", "кухня\u3000", "кух\u00a0ня", "天気　", "１２。"),
        # Characters without a shape, private ones, and such as change the direction.
        *("ку\u200bхня", "می\u200cخواهم", "ку\u202eхня", "кухня\ufeff", "ку\u00adхня", "\u3164"),
        *("가\u3164", "а\ufe0f", "а\U000e0100", "а\u034f", "а\u17b4", "а\ue000", "а\ud800"),
        # A mark that would stand on the sign before the name; numbers that are no digits.
        *("\u0301а", "\u0e31ก", "Ⅷ", "²é", "①", "é\u20dd", "é☃"),
        # Newer than Python 3.11, which does not fold them.
        *("\U00016d68", "\U00016d40", "\U0001e5d0"),
        "x" * 1_000_000 + "é",
    ],
    ids=lambda name: ascii(name[:20]),
)
def test_invalid_room_name_is_refused(name: object) -> None:
    """Any other name is `bad_room`, also one with a line feed at its end."""
    with pytest.raises(CommandError) as caught:
        check_room(name)
    assert caught.value.code == ErrorCode.BAD_ROOM


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("кухня", "кухня"),
        ("Кухня", "кухня"),
        ("КУХНЯ", "кухня"),
        ("厨房", "厨房"),
        ("مطبخ", "مطبخ"),
        ("מטבח", "מטבח"),
        ("Straße", "strasse"),
        ("STRAẞE", "strasse"),
        ("STRASSé", "strassé"),
        ("Café-Sud_1.2", "café-sud_1.2"),
        ("cafe\u0301", "café"),
        ("ΟΔΌΣ", "οδόσ"),
        ("οδός", "οδόσ"),
        ("ᾼ", "αι"),
        ("İzmir", "i\u0307zmir"),
        ("\u0390\u01f0", "\u0390\u01f0"),  # case-folding alone takes these apart
        ("ızmir", "ızmir"),
        ("부엌", "부엌"),
        ("\u1107\u116e\u110b\u1165\u11bf", "부엌"),
        ("台所", "台所"),
        ("ラーメン", "ラーメン"),
        ("ครัว", "ครัว"),
        ("रसोई", "रसोई"),
        ("சமையலறை", "சமையலறை"),
        ("ＡＢＣ", "ａｂｃ"),
        ("٣-٤", "٣-٤"),
        ("é" * 64, "é" * 64),
        ("e\u0301" * 64, "é" * 64),
        ("厨" * 64, "厨" * 64),
        ("\U00020000" * 48, "\U00020000" * 48),
        ("\U000323b0", "\U000323b0"),  # an ideograph of Unicode 17
        ("\u212a", "k"),  # the sign for kelvin
    ],
    ids=ascii,
)
def test_room_name_of_any_script_has_a_key(name: str, key: str) -> None:
    """The key is the name in NFC, case-folded."""
    assert check_room(name) == key
    assert check_room(key) == key


def test_room_name_is_refused_with_its_reason() -> None:
    """The sentence says which rule the name breaks."""
    for name, reason in (
        ("", "1 to 64 characters"),
        ("й" * 65, "1 to 64 characters"),
        ("\U00020000" * 49, "192 bytes"),
        ("Lobby", "letters must be small"),
        ("ку хня", "letters and digits of any script"),
        (None, "must be a string"),
    ):
        with pytest.raises(CommandError, match=reason):
            check_room(name)


@given(st.text(max_size=70))
def test_accepted_room_name_has_a_short_and_stable_key(name: str) -> None:
    """A key is valid and its own key; the case of the name does not change it."""
    try:
        key = check_room(name)
    except CommandError:
        return
    assert check_room(key) == room_key(key) == key
    assert 1 <= len(key) <= 64
    assert len(key.encode()) <= 192
    assert unicodedata.is_normalized("NFC", key)
    assert not any(char.isspace() for char in key)
    if not name.isascii():
        assert check_room(name.casefold()) == key
        assert check_room(unicodedata.normalize("NFD", name)) == key


@given(st.text(max_size=70))
def test_key_of_a_room_key_is_itself(name: str) -> None:
    """A name that no room can have, such as one in a token, has a stable key as well."""
    assert room_key(room_key(name)) == room_key(name)


@pytest.mark.parametrize("name", [None, 5, True, b"lobby", ["lobby"], {"a": 1}])
def test_room_name_that_is_no_string_is_refused(name: object) -> None:
    """Another type of JSON is `bad_room`."""
    with pytest.raises(CommandError) as caught:
        check_room(name)
    assert caught.value.code == ErrorCode.BAD_ROOM


# Usernames


@pytest.mark.parametrize(
    "name",
    [
        "A",
        "Alice",
        "x" * 32,
        "😀" * 32,
        "Zoë",
        "李雷",
        "محمد",
        "Ann Lee",
        "O'Neil",
        "a<b>",
        "❤\ufe0f",
        "Rosa 🩷",  # newer than the Unicode of Python 3.11
        "\U0001faff",  # not assigned yet, but reserved for pictures
        "\U000323b0",  # an ideograph of Unicode 17
    ],
)
def test_valid_username_is_returned_unchanged(name: str) -> None:
    """1 to 32 visible characters of any script are a valid name."""
    assert check_username(name) == name


def test_username_is_normalised_to_nfc() -> None:
    """A letter and its combining mark become one character, and count as one."""
    assert check_username("Zoe\u0308") == "Zoë"
    assert check_username("e\u0301" * 32) == "é" * 32


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 33,
        "x" * 100_000,
        "e\u0301" * 33,
        " Alice",
        "Alice ",
        "\u3000Alice",
        "Alice\u00a0",
        " ",
        "a\nb",
        "a\tb",
        "a\x00b",
        "a\x7fb",
        "a\x85b",
        "a\u200bb",  # zero width space
        "a\u200cb",
        "a\u200db",
        "a\u2060b",
        "a\ufeffb",
        "a\u00adb",  # soft hyphen
        "a\u202eb",  # right-to-left override
        "a\u2066b",
        "a\u200fb",
        "a\u061cb",
        "a\u2028b",
        "a\u2029b",
        "a\u115fb",  # Hangul fillers
        "a\u1160b",
        "\u3164",
        "\uffa0",
        "\u2800",  # Braille blank
        "a\U00016fe4b",  # Khitan filler
        "a\U0001d159b",  # null notehead
        "a\u034fb",
        "a\u17b4b",
        "a\u180bb",  # Mongolian variation selector
        "\u180f",
        "a\u180eb",
        "a\ufe00b",
        "\ufe0f",
        "\ufe0f\ufe0f",
        "a\U000e0041b",  # tag
        "a\U000e0100b",
        "a\ue000b",  # private use
        "a\uffffb",
        "a\U0001d173b",
        "\ud800",
        "a\udfffb",
    ],
    ids=ascii,
)
def test_misleading_username_is_refused(name: str) -> None:
    """Invisible, directional and control characters, and spaces at the ends, are refused."""
    with pytest.raises(CommandError) as caught:
        check_username(name[:200])
    assert caught.value.code == ErrorCode.BAD_USERNAME


@pytest.mark.parametrize("name", [None, 5, True, b"Alice", ["Alice"], {"a": 1}])
def test_username_that_is_no_string_is_refused(name: object) -> None:
    """Another type of JSON is `bad_username`."""
    with pytest.raises(CommandError) as caught:
        check_username(name)
    assert caught.value.code == ErrorCode.BAD_USERNAME


# Names that look alike


@pytest.mark.parametrize(
    "other",
    [
        "Admin",
        "ADMIN",
        "aDmIn",
        "ａｄｍｉｎ",  # full width
        "ＡＤＭＩＮ",
        "𝐚𝐝𝐦𝐢𝐧",  # mathematical
        "𝓪𝓭𝓶𝓲𝓷",
        "𝔞𝔡𝔪𝔦𝔫",
        "𝕒𝕕𝕞𝕚𝕟",
        "𝚊𝚍𝚖𝚒𝚗",
        "ⓐⓓⓜⓘⓝ",
        "ⒶⒹⓂⒾⓃ",
        "ᵃᵈᵐⁱⁿ",
        "ad\u2133in".replace("\u2133", "ℳ"),
        "ªdmin",
        "admⅰn",
        "aⅾmin",
        "adⅿin",
        "admin\ufe0f",
        "a\ufe0fdmin",
    ],
)
def test_equivalent_names_have_the_same_key(other: str) -> None:
    """Names that NFKC and case-folding make equal have the same key."""
    assert name_key(check_username(other)) == name_key("admin")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Straße", "STRASSE"),
        ("ﬁsh", "FISH"),
        ("Σίσυφος", "ΣΊΣΥΦΟΣ"),
        ("Zoë", "zoe\u0308"),
        ("Ann Lee", "ann  lee"),
        ("Ann Lee", "Ann\u00a0Lee"),
        ("Ann Lee", "ann\u2003lee"),
        ("Ⅷ", "viii"),
        ("ẞ", "ss"),
        ("Å", "\u212b"),
        ("Zoë", "Zoe\ufe0f\u0308"),
    ],
)
def test_case_and_compatibility_forms_do_not_change_the_key(one: str, other: str) -> None:
    """Case, ligatures, forms of letters and widths of spaces do not change the key."""
    assert name_key(one) == name_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann", "An"),
        ("Zoe", "Zoë"),
        ("a b", "ab"),
        ("user1", "user2"),
        ("Clara", "Dara"),
        ("Anna", "Hanna"),
        ("Нина", "Hnna"),
        ("Νίκος", "Vikoc"),
        ("李雷", "李蕾"),
        ("محمد", "محمود"),
    ],
)
def test_different_names_have_different_keys(one: str, other: str) -> None:
    """Names that a reader can tell apart have different keys."""
    assert name_key(one) != name_key(other)


@pytest.mark.parametrize(
    "other",
    [
        "аdmin",  # Cyrillic a
        "аdmіn",
        "аԁmіn",
        "АDMIN",
        "АДМIN".replace("Д", "D"),
        "ADМIN",  # Cyrillic capital em
        "αdmin",  # Greek
        "admιn",
        "ΑDMIΝ".replace("Ν", "N"),
        "ɑdmin",  # Latin alpha
        "adrnin",
        "ADRNIN",
        "adm1n",
        "adm!n".replace("!", "|"),
        "admln",
        "ADMlN",
        "aDmІn",
        "admın",  # dotless
        "admi\u0307n",  # an invisible dot
        "admΙn",
        "ᴀdmin",
        "admɪn",
        "adⅿin",
        "ꓮdmin",  # Lisu
        "ꓮꓓmin",
        "Ꭺdmin",  # Cherokee
        "admiո",  # Armenian
        "аԁⅿіո",
        "ａdmіn",
        "𝐚dmіn",
        "adｍ1n",
        "ⓐdmⅼn",
    ],
    ids=ascii,
)
def test_names_that_look_like_admin_have_its_key(other: str) -> None:
    """Letters of other scripts and digits that look like a letter have its key (UTS #39)."""
    assert other != "admin"
    assert name_key(check_username(other)) == name_key("admin")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Bob", "B0b"),
        ("Lisa", "1isa"),
        ("Ian", "lan"),
        ("Arno", "Amo"),
        ("Will", "VVill"),
        ("HELLO", "НЕLLО"),
        ("Tom", "Тоm"),
        ("Kate", "Κate"),
        ("Ο'Neil", "0`Neil"),
        ("paypal", "раураl"),
        ("scope", "ѕсоре"),
        ("محمد", "محـــمد"),  # tatweel
        ("lobby", "lоbby"),
    ],
)
def test_confusable_names_have_the_same_key(one: str, other: str) -> None:
    """0 and O, l and I and 1, rn and m, vv and w look alike, and so do whole words."""
    assert name_key(check_username(one)) == name_key(check_username(other))


@pytest.mark.parametrize(
    "name",
    [
        *("Сергей", "Наталья", "Νίκος", "Ἀλέξανδρος", "Արամ", "გიორგი", "יוסף", "محمد", "فاطمة"),
        *(
            "अर्जुन",
            "தமிழ்",
            "สมชาย",
            "李小龙",
            "たろう",
            "タロウ",
            "김철수",
            "Nguyễn",
            "Zoë",
            "Łukasz",
        ),
        *("Ås", "Øystein", "Jürgen", "İbrahim", "DJ Саша", "ᏣᎳᎩ", "😀", "x_X", "1337", "O'Neil"),
    ],
)
def test_name_of_any_script_is_allowed(name: str) -> None:
    """A name of any script, or of two scripts, is valid."""
    assert check_username(name) == unicodedata.normalize("NFC", name)
    assert name_key(name) == name_key(name.casefold()) == name_key(name_key(name))


@given(st.text(max_size=40))
def test_case_does_not_change_the_key_of_any_name(name: str) -> None:
    """The lower and upper case of a name have the same key."""
    assert name_key(name.casefold()) == name_key(name)


@given(st.text(alphabet=st.characters(max_codepoint=126, min_codepoint=32), max_size=10))
def test_shortcut_for_ascii_gives_the_same_key(name: str) -> None:
    """An invisible character makes an ASCII name take the general way, with the same key."""
    assert name_key(name + "\ufe0f") == name_key(name)


@given(st.text(max_size=40))
def test_accepted_name_is_visible_and_has_a_key(name: str) -> None:
    """An accepted name is in NFC, short, trimmed and visible, and has a key."""
    try:
        checked = check_username(name)
    except CommandError:
        return
    assert unicodedata.is_normalized("NFC", checked)
    assert 1 <= len(checked) <= 32
    assert checked == checked.strip()
    assert name_key(checked)
    assert not {unicodedata.category(char) for char in checked} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert check_username(checked) == checked


@given(st.text(max_size=40))
def test_key_of_a_key_is_itself(name: str) -> None:
    """A key depends on the look of a name, not on how often the name was folded."""
    key = name_key(name)
    assert name_key(key) == key
