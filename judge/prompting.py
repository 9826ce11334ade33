"""From a pair of answers to the text a judge reads, and back.

Texts under judgement are data. Each stands between lines such as `<<<RESPONSE 1 5f0c…>>>` whose mark is the hash of all
the texts shown, so no text can hold its own mark, and nothing in an answer can end its block. Placeholders of the
prompt file are replaced in one pass, so braces in an answer stay braces.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from configs.errors import UserError
from configs.records import sha256_of_record
from judge.answers import Question
from judge.config import PromptName
from judge.original_prompt import original_prompt
from tasks.records import Message

PROMPTS = Path(__file__).parent / "prompts"
PLACEHOLDERS = ("conversation", "response_1", "response_2")
MARK_LENGTH = 16
_PLACEHOLDER = re.compile(r"\{(conversation|response_1|response_2|key)\}")
_FIRST_MARK = re.compile(rf"^<<<(?:CONVERSATION|RESPONSE 1|RESPONSE 2) ([0-9a-f]{{{MARK_LENGTH}}})>>>$", re.MULTILINE)


class Texts(NamedTuple):
    """What a judge is shown: the conversation and the two answers in the order of display."""

    messages: list[Message]
    first: str
    second: str


@cache
def load_prompt(name: PromptName, file: str | None = None) -> str:
    """The text of a prompt file: our own of that name, or the user's in its place.

    Raises:
        UserError: the file cannot be read, or a placeholder does not stand in it exactly once.
    """
    path = PROMPTS / f"{name}.txt" if file is None else Path(file).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such prompt file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as a prompt in UTF-8 ({error})") from None
    if name == "original":
        return original_prompt(text, str(path))
    template = text.strip()
    check_template(template, str(path))
    return template


def check_template(template: str, where: str) -> None:
    """Refuse a prompt in which a placeholder is missing or stands twice."""
    for placeholder in PLACEHOLDERS:
        count = template.count(f"{{{placeholder}}}")
        if count != 1:
            raise UserError(f"{where}: {{{placeholder}}} must stand in the prompt exactly once, found {count} times")


def shown_texts(question: Question) -> Texts:
    """The texts of a question that no rule has settled, fit for UTF-8."""
    if question.first.answer is None or question.second.answer is None:
        raise ValueError(f"{question.pair.pair_id}: a malformed answer is settled without a judge")
    messages = [{key: _encodable(text) for key, text in turn.items()} for turn in question.pair.prompt.messages]
    return Texts(messages, _encodable(question.first.answer), _encodable(question.second.answer))


def render(template: str, texts: Texts) -> str:
    """The judge's prompt: every placeholder replaced in one pass over the template."""
    mark = mark_of(texts)
    turns = "\n".join(f"<<<{turn['role'].upper()} {mark}>>>\n{turn['content']}" for turn in texts.messages)
    replacements = {
        "conversation": _block("CONVERSATION", turns, mark),
        "response_1": _block("RESPONSE 1", texts.first, mark),
        "response_2": _block("RESPONSE 2", texts.second, mark),
        "key": mark,
    }
    return _PLACEHOLDER.sub(lambda match: replacements[match[1]], template)


def mark_of(texts: Texts) -> str:
    """The mark of the delimiters: a hash of all texts between them that occurs in none of them."""
    everything = [texts.messages, texts.first, texts.second]
    for attempt in range(1 << MARK_LENGTH):
        mark = sha256_of_record([everything, attempt])[:MARK_LENGTH]
        if not any(mark in text for text in (texts.first, texts.second, *(t["content"] for t in texts.messages))):
            return mark
    raise AssertionError("texts that contain 65,536 of their own hashes do not exist")


def read_rendered(rendered: str) -> Texts | None:
    """The texts of a rendered prompt; None where it is no prompt that `render` made.

    The first delimiter of a prompt is the prompt's own. Its mark must be the hash of what it encloses, so a text that
    imitates delimiters is never taken for one.
    """
    opening = _FIRST_MARK.search(rendered)
    if opening is None:
        return None
    mark = opening[1]
    conversation, first, second = (
        _inside(rendered, label, mark) for label in ("CONVERSATION", "RESPONSE 1", "RESPONSE 2")
    )
    if conversation is None or first is None or second is None:
        return None
    pieces = re.split(rf"(?:^|\n)<<<([A-Z_]+) {mark}>>>\n", conversation)
    messages = [
        {"role": role.lower(), "content": content} for role, content in zip(pieces[1::2], pieces[2::2], strict=True)
    ]
    texts = Texts(messages, first, second)
    return texts if mark_of(texts) == mark else None


def attempts(text: str) -> list[str]:
    """How a text under judgement tries to speak to the judge, by the names of `ATTEMPTS`; mostly empty.

    Looked for in English, in the text as a reader would see it and as a model may (see `_readings`). Nothing is removed
    from what the judge reads: attempts are counted, and the delimiters and the grammar make them idle.
    """
    readings = _readings(text)
    return [name for name, pattern in ATTEMPTS.items() if any(pattern.search(reading) for reading in readings)]


def count_attempts(texts: Sequence[str | None]) -> int:
    """How many texts hold at least one attempt."""
    return sum(bool(text and attempts(text)) for text in texts)


def _readings(text: str) -> list[str]:
    """A text without its disguises: compatibility forms, invisible characters, accents, letters that look alike.

    Characters of the block of tags are invisible copies of ASCII, and the 256 variation selectors can carry bytes;
    where there are any, what they spell is a reading of its own. Where the direction of writing is overridden, so is
    the text backwards.
    """
    folded = unicodedata.normalize("NFKD", text)
    visible = "".join(c for c in folded if unicodedata.category(c) not in ("Cf", "Mn", "Me")).translate(LOOKALIKES)
    readings = [visible]
    tags = "".join(chr(ord(c) - TAGS.start) for c in text if ord(c) in TAGS)
    selected = bytes(SELECTORS.index(c) for c in text if c in SELECTORS).decode("utf-8", "replace")
    readings += [hidden for hidden in (tags, selected) if hidden]
    if any(c in text for c in OVERRIDES):
        readings.append(visible[::-1])
    return readings


def _block(label: str, text: str, mark: str) -> str:
    return f"<<<{label} {mark}>>>\n{text}\n<<<END {label} {mark}>>>"


def _inside(rendered: str, label: str, mark: str) -> str | None:
    _, opening, rest = rendered.partition(f"<<<{label} {mark}>>>\n")
    text, closing, _ = rest.partition(f"\n<<<END {label} {mark}>>>")
    return text if opening and closing else None


def _encodable(text: str) -> str:
    """The text with lone surrogates replaced, which have no UTF-8 and would end the request."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


BLANKS = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and signs that show nothing."""
LOOKALIKES = str.maketrans(
    "аеорсухіѕԁјһαορνᴀʙᴄᴅᴇғɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ" + BLANKS,
    "aeopcyxisdjhaopvabcdefghijklmnoprstuvwyz" + " " * len(BLANKS),
)
"""Cyrillic and Greek letters and small capitals in the place of Latin letters, and blanks in that of a space."""
SELECTORS = "".join(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
TAGS = range(0xE0000, 0xE0080)
OVERRIDES = ("\u202e", "\u2067", "\u202b")
ATTEMPTS = {
    "verdict": re.compile(
        r"#\s?[12]\s+is\s+better|[\\\"'<]*verdict[\\\"'>]*\s*[:=>]|\[\[[ABC12][<>=]*[ABC12]?\]\]|"
        r"\b(response|answer|assistant) (1|2|a|b|one|two) (is|was) (clearly |much )?(better|best|the winner)|"
        r"\b(first|second) (response|answer|assistant) (is (clearly |much )?(better|best)|wins)|"
        r"\bwinner\s*[:=]",
        re.IGNORECASE,
    ),
    "delimiter": re.compile(
        r"<<<\s*/?\s*(END|CONVERSATION|RESPONSE|USER|ASSISTANT|SYSTEM)\b|"
        r"\[(the )?(start|end) of (the )?(assistant|response|answer|conversation)|</?(response|answer)_?[12ab]>",
        re.IGNORECASE,
    ),
    "turn": re.compile(
        r"<\|(im_start|im_end|system|user|assistant|eot_id|start_header_id|endoftext)\|?>|\[/?INST\]|<</?SYS>>|"
        r"^\s*#*\s*(system|judge|human|assistant)\s*:",
        re.IGNORECASE | re.MULTILINE,
    ),
    "instruction": re.compile(
        r"\b(ignore|disregard|forget|override)\b.{0,40}\b(instruction|prompt|above|previous|rules?)|"
        r"\b(dear|note to( the)?|attention,?|message to( the)?|hello,?) (judge|evaluator|grader|reviewer)|"
        r"\b(judge|evaluator|grader|reviewer)s? (must|should|please)\b|"
        r"\byou are (now )?(the|a|an) (\w+ )?(judge|grader)|"
        r"\b(choose|prefer|pick|select|vote for|rate) (this|my|the first|the second) (response|answer)|"
        r"\boutput (exactly|only)\b.{0,40}\b(first|second|#\s?[12]|verdict)",
        re.IGNORECASE,
    ),
}
"""Kinds of attempts to choose one's own verdict, and what gives them away."""
