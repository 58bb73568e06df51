"""The report of a search that is under way: written from time to time, and never in its way."""

import re

import pytest

from commands import live


@pytest.fixture
def always(monkeypatch):
    """A report after every batch."""
    monkeypatch.setattr(live, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(live, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(live, "SHARE", 1e9)


def test_it_grows_with_the_search(runs, tiny_run, always, monkeypatch):
    seen, write = [], live.report_anew

    def look(folder, *arguments, **options):
        write(folder, *arguments, **options)
        seen.append(folder.report.read_text(encoding="utf-8"))

    monkeypatch.setattr(live, "report_anew", look)
    ended = runs()
    assert ended.code == 0, ended.err
    counts = [int(re.search(r"shows it after (\d+)\s+of 12 evaluations", text)[1]) for text in seen]
    assert counts == [4, 8, 12, 12, 12, 12]  # the last while random networks are scored
    assert all("This search has not finished." in text for text in seen)
    assert ended.front == tiny_run.front
    report = (ended.folder / "report.html").read_text()
    assert "has not finished" not in report
    assert 'id="again"' not in report


def test_it_does_not_end_the_search(runs, tiny_run, always, monkeypatch):
    def broken(*_, **__):
        raise KeyError("no such thing")

    monkeypatch.setattr(live, "report_anew", broken)
    ended = runs()
    assert ended.code == 0, ended.err
    said = "the report cannot be written while the search runs: KeyError: 'no such thing'"
    assert ended.err.count(said) == 1
    assert ended.front == tiny_run.front


def test_it_takes_little_of_the_time(monkeypatch):
    """On a made-up clock: at most a fiftieth, and no more often than every 30 seconds."""
    now, written = [0.0], []
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(live, "keep_training", lambda *_: None)
    cost = 3.0

    def write(*_, **__):
        written.append(now[0])
        now[0] += cost

    monkeypatch.setattr(live, "report_anew", write)

    class Job:
        settings = None

    report = live.LiveReport(None, Job(), None, None)
    while now[0] < 3600:
        now[0] += 1.0
        report()
    assert written[0] == live.FIRST_SECONDS
    assert len(written) * cost <= 0.02 * 3600 + cost
    cost, written[:] = 0.01, []
    while now[0] < 7200:
        now[0] += 1.0
        report()
    assert 100 < len(written) <= 121
