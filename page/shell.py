"""What Streamlit's own files are when a browser gets them: small, and the page's from the first byte on.

Streamlit sends its scripts as they lie on its disk, several times as large as they need be, and a first page
that is English, is called Streamlit and has another layout than the page that its scripts then draw.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from detection.names import LANGUAGES, closest_language
from page.texts import TEXTS

STYLE = Path(__file__).parent / "style.css"
# Whoever presses a button that goes away with the press, as an example does, stays where the answer is.
FOCUS = """
let last = null;
document.addEventListener('focusin', event => { last = event.target; });
document.addEventListener('focusout', event => setTimeout(() => {
  if (event.target.isConnected && event.target === last) last = null;
}));
new MutationObserver(() => {
  if (!last || last.isConnected || document.activeElement !== document.body) return;
  const next = document.querySelector('.verdict') || document.querySelector('h1');
  if (!next) return;
  last = null;
  next.tabIndex = -1;
  next.focus({preventScroll: true});
}).observe(document.documentElement, {childList: true, subtree: true});
"""
# What the style sheet writes on the uploader's button instead of Streamlit's word, for screen readers too.
NAMES = """
new MutationObserver(() => {
  for (const each of document.querySelectorAll('[data-testid="stFileUploaderDropzone"] > span button')) {
    const words = getComputedStyle(each).getPropertyValue('--word-choose').replaceAll("'", '').trim();
    if (words && each.ariaLabel !== words) each.ariaLabel = words;
  }
}).observe(document.documentElement, {childList: true, subtree: true});
"""
# What a visitor sees until Streamlit has drawn something: the same title and a place for photos, at once.
FIRST_LOOK = """
<noscript><style>#first-look {{ display: none; }}</style></noscript>
<div id="first-look" aria-hidden="true"><div>
<p class="first-title">{title}</p><p class="subtitle">{subtitle}</p><div class="first-drop"></div>
</div></div>
<script>
if (new URLSearchParams(location.search).has('tab'))  // which is another one
  for (const each of document.querySelectorAll('#first-look .subtitle, .first-drop')) each.remove();
new MutationObserver((_, observer) => {{
  if (!document.querySelector('[data-testid="stFileUploader"], [role="dialog"]')) return;
  document.getElementById('first-look').remove();
  observer.disconnect();
}}).observe(document.getElementById('root'), {{childList: true, subtree: true}});
</script>
"""
SCRIPTS = re.compile(r"/static/(js|css)/[^/]+\.(js|css)$")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Shell:
    """ASGI middleware that makes the first page ours, and sends scripts and style sheets compressed."""

    def __init__(self, app: AsgiApp) -> None:
        self.app = app
        self._smaller: dict[str, bytes] = {}  # path -> compressed; they never change while the server runs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; what a browser reads first, changed."""
        if scope["type"] != "http" or scope["method"] != "GET":
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        if SCRIPTS.search(scope["path"]):
            if b"range" in headers or b"gzip" not in headers.get(b"accept-encoding", b""):
                return await self.app(scope, receive, send)
            return await self.app(scope, receive, Changed(send, lambda body: self._compress(scope, body)))
        if "." in scope["path"].rsplit("/", 1)[-1] or "/_stcore/" in scope["path"]:
            return await self.app(scope, receive, send)
        scope["headers"] = [
            (name, value) for name, value in scope["headers"] if not name.startswith(b"if-")
        ]  # an answer in another language may be what the browser has kept
        language = language_of(scope["query_string"], headers.get(b"accept-language", b""))
        return await self.app(scope, receive, Changed(send, lambda body: (ours(body, language), [])))

    def _compress(self, scope: Scope, body: bytes) -> tuple[bytes, Headers]:
        path = scope["path"]
        if path not in self._smaller:
            self._smaller[path] = gzip.compress(body)
        return self._smaller[path], [(b"content-encoding", b"gzip"), (b"vary", b"Accept-Encoding")]


class Changed:
    """Sends a whole answer with another body.

    Args:
        send: where it goes.
        change: returns the other body, and the headers that go with it.
    """

    def __init__(
        self, send: Send, change: Callable[[bytes], tuple[bytes, list[tuple[bytes, bytes]]]]
    ) -> None:
        self.send, self.change = send, change
        self.start: Message = {}
        self.parts: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        """Hold back what comes until it is whole; send answers other than 200 as they are."""
        if message["type"] == "http.response.start":
            self.start = message
            if message["status"] != 200:
                await self.send(message)
            return
        if self.start["status"] != 200 or message["type"] != "http.response.body":
            await self.send(message)
            return
        self.parts.append(message.get("body", b""))
        if not message.get("more_body"):
            await self._finish(b"".join(self.parts))

    async def _finish(self, body: bytes) -> None:
        changed, more = self.change(body)
        dropped = (b"content-length", b"accept-ranges", *((b"etag", b"last-modified") if not more else ()))
        headers = [(name, value) for name, value in self.start["headers"] if name.lower() not in dropped]
        headers += [*more, (b"content-length", str(len(changed)).encode())]
        await self.send({**self.start, "headers": headers})
        await self.send({"type": "http.response.body", "body": changed})


def language_of(query: bytes, accepted: bytes) -> str:
    """Return the language of the page: that of its address, else what the browser asks for first."""
    named = parse_qs(query.decode("latin-1")).get("language", [""])[0].lower()
    if named in LANGUAGES:
        return named
    return closest_language(accepted.decode("latin-1").split(",")[0].split(";")[0].strip() or None)


def ours(body: bytes, language: str) -> bytes:
    """Return Streamlit's first page in that language, with the page's title, first look and style.

    The style stands after Streamlit's own, which is in the head: of two rules as strong the last holds.
    """
    html = body.decode()
    html = html.replace('<html lang="en">', f'<html lang="{language}">', 1)
    html = html.replace("<title>Streamlit</title>", f"<title>{TEXTS['title'][language]}</title>", 1)
    words = {key: TEXTS[key][language] for key in ("title", "subtitle")}
    more = f"<style>{STYLE.read_text(encoding='utf-8')}</style>{FIRST_LOOK.format(**words)}"
    return html.replace("</body>", f"{more}<script>{FOCUS}{NAMES}</script></body>", 1).encode()
