"""The figures that Prometheus reads: names, labels, sums, and what is left out."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mlserve.batching import Line, Rule
from mlserve.metrics import SERIES, Metrics

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

GRPC = ("UNARY", "inference.GRPCInferenceService", "ModelInfer")
GRPC_LABELS = {"grpc_type": GRPC[0], "grpc_service": GRPC[1], "grpc_method": GRPC[2]}


def samples_of(metrics: Metrics) -> Samples:
    page = metrics.write(metrics.read())[0].decode()
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in parse_text(page)
        for one in family.samples
    }


def value_of(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples_of(metrics).get((name, tuple(sorted(labels.items()))))


def types_of(metrics: Metrics) -> dict[str, str]:
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", metrics.write(metrics.read())[0].decode(), re.MULTILINE))


def test_inferences_are_counted_by_model_and_version() -> None:
    metrics = Metrics()
    metrics.infer_done("m", "v1", 0.5, True)
    metrics.infer_done("m", "v1", 0.25, False)
    metrics.infer_done("m", "v2", 1.0, True)
    assert value_of(metrics, "model_infer_request_success_total", model="m", version="v1") == 1
    assert value_of(metrics, "model_infer_request_failure_total", model="m", version="v1") == 1
    assert value_of(metrics, "model_infer_request_duration_count", model="m", version="v1") == 2
    assert value_of(metrics, "model_infer_request_duration_sum", model="m", version="v1") == 0.75
    assert value_of(metrics, "model_infer_request_failure_total", model="m", version="v2") == 0
    assert types_of(metrics)["model_infer_request_duration"] == "summary"


def test_a_version_that_was_not_asked_for_shows_as_none_on_rest_and_empty_on_grpc() -> None:
    metrics = Metrics()
    for version in (None, None, "None", ""):
        metrics.infer_done("m", version, 0.1, True)
    assert value_of(metrics, "model_infer_request_success_total", model="m", version="None") == 3
    assert value_of(metrics, "model_infer_request_success_total", model="m", version="") == 1


def test_rest_requests_are_counted_by_template_and_status() -> None:
    metrics = Metrics(app_name="here")
    labels = {"app_name": "here", "method": "POST", "path": "/v2/models/{model_name}/infer", "status_code": "200"}
    for seconds in (0.002, 0.02):
        metrics.rest_started("POST")
        metrics.rest_done("POST", "/v2/models/{model_name}/infer", 200, seconds)
    assert value_of(metrics, "rest_server_requests_total", **labels) == 2
    assert value_of(metrics, "rest_server_request_duration_seconds_count", **labels) == 2
    assert value_of(metrics, "rest_server_request_duration_seconds_sum", **labels) == pytest.approx(0.022)
    assert value_of(metrics, "rest_server_request_duration_seconds_bucket", **labels, le="0.0025") == 1
    assert value_of(metrics, "rest_server_request_duration_seconds_bucket", **labels, le="+Inf") == 2


def test_the_documented_spelling_has_the_same_figures() -> None:
    metrics = Metrics()
    metrics.rest_started("GET")
    metrics.rest_done("GET", "/v2", 200, 0.02)
    samples = samples_of(metrics)
    real = {key[1]: value for key, value in samples.items() if key[0] == "rest_server_request_duration_seconds_bucket"}
    also = {key[1]: value for key, value in samples.items() if key[0] == "rest_server_requests_duration_seconds_bucket"}
    assert real == also
    assert real


def test_requests_in_progress_go_up_and_down() -> None:
    metrics = Metrics()
    labels = {"app_name": "mlserve", "method": "GET"}
    metrics.rest_started("GET")
    metrics.rest_started("GET")
    assert value_of(metrics, "rest_server_requests_in_progress", **labels) == 2
    metrics.rest_done("GET", "/v2", 200, 0.1)
    assert value_of(metrics, "rest_server_requests_in_progress", **labels) == 1


def test_methods_that_a_client_made_up_get_no_series() -> None:
    metrics = Metrics()
    metrics.rest_started("BREW")
    metrics.rest_done("BREW", "/v2", 405, 0.1)
    assert "BREW" not in metrics.write(metrics.read())[0].decode()


def test_the_prefix_of_rest_series_can_be_chosen() -> None:
    types = types_of(Metrics(rest_prefix="edge"))
    assert types["edge_requests_total"] == "counter"
    assert types["edge_request_duration_seconds"] == "histogram"
    assert not any(name.startswith("rest_server") for name in types)


def test_grpc_calls_are_counted_by_method_and_code() -> None:
    metrics = Metrics()
    for code in ("OK", "OK", "NOT_FOUND"):
        metrics.grpc_started(*GRPC)
        metrics.grpc_done(*GRPC, code, 0.01)
    assert value_of(metrics, "grpc_server_started_total", **GRPC_LABELS) == 3
    assert value_of(metrics, "grpc_server_handled_total", **GRPC_LABELS, grpc_code="OK") == 2
    assert value_of(metrics, "grpc_server_handled_total", **GRPC_LABELS, grpc_code="NOT_FOUND") == 1
    assert value_of(metrics, "grpc_server_handling_seconds_count", **GRPC_LABELS) == 3


def test_messages_are_counted_on_streams_only() -> None:
    metrics = Metrics()
    stream = ("BIDI_STREAMING", GRPC[1], "ModelStreamInfer")
    metrics.grpc_started(*GRPC)
    metrics.grpc_started(*stream)
    metrics.grpc_received(*stream)
    metrics.grpc_sent(*stream)
    metrics.grpc_sent(*stream)
    labels = {**GRPC_LABELS, "grpc_type": "BIDI_STREAMING", "grpc_method": "ModelStreamInfer"}
    assert value_of(metrics, "grpc_server_msg_received_total", **labels) == 1
    assert value_of(metrics, "grpc_server_msg_sent_total", **labels) == 2
    assert value_of(metrics, "grpc_server_msg_sent_total", **GRPC_LABELS) is None


def test_queues_are_histograms_of_their_depth() -> None:
    metrics = Metrics()
    for depth in (0, 3, 200):
        metrics.batch_queue("m", None, depth)
        metrics.parallel_queue(depth)
    labels = {"model_name": "m", "model_version": ""}
    assert value_of(metrics, "batch_request_queue_bucket", **labels, le="0.0") == 1
    assert value_of(metrics, "batch_request_queue_bucket", **labels, le="4.0") == 2
    assert value_of(metrics, "batch_request_queue_sum", **labels) == 203
    assert value_of(metrics, "parallel_request_queue_count") == 3


def test_metrics_of_a_model_are_histograms_with_its_name() -> None:
    metrics = Metrics()
    metrics.register_custom("my_metric", "What it is")
    metrics.register_custom("my_metric", "Something else")
    metrics.observe_custom("m", "v1", {"my_metric": 34, "unregistered": 0.5})
    metrics.observe_custom("m", "", {"my_metric": 1})
    page = metrics.write(metrics.read())[0].decode()
    assert "# HELP my_metric What it is\n# TYPE my_metric histogram" in page
    assert value_of(metrics, "my_metric_sum", model_name="m", model_version="v1") == 34
    assert value_of(metrics, "my_metric_count", model_name="m", model_version="") == 1
    assert value_of(metrics, "unregistered_count", model_name="m", model_version="v1") == 1


@pytest.mark.parametrize("name", ["not a name", "1st", "", "é", "model_infer_request_success", "grpc_server_handled"])
def test_a_metric_of_a_model_with_an_impossible_name_is_left_out_with_one_warning(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics()
    before = metrics.write(metrics.read())[0].count(b"# TYPE")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            metrics.observe_custom("m", "", {name: 1})
    assert metrics.write(metrics.read())[0].count(b"# TYPE") == before
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", CONTENT_TYPE_LATEST),
        ("text/plain;version=0.0.4", CONTENT_TYPE_LATEST),
        ("application/openmetrics-text; version=1.0.0,text/plain;q=0.5", "application/openmetrics-text; version=1.0.0"),
    ],
)
def test_the_page_comes_in_the_form_that_is_asked_for(accept: str, kind: str) -> None:
    metrics = Metrics()
    metrics.infer_done('q"uo\\te\n', None, 0.1, True)
    metrics.rest_started("GET")
    metrics.rest_done("GET", "/v2", 200, 0.1)
    page, content_type = metrics.write(metrics.read(), accept)
    assert content_type.startswith(kind)
    parse = parse_openmetrics if "openmetrics" in kind else parse_text
    families = {family.name: family for family in parse(page.decode())}
    assert families["model_infer_request_success"].samples[0].labels["model"] == 'q"uo\\te\n'


def test_two_servers_have_their_own_figures() -> None:
    one, two = Metrics(), Metrics()
    one.infer_done("m", None, 0.1, True)
    assert value_of(two, "model_infer_request_success_total", model="m", version="None") is None


def test_every_series_is_documented() -> None:
    text = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    assert [name for name in SERIES if f"`{name}" not in text] == []


def test_batches_are_shown_with_what_was_found_for_them() -> None:
    line = Line(Rule(1 << 30, target_seconds=0.1, model="m"))
    assert line.auto is not None
    line.sizes.add(3)
    line.auto.answered(0.0, 3, 1)
    metrics = Metrics()
    metrics.batched = lambda: [("m", "v1", line)]
    labels = {"model_name": "m", "model_version": "v1"}
    assert value_of(metrics, "batch_requests_sum", **labels) == 3
    assert value_of(metrics, "batch_auto_rows", **labels) == 1
    assert value_of(metrics, "batch_auto_wait_seconds", **labels) == 0
    assert value_of(metrics, "batch_auto_held", **labels) == 1
    assert value_of(metrics, "batch_auto_late_total", **labels) == 1
