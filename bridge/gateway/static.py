"""The web page: files of a package, known by name before anyone asks, so no path is ever built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

PAGE_PACKAGE: Final = "worldbridge.engine_plugins.web"
INDEX: Final = "index.html"

# The mime table of the machine may be wrong (JavaScript as text/plain is not run).
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
    """Every servable file below `root` by its URL path without the leading slash."""
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
    """Serves the files that were there at the start."""

    def __init__(self, package: str = PAGE_PACKAGE) -> None:
        self._assets = find_assets(files(package))

    def respond(self, request: Request) -> Response:
        path = request.url.path.lstrip("/") or INDEX
        asset = self._assets.get(path)
        if asset is None:
            return PlainTextResponse(f"There is no {path[:200]!r} here.\n", 404)
        headers = page_headers(request.headers.get("host", ""))
        return Response(asset.file.read_bytes(), media_type=asset.mime, headers=headers)


def page_headers(host: str) -> dict[str, str]:
    """Nothing from elsewhere, nobody's frame, and always the version that the server has.

    `host` was checked against the allow-list before; some browsers do not take 'self' for ws:.
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
