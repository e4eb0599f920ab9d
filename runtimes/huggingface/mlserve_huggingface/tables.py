"""Tables with their questions: one row each, wherever they stand in a request, and short enough to be read."""

from __future__ import annotations

import json
from typing import Any

from mlserve.errors import InferenceError
from mlserve_huggingface.texts import texts_in

__all__ = ["check_cells", "tables_in"]

# Characters. TAPAS looks for numbers and dates in all of a table, before it is cut and for each question again: 0.7 ms
# for a short cell, and beyond with the square of its words. Nothing can stop it.
_OF_CELLS, _OF_CELL = 80_000, 500
_CELLS = 8000  # of a table
_SHORT = 10  # characters: a cell of fewer takes as long


def tables_in(options: dict[str, Any], values: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Each table with its questions as one row, as the pipeline takes its arguments; the options that are left.

    Tables have no lists in them then, which would be texts at once.
    """
    first, second = [*values, None, None][:2]
    left = {name: value for name, value in options.items() if name not in ("query", "table")}
    table, query = options.get("table", first), options.get("query", second)
    rows = table if isinstance(table, list) else [table]  # that have their questions in them
    if query is not None:
        rows = [{"table": table, "query": query}]
    made = [{**row, "table": dict(enumerate(_cells(row.get("table"))))} for row in rows if isinstance(row, dict)]
    return made, left


def check_cells(tables: list[Any]) -> None:
    """InferenceError for tables that take long to read, however few tokens are left of them."""
    longest, most = _characters(tables)
    if longest > _OF_CELL:
        raise InferenceError(f"a cell or question has at most {_OF_CELL} characters, got {longest}")
    if most > _OF_CELLS:
        raise InferenceError(
            f"the tables of a request have at most {_OF_CELLS} characters, counted once for each question, and ten at "
            f"least for each cell and head, got {most}; send fewer rows, or the tables one by one"
        )


def _characters(tables: list[Any]) -> tuple[int, int]:
    """Of what `tables_in` made: the characters of the longest cell or question, and of all cells for each question.

    A short cell counts as ten: it takes as long to read.
    """
    longest = most = 0
    for row in tables:
        questions = row.get("query") if isinstance(row.get("query"), list) else [row.get("query")]
        asked, cells = ([len(text) for text in texts_in(one)] for one in (questions, row["table"]))
        longest = max([longest, *asked, *cells])
        most += sum(asked) + sum(max(_SHORT, one) for one in cells) * max(1, len(questions))
    return longest, most


def _cells(table: Any) -> list[str]:
    """The texts of all heads and cells, none of them empty: each is a token at least.

    Rows and columns may lack cells, which pandas fills in, so that few values can be a large table.
    """
    if table is None or isinstance(table, str):
        return [table] if table else []
    lines = list(table.values()) if isinstance(table, dict) else table if isinstance(table, list) else [table]
    if isinstance(table, dict) and not all(isinstance(one, list | dict) for one in lines):
        raise InferenceError("a table is an object of columns, each a list of cells, or a list of records")
    heads = dict.fromkeys(key for one in lines if isinstance(one, dict) for key in one)
    parts = [one if isinstance(one, list) else list(one.values()) if isinstance(one, dict) else [one] for one in lines]
    longest = max((len(part) for part, one in zip(parts, lines) if not isinstance(one, dict)), default=0)
    count = len(lines) * (len(heads) + longest)
    if count > _CELLS:
        raise InferenceError(f"a table has at most {_CELLS} cells, all rows as long as the longest, got {count}")
    odd = [one for part in parts for one in part if not isinstance(one, str)]
    if odd:
        raise InferenceError(f'the cells of a table are texts, such as "3" for 3, got {json.dumps(odd[0]):.60}')
    told = [one for part in parts for one in part]
    named = [str(one) for one in (*heads, *(table if isinstance(table, dict) else ()))]
    return [one or "-" for one in (*named, *told, *[""] * (count - len(told)))]
