"""A page on this machine where one person rates pairs blind: `rewardladder rate FOLDER rater=NAME`.

It listens on 127.0.0.1 only, loads nothing from anywhere, and shows texts as texts, with characters that hide or turn
text by their numbers. Each rater meets the pairs in an
order of their own and each pair's answers on sides of their own, so that a preference for the left is nobody's gain.
Every rating is on disk before the next pair is shown.
"""

from __future__ import annotations

import csv
import io
import secrets
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs

import uvicorn
from jinja2 import Environment, FileSystemLoader
from pydantic import Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from configs.errors import UserError
from configs.keyed import keyed_uniform
from configs.loader import Table
from configs.records import write_bytes
from configs.terminal import say
from judge.people.ratings import SHEET_FILE, BlindPair, Rating, read_ratings, read_sheet
from judge.report.page import plain

HERE = ("127.0.0.1", "localhost")
COLUMNS = ("pair", "rating", "rater", "left")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}
CHOICES = ("left", "right", "tie")


class RateTable(Table):
    """Settings of the page.

    Attributes:
        rater: your name; ratings go to `ratings-NAME.csv`, and the same name goes on where it stopped.
        port: where the page is on 127.0.0.1.
    """

    rater: str = Field(pattern=r"^[A-Za-z0-9._-]{1,40}$")
    port: int = Field(default=8001, ge=1, le=65535)


def run(paths: Sequence[str], table: RateTable) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: the folder has no sheet of pairs.
    """
    if len(paths) != 1:
        raise UserError("rate: name one folder, that of the sheet, for example runs/demo/judge/people")
    desk = Desk(Path(paths[0]).expanduser(), table.rater)
    say(f"rate: {len(desk.pairs)} pairs for {table.rater} at http://127.0.0.1:{table.port} until Ctrl-C; {desk.path}")
    uvicorn.run(application(desk), host="127.0.0.1", port=table.port, log_level="warning", access_log=False)


class Desk:
    """One rater's pairs and ratings."""

    def __init__(self, folder: Path, rater: str) -> None:
        sheet = folder / SHEET_FILE
        if not sheet.exists():
            raise UserError(f"{sheet}: there is no such file; `rewardladder judge x.yaml judge.kind=people` writes it")
        self.rater = rater
        self.path = folder / f"ratings-{rater}.csv"
        pairs = read_sheet(sheet)
        self.pairs = {p.code: p for p in sorted(pairs, key=lambda p: keyed_uniform(0, "order", rater, p.code))}
        found = read_ratings(folder)
        self.ratings: dict[str, Rating] = {
            code: found[code][rater] for code in found if code in self.pairs and rater in found[code]
        }

    def left_is_1(self, code: str) -> bool:
        """Whether this rater sees the sheet's first response on the left."""
        return keyed_uniform(0, "left", self.rater, code) < 0.5

    def next(self) -> BlindPair | None:
        """The first pair without a rating."""
        return next((pair for code, pair in self.pairs.items() if code not in self.ratings), None)

    def rate(self, code: str, choice: str) -> None:
        """Keep one rating, before anything else happens.

        Raises:
            KeyError: there is no such pair or choice.
        """
        left: Rating = "1" if self.left_is_1(self.pairs[code].code) else "2"
        right: Rating = "2" if left == "1" else "1"
        chosen: dict[str, Rating] = {"left": left, "right": right, "tie": "tie"}
        self.ratings.pop(code, None)
        self.ratings[code] = chosen[choice]
        stream = io.StringIO()
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for rated, rating in self.ratings.items():
            writer.writerow((rated, rating, self.rater, "1" if self.left_is_1(rated) else "2"))
        write_bytes(self.path, stream.getvalue().encode())


def application(desk: Desk) -> Starlette:
    """The page: `GET /` shows the next pair, or `?pair=CODE`; `POST /rate` keeps a rating and goes on."""
    folder = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True)
    environment.filters["plain"] = plain
    template = environment.get_template("rating.html.jinja")
    token = secrets.token_urlsafe(16)  # a page of another origin cannot read it, and so cannot rate

    async def show(request: Request) -> Response:
        if _foreign(request):
            return PlainTextResponse("this page is for 127.0.0.1", 403)
        pair = desk.pairs.get(request.query_params.get("pair", "")) or desk.next()
        left, right = (pair.response_1, pair.response_2) if pair else ("", "")
        if pair and not desk.left_is_1(pair.code):
            left, right = right, left
        html = template.render(
            pair=pair,
            conversation="\n\n".join(turn["content"] for turn in pair.messages) if pair else "",
            left=left,
            right=right,
            n_rated=len(desk.ratings),
            n_pairs=len(desk.pairs),
            last=next(reversed(desk.ratings), None),
            rater=desk.rater,
            token=token,
        )
        return HTMLResponse(html.encode("utf-8", "replace"), headers=HEADERS)

    async def rate(request: Request) -> Response:
        fields = parse_qs((await request.body()).decode("utf-8", "replace"))
        given = {name: values[-1] for name, values in fields.items()}
        if _foreign(request) or not secrets.compare_digest(given.get("token", "").encode(), token.encode()):
            return PlainTextResponse("this form is not ours; load the page again", 403)
        if given.get("pair") not in desk.pairs or given.get("choice") not in CHOICES:
            return PlainTextResponse("no such pair or choice", 400)
        desk.rate(given["pair"], given["choice"])
        return RedirectResponse("/", 303)

    return Starlette(routes=[Route("/", show), Route("/rate", rate, methods=["POST"])])


def _foreign(request: Request) -> bool:
    """Whether the page was reached under another name than this machine's own."""
    return request.url.hostname not in HERE
