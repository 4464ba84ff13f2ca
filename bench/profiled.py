"""The `perdure` command under a profiler: `python -m bench.profiled FILE serve ...`.

Only the main thread is seen.

The profile is written when the server ends; `python -m bench --profile FILE` prints the top of it.
"""

from __future__ import annotations

import cProfile
import sys

from perdure.cli.main import app


def main() -> None:
    """Run the command named by the rest of the arguments."""
    profile = cProfile.Profile()
    target = sys.argv[1]
    profile.enable()
    try:
        app(sys.argv[2:], standalone_mode=False)
    finally:
        profile.disable()
        profile.dump_stats(target)


if __name__ == "__main__":
    main()
