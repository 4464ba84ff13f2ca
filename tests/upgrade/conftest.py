"""Makes pytest rewrite assertions in states too, which are not test modules, for detailed failures."""

import pytest

pytest.register_assert_rewrite(
    "tests.upgrade.checks",
    "tests.upgrade.states_kept",
    "tests.upgrade.states_tasks",
    "tests.upgrade.states_turns",
    "tests.upgrade.states_waiting",
)
