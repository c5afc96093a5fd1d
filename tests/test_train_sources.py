"""Sources: what may be named as data, alone and in a blend, and what is said where it does not go together."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from corpus.errors import ConfigError, CorruptFile, InputError
from corpus.shards import record_file, write_json
from corpus.tokens import TokenShards, TokenWriter, write_tokens_json
from tests.test_train_attention import TINY
from tests.test_train_data import write_shards
from tests.toys.recipe import recipe as toy_corpus
from train import loop
from train.config import Source, TrainConfig, fingerprint
from train.settings import apply_settings
from train.sources import check_content, open_data, order_plan, streams, unigram_entropy

MODEL = dataclasses.replace(TINY, vocab_size=None)


def config(data: object, **changes: object) -> TrainConfig:
    fields = {"steps": 10, "batch": 4, "seq_len": 8, "lr": 1e-2, "warmup": 1, "validation": 0.1, "model": MODEL}
    return TrainConfig(**{"name": "toy", "data": data, **fields, **changes})  # type: ignore[arg-type]


def shards(folder: Path, first: int, documents: int = 20, length: int = 30, vocab: int = 2000) -> str:
    """Documents of ids that count up from `first`, so that every token says where it is from."""
    return str(
        write_shards(folder, [list(range(first + i * length, first + (i + 1) * length)) for i in range(documents)], vocab)
    )


def blend(tmp_path: Path) -> tuple[Source, ...]:
    a, b = shards(tmp_path / "a", 0), shards(tmp_path / "b", 1000, documents=6)
    return (Source(name="code", data=a, weight=3), Source(name="web", data=b, weight=1.0))


def test_a_blend_reads_each_source_in_its_share_and_order(tmp_path: Path) -> None:
    sources = blend(tmp_path)
    c = config(sources, validation=0.3)
    data = open_data(c, tmp_path)
    assert (data.documents, data.tokens, data.vocab_size, data.special) == (26, 780, 2000, {"eos": 0})
    train, held = streams(c, data)
    batch = train.batch(0, 400)
    assert collections.Counter(batch.sources_B.tolist()) == {0: 300, 1: 100}
    assert ((batch.tokens_BL1 >= 1000) == (batch.sources_B[:, None] == 1)).all()
    number = np.where(batch.tokens_BL1 < 1000, batch.tokens_BL1 // 30, 20 + (batch.tokens_BL1 - 1000) // 30)
    assert np.array_equal(batch.documents_BL1, number)  # unique over the sources
    epochs = train.epochs(400)
    assert epochs["code"] == 300 / train.readers[0].order.samples and epochs["web"] == 100 / train.readers[1].order.samples
    assert held is not None and not set(held.batch(0, 50).documents_BL1.flatten().tolist()) & set(number.flatten().tolist())
    # Another source, or another weight, leaves the order of a source as it is.
    for others in (sources[:1], (dataclasses.replace(sources[1], weight=9), sources[0])):
        alone, _ = streams(c2 := config(others, validation=0.3), open_data(c2, tmp_path))
        found = alone.batch(0, 400)
        code = found.tokens_BL1[found.tokens_BL1[:, 0] < 1000]
        n = min(len(code), 300)
        assert np.array_equal(code[:n], batch.tokens_BL1[batch.sources_B == 0][:n])


def test_validation_samples_end_before_a_source_begins_anew(tmp_path: Path) -> None:
    c = config(blend(tmp_path), validation=0.3)
    held = streams(c, open_data(c, tmp_path))[1]
    assert held is not None
    seen = held.batch(0, held.samples)
    assert len(set(map(tuple, seen.tokens_BL1.tolist()))) == held.samples
    assert max(held.epochs(held.samples + 1).values()) > 1 >= max(held.epochs(held.samples).values())


def test_the_entropy_of_a_blend_weighs_its_sources(tmp_path: Path) -> None:
    a, b = write_shards(tmp_path / "a", [[1, 1, 2], [], [3]], 10), write_shards(tmp_path / "b", [[5] * 9], 10)
    alone = open_data(config(str(a)), tmp_path)
    assert unigram_entropy(alone) == pytest.approx(1.5 * np.log(2))  # shares 1/2, 1/4, 1/4
    both = (Source(name="a", data=str(a), weight=1), Source(name="b", data=str(b), weight=1))
    assert unigram_entropy(open_data(config(both), tmp_path)) == pytest.approx(1.75 * np.log(2))  # 1/2, 1/4, 1/8, 1/8


def test_what_decides_the_order_is_written_down(tmp_path: Path) -> None:
    c = config(blend(tmp_path), seed=7)
    plan = order_plan(c, open_data(c, tmp_path))
    assert plan["batches"] == [[0, 4]] and (plan["samples"], plan["steps"]) == (40, 10)
    assert [(s["name"], s["folder"], s["tokens"]) for s in plan["sources"]] == [
        ("code", str(tmp_path / "a"), 600),
        ("web", str(tmp_path / "b"), 180),
    ]
    single = config(str(tmp_path / "a"), seed=7)
    assert order_plan(single, open_data(single, tmp_path))["sources"][0]["seed"] == 7


def test_weights_are_set_by_name_and_steps_in_every_source(tmp_path: Path) -> None:
    two = blend(tmp_path)
    c = config((*two, Source(name="step", data=toy_corpus(), weight=1)))
    changed = apply_settings(c, {"data.web.weight": "0.5", "merge.partitions": "5"})
    assert [s.weight for s in changed.data] == [3, 0.5, 1] and changed.data[2].data.config.partitions == 5
    assert (
        len({fingerprint(x) for x in (c, changed, config(two), config(two[::-1]), config(two, order="keyed", fim_rate=0.5))})
        == 5
    )
    for settings, says in (
        ({"data.nets.weight": "1"}, r"--set data\.nets\.weight: no such source; there are: code, web, step"),
        (
            {"data": "folder", "data.web.weight": "1"},
            r"--set data\.web\.weight: no such source; there are: none, data is not a blend",
        ),
        ({"data.web.weight": "0"}, r"data\.web\.weight=0\.0: a finite number above 0"),
        ({"data.web.weight": "nan"}, "a finite number above 0"),
        ({"data.web.data": "x"}, r"no such field; there are: weight"),
        ({"nostep.field": "1"}, "no source has a step of that name"),
    ):
        with pytest.raises(ConfigError, match=says):
            apply_settings(c, settings)
    with pytest.raises(ConfigError, match="none, data is not a blend"):
        apply_settings(config("folder"), {"data.web.weight": "1"})


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf")])
def test_weights_are_positive_numbers(weight: float) -> None:
    with pytest.raises(ConfigError, match="a finite number above 0 expected"):
        Source(name="a", data="x", weight=weight)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"order": "random"}, "keyed or megatron expected"),
        ({"fim_rate": 1.5}, "fim_rate=1.5: from 0 to 1 expected"),
        ({"order": "megatron", "fim_rate": 0.5}, "fim_rate=0.5: 0 with order=megatron"),
        ({"order": "megatron", "seed": 1 << 32}, r"below 2\^32 with order=megatron"),
        ({"order": "megatron", "data": (Source(name="a", data="x", weight=1),)}, "one source"),
        ({"data": ()}, "one or more expected"),
        (
            {"data": (Source(name="a", data="x", weight=1), Source(name="a", data="y", weight=1))},
            "data=a, a: sources with names",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config(**{"data": "x", **changes})


def test_tokenizers_must_be_one_and_have_what_fim_needs(tmp_path: Path) -> None:
    a, b = shards(tmp_path / "a", 0), shards(tmp_path / "b", 0, vocab=2001)
    both = (Source(name="a", data=a, weight=1), Source(name="b", data=b, weight=1))
    with pytest.raises(ConfigError, match="sources a and b were encoded with different tokenizers"):
        open_data(config(both), tmp_path)
    with pytest.raises(ConfigError, match=r"no fim_begin, fim_hole, fim_end token \(it has eos\); set fim_rate=0"):
        open_data(config(a, fim_rate=0.5), tmp_path)


def test_a_run_on_a_blend_stopped_and_resumed_is_the_run_undisturbed(tmp_path: Path) -> None:
    sources = blend(tmp_path)
    for source in sources:
        write_tokens_json(Path(source.data), 2000, {"eos": 0, "fim_hole": 1990, "fim_begin": 1991, "fim_end": 1992})
    whole, parts = (
        config(sources, fim_rate=0.5, document_mask=True, validation=0.3, checkpoint_every=3, steps=6, out=str(tmp_path / name))
        for name in ("whole", "parts")
    )
    said: list[str] = []
    loop.train(whole, tmp_path, say=said.append)
    loop.train(parts, tmp_path, 2, lambda text: None)
    loop.train(parts, tmp_path, say=lambda text: None)
    logs = [[json.loads(line) for line in (tmp_path / n / "train.jsonl").read_text().splitlines()] for n in ("whole", "parts")]
    assert len(logs[0]) == 6 and all(a["loss"] == b["loss"] for a, b in zip(*logs, strict=True))
    assert logs[0][5]["validation_loss"] == logs[1][5]["validation_loss"] is not None
    assert any("epochs of code, " in line and "epochs of web" in line for line in said)


# --- Checksums ------------------------------------------------------------------------------------------------------------


def recorded(folder: Path) -> list[Path]:
    """The .bin files of a folder of shards, which is given the record a finished step has."""
    files = [record_file(folder, path, 1) for path in sorted(folder.glob("tokens/*"))]
    write_json(folder / "step.json", {"files": [dataclasses.asdict(file) for file in files]})
    return [folder / file.path for file in files if file.path.endswith(".bin")]


def flip(path: Path) -> None:
    stat, raw = path.stat(), bytearray(path.read_bytes())
    raw[4] ^= 1  # another id of the vocabulary: nothing but a checksum can tell
    path.write_bytes(bytes(raw))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def test_token_files_are_those_that_encode_tokens_recorded(tmp_path: Path) -> None:
    first, *_, last = recorded(Path(shards(tmp_path / "a", 0)))
    c = config(str(tmp_path / "a"))
    said: list[str] = []
    check_content(open_data(c, tmp_path), said.append)
    assert said == []  # nothing is read that has its recorded time
    os.utime(last, ns=(0, 0))
    check_content(open_data(c, tmp_path), said.append)
    assert said == ["changed or copied since they were recorded: 1 token files; hashing 0 MB"]
    flip(last)
    with pytest.raises(CorruptFile, match=r"00014\.bin has checksum .*its record says 360 bytes.*`python -m corpus run`"):
        loop.train(c, tmp_path, say=said.append)
    files = len(TokenShards(tmp_path / "a").records)
    failing = 0
    for rank in range(files):  # every file is some rank's, and of one rank only
        try:
            check_content(open_data(c, tmp_path), said.append, rank, files)
        except CorruptFile:
            failing += 1
    assert failing == 1
    flip(last)
    first.unlink()
    first.with_suffix(".idx").unlink()  # a pair that is gone leaves no trace in the folder
    with pytest.raises(CorruptFile, match=r"00000\.bin is missing"):
        check_content(open_data(c, tmp_path), said.append)


def test_a_checkpoint_knows_the_content_of_its_shards(tmp_path: Path) -> None:
    changed = recorded(Path(shards(tmp_path / "a", 0)))[0]
    c = config(str(tmp_path / "a"), steps=4, checkpoint_every=2, out=str(tmp_path / "run"))
    loop.train(c, tmp_path, 2, lambda text: None)
    flip(changed)
    recorded(tmp_path / "a")  # made anew, of the same sizes, by another run of the corpus
    with pytest.raises(ConfigError, match=r"was trained with shards .*'content'"):
        loop.train(c, tmp_path, say=lambda text: None)
    flip(changed)
    recorded(tmp_path / "a")
    loop.train(c, tmp_path, say=lambda text: None)


# --- Files of other tools -------------------------------------------------------------------------------------------------


def foreign(folder: Path, vocab: int = 2000, **pairs: list[list[int]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, documents in pairs.items():
        with TokenWriter(folder / name, vocab) as writer:
            writer.add(np.concatenate(documents), np.array([len(d) for d in documents]))
    return folder


def test_a_folder_and_a_prefix_of_megatron_files_are_read(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "f", y_text_document=[[7, 8], [9]], x_text_document=[[1, 2, 3]])
    for_folder, for_prefix = TokenShards(folder, 50), TokenShards(folder / "y_text_document", 50)
    assert [for_folder.document(i).tolist() for i in range(3)] == [[1, 2, 3], [7, 8], [9]]
    assert [for_prefix.document(i).tolist() for i in range(2)] == [[7, 8], [9]]
    assert for_folder.special == {} and for_folder.vocab_size == 50 and for_folder.dtype == np.uint16
    assert for_folder.place(2) == ("y_text_document", 2, 1) and for_folder.number("y_text_document", 2) == 2
    assert for_folder.document_ids([0, 2]) == {}
    wide = foreign(tmp_path / "w", vocab=100_000, z=[[99_999]])
    assert TokenShards(wide, 100_000).dtype == np.int32


def test_foreign_files_need_a_vocabulary_and_keep_to_it(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "f", x=[list(range(40))])
    with pytest.raises(InputError, match=r"no tokens\.json, so nothing says how many ids.*set model\.vocab_size"):
        open_data(config(str(folder)), tmp_path)
    c = config(str(folder), model=dataclasses.replace(MODEL, vocab_size=30))
    with pytest.raises(InputError, match=r"document 0 has token 3\d, outside the vocabulary of 30 that model\.vocab_size says"):
        streams(c, open_data(c, tmp_path))[0].batch(0, 4)
    with pytest.raises(ConfigError, match=r"none that tokens\.json names"):
        open_data(dataclasses.replace(c, fim_rate=0.5), tmp_path)
    with pytest.raises(InputError, match=r"none either"):
        open_data(config(str(tmp_path / "empty")), tmp_path)
    mixed = (Source(name="theirs", data=str(folder), weight=1), Source(name="ours", data=shards(tmp_path / "o", 0), weight=1))
    data = open_data(dataclasses.replace(c, data=mixed, model=dataclasses.replace(MODEL, vocab_size=2048)), tmp_path)
    assert data.vocab_size == 2048 and data.special == {"eos": 0}


@pytest.mark.parametrize(
    ("at", "raw", "error", "says"),
    [
        (0, b"X", CorruptFile, "starts with b'XMIDIDX"),
        (9, struct.pack("<Q", 2), CorruptFile, "version 2"),
        (17, b"\x09", CorruptFile, "type 9"),
        (17, b"\x07", InputError, "ids are of type float32, whole numbers expected"),
        (34, struct.pack("<i", -1), CorruptFile, "negative lengths"),
        (34, struct.pack("<i", 1000), CorruptFile, r"x\.bin has 80 bytes, fewer than its index points at"),
        (18, struct.pack("<Q", 999), CorruptFile, "too few for 999 sequences"),
        (54, struct.pack("<q", 2), CorruptFile, r"document bounds that end with \[2\], \[1\] expected"),
    ],
)
def test_a_wrong_index_is_named(tmp_path: Path, at: int, raw: bytes, error: type[Exception], says: str) -> None:
    path = foreign(tmp_path / "f", x=[list(range(40))]) / "x.idx"
    data = bytearray(path.read_bytes())
    data[at : at + len(raw)] = raw
    path.write_bytes(data)
    with pytest.raises(error, match=says):
        TokenShards(path.parent, 50)


def test_shards_of_ours_say_their_vocabulary_themselves(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    write_tokens_json(folder, 300, {"eos": 1})
    assert TokenShards(folder, 999).vocab_size == 300
