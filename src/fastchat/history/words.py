"""Divides texts into words for the search. Messages and queries are divided by the same function.

Two words are the same if they differ only in these respects, which seldom matter in a search:

* case, in every alphabet: `STRASSE` and `Straße`, a Greek final sigma, and the four letters i of
  Turkish;
* accents and other marks above and below letters of alphabets, including the vowel points of Hebrew
  and Arabic, and a hamza on another letter;
* the width and the form of characters: `ＡＢＣ`, `①`, ligatures, and the digits of other scripts;
* a stroke through a letter (`Łódź` and `lodz`), and a joined pair of letters (`æ` and `ae`);
* katakana and hiragana. But the marks of voiced kana matter, and so does the size of kana;
* the different Arabic letters that languages and keyboards use for one letter (yeh, kaf, heh), the
  feminine ending, and tatweel;
* invisible characters, such as joiners and soft hyphens.

The vowel signs of Indic and other scripts matter, because words without them are other words.
Traditional and simplified Chinese characters are different characters.

A word is a sequence of letters, marks and digits. In scripts without spaces between words, and in
Korean, whose particles follow a noun without a space, each character is a word of its own. A term
of several words matches only if they follow each other, so a term finds any part of such a text.
"""

from __future__ import annotations

import re
import unicodedata

from fastchat.protocol.characters import CharacterKind, kind_of

__all__ = ["FOLDING", "words_of"]

#: The version of the rules by which words are made. An index of another version is built again, so
#: the number must grow with each change of the rules. The version of Unicode is a part of it,
#: because a newer Python knows more forms of characters.
FOLDING = f"1 {unicodedata.unidata_version}"

# The blocks of scripts without spaces, of Hangul, and of the marks and signs between kana.
_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\U000116d0-\U000116ff"  # Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u1950-\u19df\u1a20-\u1aaf\uaa80-\uaadf\U00011700-\U0001174f"  # Tai and Ahom
    "\ua980-\ua9df\u1b00-\u1b7f"  # Javanese, Balinese
    "\u1100-\u11ff\ua960-\ua97f\uac00-\ud7ff"  # Hangul
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u302f\u3031-\u303c\u3040-\u31ff"  # kana, bopomofo
    "\u3400-\u4dbf\u4e00-\ua4cf\uf900-\ufaff"  # ideographs, Yi
    "\U00016fe0-\U00018dff\U0001aff0-\U0001b2ff\U00020000-\U0003ffff"
)
# This pattern and `_IGNORED` take 3 ms to compile, so `re` compiles them when a text needs them.
_WORD = f"[{_UNSPACED}]|[^ {_UNSPACED}]+"
_ASCII_WORD = re.compile("[a-z0-9]+")

# The marks of alphabets, and characters without a shape: joiners, controls of direction, fillers.
_IGNORED = (
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"  # Hebrew
    "\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"  # Arabic
    "\u0897-\u089f\u08ca-\u08e1\u08e3-\u08ff\u0640\u0711\u0730-\u074a"  # Arabic, tatweel, Syriac
    "\xad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]"
)
# Letters and the letters that they count as, including decompositions that Unicode does not have.
_LETTERS = {
    **dict(zip("đħıłøŧƀɨƶð", "dhilotbizd", strict=True)),
    **dict(zip("ĐĦŁØŦɃƗƵÐ", "DHLOTBIZD", strict=True)),
    **dict(zip("æœþÆŒÞ", ("ae", "oe", "th", "AE", "OE", "TH"), strict=True)),
    # Alef, yeh, kaf and heh of the Arabic script.
    **dict(zip("ٱىیېۍےکڪةھہۃە", "اييييي" + "كك" + "ههههه", strict=True)),
    # Apostrophes that are letters divide words, as the ASCII one does.
    **dict.fromkeys("\u02b9\u02bb\u02bc\u02be\u02bf", " "),
    # Katakana become hiragana.
    **{chr(code): chr(code - 0x60) for code in (*range(0x30A1, 0x30F7), 0x30FD, 0x30FE)},
}
_PARTS_OF_WORDS = (CharacterKind.LETTER, CharacterKind.MARK, CharacterKind.NUMBER)
#: The messages of a room usually have at most a few thousand different characters. The limit keeps
#: a stranger from filling the memory with all characters of Unicode.
_MAX_KNOWN = 16_384
#: Further characters of a decomposed text are not searched. A message has 4,000 characters. Letters
#: of Hangul and Vietnamese become three each; a text of ligatures that become 18 each would take
#: too long.
_MAX_CHARS = 16_384


def words_of(text: str) -> list[str]:
    """The words of a text, folded, in their order.

    A word has only letters, marks and digits: it contains neither spaces nor ASCII punctuation.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    # The decomposition separates letters from marks. The composition joins a letter and the marks
    # that were kept, and the parts of Hangul syllables.
    text = unicodedata.normalize("NFKD", text)[:_MAX_CHARS].translate(_FOLDED).casefold()
    return re.findall(_WORD, unicodedata.normalize("NFC", text))


class _Folded(dict[int, str]):
    """The folded form of each character of a decomposed text, for `str.translate`."""

    def __missing__(self, code: int) -> str:
        folded = _fold(chr(code))
        if len(self) < _MAX_KNOWN:
            self[code] = folded
        return folded


_FOLDED = _Folded()


def _fold(char: str) -> str:
    if re.match(_IGNORED, char):
        return ""
    if char in _LETTERS:
        return _LETTERS[char]
    kind = kind_of(char)
    if kind is CharacterKind.DIGIT:
        return str(unicodedata.decimal(char, char))
    return char if kind in _PARTS_OF_WORDS else " "
