"""Tells expressions that only compute sizes from anything else that Python would run."""

from __future__ import annotations

import ast
import re

__all__ = ["is_expression", "is_guard"]

_LINE = re.compile(r"[A-Za-z0-9_ .,+\-*/%()<>=!&|~^\[\]']*")  # no comment, escape or second line hides from the grammar
_GUARD = re.compile(r"[\w .,+\-*/%()<>=!&|~^\[\]']*")  # the same, but that keys may be in any language
_WORD = re.compile(r"(?!__)[A-Za-z_]\w*", re.ASCII)
_TEXT = re.compile(r"(?!__)[A-Za-z_]\w*|[-+]?[\d.]+(?:e[-+]?\d+)?", re.ASCII)  # a symbol's name, a number's digits
_OF_PYTORCH = (
    "FloorDiv ModularIndexing Where PythonMod Mod CleanDiv CeilToInt FloorToInt CeilDiv LShift RShift PowByNatural "
    "FloatPow FloatTrueDiv IntTrueDiv IsNonOverlappingAndDenseIndicator TruncToFloat TruncToInt RoundToInt ToFloat "
    "RoundDecimal Identity BitwiseFn_bitwise_and BitwiseFn_bitwise_or BitwiseFn_bitwise_xor"
)
_OF_SYMPY = (
    "Symbol Integer Float Rational Add Mul Pow Max Min Abs sign floor ceiling sqrt exp log sin cos tan asin acos atan "
    "sinh cosh tanh Eq Ne Lt Le Gt Ge Equality Unequality StrictLessThan StrictGreaterThan LessThan GreaterThan And Or "
    "Not Xor Piecewise ExprCondPair"
)
_IN_SIZES = frozenset(f"{_OF_PYTORCH} {_OF_SYMPY}".split())
_IN_GUARDS = frozenset({"max", "min", "abs", "int", "float", "bool", "IsNonOverlappingAndDenseIndicator"})
_OF_MATH = frozenset({"floor", "ceil", "trunc", "sqrt", "isnan", "isinf", "isfinite", "log", "exp", "pow", "inf"})
_OF_TENSORS = frozenset({"size", "stride", "storage_offset", "numel", "dim"})
_OF_TORCH = re.compile(r"_?sym_[a-z]+")
_OPERATORS = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Tuple, ast.Load),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)


def is_expression(text: str) -> bool:
    """Whether it is an expression of sizes as sympy prints it, which may be handed to sympy's parser."""
    tree = _parsed(text, _LINE)
    return tree is not None and _is_size(tree)


def is_guard(text: str) -> bool:
    """Whether it is a condition on the shapes of inputs, such as `L['x'].size()[0] <= 5`."""
    tree = _parsed(text, _GUARD)
    return tree is not None and _is_condition(tree)


def _parsed(text: str, alphabet: re.Pattern[str]) -> ast.AST | None:
    if not alphabet.fullmatch(text):
        return None
    try:
        return ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_size(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        known = isinstance(node.func, ast.Name) and node.func.id in _IN_SIZES
        values = (*node.args, *(one.value for one in node.keywords))
        return known and all(one.arg for one in node.keywords) and all(map(_is_size, values))
    if isinstance(node, ast.Constant):
        return _is_plain(node.value) or (isinstance(node.value, str) and bool(_TEXT.fullmatch(node.value)))
    if isinstance(node, ast.Name):
        return bool(_WORD.fullmatch(node.id))
    return isinstance(node, _OPERATORS) and all(map(_is_size, ast.iter_child_nodes(node)))


def _is_condition(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return not node.keywords and _may_be_called(node.func) and all(map(_is_condition, node.args))
    if isinstance(node, ast.Subscript):
        return _is_part(node) and (isinstance(node.value, ast.Name) or _is_condition(node.value))
    if isinstance(node, ast.Attribute):
        return _is_of_module(node)
    if isinstance(node, ast.Constant):
        return _is_plain(node.value)
    if isinstance(node, ast.Name):
        return node.id == "inf"
    return isinstance(node, _OPERATORS) and all(map(_is_condition, ast.iter_child_nodes(node)))


def _is_part(node: ast.Subscript) -> bool:
    """`L['name']` and what lies in it, or an item by its number."""
    if not isinstance(node.slice, ast.Constant):
        return False
    if isinstance(node.value, ast.Name):
        return node.value.id == "L" and isinstance(node.slice.value, str)
    return isinstance(node.slice.value, int | str)


def _may_be_called(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return node.id in _IN_GUARDS
    if isinstance(node, ast.Attribute) and node.attr in _OF_TENSORS:
        return isinstance(node.value, ast.Subscript) and _is_condition(node.value)
    return _is_of_module(node)


def _is_of_module(node: ast.AST) -> bool:
    """A function or number of `math`, or one of PyTorch's for symbolic sizes."""
    if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
        return False
    if node.value.id == "math":
        return node.attr in _OF_MATH
    return node.value.id == "torch" and bool(_OF_TORCH.fullmatch(node.attr))


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float)
