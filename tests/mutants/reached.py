"""Which tests reach which line: the unit tests run once, with a coverage context for each test.

Run as a process (`python -m tests.mutants.reached FOLDER SHARDS SHARD`), so that imports are measured too.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import coverage
import pytest

__all__ = ["ReachedBy"]

TESTS = "tests/unit"


class ReachedBy:
    """The tests that reach each line of the appliance.

    Args:
        folder: Where the shards were written.
    """

    def __init__(self, folder: Path) -> None:
        self._tests: dict[tuple[str, int], set[str]] = defaultdict(set)
        self._of_file: dict[str, set[str]] = defaultdict(set)
        self.seconds: dict[str, float] = {}
        """How long each test takes."""
        self.failed: set[str] = set()
        """The tests that fail without a mutant; they reach nothing."""
        for shard in sorted(folder.glob("shard-*.json")):
            found = json.loads(shard.read_text())
            self.seconds |= found["seconds"]
            self.failed.update(found["failed"])
            for path, lines in found["reached"].items():
                for line, tests in lines.items():
                    names = {found["tests"][number] for number in tests} - self.failed
                    self._tests[path, int(line)].update(names)
                    self._of_file[path].update(names)

    def tests_of(self, path: Path, line: int) -> list[str]:
        """Return the tests to run for a change of a line, the fastest first.

        A line that runs at the import is reached by no test of its own: there, the tests that reach the file.
        """
        tests = self._tests.get((str(path), line)) or self._of_file.get(str(path), set())
        return sorted(tests, key=lambda test: (self.seconds.get(test, 1.0), test))


class _Contexts:
    """A pytest plugin: one context for each test of this shard."""

    def __init__(self, measured: coverage.Coverage, shard: int, shards: int) -> None:
        self._measured = measured
        self._shard = shard
        self._shards = shards
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: set[str] = set()

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        mine = [item for number, item in enumerate(items) if number % self._shards == self._shard]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(mine)])
        items[:] = mine

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> object:
        self._measured.switch_context(item.nodeid)
        result = yield
        self._measured.switch_context("")
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed.add(report.nodeid)


def main(folder: Path, *, shards: int, shard: int) -> int:
    """Run one shard of the unit tests and write what each test reached."""
    data = folder / f"coverage-{shard}"
    measured = coverage.Coverage(data_file=str(data), source=["appliance"], config_file=False)
    contexts = _Contexts(measured, shard, shards)
    measured.start()
    status = pytest.main(["-p", "no:cacheprovider", "-n0", TESTS], plugins=[contexts])
    measured.stop()
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return int(status)
    numbers: dict[str, int] = {}
    reached: dict[str, dict[int, list[int]]] = {}
    found = measured.get_data()
    for path in found.measured_files():
        lines = {
            line: [numbers.setdefault(test, len(numbers)) for test in tests if test]
            for line, tests in found.contexts_by_lineno(path).items()
        }
        reached[str(Path(path).relative_to(Path.cwd()))] = {line: tests for line, tests in lines.items() if tests}
    shard_file = folder / f"shard-{shard}.json"
    failed = sorted(contexts.failed)
    shard_file.write_text(
        json.dumps({"tests": list(numbers), "seconds": contexts.seconds, "failed": failed, "reached": reached})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), shards=int(sys.argv[2]), shard=int(sys.argv[3])))
