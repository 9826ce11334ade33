"""Texts folded for matching by whole words: compatible characters, cases, apostrophes and white space made one.

Python sorts runs of combining marks by insertion, so that a run of n marks in the wrong order takes n^2 steps, and a
megabyte of them hours. Long runs are sorted here first, which changes no result: canonical ordering (Unicode Standard
Annex 15) is a stable sort by combining class.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import groupby

import numpy as np

_APOSTROPHES = ("\u2018", "\u2019", "\u02bc")
_FULL_WIDTH = tuple((chr(ord(mark) + 0xFEE0), mark) for mark in ",!?:;()")
"""Marks that nearly every Chinese text holds. They combine with nothing, and a text without them is often in NFKC
already, which is found out several times faster than a text is composed."""
_ASCII_BLANKS = "\t\n\v\f\r\x1c\x1d\x1e\x1f "
_WIDE_BLANKS = (
    "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
_TO_BLANK = bytes.maketrans(_ASCII_BLANKS.encode(), b" " * len(_ASCII_BLANKS))
_WIDE = tuple(blank.encode() for blank in _WIDE_BLANKS)
BLANK = ord(" ")
_LONG = 4096
"""In a shorter text no run of marks takes long."""
_MARKS = re.compile(r"[^\w\s\x00-\x7f]{64,}")
_WORDLIKE_MARKS = (("\uff9e", "\u3099"), ("\uff9f", "\u309a"))
"""The only letters that are a combining mark alone when taken apart."""


def folded(text: str) -> str:
    """Compatible characters, cases, apostrophes and white space made one (NFKC, case folding, single blanks)."""
    if text.isascii():
        return _single_blanks(text.lower().encode()).strip(b" ").decode()
    for wide, narrow in _FULL_WIDTH:
        text = text.replace(wide, narrow)
    if len(text) >= _LONG:
        for letter, mark in _WORDLIKE_MARKS:
            text = text.replace(letter, mark)
        text = _MARKS.sub(lambda run: _in_canonical_order(run[0]), text)
    composed = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    for apostrophe in _APOSTROPHES:
        composed = composed.replace(apostrophe, "'")
    return " ".join(composed.split())


def plain_blanks(raw: bytes) -> bytes:
    """UTF-8 with each character that `str.split()` takes for white space made a blank."""
    if not raw.isascii():
        for blank in _WIDE:
            raw = raw.replace(blank, b" ")
    return raw.translate(_TO_BLANK)


def _single_blanks(raw: bytes) -> bytes:
    """UTF-8 with each run of white space made one blank."""
    raw = plain_blanks(raw)
    blanks = np.flatnonzero(np.frombuffer(raw, dtype=np.uint8) == BLANK)
    followers = blanks[1:][np.diff(blanks) == 1]
    if not len(followers):
        return raw
    kept = np.ones(len(raw), dtype=np.bool_)
    kept[followers] = False
    return np.frombuffer(raw, dtype=np.uint8)[kept].tobytes()


def _in_canonical_order(run: str) -> str:
    """Taken apart, with each run of combining marks sorted by class."""
    apart = "".join(unicodedata.normalize("NFKD", character) for character in run)
    parts = groupby(apart, key=lambda character: unicodedata.combining(character) > 0)
    return "".join("".join(sorted(part, key=unicodedata.combining) if marks else part) for marks, part in parts)
