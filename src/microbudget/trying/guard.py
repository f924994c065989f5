"""Guard: who may talk to the page. In front of all that Gradio answers."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TOKEN = "token"
UPLOAD = "/gradio_api/upload"
REQUEST_BYTES = 1_000_000  # of a request that is no upload
# Nothing is loaded from elsewhere, whatever Gradio's page asks for, and no other page may frame this one.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Guard:
    """ASGI middleware: refuses other hosts, a missing or a wrong token, and requests that are too large.

    The token is taken from the address once; then a cookie has it, and the address has it no longer. hosts: names of
    this machine that are served, without port; empty: any address in numbers, where the whole network is served.
    """

    def __init__(self, app: App, token: str, port: int, hosts: frozenset[str], upload_bytes: int) -> None:
        self._app, self._token, self._hosts, self._upload_bytes = app, token, hosts, upload_bytes
        self._cookie = f"microbudget-{port}"  # cookies know no ports, and two pages may be open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(query).get(TOKEN)
        if scope["type"] != "http" or not self._is_served(headers.get(b"host", "")):
            return await _refuse(scope, send, 403, "this page is for another address: open the one that was printed")
        if given is not None and self._fits(given):
            rest = urlencode([(name, value) for name, value in query if name != TOKEN])
            return await self._enter(send, f"/?{rest}" if rest else "/")
        if given is not None or not self._fits(_cookie(headers.get(b"cookie", ""), self._cookie)):
            return await _refuse(scope, send, 403, "the token is missing or wrong: open the address that was printed")
        most = self._upload_bytes if scope["path"] == UPLOAD else REQUEST_BYTES
        declared = headers.get(b"content-length", "0")
        if not declared.isdigit() or int(declared) > most:
            return await _refuse(scope, send, 413, f"at most {most:,} bytes are taken")
        await self._app(scope, _limited(receive, most), _with_headers(send))

    def _fits(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())

    def _is_served(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        name = name.strip("[]").lower()
        if self._hosts:
            return name in self._hosts
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name == "localhost"
        return True

    async def _enter(self, send: Send, to: str) -> None:
        cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Lax"
        headers = [(b"location", to.encode("ascii")), (b"set-cookie", cookie.encode()), *HEADERS]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


async def _refuse(scope: Scope, send: Send, status: int, why: str) -> None:
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": 1008})
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{why}\n".encode()})


def _limited(receive: Receive, most: int) -> Receive:
    """As if the client were gone after so many bytes: a request need not say beforehand how long it is."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > most else message

    return limited


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
        await send(message)

    return sent
