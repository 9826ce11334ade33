"""The strategy of an answer: code in a fence, bare code, code with an output beside it, only a mention, or language.

By rules and Python's own parser (`ast`); nothing is executed. Paper B (arXiv 2506.10947, section 4) calls an answer
code reasoning if it contains the word "python"; that stands beside as `says_python`, because an answer may name Python
and use none, or use it unnamed. Whether a shown output is imagined or came from an interpreter cannot be told from a
text.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

StrategyName = Literal["code_with_output", "fenced_code", "bare_code", "mention", "language"]
STRATEGIES: tuple[StrategyName, ...] = ("code_with_output", "fenced_code", "bare_code", "mention", "language")
CODE: frozenset[str] = frozenset({"code_with_output", "fenced_code", "bare_code"})
"""The strategies that write code; the other two do not."""

PYTHON_TAGS = frozenset({"python", "py", "python3", "python2", "ipython", "pycon", "sympy", "sage"})
OTHER_CODE_TAGS = frozenset(
    {
        "c",
        "c++",
        "cpp",
        "c#",
        "java",
        "javascript",
        "js",
        "typescript",
        "ts",
        "go",
        "rust",
        "r",
        "julia",
        "matlab",
        "sql",
    }
    | {"bash", "sh", "haskell", "ruby", "php", "kotlin", "swift", "scala", "fortran", "mathematica", "octave", "lua"}
)
OUTPUT_TAGS = frozenset({"output", "out", "stdout", "result", "console"})
LONGEST_BLOCK = 20_000
"""Characters of a block that are parsed; what follows does not change whether it is code."""
MOST_CUT_LINES = 40
"""So many last lines may be left out until the rest of a block parses; answers are often cut off."""

_FENCE = re.compile(r"^[ \t]*```[ \t]*([A-Za-z0-9+#_-]*)[^\n`]*$", re.MULTILINE)
_INLINE = re.compile(r"`[^`\n]*`")
_MENTION = re.compile(
    r"\bpython\b|\bsympy\b|\bnumpy\b|\bpseudo-?code\b|\b(write|run|use|using) (a |some )?(code|program)\b", re.I
)
_LABEL = re.compile(r"^\s*(?:python|code)\s*:\s*", re.IGNORECASE)
_OUTPUT_LINE = re.compile(
    r"^\s*#?\s*(output|out\[[0-9]*\]|result|prints?)\s*:|^\s*the (code|program) (outputs|prints)\b", re.I
)
_CODE_LINE = re.compile(
    r"\s*(?:import [A-Za-z_]|from [A-Za-z_][\w.]* import |def [A-Za-z_]\w*\(|class [A-Za-z_]\w*\s*[(:]|for .+ in .+:"
    r"|while .+:|(?:if|elif|with) .+:|else:|try:|except\b.*:|return\b|print\(|@[A-Za-z_]|#"
    r"|[A-Za-z_][\w.\[\], '\"]*\s*(?:[-+*/%]|//|\*\*)?=(?!=)|[A-Za-z_][\w.]*\(.*\)\s*$|[)\]}]+,?\s*$)"
)
_STRONG = (
    ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.For, ast.While, ast.AugAssign,
)  # fmt: skip


@dataclass(frozen=True)
class Strategy:
    """What an answer does.

    Attributes:
        strategy: one of `STRATEGIES`; the first that fits.
        says_python: paper B's own criterion: the text contains "python", in any case.
    """

    strategy: StrategyName
    says_python: bool

    @property
    def is_code(self) -> bool:
        """Whether the answer writes code."""
        return self.strategy in CODE


@dataclass(frozen=True)
class _Fence:
    tag: str
    inside: str


def classify(text: str) -> Strategy:
    """The strategy of one answer."""
    says_python = "python" in text.lower()
    fences, outside = _take_apart(text)
    fenced = [_is_fenced_code(fence) for fence in fences]
    bare = bare_code(outside)
    name: StrategyName
    if any(fenced) or bare:
        shown = any(
            fence.tag in OUTPUT_TAGS or (not fence.tag and fence.inside.strip() and not code)
            for place, (fence, code) in enumerate(zip(fences, fenced, strict=True))
            if any(fenced[:place]) or bare
        )
        if shown or any(_OUTPUT_LINE.search(line) for line in outside.splitlines()):
            name = "code_with_output"
        else:
            name = "fenced_code" if any(fenced) else "bare_code"
    else:
        name = "mention" if says_python or _MENTION.search(text) else "language"
    return Strategy(name, says_python)


def bare_code(text: str) -> bool:
    """Whether a text without fences holds Python that does something: imports, defines, loops, counts up or prints."""
    return any(_does_something(_parse(block)) for block in _runs_of_code(_INLINE.sub(" ", text)))


def _take_apart(text: str) -> tuple[list[_Fence], str]:
    """The fenced blocks, and the text outside of them; a fence that is never closed goes to the end."""
    fences, outside, at = [], [], 0
    marks = list(_FENCE.finditer(text))
    while marks:
        opened = marks.pop(0)
        # A mark with a tag cannot close a block: the one before it was left open.
        closed = marks[0] if marks else None
        outside.append(text[at : opened.start()])
        if closed is None:
            fences.append(_Fence(opened[1].lower(), text[opened.end() :]))
            at = len(text)
            break
        fences.append(_Fence(opened[1].lower(), text[opened.end() : closed.start()]))
        at = closed.end()
        if closed[1]:
            at = closed.start()
        else:
            marks.pop(0)
    return fences, "\n".join([*outside, text[at:]])


def _is_fenced_code(fence: _Fence) -> bool:
    if fence.tag in OTHER_CODE_TAGS:
        return bool(fence.inside.strip())
    statements = _parse(fence.inside)
    if fence.tag in PYTHON_TAGS:
        # Said to be Python: any statement will do, and code that is wrong Python is still an attempt at code.
        return bool(statements) or any(map(_CODE_LINE.match, fence.inside.splitlines()))
    return not fence.tag and _does_something(statements)


def _parse(block: str) -> list[ast.stmt]:
    """The statements of a block, of its longest beginning that parses; empty where none does."""
    lines = textwrap.dedent(block[:LONGEST_BLOCK]).strip("\n").splitlines()
    for end in range(len(lines), max(0, len(lines) - MOST_CUT_LINES), -1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # escapes that are not valid in Python, as LaTeX in a docstring
                return ast.parse("\n".join(lines[:end])).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return []


def _does_something(statements: list[ast.stmt]) -> bool:
    return any(isinstance(statement, _STRONG) or _prints(statement) for statement in statements)


def _prints(statement: ast.stmt) -> bool:
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print"


def _runs_of_code(text: str) -> Iterator[str]:
    """Runs of lines that look like code; a line with prose behind a call is cut after the call."""
    run: list[str] = []
    for line in text.splitlines():
        stripped = _LABEL.sub("", line)
        indented = bool(run) and line[:1] in (" ", "\t")
        if _CODE_LINE.match(stripped) or indented or (run and not line.strip()):
            cut = re.match(r"(.*?\bprint\([^()]*(?:\([^()]*\)[^()]*)*\))\s+[A-Z]", stripped)
            run.append(cut[1] if cut else stripped)
        elif run:
            yield "\n".join(run)
            run = []
    if run:
        yield "\n".join(run)
