"""docs/scoring.md says what the result files say."""

from benchmarks.scoring_page import PAGE, page


def test_the_page_is_made_from_the_committed_results():
    assert PAGE.read_text(encoding="utf-8") == page()
