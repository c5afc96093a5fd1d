"""The table of topic domains that a person edits: which sites, and which parts of them, join the seed of the next round.

A YAML list. Of each entry only these are read, the rest is there to decide by:

    - domain: example.org        or a repository
      accept: false              true: all of it
      prefixes:
      - prefix: example.org/docs/
        accept: true

A prefix may be any place on the web, as deep as wanted, also one that the table did not list.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from corpus.errors import ConfigError

__all__ = ["Accepted", "read_annotations", "write_annotations"]

_HEAD = """\
# Domains (or repositories) of which more than a tenth was collected in this round, with the folders of their URLs.
# Set `accept` where pages that were not collected belong to the topic, save the file with your recipe, and give its path
# as grow_seed's `annotations`. `bound`: the lower bound of the share on topic that the automatic choice went by.
"""


@dataclass(frozen=True)
class Accepted:
    """What joins the seed: whole groups, and URL prefixes such as "example.org/docs/"."""

    groups: tuple[str, ...]
    prefixes: tuple[str, ...]


def write_annotations(path: Path, entries: list[dict[str, Any]]) -> None:
    """The table, as UTF-8."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    body = yaml.dump(entries, Dumper=dumper, sort_keys=False, allow_unicode=True, width=1000)
    path.write_text(_HEAD + body, "utf-8")


def read_annotations(path: Path) -> Accepted:
    """What a table accepts. ConfigError, with the line, for anything that is not such a table."""
    try:
        root = yaml.compose(path.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise ConfigError(f"annotations: no file {path}; a copy of a grow_seed step's domains.yaml expected") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"annotations: {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(f"annotations: {_at(path, mark)} is not YAML: {getattr(error, 'problem', error)}") from error
    if root is None:
        return Accepted((), ())
    _expect(path, root, yaml.SequenceNode, "a list of domains")
    groups, prefixes = [], []
    for node in root.value:
        entry = _fields(path, node, "an entry with `domain`")
        name = _text(path, node, entry, "domain")
        if _flag(path, entry, "accept"):
            groups.append(name)
        listed = entry.get("prefixes")
        if listed is None or listed.tag == "tag:yaml.org,2002:null":  # every prefix taken out by hand
            continue
        _expect(path, listed, yaml.SequenceNode, "a list of prefixes")
        for inner in listed.value:
            part = _fields(path, inner, "an entry with `prefix`")
            prefix = _text(path, inner, part, "prefix")
            if _flag(path, part, "accept"):
                prefixes.append(prefix)
    return Accepted(tuple(groups), tuple(prefixes))


def _at(path: Path, mark: Any) -> str:
    return f"{path}, line {mark.line + 1}," if mark is not None else str(path)


def _expect(path: Path, node: Any, kind: type, what: str) -> None:
    if not isinstance(node, kind):
        raise ConfigError(f"annotations: {_at(path, node.start_mark)} has {node.id} {str(node.value)[:60]!r}; {what} expected")


def _fields(path: Path, node: Any, what: str) -> dict[str, Any]:
    _expect(path, node, yaml.MappingNode, what)
    return {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}


def _text(path: Path, node: Any, fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        raise ConfigError(f"annotations: {_at(path, node.start_mark)} has no `{name}`; a name expected")
    _expect(path, fields[name], yaml.ScalarNode, f"`{name}`: a name")
    text = str(fields[name].value).strip()
    if not text:
        raise ConfigError(f"annotations: {_at(path, fields[name].start_mark)} `{name}` is empty; a name expected")
    return text


def _flag(path: Path, fields: dict[str, Any], name: str) -> bool:
    node = fields.get(name)
    if node is None:
        return False
    if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:bool":
        raise ConfigError(
            f"annotations: {_at(path, node.start_mark)} `{name}` is {str(node.value)[:60]!r}; true or false expected"
        )
    return str(node.value).lower() in ("true", "yes", "on")
