"""Runs a client's tests and tells of them in TAP. A test that fails does not end the others."""
import traceback


def run(prefix, tests):
    """tests: functions named test_...; the exit code."""
    bad = 0
    print("1..%d" % len(tests))
    for number, test in enumerate(tests, 1):
        name = "%s %s" % (prefix, test.__name__.replace("test_", "", 1))
        try:
            test()
            print("ok %d - %s" % (number, name), flush=True)
        except Exception:       # whatever the package makes of a wrong answer
            bad += 1
            print("not ok %d - %s" % (number, name))
            print("".join("# %s\n" % line for line in traceback.format_exc(chain=False).splitlines()[-6:]), end="", flush=True)
    return 1 if bad else 0
