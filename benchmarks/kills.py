"""Processes that learn, count and forget, killed with SIGKILL at any moment: is all that was acknowledged there?

    python benchmarks/kills.py [--kills 500] [--seed 1]

The processes and the checks are those of `tests/ffruntime/test_durability.py`, on the tests' small network with
class statistics: after every kill nothing acknowledged is lost, nothing forgotten is there, every version is whole,
and class statistics are, bit for bit, those of the rows and of the snapshot. Where one of these is not so it fails,
and writes nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from common import record

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS / "support"))

from counting import with_statistics  # noqa: E402
from killing import killed_and_counted  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    o = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = with_statistics(TESTS / "fixtures" / "classes.ff", Path(folder) / "model.ff")
        record("kills", killed_and_counted(bundle, Path(folder), o.kills, o.seed)._asdict())


if __name__ == "__main__":
    main()
