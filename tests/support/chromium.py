"""A headless Chromium driven over the DevTools protocol: just what these tests need of it."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import websockets

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--mute-audio",
    # Without these, local addresses hide behind mDNS names and a video waits for a click.
    "--disable-features=WebRtcHideLocalIpsWithMdns",
    "--autoplay-policy=no-user-gesture-required",
    # A page that is tested is never in the foreground of anything.
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "--window-size=1024,640",
    "--remote-debugging-port=0",
)
_START_SECONDS = 40.0


def find_chromium() -> str | None:
    """The browser that CHROMIUM names, or the first one in PATH."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in _NAMES if (path := shutil.which(name))), None)


class PageError(AssertionError):
    """JavaScript that was evaluated in the page threw, or a condition never came true."""


class Page:
    """One tab. Exceptions and console messages of the page are kept in `log`."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.log: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return await self._browser.call(method, self._session, **parameters)

    async def open(self, url: str) -> None:
        answer = await self.call("Page.navigate", url=url)
        if "errorText" in answer:
            raise PageError(f"{url} does not open: {answer['errorText']}")
        await self.until("document.readyState === 'complete'")

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            thrown = details.get("exception", {}).get("description") or details.get("text")
            raise PageError(f"{expression[:200]!r} threw {thrown}")
        return answer["result"].get("value")

    async def until(self, condition: str, seconds: float = 20.0) -> Any:
        """Polls until the expression is truthy; its value."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            value = await self.evaluate(condition)
            if value:
                return value
            if asyncio.get_running_loop().time() > deadline:
                log = "\n".join(self.log[-20:])
                raise PageError(f"not true within {seconds} s: {condition}\npage log:\n{log}")
            await asyncio.sleep(0.05)

    async def key(self, code: str, *, down: bool) -> None:
        """`code` is a KeyboardEvent.code; the matching `key` is sent with it."""
        name = code.removeprefix("Key").lower() if code.startswith("Key") else code
        kind = "rawKeyDown" if down else "keyUp"
        await self.call("Input.dispatchKeyEvent", type=kind, code=code, key=name)

    async def screenshot(self, path: Path) -> None:
        answer = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(answer["data"]))


class Browser:
    """A connection to the browser's DevTools socket: calls out, answers and events in."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self._reader = asyncio.create_task(self._read())

    async def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        await self._socket.send(json.dumps(message))
        return await asyncio.wait_for(answer, 30.0)

    async def new_page(self) -> Page:
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        page = Page(self, attached["sessionId"])
        self._pages[attached["sessionId"]] = page
        await page.call("Page.enable")
        await page.call("Runtime.enable")
        return page

    async def close(self) -> None:
        with suppress(websockets.ConnectionClosed, TimeoutError):
            await self.call("Browser.close")
        self._reader.cancel()
        await self._socket.close()

    async def _read(self) -> None:
        with suppress(websockets.ConnectionClosed):
            async for text in self._socket:
                self._receive(json.loads(text))
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionError("the browser closed its connection"))

    def _receive(self, message: dict[str, Any]) -> None:
        if "id" in message:
            answer = self._answers.pop(message["id"])
            if answer.done():
                return
            if "error" in message:
                answer.set_exception(PageError(str(message["error"])))
            else:
                answer.set_result(message["result"])
        elif (page := self._pages.get(message.get("sessionId", ""))) is not None:
            _note(page, message)


def _note(page: Page, message: dict[str, Any]) -> None:
    params = message["params"]
    if message["method"] == "Runtime.consoleAPICalled":
        texts = [str(item.get("value", item.get("description", ""))) for item in params["args"]]
        page.log.append(f"{params['type']}: {' '.join(texts)}")
    elif message["method"] == "Runtime.exceptionThrown":
        details = params["exceptionDetails"]
        page.log.append(f"exception: {details.get('exception', {}).get('description', details)}")


@asynccontextmanager
async def chromium(binary: str) -> AsyncIterator[Browser]:
    """A fresh browser with an empty profile, ended with everything it started."""
    with tempfile.TemporaryDirectory(prefix="wb-chromium-", ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            binary,
            *_FLAGS,
            f"--user-data-dir={profile}",
            "about:blank",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            address = await _devtools_address(process, Path(profile) / "DevToolsActivePort")
            async with websockets.connect(address, max_size=None, ping_interval=None) as socket:
                browser = Browser(socket)
                try:
                    yield browser
                finally:
                    await browser.close()
        finally:
            await _end_group(process)


async def _devtools_address(process: asyncio.subprocess.Process, file: Path) -> str:
    deadline = asyncio.get_running_loop().time() + _START_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        if process.returncode is not None:
            raise RuntimeError(f"the browser ended at once with exit code {process.returncode}")
        lines = file.read_text().split() if file.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        await asyncio.sleep(0.05)
    raise RuntimeError(f"the browser opened no DevTools port within {_START_SECONDS} s")


async def _end_group(process: asyncio.subprocess.Process) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), 5.0)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    await process.wait()
