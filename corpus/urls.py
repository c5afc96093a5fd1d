"""One spelling for every address of a page: two URLs with the same canonical form are taken for the same page.

`canonical_urls` makes, of an http or https URL (RFC 3986, leniently as browsers read it, WHATWG URL):

    scheme, user     http and https are one; user:password@ goes
    host             lower case, without a dot at its end, without www. (www1., www23.); letters beyond ASCII as %XX
    port             80 and 443 go, whatever the scheme
    path             \\ is /, // is /, dot segments resolved, `;jsessionid=…` goes, a last segment such as index.html or
                     default.aspx goes, the slash at the end goes
    percent          %41 is A (unreserved characters decoded), %c3 is %C3, what must be encoded is; + in the query is %20
    query            session ids and parameters of click tracking go (TRACKING in corpus/url_kernels.py), the others are sorted
    fragment         goes

The trade, where two readings are possible: https, www., index.html, the last slash and the order of parameters hardly ever
tell two pages apart, and each of them alone gives a few per cent of a crawl as duplicates; a site where one of them does loses
the page that is not the survivor. The case of paths and unknown parameters do tell pages apart, and are kept; so is `sid`
unless 32 letters and digits, for it often numbers articles. The host is not looked up: 127.1 is not 127.0.0.1, and
punycode is not decoded.

No URL, for which null is given: another scheme or none, no host, a host with characters a host cannot have, a port that is no
number below 65,536, more than 8,192 bytes, here or in its canonical form. The form is a fixed point: that of a canonical URL
is itself. It is made to be compared; it need not answer when fetched.

Reference: RFC 3986 sections 5.2.4 and 6; Internet Archive's URL keys (SURT), which decide www., sorting and sessions alike.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.document import text_buffers
from corpus.url_kernels import LONGEST, canonical_all

__all__ = ["LONGEST", "canonical_urls"]


def canonical_urls(urls: pa.Array) -> pa.Array:
    """The canonical form of each URL, a string array; null where there is none (see the top of this file)."""
    valid_N = np.asarray(pc.is_valid(urls).to_numpy(zero_copy_only=False), np.bool_)
    offsets_N1, data_B = text_buffers(urls)
    known_N = valid_N & (np.diff(offsets_N1) <= LONGEST)
    size = 3 * int(np.diff(offsets_N1)[known_N].sum()) + 16 * int(known_N.sum())
    out_B, ends_N1 = np.empty(size + 64, np.uint8), np.zeros(len(offsets_N1), np.int64)
    canonical_all(offsets_N1, data_B, known_N, out_B, ends_N1)
    nothing_N = np.diff(ends_N1) == 0
    text = pa.LargeStringArray.from_buffers(len(nothing_N), pa.py_buffer(ends_N1), pa.py_buffer(out_B[: ends_N1[-1]].tobytes()))
    return pc.if_else(pa.array(nothing_N), pa.scalar(None, pa.string()), text.cast(pa.string()))
