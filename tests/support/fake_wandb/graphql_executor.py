"""Answer GraphQL documents from plain Python objects, without a schema.

An object is a mapping from field names to values. A value may be a function of the field's arguments. An unknown field
is null and is noted in `UNKNOWN_FIELDS`; an unknown field of the query or of the mutation is an error.
"""

from collections.abc import Callable, Mapping
from typing import Any

from graphql import OperationDefinitionNode, parse
from graphql.language import ast

Object = Mapping[str, Any]
Resolver = Callable[[dict[str, Any]], Any]

UNKNOWN_FIELDS: set[str] = set()


class RequestError(Exception):
    """An error in a request. The server reports its text in `errors`."""


def execute(text: str, variables: Mapping[str, Any], roots: Mapping[str, Object]) -> dict[str, Any]:
    """Return the `data` for a document. `roots` are the objects of `query` and `mutation`."""
    document = parse(text)
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, ast.FragmentDefinitionNode)}
    (operation,) = (node for node in document.definitions if isinstance(node, OperationDefinitionNode))
    defaults = {
        node.variable.name.value: value_of(node.default_value, {})
        for node in operation.variable_definitions or ()
        if node.default_value is not None
    }
    given = {name: value for name, value in variables.items() if value is not None}
    selection = Selection(fragments, defaults | given)
    return selection.of(roots[operation.operation.value], operation.selection_set, is_root=True)


def value_of(node: ast.ValueNode, variables: Mapping[str, Any]) -> Any:
    """Return the Python value of a literal or variable. Variables that are not set are null."""
    if isinstance(node, ast.VariableNode):
        return variables.get(node.name.value)
    if isinstance(node, ast.ListValueNode):
        return [value_of(each, variables) for each in node.values or ()]
    if isinstance(node, ast.ObjectValueNode):
        fields = {field.name.value: value_of(field.value, variables) for field in node.fields or ()}
        return {name: value for name, value in fields.items() if value is not None}
    if isinstance(node, ast.NullValueNode):
        return None
    if isinstance(node, ast.IntValueNode):
        return int(node.value)
    if isinstance(node, ast.FloatValueNode):
        return float(node.value)
    return node.value  # a string, a boolean or the name of an enum value


class Selection:
    """Select the fields that a document asks for."""

    def __init__(self, fragments: Mapping[str, ast.FragmentDefinitionNode], variables: Mapping[str, Any]) -> None:
        self._fragments = fragments
        self._variables = variables

    def of(self, value: Any, selected: ast.SelectionSetNode | None, *, is_root: bool = False) -> Any:
        if isinstance(value, list):
            return [self.of(each, selected) for each in value]
        if selected is None or value is None:
            return value
        answer: dict[str, Any] = {}
        self._add(answer, value, selected, is_root)
        return answer

    def _add(self, answer: dict[str, Any], found: Object, selected: ast.SelectionSetNode, is_root: bool) -> None:
        for node in selected.selections:
            if not self._is_included(node):
                continue
            if isinstance(node, ast.FragmentSpreadNode):
                self._add(answer, found, self._fragments[node.name.value].selection_set, is_root)
            elif isinstance(node, ast.InlineFragmentNode):
                self._add(answer, found, node.selection_set, is_root)
            elif isinstance(node, ast.FieldNode):
                name = node.alias.value if node.alias else node.name.value
                selected_value = self.of(self._field(found, node, is_root), node.selection_set)
                if isinstance(selected_value, dict) and isinstance(answer.get(name), dict):
                    answer[name] = answer[name] | selected_value
                else:
                    answer[name] = selected_value

    def _field(self, found: Object, node: ast.FieldNode, is_root: bool) -> Any:
        name = node.name.value
        if name not in found:
            if is_root:
                raise RequestError(f'Cannot query field "{name}".')
            UNKNOWN_FIELDS.add(f"{found.get('__typename', '?')}.{name}")
            return None
        value = found[name]
        if not callable(value):
            return value
        arguments = {each.name.value: value_of(each.value, self._variables) for each in node.arguments or ()}
        return value({name: value for name, value in arguments.items() if value is not None})

    def _is_included(self, node: ast.SelectionNode) -> bool:
        for directive in node.directives or ():
            condition = value_of(directive.arguments[0].value, self._variables)
            if condition != (directive.name.value == "include"):
                return False
        return True


def connection(nodes: list[Any], arguments: Mapping[str, Any]) -> Object:
    """Return one page of a list, with cursors that are positions."""
    begin = int(arguments.get("after") or 0)
    end = min(len(nodes), begin + int(arguments.get("first") or len(nodes)))
    edges = [{"node": node, "cursor": str(begin + number + 1)} for number, node in enumerate(nodes[begin:end])]
    page = {"__typename": "PageInfo", "endCursor": str(end), "hasNextPage": end < len(nodes)}
    return {"edges": edges, "pageInfo": page, "totalCount": len(nodes)}
