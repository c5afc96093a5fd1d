"""The names of the numbers the extraction kernels keep: state of a page, open elements, contexts, blocks.

numba has no cheap object with fields, so they are int64 arrays with named columns.
"""

from __future__ import annotations

from corpus.extract_scan import S_OVER

__all__ = ["BLOCK_FIELDS", "MOST_BLOCKS", "STACK"]  # and every S_, K_, E_, X_, B_ and KIND_ below

# fmt: off
# S: the state of a page. Positions are in the raw output unless said otherwise.
(S_SPACE, S_B0, S_CONTEXT, S_TOP, S_EXTRA, S_BLOCKS, S_LINKED, S_LISTS, S_QUOTES, S_HEADING, S_MARK, S_ROW, S_CELL, S_ROWS,
 S_GROUP, S_GROUPS, S_LANG0, S_LANG1, S_FORMULAS, S_DELIMITER, S_ENVIRONMENT, S_DOLLAR, S_CODE_AT, S_ROLLBACK,
 S_ROLLBACK_END, S_TITLE0, S_TITLE1, S_DEFINITION, S_FORMULA_END, S_LANG_DEPTH, S_CODED, S_SEEN_TITLE,
 S_DECLARED0, S_DECLARED1, S_ASPECT, S_ASPECTS) = range(S_OVER + 1, S_OVER + 37)
# S_SPACE: white space owed before the next character
NOTHING, SPACE, NEWLINE = range(3)

# K: the open elements. K_CONTEXT .. K_GROUP are what is restored when the element closes.
(K_KEY, K_TAG, K_AT, K_FLAGS, K_NUMBER, K_CONTEXT, K_LANG0, K_LANG1, K_ROW, K_CELL, K_GROUP, K_HEADING, K_DEFINITION,
 K_LANG_DEPTH, K_ASPECT) = range(15)
STACK = (4096, 15)
E_REGION, E_CODE, E_TEX, E_DISPLAY, E_LIST, E_QUOTE, E_LINKED, E_BLOCK = 1, 2, 4, 8, 16, 32, 64, 128

# X: the context of a piece of text, what all elements around it say together.
(X_HIDDEN, X_RENDERED, X_LINK, X_REGION, X_NAV, X_BAD, X_SOFT, X_COMMENT, X_MAIN, X_BODY, X_HEADER, X_ASIDE, X_FORM, X_DISPLAY,
 X_NOSCRIPT, X_FOOTER, X_FIGURE, X_HIGHLIGHT, X_LIST, X_TABLE, X_ARTICLE) = (1 << i for i in range(21))

# B: the blocks. The last two columns are of the n-th element whose words say navigation, the first being 1: the one it is in,
# and how much text without links is in it. B_ASPECT is the innermost such element around a block, or 0.
(B_START, B_STOP, B_KIND, B_CONTEXT, B_LINKED, B_LISTS, B_QUOTES, B_MARK, B_ROW, B_CELL, B_GROUP, B_LANG0, B_LANG1, B_FORMULAS,
 B_CODED, B_KEEP, B_ASPECT, B_OUTER, B_INSIDE) = range(19)
BLOCK_FIELDS = 19
MOST_BLOCKS = 1 << 19  # what a page has beyond is joined to the last one
KIND_TEXT, KIND_CODE, KIND_TERM, KIND_DEFINITION = 0, 7, 8, 9  # 1 to 6: headings
# fmt: on
