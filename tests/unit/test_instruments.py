"""Counters and histograms, and what Prometheus reads of them."""

from __future__ import annotations

from perdure.domain.instruments import OTHER, Bounded, Gauge, Histogram, instruments_of
from perdure.domain.metrics import MOST_MODELS, Metrics
from perdure.doors.prometheus import snapshot, text_of
from tests.metrics import parsed, value


def test_only_the_first_values_of_a_label_have_one_of_their_own() -> None:
    label = Bounded(2)
    assert [label(each) for each in ("a", "b" * 200, "c", "a", "d")] == ["a", "b" * 100, OTHER, "a", OTHER]
    metrics = Metrics()
    for number in range(10_000):
        metrics.model_calls.add("openai", metrics.model_label(f"model {number}"), "ok")
    assert len(metrics.model_calls.values) == MOST_MODELS + 1
    assert metrics.model_calls.values["openai", OTHER, "ok"] == 10_000 - MOST_MODELS


def test_each_bucket_counts_everything_up_to_its_bound() -> None:
    metrics = Metrics()
    for seconds in (0.0005, 0.001, 0.002, 5, 11):
        metrics.queue_wait.observe(seconds)
    metrics.turns.add("failed", 'odd "code"\n\\')
    metrics.parked.set(3, "approval")
    samples = parsed(text_of(snapshot(metrics)).decode())
    bucket = "perdure_queue_wait_seconds_bucket"
    assert [value(samples, bucket, le=le) for le in ("0.001", "0.005", "5.0", "10.0", "+Inf")] == [
        2,
        3,
        4,
        4,
        5,
    ]
    assert value(samples, "perdure_queue_wait_seconds_count") == 5
    assert value(samples, "perdure_queue_wait_seconds_sum") == 16.0035
    assert value(samples, "perdure_turns_total", code='odd "code"\n\\') == 1
    assert value(samples, "perdure_turns_parked", kind="approval") == 3
    assert value(samples, "process_resident_memory_bytes") > 1_000_000


def test_names_and_labels_are_those_that_prometheus_recommends() -> None:
    for each in instruments_of(Metrics()):
        assert each.name.startswith("perdure_")
        assert not each.name.endswith("_total")
        assert each.help.endswith(".")
        assert each.name.endswith("_seconds") == isinstance(each, Histogram)
    names = [each.name for each in instruments_of(Metrics())]
    assert len(set(names)) == len(names)


def test_what_is_not_known_has_no_value() -> None:
    gauge = Gauge("perdure_something", "Something.")
    gauge.move(2)
    gauge.move(-1)
    assert gauge.values == {(): 1}
    gauge.clear()
    assert gauge.values == {}
