"""corpus/warc.py and corpus/gzip_members.py: what warcio reads, and what warcio does not survive."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator
from warcio.exceptions import ArchiveLoadFailed

from corpus import gzip_members, warc
from corpus.gzip_members import MAGIC, Members, Piece, pieces
from corpus.warc import Record, records

ALL = frozenset(("response", "revisit", "resource", "conversion", "request", "metadata", "warcinfo"))
FILES = [
    "cc_16pages.warc.gz",
    "cc_whirlwind.warc.gz",
    "cc_whirlwind.warc.wet.gz",
    "cc_whirlwind.warc.wat.gz",
    "iana.warc.gz",
    "dupes.warc.gz",
    "example-wget-1-14.warc.gz",
    "example.warc.gz",
    "example.arc.gz",
    "iana-chunked.warc",
    "example-trunc.warc",
    "IAH-urls-wget.warc.gz",
    "dolma_sample-0000.warc.gz",
    "example-wrong-chunks.warc.gz",
]


def read(data: bytes, limit: int = 1 << 30, step: int | None = None) -> list[Record]:
    """All records; with `step`, from a file that gives no more than that at once."""
    file = io.BytesIO(data)
    return list(records(lambda n: file.read(n if step is None else min(n, step)), limit, ALL))


def record(
    body: bytes, url: str = "http://a.example/", kind: str = "response", length: int | None = None, end: bytes = b"\r\n"
) -> bytes:
    head = [
        b"WARC/1.0", b"WARC-Type: " + kind.encode(), b"WARC-Target-URI: " + url.encode(), b"WARC-Date: 2024-05-01T00:00:00Z",
        b"Content-Length: " + str(len(body) if length is None else length).encode(),
    ]  # fmt: skip
    return end.join(head) + end * 2 + body + end * 2


def blocks(found: list[Record]) -> list[bytes]:
    return [bytes(r.block) for r in found]


def one_by_one(data: bytes) -> list[Record]:
    """The same by the other way: zlib for every member, Python for every head."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gzip_members, "_EXPORTED", False)
        return read(data)


def facts(found: list[Record]) -> list[Record]:
    """Records to compare: blocks as bytes, headers as dicts."""
    return [r._replace(block=bytes(r.block), headers=dict(r.headers)) for r in found]  # type: ignore[arg-type]


def theirs(path: Path) -> list[tuple[str, str | None, bytes, int]]:
    """(kind, URL, block, offset) by warcio, of as many records as it gets to."""
    found = []
    with path.open("rb") as file, contextlib.suppress(ArchiveLoadFailed):
        reader = ArchiveIterator(file, no_record_parse=True, arc2warc=True)
        for r in reader:
            block = r.raw_stream.read()
            found.append((r.rec_type, r.rec_headers.get_header("WARC-Target-URI"), block, reader.get_record_offset()))
    return found


@pytest.mark.parametrize("name", FILES)
def test_the_records_of_real_archives_are_warcios(corpus_data: Path, name: str) -> None:
    path = corpus_data / "warc" / name
    ours = read(path.read_bytes())
    expected = theirs(path)
    if name == "example-wrong-chunks.warc.gz":
        # warcio loses its way: the first record's block begins with line ends that it takes for the record's own
        assert [r.kind for r in ours] == ["response", "request"]
        return
    assert [r.kind for r in ours] == [kind for kind, *_ in expected]
    assert not [r.fault for r in ours if r.fault]
    for r, (kind, url, block, offset) in zip(ours, expected, strict=True):
        if kind == "warcinfo" and name.endswith("arc.gz") and "warc" not in name:
            continue  # warcio makes a WARC head of the ARC file's own
        assert (r.headers.get("warc-target-uri", "").strip("<>") or None, bytes(r.block)) == (url, block)
        if name.endswith(".gz"):
            assert r.offset == offset
            member = path.read_bytes()[r.offset : r.offset + r.length]
            assert blocks(read(member)) == [block]  # offset and length are enough to read the record alone


@pytest.mark.parametrize("name", FILES)
def test_members_taken_together_hold_the_records_of_members_taken_one_by_one(corpus_data: Path, name: str) -> None:
    data = (corpus_data / "warc" / name).read_bytes()
    assert facts(read(data)) == facts(one_by_one(data))


def test_nearly_all_members_of_an_archive_are_taken_together(corpus_data: Path) -> None:
    """Else the law above compares a thing with itself: four members in five of a crawl, heads by the kernel."""
    data = (corpus_data / "warc" / "cc_16pages.warc.gz").read_bytes()
    (members,) = pieces(io.BytesIO(data).read)
    assert isinstance(members, Members) and len(members) == 50
    heads = warc.heads_of(members.content_B, members.ends_S)
    assert (heads[:, 0] > 0).sum() >= 40


@pytest.mark.parametrize(("name", "count"), [("cc_4pages_onemember.warc.gz", 12), ("example-bad-non-chunked.warc.gz", 6)])
def test_a_file_in_one_gzip_member_is_read_to_its_end(corpus_data: Path, name: str, count: int) -> None:
    """warcio stops after the first record of these."""
    data = (corpus_data / "warc" / name).read_bytes()
    ours = read(data)
    assert len(ours) == count and not any(r.fault for r in ours)
    plain = read(gzip.decompress(data))
    assert [(r.kind, bytes(r.block)) for r in plain] == [(r.kind, bytes(r.block)) for r in ours]
    assert len({(r.offset, r.inner) for r in ours}) == count


def test_a_length_that_was_not_kept_up_with_gives_the_whole_page(corpus_data: Path) -> None:
    """This file's line ends were changed after it was written, so that every Content-Length is too small."""
    found = read((corpus_data / "warc" / "cc_4pages_onemember.warc.gz").read_bytes())
    pages = [r for r in found if r.kind == "response"]
    assert [bytes(r.block).endswith(b"</html>") for r in pages] == [True, True, True, False]  # the file ends in the last
    assert [r.short for r in pages] == [-117, -117, -232, 18422]


FIVE = [record(b"page %d " % i * 50, f"http://{i}.example/") for i in range(5)]
BODIES = [b"page %d " % i * 50 for i in range(5)]


@pytest.mark.parametrize("packed", [lambda r: b"".join(map(gzip.compress, r)), b"".join, lambda r: gzip.compress(b"".join(r))])
@pytest.mark.parametrize("step", [None, 1, 7, 100])
def test_any_framing_read_in_any_steps_gives_the_same_records(packed: object, step: int | None) -> None:
    data = packed(FIVE)  # type: ignore[operator]
    assert blocks(read(data, step=step)) == BODIES
    assert [r.fault for r in read(data, step=step)] == [None] * 5


def test_records_across_gzip_members_are_joined() -> None:
    """As bgzip writes them: members of a fixed size that know nothing of records."""
    whole = b"".join(FIVE)
    data = b"".join(gzip.compress(whole[i : i + 333]) for i in range(0, len(whole), 333))
    assert blocks(read(data)) == BODIES


def test_a_record_in_a_hundred_thousand_gzip_members_is_joined_once() -> None:
    """Copying what there is for each of them is a terabyte."""
    body = random.Random(3).randbytes(3 << 20).hex().encode()
    whole = FIVE[0] + record(body) + FIVE[1]
    data = b"".join(gzip.compress(whole[i : i + 60], 1) for i in range(0, len(whole), 60))
    assert blocks(read(data)) == [BODIES[0], body, BODIES[1]]


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_heads_with_bare_line_ends_folds_and_junk(end: bytes) -> None:
    head = end.join(
        [
            b"WARC/1.0",
            b"WARC-Type: Response",
            b"no colon",
            b"X-Long: one",
            b"\ttwo",
            b": nothing",
            b"content-length:  4 ",
            b"X-Long: 2",
        ]
    )
    (found,) = read(gzip.compress(head + end * 2 + b"body" + end * 2))
    assert (found.kind, bytes(found.block), found.headers["x-long"]) == ("response", b"body", "one two")


def test_a_record_without_length_reaches_to_the_next() -> None:
    bare = FIVE[0].replace(b"Content-Length", b"X-Length")
    for data in (bare + FIVE[1], gzip.compress(bare) + gzip.compress(FIVE[1])):
        assert blocks(read(data)) == BODIES[:2]


@pytest.mark.parametrize("wrong", [-30, -1, 1, 30, 200, 1000, 10**7, 10**15])
def test_a_wrong_length_costs_no_other_record(wrong: int) -> None:
    body = BODIES[0]
    bad = record(body, length=len(body) + wrong)
    for data in (
        bad + b"".join(FIVE[1:]),
        gzip.compress(bad) + b"".join(map(gzip.compress, FIVE[1:])),
        gzip.compress(bad + b"".join(FIVE[1:])),
    ):
        found = read(data, limit=5000)
        assert [bytes(r.block).rstrip() for r in found] == [b.rstrip() for b in BODIES], wrong
        assert found[0].short == wrong or abs(found[0].short - wrong) <= 4  # line ends may have counted


def test_a_damaged_member_costs_only_itself() -> None:
    members = [gzip.compress(r) for r in FIVE]
    for at in range(0, len(members[2])):
        bad = bytearray(members[2])
        bad[at] ^= 0x55
        found = read(b"".join([*members[:2], bytes(bad), *members[3:]]))
        good = [bytes(r.block) for r in found if r.fault is None]
        assert good[:2] == BODIES[:2] and good[-2:] == BODIES[3:], at
        if at not in (4, 5, 6, 7, 8, 9):  # time, flags and system: nothing depends on them
            assert any(r.fault for r in found), at
            assert len(good) == 4, at


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.6, 0.95])
def test_lost_bytes_and_a_cut_file(keep: float) -> None:
    members = [gzip.compress(r) for r in FIVE]
    part = members[1][: int(len(members[1]) * keep)]
    lost = read(b"".join([members[0], part, *members[2:]]))
    assert [bytes(r.block) for r in lost if r.fault is None] == [BODIES[0], *BODIES[2:]]
    assert any(r.fault for r in lost)
    cut = read(members[0] + part)
    assert bytes(cut[0].block) == BODIES[0] and cut[-1].fault is not None and len(cut) == 2


def test_junk_between_members_is_said_and_padding_is_not() -> None:
    members = [gzip.compress(r) for r in FIVE]
    found = read(members[0] + b"\0" * 1000 + members[1] + b"junk" + members[2])
    assert [(r.kind, r.fault) for r in found] == [
        ("response", None), ("response", None), ("", "4 bytes that are no gzip member"), ("response", None),
    ]  # fmt: skip
    assert blocks(found) == [BODIES[0], BODIES[1], b"", BODIES[2]]


def test_a_member_whose_bytes_hold_the_magic_of_another() -> None:
    body = MAGIC + b"\0" + random.Random(1).randbytes(5000) + MAGIC + b"\0" * 20 + MAGIC
    stored = zlib.compressobj(0, wbits=31)  # not compressed, so that the magic is there to be seen
    member = stored.compress(record(body)) + stored.flush()
    assert member.count(MAGIC) == 4
    assert blocks(read(member + gzip.compress(FIVE[0]))) == [body, BODIES[0]]


def test_a_trailer_that_lies_about_the_size_allocates_nothing_of_the_kind() -> None:
    member = gzip.compress(FIVE[0])
    for size in (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\1\0\0\0"):
        found = read(member[:-4] + size + gzip.compress(FIVE[1]))
        assert found[0].fault is not None and bytes(found[1].block) == BODIES[1]


def test_of_a_large_block_only_the_limit_is_held() -> None:
    """100 MB in one member, and in one file of one member: peak memory is the window's, not the page's."""
    import tracemalloc

    large = gzip.compress(record(b"x" * (100 << 20)), 1) + gzip.compress(FIVE[0])
    for data in (large, gzip.compress(record(b"x" * (100 << 20)) + FIVE[0], 1)):
        tracemalloc.start()
        found = read(data, limit=1000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (found[0].size, len(found[0].block), bytes(found[1].block)) == (100 << 20, 1000, BODIES[0])
        assert peak < 24 << 20


def test_arc_version_one(corpus_data: Path) -> None:
    found = read((corpus_data / "warc" / "example.arc.gz").read_bytes())
    assert [r.kind for r in found] == ["warcinfo", "response"]
    assert found[1].headers["warc-target-uri"] == "http://example.com/"
    assert found[1].headers["warc-date"] == "2014-02-16T05:02:21Z"
    plain = read(gzip.decompress((corpus_data / "warc" / "example.arc.gz").read_bytes()))
    assert [bytes(r.block) for r in plain] == [bytes(r.block) for r in found]


def test_of_what_nobody_wants_nothing_is_held_and_its_length_still_counts() -> None:
    """Content-Length as a head's last line, and a head inside a block that is whole."""
    asked = record(FIVE[1], kind="request")
    for data in (asked + FIVE[0], gzip.compress(asked) + gzip.compress(FIVE[0]), gzip.compress(asked + FIVE[0])):
        found = list(records(io.BytesIO(data).read, 1 << 20))
        assert [(r.kind, r.headers == {}, len(r.block), r.size) for r in found] == [
            ("request", True, 0, len(FIVE[1])), ("response", False, len(BODIES[0]), len(BODIES[0])),
        ]  # fmt: skip


LINES = st.sampled_from(
    [
        b"WARC-Type: response", b"warc-TYPE:\tRequest", b"WARC-Type : response", b"WARC-Type: response; no", b"WARC-Type:",
        b"Content-Length: %d", b"content-length:%d", b"Content-Length : %d", b"Content-Length: 5", b"Content-Length: %d ",
        b"Content-Length: 00000000000000000%d", b"Content-Length: 99999999999999999999", b"\x0bContent-Length: 3",
        b" folded", b"\tfolded", b"no colon", b": no name", b"", b"X-\xe4: \xff\x00", b"X: \rContent-Length: 3", b"X: \n\nY: z",
    ]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([b"WARC/1.0", b"WARC/1.1", b"WARC/1.", b"WARC/1.0 ", b"WARC/2.0", b"warc/1.0"]),
    st.lists(LINES, max_size=6),
    st.sampled_from([b"\r\n", b"\n"]),
    st.binary(max_size=40),
    st.sampled_from([b"\r\n\r\n", b"\n\n", b"\r\n", b"", b"\r\n\r\n\r\n"]),
)
def test_a_head_the_kernel_passes_is_read_as_python_reads_it(
    version: bytes, lines: list[bytes], end: bytes, body: bytes, last: bytes
) -> None:
    filled = [line.replace(b"%d", str(len(body)).encode()) for line in lines]
    member = gzip.compress(end.join([version, *filled]) + end * 2 + body + last)
    data = gzip.compress(FIVE[0]) + member + gzip.compress(FIVE[1])
    assert facts(read(data)) == facts(one_by_one(data))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes_are_read_to_their_end(data: bytes) -> None:
    found = read(data)
    assert all(r.kind in ("",) or r.headers is not None for r in found)
    if data.strip(b"\r\n\0"):
        assert found  # nothing vanishes without a word


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Five records in some framing, with bytes changed, cut out or put in."""
    framing = draw(st.sampled_from(["members", "plain", "one"]))
    data = bytearray(
        b"".join(map(gzip.compress, FIVE))
        if framing == "members"
        else b"".join(FIVE)
        if framing == "plain"
        else gzip.compress(b"".join(FIVE))
    )
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["change", "cut", "insert"]))
        if kind == "cut":
            del data[at : at + draw(st.integers(1, 600))]
        else:
            new = draw(st.binary(min_size=1, max_size=20))
            data[at : at + (len(new) if kind == "change" else 0)] = new
    return bytes(data)


@settings(max_examples=300, deadline=None)
@given(mutated(), st.sampled_from([None, 1, 50]))
def test_mutated_archives_never_raise_and_every_record_is_its_own_or_says_so(data: bytes, step: int | None) -> None:
    found = read(data, step=step)
    assert facts(found) == facts(read(data)) == facts(one_by_one(data))
    starts = [(r.offset, r.inner) for r in found]
    assert starts == sorted(starts)
    assert all(r.offset >= 0 and r.length >= 0 and r.offset + r.length <= len(data) for r in found)
    if data.startswith(MAGIC) and len(data) > 18:
        content = b"".join(piece.data for piece in _pieces(data) if piece.fault is None)
        assert content.count(b"\nWARC/1.0\r\nWARC-Type") <= len(found)  # a head at a line's start is a record


def _pieces(data: bytes) -> list[Piece]:
    found = pieces(io.BytesIO(data).read)
    return [p for f in found for p in ([f.piece(i) for i in range(len(f))] if isinstance(f, Members) else [f])]
