"""Say which language each document is in: one of DeepSeek-Coder-V2's 338, a format beside them, or `unknown`.

Fills `lang` and adds `lang_by`, how it was found: filename, extension, shebang, modeline, content, or none.

    language    `languages` is set, and the document's is not among them; evidence: the language found

By default nothing is dropped: an unknown language is a fact that later stages decide about. The rules are those of
corpus/languages.py: the name decides where only one language uses it, the text where several do.

The trade: nine files in ten are decided by a look-up in the path column and their text is never read; a wrong extension
that only one language uses is believed. Documents without a path are judged by content alone.
Reference: DeepSeek-Coder-V2, section 2.1 and appendix A (338 languages).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from corpus.document import Verdict
from corpus.engine import Engine
from corpus.errors import ConfigError
from corpus.languages import check_language, detect
from corpus.report import Report
from corpus.step import Step

REVISION = 1

REASONS = ("language",)


@dataclass(frozen=True, kw_only=True)
class Config:
    files: Step
    languages: tuple[str, ...] = ()  # keep these only, by any name of the list; none named: keep all
    prefix: int = 4096  # bytes of text that the content rules read at most; more of them find hardly more

    def __post_init__(self) -> None:
        for name in self.languages:
            check_language(name, "detect_language.languages")
        if not 256 <= self.prefix <= 1 << 20:
            raise ConfigError(f"detect_language.prefix = {self.prefix}: 256 to 1048576 bytes expected")


def judge(batch: pa.RecordBatch, config: Config) -> Verdict:
    """The batch with `lang` (string, never null) and `lang_by` (string) set."""
    found = detect(batch.column("path"), batch.column("text"), config.prefix)
    columns = dict(zip(batch.schema.names, batch.columns, strict=True)) | {"lang": found.lang, "lang_by": found.by}
    judged = pa.RecordBatch.from_arrays(list(columns.values()), schema=_schema(batch.schema))
    nothing = pa.nulls(batch.num_rows, pa.string())
    if not config.languages:
        return Verdict(judged, nothing, nothing)
    wanted = pa.array(sorted({check_language(name, "detect_language.languages") for name in config.languages}))
    keep = pc.is_in(found.lang, wanted)
    return Verdict(judged, pc.if_else(keep, nothing, REASONS[0]), pc.if_else(keep, nothing, found.lang))


def _schema(schema: pa.Schema) -> pa.Schema:
    """`schema` with the two columns: in place where they are, at the end where not."""
    for field in (pa.field("lang", pa.string()), pa.field("lang_by", pa.string())):
        at = schema.get_field_index(field.name)
        schema = schema.append(field) if at < 0 else schema.set(at, field)
    return schema


def run(config: Config, out: Path, engine: Engine) -> Report:
    return engine.map_shards(partial(judge, config=config), config.files, out)
