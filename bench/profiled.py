"""Run the `perdure` command under a profiler: `python -m bench.profiled FILE serve ...`.

The profile covers only the main thread and is written when the server ends. `python -m bench --profile FILE`
prints its top entries.
"""

from __future__ import annotations

import cProfile
import sys

from perdure.cli.main import app


def main() -> None:
    """Run the command in the remaining arguments."""
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
