"""Counts what tests try and what must be refused: wrong commands, damaged or hostile folders."""

from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2] / "tests"


class AttackCounter:
    """A plugin of pytest that counts the attacks of the tests with the marker ``attack``.

    ``attack(kind, times)`` states how many attacks a test tries; a test may instead record the
    property ``times``. All of its attacks held if the test passed.
    """

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.held: Counter[str] = Counter()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Counts the attacks of one test after it ran."""
        report = yield
        marker = item.get_closest_marker("attack")
        if marker is not None and report.when == "call" and not report.skipped:
            kind, *times = marker.args
            recorded = dict(item.user_properties).get("times", times[0] if times else 1)
            assert isinstance(recorded, int)
            self.tried[kind] += recorded
            self.held[kind] += recorded if report.passed else 0
        return report


def attacks() -> AttackCounter:
    """Runs the tests with the marker ``attack`` and returns what they tried and what held."""
    counter = AttackCounter()
    pytest.main(["-q", "-m", "attack", "-p", "no:cacheprovider", str(TESTS)], plugins=[counter])
    return counter
