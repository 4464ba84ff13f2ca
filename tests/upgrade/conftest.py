"""States are no test modules, and their assertions should say as much as those of tests."""

import pytest

pytest.register_assert_rewrite(
    "tests.upgrade.checks",
    "tests.upgrade.states_kept",
    "tests.upgrade.states_turns",
    "tests.upgrade.states_waiting",
)
