"""Evaluates the arithmetic of `${eval:…}`: numbers, operators and a few functions, never Python's eval."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from xlm.errors import ConfigError

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "float": float,
    "int": int,
    "max": max,
    "min": min,
    "round": round,
}
_MAX_LENGTH = 1000
_MAX_BITS = 4096


def evaluate(text: str) -> int | float | bool:
    """The value of an arithmetic expression; ConfigError for anything else, or for numbers without bounds."""
    if len(text) > _MAX_LENGTH:
        raise ConfigError(f"eval: an expression of {len(text)} characters is too long.")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        value = _value(tree.body)
    except (ArithmeticError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError) as error:
        raise ConfigError(f"eval: '{text}' is not arithmetic that has a value: {error}") from error
    if not isinstance(value, int | float):
        raise ConfigError(f"eval: '{text}' gives no number.")
    return value


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.BinOp(left, op, right) if type(op) in _BINARY:
            return _binary(op, _value(left), _value(right))
        case ast.UnaryOp(op, operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.Compare(left, ops, comparators) if all(type(op) in _COMPARE for op in ops):
            values = [_value(left), *map(_value, comparators)]
            pairs = zip(ops, values, values[1:], strict=False)
            return all(_COMPARE[type(op)](a, b) for op, a, b in pairs)
        case ast.IfExp(test, body, orelse):
            return _value(body) if _value(test) else _value(orelse)
        case ast.Call(ast.Name(name), args, []) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*map(_value, args))
    raise ValueError("only numbers, + - * / // % **, comparisons and " + ", ".join(sorted(_FUNCTIONS)))


def _binary(op: ast.operator, left: Any, right: Any) -> Any:
    # 9**9**9 would keep the process busy for good.
    is_power = isinstance(op, ast.Pow) and isinstance(left, int) and isinstance(right, int)
    if is_power and abs(right) * max(left.bit_length(), 1) > _MAX_BITS:
        raise ValueError("the power is too large")
    value = _BINARY[type(op)](left, right)
    if isinstance(value, complex):
        raise ValueError("the value is not a real number")
    return value
