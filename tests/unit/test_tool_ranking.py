"""The ranking of tools by a query."""

from __future__ import annotations

import pytest

from perdure.domain.loaded_tools import MAX_LOADED, with_loaded
from perdure.domain.tool_ranking import MAX_INDEXED, ToolRanking, words_of

TOOLS = (
    ("github_create_issue", "Create a new issue in a repository.", "GitHub"),
    ("github_list_issues", "List the issues of a repository.", "GitHub"),
    ("github_merge_pull_request", "Merge a pull request.", "GitHub"),
    ("jira_createIssue", "Create an issue in a project.", "Jira"),
    ("slack_post_message", "Post a message to a channel, for example about an issue.", "Slack"),
    ("weather_forecast", "The weather of the next days in a city.", "Weather"),
    ("kalender_suche", "Termine im Kalender suchen, auch für Müller.", "Kalender"),
    ("search_zh", "搜索天气预报", "Weather"),
)


@pytest.fixture(scope="module")
def ranking() -> ToolRanking:
    return ToolRanking(TOOLS)


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("create an issue on github", "github_create_issue"),
        ("jira issue", "jira_createIssue"),
        ("merging pull requests", "github_merge_pull_request"),
        ("post to a slack channel", "slack_post_message"),
        ("WEATHER FORECASTS", "weather_forecast"),
        ("list repositories' issues", "github_list_issues"),
        ("müller", "kalender_suche"),
        ("天气", "search_zh"),
        ("foreca", "weather_forecast"),
        ("what about slack_post_message?", "slack_post_message"),
    ],
)
def test_the_best_match_is_first(ranking: ToolRanking, query: str, first: str) -> None:
    assert ranking.best(query)[0] == first


@pytest.mark.parametrize("query", ["", "  ?!", "zzz qqq", "zz", "_"])
def test_nothing_matches_what_no_tool_has(ranking: ToolRanking, query: str) -> None:
    assert ranking.best(query) == ()
    assert ToolRanking(()).best("issue") == ()


def test_exact_names_come_first_in_the_order_of_their_scores(ranking: ToolRanking) -> None:
    found = ranking.best("weather_forecast, github_list_issues: issue issue issue create")
    assert set(found[:2]) == {"weather_forecast", "github_list_issues"}


def test_a_name_of_one_word_is_first_only_if_nothing_else_is_asked_for() -> None:
    ranking = ToolRanking([("a", "Anything.", "S"), ("send_mail", "Send a mail to anybody.", "S")])
    assert ranking.best("send a mail")[0] == "send_mail"
    assert ranking.best(" a ")[0] == "a"


def test_what_shares_only_common_words_does_not_match(ranking: ToolRanking) -> None:
    assert "weather_forecast" not in ranking.best("merge a pull request")


def test_equal_matches_are_sorted_by_name() -> None:
    tools = [(f"tool_{letter}", "The same.", "Source") for letter in "cab"]
    assert ToolRanking(tools).best("same") == ("tool_a", "tool_b", "tool_c")


def test_a_word_of_the_name_counts_more_than_one_of_the_description() -> None:
    tools = [("other", "Finds an invoice and more.", "S"), ("find_invoice", "Looks it up for you.", "S")]
    assert ToolRanking(tools).best("invoice")[0] == "find_invoice"


def test_only_the_beginnings_of_long_texts_are_read() -> None:
    ranking = ToolRanking([("a", "x " * MAX_INDEXED + "late", "S"), ("b", "soon", "S")])
    assert ranking.best("late") == ()
    assert ranking.best(" " * 500 + "soon") == ()
    assert ranking.best("soon " * 100_000) == ("b",)


def test_names_are_split_into_words() -> None:
    assert words_of("getHTTPResponse_v2-Entries status") == [
        "get", "http", "response", "v2", "entry", "statu",
    ]  # fmt: skip
    assert words_of("class is gas news") == ["class", "is", "gas", "new"]


def test_loaded_tools_keep_their_places_and_the_first_ones_go() -> None:
    assert with_loaded((), ["b", "a", "b"]) == ("b", "a")
    assert with_loaded(("b", "a"), ["a", "c"]) == ("b", "a", "c")
    full = tuple(f"t{number}" for number in range(MAX_LOADED))
    assert with_loaded(full, ["t0"]) == full
    assert with_loaded(full, ["x", "y"]) == (*full[2:], "x", "y")
