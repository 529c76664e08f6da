"""What a test needs of the machine, read from its fixtures and its code; nobody has to remember a mark.

A name counts where the test uses it, one of its fixtures, or a function of the tests that any of these calls.
"""

import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

_TESTS = str(Path(__file__).parents[2])
# mark -> names of functions and classes, and words of command lines, that tell.
NEEDS = {
    "service": {"Service", "TritonServer", "serve", "tritonserver", "tune", "OBSERVE", "promtool"},
    "build": {"build_engine", "build", "engine_folder"},
    "train": {"train", "Training", "fit"},
    "nightly": {"observe_load", "start_observing"},  # a Prometheus that watches for a while
}


def marks(item: pytest.Function) -> Iterator[str]:
    """The marks of a test, of those of `NEEDS`."""
    fixtures = item._fixtureinfo.name2fixturedefs.values()
    functions = [item.function, *(definition.func for found in fixtures for definition in found)]
    names = {name for function in functions for name in _names(inspect.unwrap(function))}
    return (mark for mark, telling in NEEDS.items() if telling & names)


@cache
def _names(function: FunctionType) -> frozenset[str]:
    """Names and words in a function's code, and in that of the functions of the tests that it calls."""
    seen, left = set[str](), [function]
    done: set[Any] = set()
    while left:
        one = left.pop()
        if one in done or not isinstance(one, FunctionType) or not one.__code__.co_filename.startswith(_TESTS):
            continue
        done.add(one)
        names = set(_of_code(one.__code__))
        seen |= names
        left += [inspect.unwrap(called) for name in names if callable(called := one.__globals__.get(name))]
    return frozenset(seen)


def _of_code(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        for each in constant if isinstance(constant, tuple | frozenset) else (constant,):
            if isinstance(each, CodeType):
                yield from _of_code(each)
            elif isinstance(each, str):
                yield each
