"""The same sentence in many languages, and how many characters, bytes and words a text has."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

SENTENCES = {
    "English": "The quick brown fox jumps over the lazy dog",
    "French": "Le renard brun rapide saute par-dessus le chien paresseux",
    "Spanish": "El rápido zorro marrón salta sobre el perro perezoso",
    "German": "Der schnelle braune Fuchs springt über den faulen Hund",
    "Portuguese": "A rápida raposa marrom pula sobre o cachorro preguiçoso",
    "Polish": "Szybki brązowy lis przeskakuje nad leniwym psem",
    "Turkish": "Hızlı kahverengi tilki tembel köpeğin üzerinden atlar",
    "Vietnamese": "Con cáo nâu nhanh nhẹn nhảy qua con chó lười",
    "Greek": "Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί",
    "Russian": "Быстрая коричневая лиса прыгает через ленивую собаку",
    "Hebrew": "השועל החום המהיר קופץ מעל הכלב העצלן",
    "Arabic": "الثعلب البني السريع يقفز فوق الكلب الكسول",
    "Hindi": "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है",
    "Thai": "สุนัขจิ้งจอกสีน้ำตาลที่รวดเร็วกระโดดข้ามสุนัขขี้เกียจ",
    "Korean": "빠른 갈색 여우가 게으른 개를 뛰어넘는다",
    "Japanese": "素早い茶色のキツネが怠惰な犬を飛び越える",
    "Chinese (simplified)": "敏捷的棕色狐狸跳过了懒狗",
}
"""Readers compare how many tokens their language costs by this."""

_UNSPACED = ("CJK UNIFIED", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


@dataclass(frozen=True)
class TextSize:
    """`words` are what blanks part; None where the script has no blanks between words."""

    characters: int
    bytes: int
    words: int | None


def text_size(text: str) -> TextSize:
    """Characters are Unicode code points, bytes those of UTF-8."""
    letters = [letter for letter in text[:10_000] if letter.isalpha()]
    unspaced = sum(unicodedata.name(letter, "").startswith(_UNSPACED) for letter in letters)
    return TextSize(
        characters=len(text),
        bytes=len(text.encode("utf-8")),
        words=None if 2 * unspaced > len(letters) else len(text.split()),
    )


@dataclass(frozen=True)
class CharacterBytes:
    """One character and its bytes in UTF-8, in binary and in hexadecimal."""

    character: str
    binary: str
    hexadecimal: str


def character_bytes(character: str) -> CharacterBytes:
    data = character.encode("utf-8")
    return CharacterBytes(
        character, " ".join(f"{byte:08b}" for byte in data), " ".join(f"{byte:#04x}" for byte in data)
    )
