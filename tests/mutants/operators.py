"""Every small change of a source file that a test should notice."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

__all__ = ["Mutant", "mutants_of"]

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
}
_MESSAGES = {"log", "logging", "warnings"}
"""Calls of these objects only inform a person; they are not mutated."""


@dataclass(frozen=True)
class Mutant:
    """One change: the text between two offsets of a file is replaced.

    Attributes:
        path: The file, relative to the repository.
        line: Line of the change, from 1.
        start: First character that is replaced, from 0.
        end: Character after the last one that is replaced.
        text: The replacement.
        before: What stood there.
    """

    path: Path
    line: int
    start: int
    end: int
    text: str
    before: str

    def applied_to(self, source: str) -> str:
        """Return the file's text with the change."""
        return source[: self.start] + self.text + source[self.end :]

    def __str__(self) -> str:
        before = " ".join(self.before.split())
        after = " ".join(self.text.split()) or "(nothing)"
        return f"{self.path}:{self.line}: {_short(before)} → {_short(after)}"


def _short(text: str, limit: int = 90) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def mutants_of(path: Path, source: str) -> list[Mutant]:
    """Return every mutant of a file, in the order of their places."""
    found = _Finder(path, source)
    found.visit(ast.parse(source))
    return sorted(found.mutants, key=lambda one: (one.start, one.end, one.text))


class _Finder(ast.NodeVisitor):
    def __init__(self, path: Path, source: str) -> None:
        self.mutants: list[Mutant] = []
        self._path = path
        self._source = source
        self._lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    # --- what is left alone -------------------------------------------------------------------------------------

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if node.name == "__repr__":
            return
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                self.visit(default)
        self._body(node.body)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._body(node.body)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Assert(self, node: ast.Assert) -> None:
        return

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        return

    # --- statements ---------------------------------------------------------------------------------------------

    def visit_Module(self, node: ast.Module) -> None:
        self._body(node.body)

    def _body(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self.visit(statement)

    def visit_Expr(self, node: ast.Expr) -> None:
        value = node.value.value if isinstance(node.value, ast.Await) else node.value
        if not isinstance(value, ast.Call) or _is_message(value):
            return
        self._add(node, "pass")
        self.visit(value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self._add(node, "pass")
        if not any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets):
            self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._add(node, "pass")
        self.visit(node.value)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            return
        if not isinstance(node.value, ast.Constant):
            self._add(node.value, "None")
        self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._add(node, "pass")

    def visit_If(self, node: ast.If | ast.While) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self._condition(node.test)
        self._body(node.body)
        self._body(node.orelse)

    visit_While = visit_If  # noqa: N815

    # --- expressions --------------------------------------------------------------------------------------------

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._condition(node.test)
        self.visit(node.body)
        self.visit(node.orelse)

    def _condition(self, test: ast.expr) -> None:
        is_loop = isinstance(test, ast.Constant)
        if not is_loop and not isinstance(test, ast.Compare | ast.UnaryOp):
            self._add(test, f"not ({self._text(test)})")
        if not is_loop:
            self.visit(test)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._add(node, self._text(node.operand))
        self.visit(node.operand)

    def visit_Compare(self, node: ast.Compare) -> None:
        for (left, right), op in zip(pairwise([node.left, *node.comparators]), node.ops, strict=True):
            (start, after), (before, end) = self._span(node), (self._span(left)[1], self._span(right)[0])
            if "(" not in self._source[before:end] and ")" not in self._source[before:end]:
                changed = f"{self._source[start:before]} {_COMPARISONS[type(op)]} {self._source[end:after]}"
                self._add(node, changed)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        word = "or" if isinstance(node.op, ast.And) else "and"
        parts = [f"({self._text(value)})" for value in node.values]
        self._add(node, f"({f' {word} '.join(parts)})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        is_text = any(isinstance(one, ast.JoinedStr | ast.Constant) and _is_str(one) for one in (node.left, node.right))
        if (sign := _ARITHMETIC.get(type(node.op))) and not is_text:
            self._add(node, f"(({self._text(node.left)}) {sign} ({self._text(node.right)}))")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._add(node, str(not node.value))
        elif isinstance(node.value, int | float):
            self._add(node, str(node.value + 1))

    def visit_Call(self, node: ast.Call) -> None:
        if _is_message(node):
            return
        for number, keyword in enumerate(node.keywords):
            if keyword.arg is not None and (number or node.args):
                before = node.keywords[number - 1].value if number else node.args[-1]
                start, end = self._span(before)[1], self._span(keyword.value)[1]
                if self._source[start:end].count("(") == self._source[start:end].count(")"):
                    self._replace(keyword.value.lineno, start, end, "")
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.visit(node.value)
        if not isinstance(node.slice, ast.Constant | ast.Tuple):
            self.visit(node.slice)

    # --- text ---------------------------------------------------------------------------------------------------

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        return (
            self._offset(node.lineno, node.col_offset),
            self._offset(node.end_lineno or node.lineno, node.end_col_offset or 0),
        )

    def _offset(self, line: int, column: int) -> int:
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def _text(self, node: ast.expr) -> str:
        start, end = self._span(node)
        return self._source[start:end]

    def _add(self, node: ast.expr | ast.stmt, text: str) -> None:
        self._replace(node.lineno, *self._span(node), text)

    def _replace(self, line: int, start: int, end: int, text: str) -> None:
        mutant = Mutant(self._path, line, start, end, text, self._source[start:end])
        if _compiles(mutant.applied_to(self._source)):
            self.mutants.append(mutant)


def _is_str(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_message(call: ast.Call) -> bool:
    function = call.func
    return (
        isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id in _MESSAGES
    )


def _compiles(source: str) -> bool:
    try:
        compile(source, "<mutant>", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True
