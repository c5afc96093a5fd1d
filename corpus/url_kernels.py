"""The kernels of corpus/urls.py: one URL at a time, bytes in, bytes out. Nothing here makes or keeps a Python object."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["LONGEST", "TRACKING", "canonical_all"]

LONGEST = 8192  # bytes; RFC 9110 4.1 asks servers for 8,000

# Names of query parameters that go, in lower case; one that ends in * is a prefix.
TRACKING = (
    "utm_*", "gclid", "gclsrc", "dclid", "gbraid", "wbraid", "fbclid", "msclkid", "yclid", "twclid", "ttclid", "igshid",
    "srsltid", "mc_cid", "mc_eid", "_ga", "_gl", "_hsenc", "_hsmi", "mkt_tok", "oly_anon_id", "oly_enc_id", "vero_id",
    "wickedid", "ref_src", "phpsessid", "jsessionid", "aspsessionid*", "sessionid", "session_id", "cfid", "cftoken", "oscsid",
    "zenid",
)  # fmt: skip
_KINDS = ("htm", "html", "xhtml", "shtml", "php", "asp", "aspx", "jsp", "cgi")
_INDEX = tuple(f"{name}.{kind}" for name in ("index", "default") for kind in _KINDS)


def _words(words: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(offsets, bytes) of some words, for kernels."""
    data = "".join(words).encode()
    ends = np.cumsum([0, *map(len, words)])
    return ends.astype(np.int64), np.frombuffer(data, np.uint8)


_DROPPED_ENDS, _DROPPED_DATA = _words(TRACKING)
_INDEX_ENDS, _INDEX_DATA = _words(_INDEX)
_SESSION_ENDS, _SESSION_DATA = _words((";jsessionid=", ";phpsessid="))

# What a byte is in a path or a query: 0 to be encoded, 1 itself, 2 itself and unreserved (so never encoded).
_KIND = np.zeros(256, np.uint8)
_KIND[list(b"!$&'()*+,;=:@/?[]")] = 1
_KIND[list(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")] = 2
_HEX = np.frombuffer(b"0123456789ABCDEF", np.uint8)


@njit(cache=True, nogil=True)
def canonical_all(offsets_N1, data_B, known_N, out_B, ends_N1):  # type: ignore[no-untyped-def]
    url = np.empty(LONGEST, np.uint8)
    path = np.empty(3 * LONGEST + 8, np.uint8)
    parts = np.empty((LONGEST + 1, 2), np.int64)
    end = 0
    for n in range(len(known_N)):
        if known_N[n]:
            size = _clean(data_B[offsets_N1[n] : offsets_N1[n + 1]], url)
            size = _canonical(url[:size], path, parts, out_B[end:])
            end += size if size <= LONGEST else 0
        ends_N1[n + 1] = end


@njit(cache=True, nogil=True)
def _clean(raw, url):  # type: ignore[no-untyped-def]
    """Without control characters and spaces around it, nor tabs and line ends inside; its length."""
    start, stop = 0, len(raw)
    while start < stop and raw[start] <= 32:
        start += 1
    while stop > start and raw[stop - 1] <= 32:
        stop -= 1
    size = 0
    for i in range(start, stop):
        c = raw[i]
        if c != 9 and c != 10 and c != 13:
            url[size] = c
            size += 1
    return size


@njit(cache=True, nogil=True)
def _canonical(url, path, parts, out):  # type: ignore[no-untyped-def]
    """The canonical URL into `out`; its length, 0 for none. path, parts: room to work in."""
    at = _after_scheme(url)
    if at < 0:
        return 0
    authority = at
    while at < len(url) and url[at] != 47 and url[at] != 92 and url[at] != 63 and url[at] != 35:  # / \ ? #
        at += 1
    for i in range(7):
        out[i] = (104, 116, 116, 112, 58, 47, 47)[i]  # http://
    size = _authority(url[authority:at], out[7:])
    if size <= 0:
        return 0
    size += 7
    stop = at
    while stop < len(url) and url[stop] != 63 and url[stop] != 35:
        stop += 1
    size += _path(url[at:stop], path, parts, out[size:])
    if stop < len(url) and url[stop] == 63:
        at = stop + 1
        stop = at
        while stop < len(url) and url[stop] != 35:
            stop += 1
        size += _query(url[at:stop], path, parts, out[size:])
    return size


@njit(cache=True, nogil=True)
def _after_scheme(url):  # type: ignore[no-untyped-def]
    """Where the authority begins, -1 where the scheme is not http or https followed by two slashes or more."""
    if len(url) < 7:
        return -1
    for i in range(4):
        if url[i] | 32 != (104, 116, 116, 112)[i]:
            return -1
    at = 5 if url[4] | 32 == 115 else 4
    if url[at] != 58:
        return -1
    at += 1
    first = at
    while at < len(url) and (url[at] == 47 or url[at] == 92):
        at += 1
    return at if at - first >= 2 else -1


@njit(cache=True, nogil=True)
def _authority(given, out):  # type: ignore[no-untyped-def]
    """Host and port into `out`; bytes written, 0 where it is no host or no port."""
    start, stop = 0, len(given)
    for i in range(len(given)):
        if given[i] == 64:  # @
            start = i + 1
    colon = stop
    for i in range(start, stop):
        if given[i] == 58:
            colon = i
        elif given[i] == 93:  # ] ends the colons of an IPv6 address
            colon = stop
    port = 0
    for i in range(colon + 1, stop):
        if given[i] < 48 or given[i] > 57 or port > 65535:
            return 0
        port = 10 * port + (given[i] - 48)
    if port > 65535:
        return 0
    size = _host(given[start:colon], out)
    if size and port != 0 and port != 80 and port != 443:
        out[size] = 58
        digits = 1
        while port >= 10**digits:
            digits += 1
        for d in range(digits):
            out[size + digits - d] = 48 + port % 10
            port //= 10
        size += 1 + digits
    return size


@njit(cache=True, nogil=True)
def _host(given, out):  # type: ignore[no-untyped-def]
    size = 0
    literal = len(given) > 2 and given[0] == 91 and given[-1] == 93  # [IPv6]
    i = 0
    while i < len(given):
        c = given[i]
        code = _encoded(given, i)
        i += 3 if code >= 0 else 1
        if code >= 0:
            c = np.uint8(code)
        if 65 <= c <= 90:
            c = np.uint8(c + 32)
        if c >= 128:
            size = _put(c, out, size)
        elif 97 <= c <= 122 or 48 <= c <= 57 or c == 45 or c == 46 or c == 95 or (literal and (c == 58 or c == 91 or c == 93)):
            if c != 46 and size and out[size - 1] == 46 and (size == 1 or out[size - 2] == 46):
                return 0  # an empty label: only at the end are there dots to strip
            out[size] = c
            size += 1
        else:
            return 0
    while size and out[size - 1] == 46:
        size -= 1
    return _without_www(out, size)


@njit(cache=True, nogil=True)
def _without_www(out, size):  # type: ignore[no-untyped-def]
    """Remove www., www1., www23. from the front as long as a name with a dot remains."""
    while size > 4 and out[0] == 119 and out[1] == 119 and out[2] == 119:
        skip = 3
        while skip < size and skip < 5 and 48 <= out[skip] <= 57:
            skip += 1
        if skip >= size or out[skip] != 46:
            break
        skip += 1
        dot = False
        for i in range(skip, size):
            dot |= out[i] == 46
        if not dot:
            break
        for i in range(skip, size):
            out[i - skip] = out[i]
        size -= skip
    return size


@njit(cache=True, nogil=True)
def _digit(c):  # type: ignore[no-untyped-def]
    if 48 <= c <= 57:
        return np.int64(c) - 48
    c |= 32
    return np.int64(c) - 87 if 97 <= c <= 102 else np.int64(-1)


@njit(cache=True, nogil=True)
def _encoded(text, i):  # type: ignore[no-untyped-def]
    """The byte that %XX at i stands for, -1 where there is none."""
    if text[i] != 37 or i + 2 >= len(text):
        return np.int64(-1)
    high, low = _digit(text[i + 1]), _digit(text[i + 2])
    return 16 * high + low if high >= 0 and low >= 0 else np.int64(-1)


@njit(cache=True, nogil=True)
def _put(c, out, size):  # type: ignore[no-untyped-def]
    """%XX of a byte; the new size."""
    out[size], out[size + 1], out[size + 2] = 37, _HEX[c >> 4], _HEX[c & 15]
    return size + 3


@njit(cache=True, nogil=True)
def _normal(text, out, query):  # type: ignore[no-untyped-def]
    """Percent-encoding in its one form; in a path a backslash becomes a slash, in a query a plus becomes %20. The size."""
    size = 0
    i = 0
    while i < len(text):
        c = text[i]
        code = _encoded(text, i)
        i += 3 if code >= 0 else 1
        if code >= 0:
            c = np.uint8(code)
            if _KIND[c] == 2:
                out[size] = c
                size += 1
            else:
                size = _put(c, out, size)
        elif query and c == 43:
            size = _put(np.uint8(32), out, size)
        elif not query and c == 92:
            out[size] = 47
            size += 1
        elif _KIND[c]:
            out[size] = c
            size += 1
        else:
            size = _put(c, out, size)
    return size


@njit(cache=True, nogil=True)
def _is_one_of(text, ends, data):  # type: ignore[no-untyped-def]
    """Whether text, in lower case, is one of some words, or begins with one that ends in *."""
    for w in range(len(ends) - 1):
        a, b = ends[w], ends[w + 1]
        prefix = data[b - 1] == 42
        length = b - a - prefix
        if len(text) < length or (len(text) > length and not prefix):
            continue
        same = True
        for i in range(length):
            c = text[i]
            if 65 <= c <= 90:
                c = np.uint8(c + 32)
            if c != data[a + i]:
                same = False
                break
        if same:
            return True
    return False


@njit(cache=True, nogil=True)
def _path(given, path, parts, out):  # type: ignore[no-untyped-def]
    """The canonical path, from its slash on; bytes written."""
    size = _normal(given, path, False)
    count = 0  # of segments kept
    i = 0
    while i <= size:
        start = i
        while i < size and path[i] != 47:
            i += 1
        stop = _without_session(path, start, i)
        i += 1
        if stop - start == 2 and path[start] == 46 and path[start + 1] == 46:
            count = max(0, count - 1)
        elif stop > start and not (stop - start == 1 and path[start] == 46):
            parts[count, 0], parts[count, 1] = start, stop
            count += 1
    while count and _is_one_of(path[parts[count - 1, 0] : parts[count - 1, 1]], _INDEX_ENDS, _INDEX_DATA):
        count -= 1
    size = 0
    for p in range(count):
        out[size] = 47
        size += 1
        for k in range(parts[p, 0], parts[p, 1]):
            out[size] = path[k]
            size += 1
    if count == 0:
        out[0] = 47
        size = 1
    return size


@njit(cache=True, nogil=True)
def _without_session(path, start, stop):  # type: ignore[no-untyped-def]
    """Where a segment ends without ;jsessionid=… and what follows it."""
    for i in range(start, stop):
        if path[i] == 59:
            for w in range(len(_SESSION_ENDS) - 1):
                length = _SESSION_ENDS[w + 1] - _SESSION_ENDS[w]
                if i + length <= stop and _is_one_of(path[i : i + length], _SESSION_ENDS, _SESSION_DATA):
                    return i
    return stop


@njit(cache=True, nogil=True)
def _query(given, path, parts, out):  # type: ignore[no-untyped-def]
    """`?` and the parameters that stay, sorted; bytes written."""
    size = _normal(given, path, True)
    count = 0
    start = 0
    for i in range(size + 1):
        if i == size or path[i] == 38:  # &
            if i > start and not _is_tracking(path[start:i]):
                parts[count, 0], parts[count, 1] = start, i
                count += 1
            start = i + 1
    _sort(path, parts, count)
    size = 0
    for p in range(count):
        out[size] = 63 if p == 0 else 38
        size += 1
        for k in range(parts[p, 0], parts[p, 1]):
            out[size] = path[k]
            size += 1
    return size


@njit(cache=True, nogil=True)
def _is_tracking(parameter):  # type: ignore[no-untyped-def]
    name = 0
    while name < len(parameter) and parameter[name] != 61:
        name += 1
    if name == 3 and parameter[0] | 32 == 115 and parameter[1] | 32 == 105 and parameter[2] | 32 == 100:  # sid
        if len(parameter) != 36:
            return False
        for i in range(4, 36):
            c = parameter[i] | 32
            if not (97 <= c <= 122 or 48 <= parameter[i] <= 57):
                return False
        return True
    return _is_one_of(parameter[:name], _DROPPED_ENDS, _DROPPED_DATA)


@njit(cache=True, nogil=True)
def _sort(data, parts, count):  # type: ignore[no-untyped-def]
    """Shellsort of spans by their bytes: a URL may be 4,000 parameters long."""
    gap = 1
    while 3 * gap + 1 < count:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, count):
            a, b = parts[i, 0], parts[i, 1]
            j = i
            while j >= gap and _before(data, a, b, parts[j - gap, 0], parts[j - gap, 1]):
                parts[j, 0], parts[j, 1] = parts[j - gap, 0], parts[j - gap, 1]
                j -= gap
            parts[j, 0], parts[j, 1] = a, b
        gap //= 3


@njit(cache=True, nogil=True)
def _before(data, a, b, c, d):  # type: ignore[no-untyped-def]
    while a < b and c < d:
        if data[a] != data[c]:
            return data[a] < data[c]
        a += 1
        c += 1
    return a == b and c < d
