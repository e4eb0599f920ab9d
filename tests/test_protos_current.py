"""The committed output of scripts/protos is what the script makes of protos/ today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_generated_files_are_current() -> None:
    """Whoever changes protos/ runs scripts/protos too."""
    script = ROOT / "scripts" / "protos"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_default_pool_of_protobuf_stays_free_for_other_clients() -> None:
    """tritonclient and grpc_health register the same names there, before or after us."""
    for order in ("mlserve.grpc.server, tritonclient.grpc", "tritonclient.grpc, mlserve.grpc.server"):
        code = (
            f"import {order}, mlserve.grpc.dataplane_pb2_grpc, mlserve.grpc.converters\n"
            "from grpc_health.v1 import health_pb2\n"
            "from grpc_reflection.v1alpha import reflection_pb2\n"
            "from mlserve.grpc import dataplane_pb2\n"
            "dataplane_pb2.ModelInferRequest(model_name='m')\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
