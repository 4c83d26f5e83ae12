"""Load settings: a YAML file plus `key.path=value` overrides give the tree.

A wrong setting is refused with the file, the line, the key, the rule and the value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from recsys.config.tree import Config
from recsys.errors import ConfigError

DEFAULT_PATH = Path(__file__).resolve().parent.parent.parent / "configs" / "demo.yaml"


def load(path: str | Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file, apply `key.path=value` overrides, validate.

    Args:
        path: YAML file; None takes `configs/demo.yaml`.
        overrides: settings such as `world.n_users=300`; values are read as YAML.
    Raises: ConfigError that lists every wrong setting with file, line, key, rule and value.
    """
    path = Path(path) if path is not None else DEFAULT_PATH
    tree, lines = _read_yaml(path)
    origin: dict[tuple[str, ...], str] = {key: f"{path}:{line}" for key, line in lines.items()}
    for override in overrides:
        keys, value = _parse_override(override)
        _assign(tree, keys, value, override)
        for depth in range(1, len(keys) + 1):
            origin.setdefault(keys[:depth], f"--set {override}")
        origin[keys] = f"--set {override}"
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(item, origin, path) for item in error.errors())) from None


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """The file's tree of settings, and the line of each key path."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"configuration file {path} cannot be read: {error}; pass an existing file to --config"
        ) from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split()).replace('"<unicode string>"', str(path))
        raise ConfigError(f"configuration file {path} is not valid YAML: {reason}") from None
    if tree is None:
        return {}, {}
    if not isinstance(tree, dict) or not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"configuration file {path} must hold a mapping of settings, got {type(tree).__name__}")
    lines: dict[tuple[str, ...], int] = {}
    _collect_lines(node, (), lines, path)
    return tree, lines


def _collect_lines(
    node: yaml.MappingNode, prefix: tuple[str, ...], lines: dict[tuple[str, ...], int], path: Path
) -> None:
    """Add the line of every key path below a node to `lines`; refuse a key that is set twice."""
    for key_node, value_node in node.value:
        key = (*prefix, str(key_node.value))
        line = key_node.start_mark.line + 1
        if key in lines:
            raise ConfigError(f"{'.'.join(key)} is set twice ({path}:{lines[key]} and {path}:{line}); keep one")
        lines[key] = line
        if isinstance(value_node, yaml.MappingNode):
            _collect_lines(value_node, key, lines, path)


def _parse_override(override: str) -> tuple[tuple[str, ...], Any]:
    """Key path and value of `key.path=value`; text that is not YAML is taken as it is."""
    key, separator, value = override.partition("=")
    keys = tuple(key.strip().split("."))
    if not separator or not all(keys):
        raise ConfigError(f"--set takes key.path=value, got {override!r}")
    try:
        return keys, yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):  # ValueError: a date that does not exist
        return keys, value


def _assign(tree: dict[str, Any], keys: tuple[str, ...], value: Any, override: str) -> None:
    """Set a value in the tree; missing sections are created."""
    for depth, key in enumerate(keys[:-1]):
        below = tree.setdefault(key, {})
        if not isinstance(below, dict):
            raise ConfigError(f"{'.'.join(keys[: depth + 1])} is a value, not a section (--set {override})")
        tree = below
    tree[keys[-1]] = value


def _explain(item: Mapping[str, Any], origin: Mapping[tuple[str, ...], str], path: Path) -> str:
    """One error of pydantic as a sentence: setting, rule, value and where it was set."""
    keys = tuple(str(part) for part in item["loc"])
    where = next((origin[keys[:depth]] for depth in range(len(keys), 0, -1) if keys[:depth] in origin), str(path))
    name = ".".join(keys)
    if item["type"] == "extra_forbidden":
        return f"{name} is not a known setting ({where}); `recsys show-config` lists them all"
    rule = item["msg"].removeprefix("Value error, ")
    if item["type"] == "model_type":
        rule = "Input should be a section of settings"
    rule = rule.replace("Input should be", "must be", 1)
    rule = rule if rule.startswith("must be") else f"breaks a rule: {rule}"
    rule = rule.replace("greater than or equal to", ">=").replace("less than or equal to", "<=")
    rule = rule.replace("greater than", ">").replace("less than", "<")
    value = "" if isinstance(item["input"], (dict, BaseModel)) else f", got {item['input']!r}"
    return f"{name or 'configuration'} {rule}{value} ({where})"
