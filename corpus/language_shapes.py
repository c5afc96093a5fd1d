"""Patterns over a text's first bytes that tokens cannot express: columns, pairs of lines, how a file begins.

RE2 syntax over bytes (Latin-1), so time is linear in the text whatever it holds. No look-around, no back references.
"""

from __future__ import annotations

__all__ = ["SHAPES", "SIGNATURES"]

# How a file begins, where that alone settles it; the first that matches. Tried on files that no name has settled.
SIGNATURES: tuple[tuple[str, str], ...] = (
    ("XSLT", r"\A\s*<\?xml[^>]*\?>\s*(?:<!--(?s:.){0,400}?-->\s*)*<xsl:"),
    ("SVG", r"\A\s*(?:<\?xml[^>]*\?>\s*)?(?:<!(?s:.){0,400}?>\s*)*<svg[\s>]"),
    ("XML", r"\A\s*(?:\xEF\xBB\xBF)?\s*<\?xml\s"),
    ("PHP", r"\A\s*<\?php"),
    ("HTML", r"(?i)\A\s*<!doctype\s+html[\s>]"),
    ("PostScript", r"\A%!PS"),
    ("RAML", r"\A#%RAML"),
    ("Racket", r"\A(?:[;\s][^\n]*\n)*#lang\s"),
    ("Diff", r"\A(?:diff --git |Index: \S+\n=====|--- \S[^\n]*\n\+\+\+ \S)"),
    ("USD", r"\A#usda\s"),
)

# (language, strength, pattern): adds strength · SHAPE_WEIGHT to the language's score.
SHAPES: tuple[tuple[str, float, str], ...] = (
    ("XML", 6, r"\A\s*(?:\xEF\xBB\xBF)?<[?!a-zA-Z]"),
    ("XML Lasso", 12, r"<\?lasso(?:script)?\b|\A\s*\[(?:[A-Za-z_]+[(;]|//)"),
    (
        "COBOL",
        6,
        r"(?m)^[ 0-9]{6}[ *-](?:\s{0,4})(?i:IDENTIFICATION|ID|ENVIRONMENT|DATA|PROCEDURE|PROGRAM-ID|WORKING-STORAGE)\b",
    ),
    ("COBOLFree", 6, r"(?im)^ {0,5}(?:IDENTIFICATION|PROCEDURE|DATA)\s+DIVISION"),
    ("Fortran Fixed Form", 5, r"(?m)^[cC*](?:\s|$)|^ {5}[^ 0\n\t]\s|^ {1,3}\d{2,4} +[A-Za-z]"),
    ("Fortran", 5, r"(?im)&[ \t]*$|^ ?(?:program|module|subroutine|use|implicit|end)\b"),
)
