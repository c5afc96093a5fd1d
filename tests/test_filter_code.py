"""stages/filter_code.py: each rule at its limit, and the whole beside the rules written out in plain Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.document import batch_of
from corpus.engine import LocalEngine
from corpus.errors import ConfigError
from corpus.shards import Items, read_batches
from stages import filter_code
from stages.filter_code import REASONS, Config, judge

NOWHERE: Any = None  # judge never looks upstream
FLAGS = pa.schema([pa.field("generated", pa.bool_()), pa.field("vendored", pa.bool_())])


def config(**fields: Any) -> Config:
    return Config(files=NOWHERE, **fields)


def documents(*rows: tuple[str, str | None]) -> pa.RecordBatch:
    return batch_of([{"id": str(i), "text": text, "lang": lang} for i, (text, lang) in enumerate(rows)])


def verdict(text: str, lang: str | None, **fields: Any) -> tuple[str | None, str | None]:
    found = judge(documents((text, lang)), config(**fields))
    return found.reason[0].as_py(), found.evidence[0].as_py()


def page(size: int, visible: int) -> str:
    """`size` characters of which `visible` can be seen; the rest is a comment, in lines of 80 so that no other rule fires."""
    filler = ("y" * 79 + "\n") * 100
    return f"<!--{filler[: size - visible - 8]}\n-->{'x' * visible}"


LINES = ("中" * 99 + "\n") * 50  # 5000 characters
XML = "<?xml version= within the first 100 characters"


@pytest.mark.parametrize(
    ("text", "lang", "reason", "evidence"),
    [
        ("", "C", "empty", "0 characters"),
        ("é" * 100 + "\n", "C", None, None),
        ("é" * 101 + "\n", "C", "mean_line", "mean line 101 > 100 characters"),
        ("x" * 200 + "\n\n", "C", None, None),
        ("x" * 201 + "\n\n", "C", "mean_line", "mean line 100.5 > 100 characters"),
        ("x" * 1000 + "\n" * 10, "C", None, None),
        ("x" * 1001 + "\n" * 11, "C", "max_line", "longest line 1001 > 1000 characters"),
        ("x" * 1001, "C", "mean_line", "mean line 1001 > 100 characters"),  # the first of two
        ("中1\n1", "C", None, None),
        ("中1\n11", "C", "alphabetic", "alphabetic 0.2 < 0.25"),
        ("\n", "C", "alphabetic", "alphabetic 0 < 0.25"),
        ("a\0\0\0", "C", None, None),
        ("é" * 86 + "<?xml version=", "C", "xml", XML),
        ("é" * 86 + "\n<?xml version=", "C", None, None),
        ('<?xml version="1.0"?>', "XSLT", None, None),
        ('<?xml version="1.0"?>', None, "xml", XML),
        (page(500, 100), "HTML", None, None),
        (page(501, 100), "HTML", "html_share", "visible share 0.199601 < 0.2"),
        (page(495, 99), "HTML", "html_visible", "visible 99 < 100 characters"),
        (page(501, 100), "HTML ERB", None, None),
        ("x" * 50, "JSON", None, None),
        ("x" * 49, "JSON", "data_size", "49 characters, 50 to 5000 expected"),
        (LINES, "YAML", None, None),
        (LINES + "x", "YAML", "data_size", "5001 characters, 50 to 5000 expected"),
        (LINES + "x", "JSONiq", None, None),
    ],
)
def test_each_rule_at_its_limit(text: str, lang: str | None, reason: str | None, evidence: str | None) -> None:
    assert verdict(text, lang) == (reason, evidence)


def test_thresholds_are_the_configs() -> None:
    assert verdict("x" * 501 + "\n" * 9, "C")[0] is None
    assert verdict("x" * 501 + "\n" * 9, "C", max_line=500) == ("max_line", "longest line 501 > 500 characters")
    assert verdict("x\n" * 9, "C", max_mean_line=0.5) == ("mean_line", "mean line 1 > 0.5 characters")
    assert verdict("x1", "C", min_alphabetic=0.6) == ("alphabetic", "alphabetic 0.5 < 0.6")
    assert verdict('<?xml version="1.0"?>', "C", xml_head=0) == (None, None)
    assert verdict(page(501, 100), "HTML", min_visible_share=0.1, min_visible=101)[0] == "html_visible"
    assert verdict("x" * 49, "JSON", min_data=49)[0] is None
    assert verdict("x" * 51, "JSON", max_data=50)[0] == "data_size"


def plain(text: str, lang: str | None) -> str | None:
    """The rules as one would write them down."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    if not text:
        return "empty"
    if sum(map(len, lines)) / len(lines) > 100:
        return "mean_line"
    if max(map(len, lines)) > 1000:
        return "max_line"
    if sum(map(str.isalpha, text)) / len(text) < 0.25:
        return "alphabetic"
    if "<?xml version=" in text[:100] and lang != "XSLT":
        return "xml"
    if lang in ("JSON", "YAML") and not 50 <= len(text) <= 5000:
        return "data_size"
    return None


PARTS = st.sampled_from(["x" * 10, "é中𝒳", "12 ", "\n", "\r\n", "\0", "\u2028", "<?xml version=", " " * 30, "a b\n", "~" * 90])
TEXTS = st.lists(st.tuples(PARTS, st.integers(0, 60)), max_size=6).map(lambda parts: "".join(p * n for p, n in parts))
LANGS = st.sampled_from([None, "C", "JSON", "YAML", "XSLT", "XML"])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(TEXTS, LANGS), max_size=8), st.data())
def test_equals_the_rules_in_plain_python(rows: list[tuple[str, str | None]], data: st.DataObject) -> None:
    batch = documents(*rows)
    found = judge(batch, config())
    expected = [plain(text, lang) for text, lang in rows]
    assert found.reason.to_pylist() == expected
    assert [e is not None for e in found.evidence.to_pylist()] == [r is not None for r in expected]
    assert set(expected) - {None} <= set(REASONS)
    assert found.batch is batch
    start = data.draw(st.integers(0, len(rows)))
    part = judge(batch.slice(start), config())
    assert part.reason.to_pylist() == expected[start:]
    assert part.evidence.to_pylist() == found.evidence.to_pylist()[start:]


def flagged(generated: bool | None, vendored: bool | None) -> pa.RecordBatch:
    return batch_of([{"id": "a", "text": "text\n", "generated": generated, "vendored": vendored}], FLAGS)


def test_flags_of_the_crawl_count_only_where_asked() -> None:
    both = config(drop_generated=True, drop_vendored=True)
    assert judge(flagged(True, True), config()).reason.to_pylist() == [None]
    assert judge(flagged(True, True), both).reason.to_pylist() == ["generated"]
    assert judge(flagged(False, True), both).evidence.to_pylist() == ["flagged vendored by the crawl"]
    assert judge(flagged(True, None), config(drop_vendored=True)).reason.to_pylist() == [None]
    assert judge(documents(("text\n", "C")), both).reason.to_pylist() == [None]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_mean_line", 0.0),
        ("max_mean_line", float("nan")),
        ("max_line", 0),
        ("min_alphabetic", 25.0),
        ("min_visible_share", -0.1),
        ("xml_head", -1),
        ("min_visible", -1),
        ("min_data", -1),
        ("max_data", 49),
    ],
)
def test_a_bad_limit_is_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"filter_code\.{field} = {value}"):
        config(**{field: value})


def test_run_accounts_for_every_document(tmp_path: Path) -> None:
    """Through the engine: kept rows unchanged and in order, dropped rows with reason and evidence, an empty batch too."""
    batches = (documents(("good\n", "C"), ("", "C"), ("x" * 49, "JSON")), documents(), documents(("fine\n", None)))
    files: Any = Items(batches)
    report = filter_code.run(Config(files=files), tmp_path, LocalEngine(tmp_path))
    report.check("filter_code", expected=4)
    assert report.dropped == {"empty": 1, "data_size": 1}
    kept = [b for p in sorted((tmp_path / "shards").iterdir()) for b in read_batches(pa.py_buffer(p.read_bytes()), None)]
    assert pa.Table.from_batches(kept)["text"].to_pylist() == ["good\n", "fine\n"]
    dropped = [b for p in (tmp_path / "dropped").iterdir() for b in read_batches(pa.py_buffer(p.read_bytes()), None)]
    assert pa.Table.from_batches(dropped)["evidence"].to_pylist() == ["0 characters", "49 characters, 50 to 5000 expected"]
