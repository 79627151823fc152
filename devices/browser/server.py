"""The page's server: an address with a one-time token, a key of its own for every visitor, and nothing but fixed files.

`/open/TOKEN` sends each visitor to `/v/KEY/`, and all that the page needs lies under that. What is served is in maps
that were made before, by hash or by name; no path of a request ever reaches the file system.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from devices.browser.facts import Facts
from devices.browser.messages import MESSAGE, Done, Operators
from devices.browser.visit import Refused, Visit, work
from devices.sessions import Stopped

PAGE = Path(__file__).parents[1] / "runners" / "web"
PAGES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "page.mjs": ("page.mjs", "text/javascript; charset=utf-8"),
    "facts.mjs": ("facts.mjs", "text/javascript; charset=utf-8"),
    "view.mjs": ("view.mjs", "text/javascript; charset=utf-8"),
    "runner.mjs": ("runner.mjs", "text/javascript; charset=utf-8"),
    "style.css": ("style.css", "text/css; charset=utf-8"),
}
TYPES = {".mjs": "text/javascript; charset=utf-8", ".wasm": "application/wasm"}
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval' blob:; worker-src 'self' blob:; style-src 'self'; "
        "img-src data:; connect-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
FACTS_LIMIT = 16 << 10
MESSAGE_LIMIT = 256 << 10
MOST_VISITS = 64
BEACONS = ("hidden", "closed", "here")

_FACTS: TypeAdapter[Facts] = TypeAdapter(Facts)


class _Count(Convertor[int]):
    """A number in an address. Python refuses to read one of thousands of digits, so such an address leads nowhere."""

    regex = "[0-9]{1,9}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("count", _Count())


class Site:
    """What the server knows: its visitors, and the files it gives out.

    `begin` starts the session of a visitor whose browser told its facts; it raises `Refused`.
    """

    def __init__(
        self,
        files: dict[str, Path | bytes],
        runtime: dict[str, Path],
        inputs: dict[str, Any],
        begin: Callable[[Visit, Facts], None],
        hidden_s: float,
        closed_s: float,
    ) -> None:
        self.token = secrets.token_urlsafe(24)
        self.used = False
        self.files, self.runtime, self.inputs = files, runtime, inputs
        self.begin, self.hidden_s, self.closed_s = begin, hidden_s, closed_s
        self.visits: dict[str, Visit] = {}
        self.stopped = False
        self.error: Exception | None = None  # what no visitor is to blame for
        self.refused: str | None = None

    def app(self) -> ASGIApp:
        routes = [
            Route("/open/{token}", self._open),
            Route("/v/{key}/", self._page),
            Route("/v/{key}/{name}", self._page),
            Route("/v/{key}/files/{digest}", self._file),
            Route("/v/{key}/ort/{name}", self._runtime),
            Route("/v/{key}/api/begin", self._begin, methods=["POST"]),
            Route("/v/{key}/api/{run:count}/outputs/{candidate:count}", self._outputs, methods=["POST"]),
            Route("/v/{key}/api/{run:count}/say/{number:count}", self._say, methods=["POST"]),
            Route("/v/{key}/api/{run:count}/{beacon}", self._beacon, methods=["POST"]),
        ]
        handlers = {HTTPException: _plain, Refused: _refused, Stopped: self._stopped}
        inner = Starlette(routes=routes, exception_handlers=handlers)

        async def outer(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await inner(scope, receive, _with_headers(send))
            except ClientDisconnect:
                return  # it went away in the middle of a body
            except Exception as error:
                if scope["type"] != "lifespan" and not self._has_key(scope):
                    return  # a stranger's request may fail, and was told so; it ends nothing
                self.error = error
                raise

        return outer

    def _has_key(self, scope: Scope) -> bool:
        """Whether a request is of somebody who was let in: its address begins with `/v/KEY/`."""
        path: str = scope["path"]
        return path.startswith("/v/") and path.split("/")[2] in self.visits

    async def _open(self, request: HttpRequest) -> Response:
        right = hmac.compare_digest(request.path_params["token"].encode(), self.token.encode())
        if not right or self.used:
            why = "This address has been used." if right else "This is not the address that the command printed."
            return HTMLResponse(_sorry(why), 403)
        if len(self.visits) >= MOST_VISITS:
            return HTMLResponse(_sorry("This address was opened too often."), 403)
        key = secrets.token_urlsafe(24)
        self.visits[key] = Visit(key)
        return RedirectResponse(f"/v/{key}/", 303)

    def _visit(self, request: HttpRequest) -> Visit:
        visit = self.visits.get(request.path_params["key"])
        if visit is None:
            raise HTTPException(403)
        return visit

    async def _page(self, request: HttpRequest) -> Response:
        self._visit(request)
        found = PAGES.get(request.path_params.get("name", ""))
        if found is None:
            raise HTTPException(404)
        return FileResponse(PAGE / found[0], media_type=found[1])

    async def _file(self, request: HttpRequest) -> Response:
        self._visit(request)
        content = self.files.get(request.path_params["digest"])
        if content is None:
            raise HTTPException(404)
        if isinstance(content, bytes):
            return Response(content, media_type="application/octet-stream")
        return FileResponse(content, media_type="application/octet-stream")

    async def _runtime(self, request: HttpRequest) -> Response:
        self._visit(request)
        path = self.runtime.get(request.path_params["name"])
        if path is None:
            raise HTTPException(404)
        return FileResponse(path, media_type=TYPES[path.suffix])

    async def _begin(self, request: HttpRequest) -> Response:
        visit = self._visit(request)
        content = await _body(request, FACTS_LIMIT)
        try:
            facts = _FACTS.validate_json(content)
        except ValidationError as error:
            raise Refused(422, _summary(error)) from error
        if visit.state == "new":
            try:
                self.begin(visit, facts)
            except Refused as error:
                self.refused = str(error)
                raise
        visit.load_page(facts)
        visit.check(visit.run)
        return JSONResponse(work(visit, self.inputs))

    async def _outputs(self, request: HttpRequest) -> Response:
        visit, candidate = self._heard(request), request.path_params["candidate"]
        content = await _body(request, visit.output_bytes(candidate))
        visit.check(request.path_params["run"])
        parity = visit.prove(candidate, content)
        if parity is None:
            raise Refused(422, str(visit.failed(candidate)))
        return JSONResponse({"parity": str(parity)})

    async def _say(self, request: HttpRequest) -> Response:
        visit, number = self._heard(request), request.path_params["number"]
        content = await _body(request, MESSAGE_LIMIT)
        visit.check(request.path_params["run"])
        try:
            message = MESSAGE.validate_json(content)
        except ValidationError as error:
            raise Refused(422, _summary(error)) from error
        if visit.is_new(number):
            visit.hear(message)
            visit.told = number
        if isinstance(message, Done):
            self.used = True
        return JSONResponse({"failed": visit.failed(message.candidate) if isinstance(message, Operators) else None})

    async def _beacon(self, request: HttpRequest) -> Response:
        beacon = request.path_params["beacon"]
        if beacon not in BEACONS:
            raise HTTPException(404)
        before = self._visit(request).patience
        visit = self._heard(request)
        if beacon == "closed" or (beacon == "hidden" and before == self.closed_s):
            visit.patience = self.closed_s  # the two may come in either order
        elif beacon == "hidden":
            visit.patience = self.hidden_s
        return JSONResponse({})

    def _heard(self, request: HttpRequest) -> Visit:
        visit = self._visit(request)
        visit.check(request.path_params["run"])
        return visit

    async def _stopped(self, _request: HttpRequest, _error: Exception) -> Response:
        self.stopped = True
        return JSONResponse({"error": "the command on the computer was stopped"}, 409)


def _with_headers(send: Send) -> Send:
    """Adds `HEADERS` to an answer."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            message["headers"] = [*message.get("headers", []), *own]
        await send(message)

    return sent


async def _body(request: HttpRequest, limit: int) -> bytes:
    """The whole body; `Refused` as soon as it is longer than `limit` bytes."""
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > limit:
            raise Refused(413, f"more than the {limit} bytes that fit here")
    return bytes(found)


def _summary(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


async def _refused(_request: HttpRequest, error: Exception) -> Response:
    status = error.status if isinstance(error, Refused) else 500
    return JSONResponse({"error": str(error)}, status)


async def _plain(_request: HttpRequest, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 403:
        return HTMLResponse(_sorry("This is not the address that the command printed."), 403)
    return HTMLResponse(_sorry("There is nothing here."), status)


def _sorry(why: str) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Handheld</title><h1>{why}</h1>"
        "<p>Run <code>handheld profile BUNDLE --device browser</code> and open the address that it prints.</p></html>"
    )
