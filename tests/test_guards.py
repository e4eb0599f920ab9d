"""The house keeps itself in order: imports one way, public names true, everything documented, no room too large."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from mlserve import errors
from mlserve.settings import ModelParameters, ModelSettings, Settings

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mlserve"

# Each room may import from itself and from rooms above it.
ROOMS = [
    [
        "version",
        "errors",
        "eventloop",
        "osdep",
        "cores",
        "plain_streams",
        "garbage",
        "malloc",
        "mapping",
        "tally",
        "counted",
        "side_by_side",
        "auto_batching",
        "deadlines",
        "leaving",
        "bounds",
        "intake",
        "unpacking",
        "unsent",
        "nesting",
        "sockets",
        "http2",
    ],
    ["datatypes", "as_lists", "wire.json_data", "wire.raw_data", "wire.contents"],
    ["in_pydantic", "payload", "tensors", "scalars", "annotations", "arguments", "types"],
    ["settings", "runtime_names"],
    ["wire", "frames", "arena", "stream_metrics", "batch_metrics", "model_values", "metrics", "logs", "cloudevents"],
    ["custom_metrics", "shared_values"],
    [
        "codecs",
        "asgi_frames",
        "handlers",
        "written",
        "answering",
        "handler_lines",
        "handling",
        "sealed",
        "layout",
    ],
    [
        "model",
        "artifacts",
        "loop_thread",
        "repository",
        "merging",
        "environments",
        "extra",
        "thread_limits",
        "repeated",
        "held_folders",
        "estimators",
    ],
    ["tabular", "named_tensors", "by_rows", "written_out", "spark_process", "channel"],
    [
        "calls",
        "urgency",
        "batching",
        "recovery",
        "lending",
        "loader",
        "execute",
        "reply_slots",
        "outbox",
        "worker_stream",
    ],
    ["observing", "progress", "sending", "asking", "attaching", "handler_answer", "fixed_answers"],
    ["worker_calls", "running", "running_handlers", "running_streams", "launch", "link"],
    ["recycling", "loading", "taking_back"],
    ["crew"],
    ["compat", "worker", "pool"],
    ["worker_main", "pools"],
    ["models", "pool_metrics"],
    ["custom_routes"],
    ["dataplane"],
    ["tracing"],
    ["rest", "grpc"],
    ["server", "testing", "client"],
    ["batch_files", "batch_processing"],
    ["cli", "__main__", ""],
    ["old_names"],
]
# Imports that go the other way, each inside a function, with its reason.
EXCEPTIONS = {
    ("launch", "worker_main"): "a worker in a thread is started like one in a process",
    ("server", "cli"): "the start-up table is text for people, and knows nobody",
}
GENERATED = ("wire/_proto/", "grpc/dataplane_pb2")


def _rank(module: str) -> int:
    """The room of a module, by the longest name that is a prefix of it."""
    best = (-1, -1)
    for rank, names in enumerate(ROOMS):
        for name in names:
            if module == name or module.startswith(f"{name}.") or (name == "" and module == ""):
                best = max(best, (len(name), rank))
    assert best[1] >= 0, f"mlserve.{module} has no room: give it one in {Path(__file__).name}"
    return best[1]


def _sources():
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE).as_posix()
        if not relative.startswith(GENERATED):
            yield path, relative


def _name(relative: str) -> str:
    parts = relative.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path):
    tree = ast.parse(path.read_text())
    typing_only = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    skipped = {id(inner) for node in typing_only for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mlserve":
            place = PACKAGE.joinpath(*node.module.split(".")[1:])
            prefix = node.module.removeprefix("mlserve").lstrip(".")
            modules = [
                alias.name
                for alias in node.names
                if (place / f"{alias.name}.py").exists() or (place / alias.name).is_dir()
            ]
            yield from (f"{prefix}.{name}".lstrip(".") for name in modules)
            if prefix and len(modules) < len(node.names):
                yield prefix
        elif isinstance(node, ast.Import):
            yield from (one.name.removeprefix("mlserve.") for one in node.names if one.name.startswith("mlserve."))


@pytest.mark.parametrize(("path", "relative"), list(_sources()), ids=lambda one: one if isinstance(one, str) else "")
def test_imports_point_one_way(path, relative):
    module = _name(relative)
    for imported in _imports(path):
        if (module.split(".")[0], imported.split(".")[0]) in EXCEPTIONS:
            continue
        assert _rank(imported) <= _rank(module), f"mlserve.{module} must not import mlserve.{imported}"


@pytest.mark.parametrize("name", ["mlserve", "mlserve.types", "mlserve.codecs", "mlserve.errors", "mlserve.testing"])
def test_public_names_are_sorted_and_there(name):
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(module.__all__)
    for public in module.__all__:
        assert getattr(module, public, None) is not None, f"{name}.{public}"


@pytest.mark.parametrize(("path", "relative"), list(_sources()), ids=lambda one: one if isinstance(one, str) else "")
def test_each_file_says_what_it_is_for_and_stays_readable(path, relative):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), f"{relative} has no docstring"
    assert text.count("\n") <= 450, f"{relative} is too long: would two rooms be easier to live in?"


def test_every_setting_is_documented():
    text = (ROOT / "docs/settings.md").read_text()
    for kind in (Settings, ModelSettings, ModelParameters):
        missing = [name for name in kind.__struct_fields__ if f"`{name}`" not in text]
        assert not missing, f"docs/settings.md says nothing of {missing}"


def test_every_error_is_documented_with_its_status():
    text = (ROOT / "docs/errors.md").read_text()
    for name in errors.__all__:
        kind = getattr(errors, name)
        if isinstance(kind, type) and name != "MLServerError":
            assert re.search(rf"\| `{name}` \| {kind.http_status} \| {kind.grpc_status} \|", text), name


def test_every_link_in_the_documents_leads_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
