"""`python -m mlserve` is the program `mlserve`."""

from __future__ import annotations

from mlserve.cli.main import main

main()
