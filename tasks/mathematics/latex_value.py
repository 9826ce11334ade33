"""A small reader of LaTeX formulas that gives numbers: what the second checker evaluates at random points.

Recursive descent over tokens; no sympy. It knows sums, products (also implied ones), quotients, powers, roots,
factorials, absolute values, binomials, the usual functions and constants; a letter, with its index, is a variable. What
it does not know raises `Unreadable`, never a guess.
"""

from __future__ import annotations

import cmath
import math
import re
from collections.abc import Callable, Mapping

Number = complex
MOST_TOKENS = 2000
LARGEST_FACTORIAL = 170
_TOKEN = re.compile(r"\s*(\\[a-zA-Z]+|\\.|[0-9]+(?:\.[0-9]*)?|\.[0-9]+|[a-zA-Z]|[-+*/^_(){}\[\]|!'=,.:])")
_CLOSING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}


class Unreadable(ValueError):
    """A formula that this reader does not understand."""


class Formula:
    """A formula, read once and evaluated at as many points as wanted."""

    def __init__(self, text: str) -> None:
        """Raises Unreadable."""
        self.tokens = _tokens(text)
        self.variables = sorted({name for name in _names(self.tokens) if name not in _CONSTANTS})

    def at(self, point: Mapping[str, Number]) -> Number:
        """The value where the variables have these values.

        Raises:
            Unreadable: the formula is not one.
            ArithmeticError: it has no value there, or one beyond floating point.
        """
        reader = _Reader(self.tokens, point)
        value = reader.sum()
        if reader.peek():
            raise Unreadable(f"stopped at {reader.peek()!r}")
        if cmath.isnan(value) or cmath.isinf(value):
            raise OverflowError
        return value


class _Reader:
    def __init__(self, tokens: list[str], point: Mapping[str, Number]) -> None:
        self.tokens, self.point, self.at, self.depth = tokens, point, 0, 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        mark = self.peek()
        if not mark or (wanted and mark not in wanted):
            raise Unreadable(f"found {mark!r} instead of {' or '.join(wanted) or 'anything'}")
        self.at += 1
        return mark

    def sum(self) -> Number:
        value = self.product()
        while self.peek() in ("+", "-"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        return value

    def product(self) -> Number:
        value = self.signed()
        while (mark := self.peek()) and mark not in _ENDS:
            if mark in ("*", "\\cdot", "\\times", "\\ast"):
                self.take()
                value *= self.signed()
            elif mark in ("/", "\\div"):
                self.take()
                value /= self.signed()
            else:
                value *= self.power()
        return value

    def signed(self) -> Number:
        if self.peek() in ("+", "-"):
            return self.signed() if self.take() == "+" else -self.signed()
        return self.power()

    def power(self) -> Number:
        self.depth += 1
        if self.depth > 60:
            raise Unreadable("too deep")
        base = self.atom()
        while self.peek() == "!":
            self.take()
            base = _factorial(base)
        if self.peek() == "^":
            self.take()
            base = _power(base, self.group())
        self.depth -= 1
        return base

    def group(self) -> Number:
        """What an exponent or a LaTeX argument is: something in braces, or a single mark."""
        if self.peek() == "{":
            return self.enclosed()
        if self.peek() == "-":
            self.take()
            return -self.group()
        mark = self.peek()
        if mark[:1].isdigit() and len(mark) > 1:  # \frac12 is one half
            self.tokens = [*self.tokens[: self.at], *mark, *self.tokens[self.at + 1 :]]
        return self.atom()

    def enclosed(self) -> Number:
        closing = _CLOSING[self.take("(", "[", "{", "\\{")]
        value = self.sum()
        self.take(closing)
        return value

    def atom(self) -> Number:
        mark = self.peek()
        if mark in ("(", "[", "{", "\\{"):
            return self.enclosed()
        if mark == "|":
            self.take()
            value = self.sum()
            self.take("|")
            return complex(abs(value))
        self.take()
        if mark[:1].isdigit() or mark[:1] == ".":
            return complex(float(mark))
        if mark == "\\frac":
            over = self.group()
            return over / self.group()
        if mark == "\\sqrt":
            return self.root()
        if mark == "\\binom":
            return _binomial(self.group(), self.group())
        if mark in _FUNCTIONS:
            return self.function(mark)
        name = self.name(mark)
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in self.point:
            return self.point[name]
        raise Unreadable(f"{name!r} is unknown")

    def name(self, mark: str) -> str:
        if not (mark[:1].isalpha() or mark in _GREEK or mark in _CONSTANTS):
            raise Unreadable(f"{mark!r} is unknown")
        if self.peek() != "_":
            return mark
        self.take()
        return f"{mark}_{_index(self.tokens, self.at, self.skip)}"

    def skip(self, to: int) -> None:
        self.at = to

    def root(self) -> Number:
        degree: Number = 2
        if self.peek() == "[":
            degree = self.enclosed()
        value = self.group()
        if value.imag == 0 and value.real < 0 and degree == 3:
            return -_power(-value, 1 / 3)
        return _power(value, 1 / degree)

    def function(self, mark: str) -> Number:
        exponent: Number | None = None
        base: Number | None = None
        while self.peek() in ("^", "_"):
            if self.take() == "^":
                exponent = self.group()
            else:
                base = self.group()
        value = self.enclosed() if self.peek() in ("(", "{", "[") else self.argument()
        if base is not None:
            if mark != "\\log":
                raise Unreadable(f"{mark} with an index")
            result = cmath.log(value) / cmath.log(base)
        elif exponent == -1:
            raise Unreadable("an inverse function")
        else:
            result = _FUNCTIONS[mark](value)
        return result if exponent is None else _power(result, exponent)

    def argument(self) -> Number:
        """Of a function without brackets: a product up to the next sign or function."""
        value = self.signed()
        while (mark := self.peek()) and mark not in _ENDS and mark not in _FUNCTIONS and mark not in ("(", "["):
            if mark in ("/", "\\div"):
                self.take()
                value /= self.power()
            elif mark in ("*", "\\cdot", "\\times"):
                break
            else:
                value *= self.power()
        return value


def _tokens(text: str) -> list[str]:
    found: list[str] = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or len(found) > MOST_TOKENS:
            raise Unreadable(f"{text[at : at + 10]!r} is unknown")
        found.append(match[1])
        at = match.end()
    if not found:
        raise Unreadable("nothing to read")
    return found


def _names(tokens: list[str]) -> set[str]:
    """Every variable, with its index."""
    found, at = set(), 0
    while at < len(tokens):
        mark, at = tokens[at], at + 1
        if not ((len(mark) == 1 and mark.isalpha()) or mark in _GREEK):
            continue
        if at < len(tokens) and tokens[at] == "_":
            end = [at]
            index = _index(tokens, at + 1, lambda to, end=end: end.__setitem__(0, to))  # type: ignore[misc]
            found.add(f"{mark}_{index}")
            at = end[0]
        else:
            found.add(mark)
    return found


def _index(tokens: list[str], at: int, skip: Callable[[int], None]) -> str:
    if at < len(tokens) and tokens[at] == "{":
        end = at + 1
        while end < len(tokens) and tokens[end] != "}":
            end += 1
        skip(end + 1)
        return "".join(tokens[at + 1 : end])
    if at >= len(tokens):
        raise Unreadable("an index is missing")
    skip(at + 1)
    return tokens[at]


def _power(base: Number, exponent: Number) -> Number:
    if abs(exponent) > 1e6:
        raise OverflowError
    return complex(base) ** exponent


def _factorial(value: Number) -> Number:
    n = value.real
    if value.imag or n != int(n) or not 0 <= n <= LARGEST_FACTORIAL:
        raise OverflowError
    return complex(math.factorial(int(n)))


def _binomial(over: Number, under: Number) -> Number:
    n, k = over.real, under.real
    if over.imag or under.imag or n != int(n) or k != int(k) or not 0 <= k <= n <= 1000:
        raise OverflowError
    return complex(math.comb(int(n), int(k)))


def _reciprocal(function: Callable[[Number], Number]) -> Callable[[Number], Number]:
    return lambda value: 1 / function(value)


_FUNCTIONS: dict[str, Callable[[Number], Number]] = {
    "\\sin": cmath.sin,
    "\\cos": cmath.cos,
    "\\tan": cmath.tan,
    "\\cot": _reciprocal(cmath.tan),
    "\\sec": _reciprocal(cmath.cos),
    "\\csc": _reciprocal(cmath.sin),
    "\\arcsin": cmath.asin,
    "\\arccos": cmath.acos,
    "\\arctan": cmath.atan,
    "\\sinh": cmath.sinh,
    "\\cosh": cmath.cosh,
    "\\tanh": cmath.tanh,
    "\\ln": cmath.log,
    "\\log": cmath.log,
    "\\exp": cmath.exp,
}
"""`log` without a base is taken for the natural one on both sides."""
_CONSTANTS: dict[str, Number] = {"\\pi": complex(math.pi), "e": complex(math.e), "i": 1j}
_GREEK = frozenset(
    f"\\{name}"
    for name in (
        *(
            "alpha",
            "beta",
            "gamma",
            "delta",
            "epsilon",
            "varepsilon",
            "zeta",
            "eta",
            "theta",
            "iota",
            "kappa",
            "lambda",
        ),
        *("mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "varphi", "chi", "psi", "omega", "ell", "hbar"),
        *("Gamma", "Delta", "Theta", "Lambda", "Xi", "Sigma", "Phi", "Psi", "Omega"),
    )
)
_ENDS = frozenset({"+", "-", ")", "]", "}", "\\}", "|", ",", "=", "."})
