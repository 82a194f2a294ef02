"""The web page and the client library that it imports, as an immutable table of files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

CLIENTS: Final = "worldbridge.engine_plugins"
FOLDERS: Final = ("js", "web")
INDEX: Final = "web/index.html"

# The operating system's table may be wrong, and browsers do not run JavaScript as text/plain.
_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".ico": "image/x-icon",
    ".webp": "image/webp",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
    ".wasm": "application/wasm",
}


@dataclass(frozen=True, slots=True)
class _Asset:
    file: Traversable
    mime: str


def find_assets(root: Traversable, prefix: str = "") -> dict[str, _Asset]:
    """Return every servable file below `root` by its URL path without the leading slash."""
    found: dict[str, _Asset] = {}
    for entry in root.iterdir():
        if entry.name.startswith((".", "_")) or entry.name in ("tests", "node_modules"):
            continue
        if entry.is_dir():
            found |= find_assets(entry, f"{prefix}{entry.name}/")
        elif (mime := _TYPES.get("." + entry.name.rpartition(".")[2].lower())) is not None:
            found[prefix + entry.name] = _Asset(entry, mime)
    return found


class StaticPage:
    """Serve the files that existed at start-up. Requests never build a path."""

    def __init__(self) -> None:
        self._assets: dict[str, _Asset] = {}
        for folder in FOLDERS:
            self._assets |= find_assets(files(CLIENTS) / folder, f"{folder}/")

    def respond(self, request: Request) -> Response:
        path = request.url.path.lstrip("/") or INDEX
        asset = self._assets.get(path)
        if asset is None:
            return PlainTextResponse(f"{path[:200]!r} does not exist.\n", 404)
        headers = page_headers(request.headers.get("host", ""))
        return Response(asset.file.read_bytes(), media_type=asset.mime, headers=headers)


def page_headers(host: str) -> dict[str, str]:
    """Return headers that forbid foreign content, embedding and stale copies.

    `host` has passed the allow-list. It is named because some browsers do not apply 'self' to ws:.
    """
    policy = {
        "default-src": "'self'",
        "connect-src": f"'self' ws://{host} wss://{host}",
        "img-src": "'self' blob: data:",
        "media-src": "'self' blob:",
        "style-src": "'self' 'unsafe-inline'",
        "worker-src": "'self' blob:",
        "object-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
