"""Built-in conversations for `rm check`: several languages, scripts and lengths; some begin alike, some are very short.

Their content means nothing; what matters is that lengths differ by a hundred times, that tokens of many kinds occur,
and that some rows share their beginning.
"""

from __future__ import annotations

from tasks.records import Message

_STORY = (
    "A ferry leaves the northern quay at seven, carries forty passengers across the sound, waits for the tide, and is "
    "back before noon. On Tuesdays it also carries mail. "
)
_CODE = "def area(radius: float) -> float:\n    return 3.14159 * radius**2\n\n\nprint(f'{area(2.0):.2f}')\n"


def _chat(*contents: str) -> list[Message]:
    """Turns of user and assistant in alternation; the last is the user's."""
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(contents)]


_FERRY = _chat(f"{_STORY}When is the ferry back?")
_LONG = _chat(f"{_STORY * 6}How many passengers does it carry?")

SAMPLES: tuple[tuple[list[Message], str], ...] = (
    (_chat("Hi"), "Hello!"),
    (_chat("Hi"), "Hello! How can I help you today?"),
    (_FERRY, "Before noon."),
    (_FERRY, "It leaves at seven, waits for the tide, and is back before noon; on Tuesdays it carries mail as well."),
    (_FERRY, "I do not know."),
    (_LONG, "Forty."),
    (_LONG, f"Forty passengers. {_STORY * 3}"),
    (_chat("Write a function for the area of a circle.", _CODE, "Now with a docstring."), f'"""Area."""\n{_CODE}'),
    (_chat("Was ist die Hauptstadt von Österreich?"), "Die Hauptstadt von Österreich ist Wien, an der Donau gelegen."),
    (_chat("¿Cuál es el río más largo de España?"), "El Tajo es el río más largo de la península ibérica."),
    (_chat("Quelle est la couleur du ciel ?"), "Bleu, le plus souvent ; gris quand il pleut."),
    (_chat("中国的首都是哪里？"), "中国的首都是北京。"),
    (_chat("日本で一番高い山は何ですか。"), "富士山です。標高は三千七百七十六メートルです。"),
    (_chat("한국의 수도는 어디입니까?"), "서울입니다."),
    (_chat("ما هي عاصمة مصر؟"), "عاصمة مصر هي القاهرة."),
    (_chat("Какая самая длинная река в Европе?"), "Волга — самая длинная река в Европе."),
    (_chat("भारत की राजधानी क्या है?"), "भारत की राजधानी नई दिल्ली है।"),
    (_chat("2 + 2 = ?", "4", "And 4 * 4?", "16", "And 16 - 256?"), "-240"),
    (_chat("Say it in emoji: a dog runs to the sea."), "🐕💨🌊 👍🏽"),
    (_chat("List three fruits."), "1. apple\n2. pear\n3. plum\n\n| fruit | colour |\n|---|---|\n| plum | *blue* |\n"),
)
