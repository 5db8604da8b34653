"""Records what the programs say and do, for `tests/test_behaviour.py`.

    python tests/support/record_behaviour.py                     stories that were never recorded
    python tests/support/record_behaviour.py --replace NAME…     those again: then the test asks for what is now

What was recorded before a change is what the change is measured by: `renames.toml` is for words that change, and
`--replace` for behaviour that is meant to be another one.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import behaviour


def main() -> None:
    """Record the stories named, or all that are not there."""
    replace, names = "--replace" in sys.argv[1:2], [name for name in sys.argv[1:] if name != "--replace"]
    told = behaviour.stories()
    if unknown := set(names) - set(told):
        sys.exit(f"no such story: {', '.join(sorted(unknown))}; known: {', '.join(told)}")
    if replace and not names:
        sys.exit("--replace: which stories?")
    behaviour.EXPECTED.mkdir(exist_ok=True)
    for name in names or told:
        file = behaviour.EXPECTED / f"{name}.txt"
        if file.exists() and not replace:
            continue
        begun = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            text = behaviour.tell(told[name], Path(folder))
        file.write_text(behaviour.masked(name, text))
        print(f"{name}: {time.process_time() - begun:.1f} s of the processor")


if __name__ == "__main__":
    main()
