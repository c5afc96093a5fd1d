"""Document and Verdict: identities, buffers of slices, what a Verdict refuses."""

from __future__ import annotations

import itertools
import pickle

import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from corpus import errors
from corpus.document import SCHEMA, Verdict, batch_of, content_ids, document_id, keep_all, text_buffers, text_bytes

texts = st.lists(st.text(), max_size=8)


@given(texts, st.integers(0, 8), st.integers(0, 8))
def test_buffers_of_a_slice_are_its_texts(values: list[str], a: int, b: int) -> None:
    start, stop = min(a, len(values)), min(max(a, b), len(values))
    for kind in (pa.string(), pa.large_string()):
        array = pa.array(values, kind).slice(start, stop - start)
        offsets_N1, data_B = text_buffers(array)
        cut = [bytes(data_B[i:j]).decode() for i, j in itertools.pairwise(offsets_N1)]
        assert cut == values[start:stop]


@given(texts)
def test_content_id_is_xxh3_128_of_the_utf8(values: list[str]) -> None:
    array = pa.array(["before", *values], pa.large_string()).slice(1)
    assert content_ids(array).to_pylist() == [xxhash.xxh3_128_digest(v.encode()) for v in values]


def test_an_id_is_of_its_origin() -> None:
    assert len(document_id("a")) == 32 and document_id("a") != document_id("b")
    assert document_id("\udcff")  # a path that is not UTF-8


def test_bytes_are_utf8_bytes() -> None:
    batch = batch_of([{"id": "1", "text": "é"}, {"id": "2", "text": ""}, {"id": "3", "text": "漢字"}])
    assert batch.schema == SCHEMA and text_bytes(batch) == 8 and text_bytes(batch.slice(2)) == 6


def test_a_verdict_is_about_every_row() -> None:
    batch = batch_of([{"id": "1", "text": "x"}])
    with pytest.raises(errors.ConservationError, match="1 rows has 0 reasons"):
        Verdict(batch, pa.nulls(0, pa.string()), pa.nulls(1, pa.string()))
    with pytest.raises(errors.ConservationError, match="lineage"):
        Verdict(batch, pa.nulls(1, pa.string()), pa.nulls(1, pa.string()), made=batch)
    assert keep_all(batch).reason.null_count == 1


def test_errors_survive_a_pickle_with_their_details() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        if isinstance(kind, type):
            error = pickle.loads(pickle.dumps(kind("what was seen", path="p")))
            assert type(error) is kind and str(error) == "what was seen" and error.details == {"path": "p"}
