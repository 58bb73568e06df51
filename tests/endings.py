"""How a command line may end, for tests of several commands."""

import run_search


def one_line(ended, *expected):
    """Exit code 2 and a single line that holds each of `expected`."""
    assert ended.code == run_search.BAD_INPUT, ended.err
    lines = ended.err.splitlines()
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("run_search.py: ")
    for text in expected:
        assert text in lines[0]
