"""YAML as a policy or a declaration means it: values keep the form in which they were written.

YAML 1.1 reads ``NO`` as false, ``0012`` as 10, ``1:30`` as 90 and ``2026-01-01`` as a date, and of
two equal keys it keeps the last. A rule that compares with such a value, or a declared class, would
never match, or a rule or a setting would be lost, without a word. Here only true and false are
booleans, only plain decimals are numbers, all else is text, and a repeated key is a problem.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_BOOL = "tag:yaml.org,2002:bool"
_PLAIN: tuple[tuple[str, str, str], ...] = (
    (_BOOL, r"true|True|TRUE|false|False|FALSE", "tTfF"),
    # At most 18 digits: more are a number of an account, not a quantity.
    ("tag:yaml.org,2002:int", r"[-+]?(?:0|[1-9][0-9]{0,17})", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
    ("tag:yaml.org,2002:merge", r"<<", "<"),
)


class _Loader(yaml.SafeLoader):
    """Safe loader with the few plain types above; notes keys that occur again."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as the base class has it

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[str] = []

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)  # type: ignore[no-untyped-call]
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                line = key.start_mark.line + 1
                self.repeated.append(
                    f"line {line}: expected each key once, got '{key.value}' again"
                )
            seen.add(key.value)
        return node


for _tag, _pattern, _first in _PLAIN:
    _Loader.add_implicit_resolver(
        _tag, re.compile(f"^(?:{_pattern})$"), [c if c != "\0" else "" for c in _first]
    )


def read_yaml(text: str) -> tuple[Any, list[str]]:
    """Return the content, and a line for each key that occurs again in its mapping.

    Args:
        text: One YAML document.

    Raises:
        yaml.YAMLError: It is no YAML.

    >>> read_yaml("{in: [DK, NO], equals: 0012, on: 1.0}")
    ({'in': ['DK', 'NO'], 'equals': '0012', 'on': 1.0}, [])
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data(), loader.repeated
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]
