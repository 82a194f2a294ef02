"""What threads learn from each other about the GPU: by starting, by futures, by joining."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

from tests.support.fake_cuda.streams import Clock, Timeline

__all__ = ["following_threads"]

_Modes = Callable[[], AbstractContextManager[None]]


@contextmanager
def following_threads(timeline: Timeline, modes: _Modes) -> Iterator[None]:
    """Threads that begin in here run under `modes` of their own, since modes belong to threads."""
    known: WeakKeyDictionary[Any, Clock] = WeakKeyDictionary()
    replaced = (
        (threading.Thread, _threads(timeline, known, modes)),
        (Future, _futures(timeline, known)),
        (ThreadPoolExecutor, _executors(timeline)),
    )
    with ExitStack() as stack:
        for owner, methods in replaced:
            for name, method in methods.items():
                stack.enter_context(mock.patch.object(owner, name, method))
        yield


def _threads(timeline: Timeline, known: Any, modes: _Modes) -> dict[str, Any]:
    start, run, join = threading.Thread.start, threading.Thread.run, threading.Thread.join

    def starting(self: threading.Thread) -> None:
        known[self] = dict(timeline.waited)
        start(self)

    def running(self: threading.Thread) -> None:
        timeline.informed(known.get(self))
        with modes():
            run(self)
        known[self] = dict(timeline.waited)

    def joining(self: threading.Thread, timeout: float | None = None) -> None:
        join(self, timeout)
        timeline.informed(known.get(self))

    return {"start": starting, "run": running, "join": joining}


def _futures(timeline: Timeline, known: Any) -> dict[str, Any]:
    """Who asks for a result learns what the thread knew that gave it."""

    def giving(give: Any) -> Any:
        def called(self: Future[Any], value: Any) -> None:
            known[self] = dict(timeline.waited)
            give(self, value)

        return called

    def asking(ask: Any) -> Any:
        def called(self: Future[Any], timeout: float | None = None) -> Any:
            try:
                return ask(self, timeout)
            finally:
                timeline.informed(known.get(self))

        return called

    gives = {name: giving(getattr(Future, name)) for name in ("set_result", "set_exception")}
    return gives | {name: asking(getattr(Future, name)) for name in ("result", "exception")}


def _executors(timeline: Timeline) -> dict[str, Any]:
    submit = ThreadPoolExecutor.submit

    def submitting(self: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        clock = dict(timeline.waited)

        def informed() -> Any:
            timeline.informed(clock)
            return function(*args, **kwargs)

        return submit(self, informed)

    return {"submit": submitting}
