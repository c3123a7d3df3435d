"""Promises that are kept or not: each has a sentence and a test, and each test's result is a line."""

import time


def keep(promises) -> tuple:  # (passed, failed)
    "Try pairs of a sentence and a function without arguments, one after the other; what asserts wrongly has failed, and the others are tried all the same."
    passed = failed = 0
    for promise, test in promises:
        start = time.time()
        try:
            test()
        except AssertionError as error:
            failed += 1
            print(f"FAILED {promise} ({time.time() - start:.0f} s)\n       {error}", flush=True)
        else:
            passed += 1
            print(f"ok     {promise} ({time.time() - start:.0f} s)", flush=True)
    return passed, failed
