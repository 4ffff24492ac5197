"""What the tests of shipping ship: a module that the workers do not have."""

import collections.abc
import math
import os.path
import xml.etree.ElementTree
from random import random as draw

import calls

import farloom

SCALE = 3
TABLE = {"a": [1, 2], "b": (None, True)}
counter = 0


class Point:
    def __init__(self, x: float, y: float) -> None:
        self.x = x
        self.y = y


def double(x: int) -> int:
    return x * 2


def scaled(x: int, by: "int | None" = None) -> int:
    return double(x) * (SCALE if by is None else by)


def circle(radius: float) -> float:
    return round(math.pi * radius**2, 3)


def root_of(text: str) -> str:
    return os.path.basename(xml.etree.ElementTree.fromstring(text).tag)


def drawn() -> bool:
    return 0 <= draw() < 1


def is_list(value: object) -> bool:
    return isinstance(value, collections.abc.Sequence)


def of_table(key: str) -> object:
    return TABLE[key]


def even(n: int) -> bool:
    return n == 0 or odd(n - 1)


def odd(n: int) -> bool:
    return n != 0 and even(n - 1)


def norm(point: Point) -> float:
    return math.hypot(point.x, point.y)


def mirrored(x: float, y: float) -> Point:
    return Point(-x, -y)


def counted() -> int:
    global counter
    counter += 1
    return counter


def with_calls(n: int) -> int:
    return calls.add(n, 1)


async def later(n: int) -> int:
    import asyncio

    await asyncio.sleep(0)
    return n + 1


@farloom.function(cores=1, memory="256MiB", walltime="00:01:00")
def cube(n: int) -> int:
    """The third power."""
    return n**3


@farloom.function(mode="at_least_once", retries=2)
def cubes(n: int) -> list[int]:
    return [cube(i) for i in range(n)]


@farloom.function
def factorial(n: int) -> int:
    return 1 if n < 2 else n * factorial(n - 1)
