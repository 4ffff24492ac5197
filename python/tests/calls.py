"""Functions that the tests call. This module is not on the workers' path, so they travel by value or as text."""

import sys

import cloudpickle


def echo(value):
    return value


def add(a, b=0, *, c=0):
    return a + b + c


def nap(seconds):
    import time

    time.sleep(seconds)
    return seconds


def nap_and_note(seconds, path):
    import os
    import time

    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    return seconds


def fail(text):
    raise ValueError(text)


def where():
    import os

    return os.getpid()


class OwnError(Exception):
    def __init__(self, number, text):
        super().__init__(number, text)
        self.number = number


def fail_own(number):
    raise OwnError(number, "of our own")


def die():
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def size_of(data):
    return len(data)


def zeros(n):
    return bytes(n)


# The workers have no such module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])
