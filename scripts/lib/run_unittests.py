"""Runs the unit tests of one Python file and counts them: `run_unittests.py FILE COUNTS`.

What unittest prints goes to stderr; COUNTS becomes {"passed": n, "failed": n, "skipped": n}. A file that cannot be
imported counts as one failed test. Exit status 0 only where nothing failed.
"""

import importlib.util
import json
import os
import sys
import unittest


def main():
    file, counts_file = os.path.abspath(sys.argv[1]), sys.argv[2]
    sys.path.insert(0, os.path.dirname(file))
    name = os.path.splitext(os.path.basename(file))[0]
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    counts = {"passed": 0, "failed": 1, "skipped": 0}
    try:
        spec.loader.exec_module(module)
        result = unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromModule(module))
        # A test whose subtests fail is one failed test.
        failed = {getattr(test, "test_case", test).id() for test, _ in result.failures + result.errors}
        failed |= {test.id() for test in result.unexpectedSuccesses}
        skipped = {test.id() for test, _ in result.skipped} - failed
        counts = {
            "passed": max(0, result.testsRun - len(failed) - len(skipped)),
            "failed": len(failed),
            "skipped": len(skipped),
        }
    finally:
        with open(counts_file, "w", encoding="utf-8") as out:
            json.dump(counts, out)
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
