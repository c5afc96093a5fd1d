"""Which group a page belongs to, and where in it: the units that recall counts, caps and grows by.

    domain       the host of the URL in lower case without "www.": "pages sharing the same base URL" (DeepSeekMath 2.1)
    repository   the column `repo`
    place        host and path, e.g. example.org/docs/intro.html
    prefixes     the first one and two folders of the path: example.org/docs/, example.org/docs/api/

What has no URL or no repository is in the group "".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.draw import draw_keys

__all__ = ["GROUPINGS", "group_keys", "groups", "places", "prefixes", "under"]

GROUPINGS = ("domain", "repository")

# An authority may hold a user and a port, an IPv6 address colons in brackets.
_HOST = r"^(?:[A-Za-z][A-Za-z0-9+.\-]*:)?//(?:[^/?#@]*@)?(?P<host>\[[^\]/?#]*\]|[^/?#:\\\s]*)"
_PATH = r"^(?:[A-Za-z][A-Za-z0-9+.\-]*:)?//[^/?#]*(?P<path>/[^?#]*)?"
_FOLDERS = r"^[^/]*/(?P<one>[^/]+/)?(?P<two>[^/]+/)?"


def groups(batch: Any, by: str) -> Any:
    """The group of each row, string [N]."""
    column = "repo" if by == "repository" else "url"
    if column not in batch.schema.names:
        return pa.array([""] * batch.num_rows, pa.string())
    values = pc.fill_null(_string(batch.column(column)), "")
    return values if by == "repository" else _hosts(values)


def _hosts(urls: Any) -> Any:
    host = pc.utf8_lower(pc.struct_field(pc.extract_regex(urls, _HOST), "host"))
    host = pc.utf8_rtrim(pc.fill_null(host, ""), ".")
    return pc.if_else(pc.starts_with(host, "www."), pc.utf8_slice_codeunits(host, 4), host)


def _string(column: Any) -> Any:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.cast(pa.string())


def group_keys(names: Any, ids: Any) -> np.ndarray:
    """uint64 [N]: a hash of each row's group; of its id where it is in none, so that those are no group together."""
    alone = pc.equal(names, "")
    named, single = draw_keys(names, 0, "group"), draw_keys(ids, 0, "alone")
    return np.where(alone.to_numpy(zero_copy_only=False), single, named)


def places(batch: Any) -> Any:
    """Host and path of each row's URL, string [N]; "" where there is none."""
    if "url" not in batch.schema.names:
        return pa.array([""] * batch.num_rows, pa.string())
    urls = pc.fill_null(_string(batch.column("url")), "")
    host = _hosts(urls)
    path = pc.fill_null(pc.struct_field(pc.extract_regex(urls, _PATH), "path"), "")
    path = pc.if_else(pc.equal(path, ""), "/", path)
    return pc.if_else(pc.equal(host, ""), "", pc.binary_join_element_wise(host, path, ""))


def prefixes(place: Any) -> tuple[Any, Any]:
    """The first folder of each place and the first two, with the host and a slash at the end; "" where it has fewer."""
    found = pc.extract_regex(place, _FOLDERS)
    one, two = (pc.fill_null(pc.struct_field(found, name), "") for name in ("one", "two"))
    host = pc.utf8_slice_codeunits(place, 0)
    host = pc.fill_null(pc.struct_field(pc.extract_regex(host, r"^(?P<host>[^/]*/)"), "host"), "")
    first = pc.if_else(pc.equal(one, ""), "", pc.binary_join_element_wise(host, one, ""))
    second = pc.if_else(pc.equal(two, ""), "", pc.binary_join_element_wise(host, one, two, ""))
    return first, second


def under(place: Any, wanted: tuple[str, ...]) -> np.ndarray:
    """bool [N]: whether a place is one of `wanted` or below it. "a.org/b" holds a.org/b and a.org/b/c, not a.org/bc.

    `wanted` is spelled like a place; a scheme, "www." and a slash at the end make no difference.
    """
    found = np.zeros(len(place), bool)
    hosts: dict[str, list[str]] = {}
    for name in wanted:
        host, _, path = _plain(name).partition("/")
        hosts.setdefault(host, []).append(path)
    host_of = pc.fill_null(pc.struct_field(pc.extract_regex(place, r"^(?P<host>[^/]*)"), "host"), "")
    rows = np.flatnonzero(pc.is_in(host_of, pa.array(list(hosts), pa.string())).to_numpy(zero_copy_only=False))
    if not len(rows):
        return found
    place, host_of = place.take(pa.array(rows)), host_of.take(pa.array(rows))
    hit = np.zeros(len(rows), bool)
    for host, paths in hosts.items():
        here = np.flatnonzero(pc.equal(host_of, host).to_numpy(zero_copy_only=False))
        some = pc.binary_join_element_wise(place.take(pa.array(here)), "/", "")
        for path in paths:
            start = f"{host}/{path}/" if path else f"{host}/"
            hit[here] |= pc.starts_with(some, start).to_numpy(zero_copy_only=False)
    found[rows] = hit
    return found


def _plain(name: str) -> str:
    """A place as a person writes it, in our spelling."""
    rest = name.partition("://")[2] or name
    host, _, path = rest.removeprefix("//").partition("/")
    host = host.lower().removeprefix("www.")
    return f"{host}/{path.strip('/')}".rstrip("/")
