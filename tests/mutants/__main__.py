"""Take a sample of the mutants of each package, run their tests, and print what no test noticed."""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.operators import Mutant, mutants_of
from tests.mutants.reached import ReachedBy

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2
BESIDES = "appliance"
"""The name of the modules that stand in no package."""
SLOW_S = 20.0
"""A mutant whose tests need this long more than usual hangs: it is noticed."""
MOST_TESTS = 400
"""The fastest tests that reach a line, of which at most so many run."""


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    Attributes:
        mutant: The change.
        is_killed: Whether a test noticed it.
        tests: The number of tests that reach it.
    """

    mutant: Mutant
    is_killed: bool
    tests: int


def main() -> int:
    """Run the command line; return the exit status: 1 if a package scores below the limit."""
    parser = argparse.ArgumentParser(prog="scripts/mutants", description=__doc__)
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help="packages of appliance/; all if none is named")
    parser.add_argument("--sample", type=int, default=20, metavar="N", help="mutants of each package (default 20)")
    parser.add_argument("--at-least", type=float, default=85.0, metavar="PERCENT", help="the limit (default 85)")
    options = parser.parse_args()
    commit = _git("rev-parse", "HEAD")
    if _git("status", "--porcelain", "--", "appliance", "tests"):
        parser.error("appliance/ or tests/ has changes that are not committed: the sample belongs to a commit")
    packages = _packages()
    if unknown := set(options.packages) - set(packages):
        parser.error(f"no package is named {', '.join(sorted(unknown))}; there are: {', '.join(packages)}")
    sample = [
        mutant
        for name in options.packages or packages
        for mutant in _sample(packages[name], f"{commit} {name}", options.sample)
    ]
    with _copies(WORKERS) as copies:
        reached = _reached(commit, copies)
        for test in reached.failed:
            print(f"fails without a mutant, left out: {test}")
        print(f"{len(sample)} mutants of {commit[:12]}, {WORKERS} at a time", flush=True)
        verdicts = list(_run(sample, reached, copies))
    return _report(verdicts, options.at_least)


def _git(*args: str) -> str:
    return subprocess.run(["git", *args], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def _packages() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted((ROOT / "appliance").rglob("*.py")):
        inside = path.relative_to(ROOT / "appliance").parts
        found[inside[0] if len(inside) > 1 else BESIDES].append(path.relative_to(ROOT))
    return dict(sorted(found.items()))


def _sample(files: list[Path], seed: str, count: int) -> list[Mutant]:
    """Draw mutants; the commit and the package decide which, so that nobody can choose them."""
    every = [mutant for path in files for mutant in mutants_of(path, (ROOT / path).read_text())]
    chosen = random.Random(hashlib.sha256(seed.encode()).digest()).sample(every, min(count, len(every)))
    return sorted(chosen, key=lambda one: (one.path, one.start))


def _reached(commit: str, copies: list[Path]) -> ReachedBy:
    folder = ROOT / "build" / "mutants" / commit
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        print("finding which tests reach which line; some minutes", flush=True)
        command = [sys.executable, "-m", "tests.mutants.reached", str(folder), str(len(copies))]
        shards = [
            subprocess.Popen([*command, str(number)], cwd=copy, env=_environ(copy), stdout=subprocess.DEVNULL)
            for number, copy in enumerate(copies)
        ]
        if sum(shard.wait() for shard in shards):
            raise SystemExit("the unit tests could not be run")
        (folder / "done").touch()
    return ReachedBy(folder)


def _environ(tree: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}


@contextmanager
def _copies(count: int) -> Iterator[list[Path]]:
    """Return clones of the repository, one for each worker."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = [Path(folder, str(number)) for number in range(count)]
        for copy in copies:
            _git("clone", "--quiet", "--shared", str(ROOT), str(copy))
        yield copies


def _run(sample: list[Mutant], reached: ReachedBy, copies: list[Path]) -> Iterator[Verdict]:
    free: SimpleQueue[Path] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def run(mutant: Mutant) -> Verdict:
        copy = free.get()
        try:
            return _judged(mutant, reached, copy)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(copies)) as pool:
        for number, verdict in enumerate(pool.map(run, sample), 1):
            word = "killed" if verdict.is_killed else "SURVIVED"
            print(f"{number:4} {word:8} {verdict.mutant}  [{verdict.tests} tests]", flush=True)
            yield verdict


def _judged(mutant: Mutant, reached: ReachedBy, copy: Path) -> Verdict:
    tests = reached.tests_of(mutant.path, mutant.line)
    if not tests:
        return Verdict(mutant, False, 0)
    file = copy / mutant.path
    source = file.read_text()
    chosen = tests[:MOST_TESTS]
    arguments = copy / "build-tests.txt"
    arguments.write_text("\n".join(chosen))
    usual = sum(reached.seconds.get(test, 1.0) for test in chosen)
    try:
        file.write_text(mutant.applied_to(source))
        status = _pytest(copy, f"@{arguments}", SLOW_S + 4 * usual)
    finally:
        file.write_text(source)
    return Verdict(mutant, status != 0, len(tests))


def _pytest(copy: Path, tests: str, limit_s: float) -> int:
    """Run these tests until the first fails; return the exit status, 1 if they exceed the time."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", tests]
    process = subprocess.Popen(
        command,
        cwd=copy,
        env=_environ(copy),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        return 1


def _report(verdicts: list[Verdict], at_least: float) -> int:
    packages: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        inside = verdict.mutant.path.parts[1:]
        packages[inside[0] if len(inside) > 1 else BESIDES].append(verdict)
    print("\n| package | mutants | killed | % |\n|---|---:|---:|---:|")
    for name, some in [*packages.items(), ("all", verdicts)]:
        killed = sum(verdict.is_killed for verdict in some)
        print(f"| {name} | {len(some)} | {killed} | {100 * killed / max(1, len(some)):.0f} |")
    survivors = [verdict for verdict in verdicts if not verdict.is_killed]
    print(f"\n{len(survivors)} survived:" if survivors else "\nnone survived")
    for verdict in survivors:
        print(f"- `{verdict.mutant}` ({verdict.tests} tests reach it)")
    return int(100 * (len(verdicts) - len(survivors)) < at_least * len(verdicts))


if __name__ == "__main__":
    sys.exit(main())
