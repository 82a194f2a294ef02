"""Triton's interpreter for a part of a process.

TRITON_INTERPRET=1 has to be set before triton is imported and then rules the whole process, in
which nothing can be compiled any more. Tests want both, and on a machine with a GPU also real
launches. So kernels are defined as always, and inside `interpreted()` a launch is handed to
the interpreter instead of the driver.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

import triton
import triton.language as tl
from triton import knobs
from triton.runtime.interpreter import InterpretedFunction

from worldbridge import kernels

# what the interpreter replaces functions in
_PATCHED: tuple[Any, ...] = (
    tl,
    tl.core,
    tl.math,
    tl.tensor,
    tl.dtype,
    tl.condition,
    tl.core.tensor_descriptor_base,
)


# Modules whose functions have been called during the launch. A call replaces what it needs of the
# language in its module, which stays until the launch ends; to do so once is enough, and halves
# the time of a launch.
_called: set[int] = set()


def launch_interpreted(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
    _called.clear()
    return InterpretedFunction(kernel.fn).run(*args, grid=grid, warmup=warmup, **kwargs)


def _call(function: Any, *args: Any, **kwargs: Any) -> Any:
    """A function under @triton.jit called by a kernel: the library's own (tl.sum) or ours."""
    plain, module = _interpreted(function.fn), id(function.fn.__globals__)
    if module in _called:
        return plain.rewrite()(*args, **kwargs)
    _called.add(module)
    return plain(*args, **kwargs)


@cache
def _interpreted(function: Any) -> Any:
    return InterpretedFunction(function)


@contextmanager
def interpreted() -> Iterator[None]:
    for module in pkgutil.iter_modules(kernels.__path__):
        # Defined while the interpreter rules, a kernel could never be compiled any more.
        importlib.import_module(f"{kernels.__name__}.{module.name}")
    before = [dict(vars(holder)) for holder in _PATCHED]
    interpret = knobs.runtime.interpret
    knobs.runtime.interpret = True
    try:
        with (
            mock.patch.object(triton.JITFunction, "run", launch_interpreted),
            mock.patch.object(triton.JITFunction, "__call__", _call),
        ):
            yield
    finally:
        knobs.runtime.interpret = interpret
        for holder, attributes in zip(_PATCHED, before, strict=True):
            _restore(holder, attributes)


def _restore(holder: Any, attributes: dict[str, Any]) -> None:
    # A device function leaves the interpreter's replacements behind when it returns.
    for name in set(vars(holder)) - set(attributes):
        delattr(holder, name)
    for name, value in attributes.items():
        if vars(holder).get(name) is not value:
            setattr(holder, name, value)
