"""Canonical URLs: each rule, a fixed point for any input, and the whole beside urllib on well-formed URLs."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import quote, unquote_to_bytes, urlsplit

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from corpus.url_kernels import LONGEST, TRACKING
from corpus.urls import canonical_urls


def canonical(*urls: str | None) -> list[str | None]:
    found: list[str | None] = canonical_urls(pa.array(urls, pa.string())).to_pylist()
    return found


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://e.com", "e.com/"),
        ("HTTPS://User:p@ss@E.Com:443", "e.com/"),
        ("https://e.com:80/", "e.com/"),
        ("https://e.com:0080/", "e.com/"),
        ("http://e.com:8080/", "e.com:8080/"),
        ("http://e.com:/", "e.com/"),
        ("http://e.com../a", "e.com/a"),
        (" \n http://e.com/a\tb \0", "e.com/ab"),
        ("http:\\\\e.com\\a\\b?\\", "e.com/a/b?%5C"),
        ("http:////e.com/", "e.com/"),
        ("http://www.e.com/", "e.com/"),
        ("http://www12.e.com/", "e.com/"),
        ("http://www123.e.com/", "www123.e.com/"),
        ("http://www.www.e.com/", "e.com/"),
        ("http://www.com/", "www.com/"),
        ("http://wwwe.com/", "wwwe.com/"),
        ("http://[2001:DB8::1]:8080/", "[2001:db8::1]:8080/"),
        ("http://bücher.example/", "b%C3%BCcher.example/"),
        ("http://b%c3%bccher.ex%61mple/", "b%C3%BCcher.example/"),
        ("http://e.com/a/./b/../c/", "e.com/a/c"),
        ("http://e.com/../..", "e.com/"),
        ("http://e.com/a/%2e%2E/b", "e.com/b"),
        ("http://e.com//a///b//", "e.com/a/b"),
        ("http://e.com/A/a", "e.com/A/a"),
        ("http://e.com/%7Ea%c3%a9%2f", "e.com/~a%C3%A9%2F"),
        ("http://e.com/100%/%zz%4", "e.com/100%25/%25zz%254"),
        ("http://e.com/%%34%31", "e.com/%2541"),
        ("http://e.com/a b\"<é>", "e.com/a%20b%22%3C%C3%A9%3E"),
        ("http://e.com/index.html", "e.com/"),
        ("http://e.com/a/INDEX.PHP?x=1", "e.com/a?x=1"),
        ("http://e.com/a/default.aspx", "e.com/a"),
        ("http://e.com/index.html/index.html", "e.com/"),
        ("http://e.com/index.html/b", "e.com/index.html/b"),
        ("http://e.com/myindex.html", "e.com/myindex.html"),
        ("http://e.com/a;jsessionid=1A.b/c;x=1", "e.com/a/c;x=1"),
        ("http://e.com/..;JSESSIONID=1/index.html;jsessionid=2", "e.com/"),
        ("http://e.com?b=2&a=1", "e.com/?a=1&b=2"),
        ("http://e.com/?b&a=&&a&", "e.com/?a&a=&b"),
        ("http://e.com/?q=a+b%2B%20c", "e.com/?q=a%20b%2B%20c"),
        ("http://e.com/?", "e.com/"),
        ("http://e.com/?utm_source=x&UTM_anything=1&gclid=2&fbclid=&id=7", "e.com/?id=7"),
        ("http://e.com/?utm=1&xgclid=2&gclids=3", "e.com/?gclids=3&utm=1&xgclid=2"),
        ("http://e.com/?utm%5Fsource=x", "e.com/"),
        ("http://e.com/?sid=12", "e.com/?sid=12"),
        ("http://e.com/?sid=0123456789abcdefABCDEF0123456789", "e.com/"),
        ("http://e.com/?sid=0123456789abcdefABCDEF012345678_", "e.com/?sid=0123456789abcdefABCDEF012345678_"),
        ("http://e.com/a#b?c", "e.com/a"),
        ("http://e.com/?a#b&c", "e.com/?a"),
        ("http://e.com?x=http://www.e.com/", "e.com/?x=http://www.e.com/"),
    ],
)  # fmt: skip
def test_each_rule(url: str, expected: str) -> None:
    assert canonical(url) == ["http://" + expected]


@pytest.mark.parametrize(
    "url",
    ["", "e.com", "//e.com/", "http:/e.com", "ftp://e.com/", "mailto:a@e.com", "https", "http://", "http:///", "http://?a", "http://.",
     "http://a..b/", "http://.a/", "http://a b/", "http://a%2fb/", "http://e.com:x/", "http://e.com:65536/", "http://e.com:-1/",
     "http://[::1/", "http://e.com:99999999999999999999/", "http://e.com/" + "a" * LONGEST, "http://e.com/" + "é" * 2000],
)  # fmt: skip
def test_what_is_no_address_of_a_page(url: str) -> None:
    assert canonical(url, None) == [None, None]


PIECES = [*"aZ09.%/\\?&=;:@#[]-_~+ \t\0éwW中", "%2e", "..", "index.html", ";jsessionid=", "utm_a=", "www."]
STARTS = ["http://", "https://www.", "HTTP:\\\\", "http://e.com/", "http://e.com/?", "https://u@e.com:80/a?"]
ENDS = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
URLS = st.text(max_size=60) | st.builds("{}{}".format, st.sampled_from(STARTS), ENDS)


@settings(max_examples=600, deadline=None)
@given(st.lists(URLS, max_size=5))
@example(["http://www.www.www/", "http://e.com/%25%34%31", "http://e.com/;jsessionid=/..;jsessionid=/"])
def test_the_form_is_a_fixed_point(urls: list[str]) -> None:
    once = canonical(*urls)
    assert len(once) == len(urls)
    assert canonical(*once) == once
    for made in once:
        assert made is None or (made.isascii() and re.fullmatch(r"http://[^\s/?#]+/[^\s#]*", made)), made
    # A slice of a larger array, and one by one: the neighbours do not matter.
    array = pa.array([*urls, "http://x.y/"], pa.string())
    assert canonical_urls(array.slice(1)).to_pylist() == [*once[1:], "http://x.y/"] if urls else True


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=4))
def test_bytes_that_are_no_text_do_not_raise(urls: list[bytes]) -> None:
    binary = pa.array([b"http://e.com/" + url for url in urls] + urls, pa.large_binary())
    text = pa.Array.from_buffers(pa.large_string(), len(binary), binary.buffers())
    canonical_urls(text).validate(full=True)


def by_urllib(url: str) -> str:
    """The same of a well-formed URL, from the standard library's parts."""
    parts = urlsplit(url)
    path = [
        quote(unquote_to_bytes(re.sub(";jsessionid=.*", "", part)), safe="!$&'()*+,;=:@[]~") for part in parts.path.split("/")
    ]
    path = [part for part in posixpath.normpath("/" + "/".join(path)).lstrip("/").split("/") if part]
    while (
        path
        and re.fullmatch(r"(?i)(index|default)\.(x?html?|shtml|php|aspx?|jsp|cgi)", path[-1])
        and path[-1].lower()[-4:] != ".xht"
    ):
        path.pop()
    query = [
        quote(unquote_to_bytes(part.replace("+", " ")), safe="!$'()*,;=:@/?[]~") for part in parts.query.split("&") if part
    ]
    query = [part for part in query if not part.lower().startswith("utm_") and part.partition("=")[0].lower() not in TRACKING]
    host = re.sub(r"^(www\d{0,2}\.)+(?=[^.]+\.)", "", (parts.hostname or "").rstrip("."))
    port = f":{parts.port}" if parts.port not in (None, 80, 443) else ""
    return f"http://{host}{port}/{'/'.join(path)}" + ("?" + "&".join(sorted(query)) if query else "")


WORD = st.text(st.sampled_from("abcXYZ019-_.~é中 '\"<"), min_size=1, max_size=6).map(lambda word: quote(word, safe="'"))
SEGMENT = WORD | st.sampled_from(["", ".", "..", "index.html", "Default.aspx", "a;jsessionid=12"])
PARAMETER = st.builds("{}={}".format, WORD | st.sampled_from(["utm_x", "GCLID", "id", "phpsessid"]), WORD) | WORD


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(["http", "https"]),
    st.sampled_from(["e.com", "WWW.e.com", "www2.a.e.com", "e.com.", "u:p@e.com", "127.0.0.1"]),
    st.sampled_from(["", ":80", ":443", ":8000"]),
    st.lists(SEGMENT, max_size=5),
    st.lists(PARAMETER, max_size=4),
)
def test_as_urllib_on_well_formed_urls(scheme: str, host: str, port: str, path: list[str], query: list[str]) -> None:
    url = f"{scheme}://{host}{port}/{'/'.join(path)}" + ("?" + "&".join(query) if query else "") + "#end"
    assert canonical(url) == [by_urllib(url)], url


def test_a_url_of_thousands_of_parameters_is_sorted() -> None:
    names = [f"{i:03x}" for i in range(2000)]
    (made,) = canonical("http://e.com/?" + "&".join(reversed(names)))
    assert made == "http://e.com/?" + "&".join(sorted(names))
