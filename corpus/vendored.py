"""Which files a project did not write: vendored (copied in from elsewhere) and generated (made by a program).

The conventions are those GitHub's linguist made common, in our own words: a vendored file is told by its path alone, a
generated one by its path, by a marker in its first 4 kB, or, for scripts and style sheets, by being minified.

Both are flags, not drops: what to do with them is the recipe's decision. They are meant to be cheap (a few microseconds a
file) rather than complete: a missed one costs a duplicate that deduplication finds; a false one costs a good file.
"""

from __future__ import annotations

import re

__all__ = ["HEAD_BYTES", "is_generated", "is_vendored"]

HEAD_BYTES = 4096  # markers stand at the top; further down they are talked about

# Folders anywhere in the path, in lower case.
_VENDORED = (
    "node_modules bower_components jspm_packages web_modules vendor vendors vendored _vendor _vendored third_party third-party "
    "thirdparty 3rdparty 3rd-party 3rd_party external externals extern deps godeps pods carthage site-packages dist-packages "
    ".venv venv virtualenv .tox .eggs .yarn .pnp .gradle .mvn .bundle .vscode admin_media ckeditor fckeditor tinymce tiny_mce "
    "codemirror mathjax fontawesome font-awesome"
)
_VENDORED_FOLDERS = frozenset(_VENDORED.split())
_GENERATED_FOLDERS = frozenset(("__generated__", "generated", ".idea", ".next", ".nuxt"))

# File names, whole, in lower case: libraries people copy in as one file, and the launchers build tools put into every project.
_KIND = r"(?:ui|mobile|migrate|bundle|slim|production|development|global|core|full)"  # of build, behind a library's name
_VENDORED_FILE = re.compile(
    r"[\w.-]+[-.]min\.(?:js|mjs|css)"
    r"|(?:jquery|bootstrap|popper|angular|react|react-dom|vue|ember|backbone|underscore|lodash|prototype|mootools|dojo|d3|three"
    r"|moment|modernizr|require|handlebars|knockout|raphael|normalize|foundation|font-?awesome|highlight\.pack|leaflet|chart|select2)"
    # A dot behind the version has one way to match, or `jquery.1.1.1 …` would take time exponential in its length.
    rf"(?:[-.]{_KIND})*(?:[-.]v?\d[\w.]*(?:-(?:v?\d|{_KIND}\b)[\w.]*)*)?\.(?:js|css)"
    r"|(?:gradlew|mvnw)(?:\.bat|\.cmd)?|gradle-wrapper\.properties"
    r"|configure|config\.(?:guess|sub)|aclocal\.m4|libtool\.m4|lt(?:options|sugar|version|~obsolete)\.m4|ltmain\.sh|install-sh"
    r"|depcomp|missing|mkinstalldirs|py-compile|test-driver|ez_setup\.py|distribute_setup\.py|versioneer\.py"
    r"|(?:sqlite3|stb_\w+|miniz|lodepng|tinyxml2?|pugixml|catch(?:_amalgamated)?|doctest|gtest-all|gmock-gtest-all)\.(?:c|cc|cpp|h|hpp)"
)
# Lock files, then the output of compilers and designers.
_GENERATED_FILE = re.compile(
    r"(?:yarn|poetry|pdm|uv|pipfile|cargo|gemfile|podfile|pubspec|mix|flake|deno|bun|composer|gopkg|glide|pixi|paket)\.lock"
    r"|(?:package-lock|npm-shrinkwrap|packages\.lock)\.json|pnpm-lock\.ya?ml|stack\.yaml\.lock|go\.sum|package\.resolved"
    r"|cartfile\.resolved|\.terraform\.lock\.hcl|module\.bazel\.lock"
    r"|[\w.-]+_pb2(?:_grpc)?\.pyi?|[\w.-]+\.pb(?:\.\w+)?\.(?:go|cc|h|c|hpp|cpp|dart|swift|rs)|[\w.-]+_pb\.(?:js|d\.ts|rb)"
    r"|[\w.-]+\.(?:designer|g|g\.i)\.(?:cs|vb|fs)|[\w.-]+\.(?:g|freezed|gr|mocks)\.dart|[\w.-]+\.generated\.\w+"
    r"|[\w.-]+\.(?:js|mjs|cjs|css|ts)\.map|zz_generated[\w.-]*\.go|bindata\.go|wire_gen\.go"
    r"|[\w.-]+\.(?:nib|xcworkspacedata|xcuserstate|pbxproj|storyboardc)"
    r"|parsetab\.py|lextab\.py|lex\.yy\.c|[\w.-]+\.(?:tab|yy)\.(?:c|cc|cpp|h|hpp)|(?:moc|qrc)_[\w.-]+\.cpp|ui_[\w.-]+\.h"
)

# Every marker but Bison's holds this word, and few files do: one search at memory speed settles nearly all of them.
_WORD = b"generated"
_BISON = b"a bison parser, made by gnu bison"
_AFTER = re.compile(
    rb" (?:by|with|using) (?:the )?(?:protocol buffer compiler|grpc|cython|swig|coffeescript|peg\.?js|antlr|javacc|jflex|ragel"
    rb"|re2c|bison|flex|lemon|ply|thrift|avro|haxe|racc|roxygen2|doxygen|javadoc|sphinx|autoconf|gnu autoconf|automake|aclocal"
    rb"|configure|cmake|qt|pyuic|moc|uic|swagger|openapi|django \d|build_runner|mockgen|sqlc|wayland-scanner|glade|f2py)\b"
    rb"|(?: automatically| automagically)? (?:from|by) [^\n]{1,160} by (?:antlr|protoc|jflex|ragel)\b"
)
_BEFORE = re.compile(
    rb"(?:@(?:partially-)?|this (?:file|code|class|header|module|source)[\w ]{0,12} (?:is|was|has been) "
    rb"(?:automatically |auto-?|machine[- ])?"
    rb"|this (?:file )?is an auto-?)\Z"
)
_HANDS_OFF = re.compile(rb"do(?:n't| not) (?:edit|modify|change|touch|alter)|changes (?:\w+ ){1,4}be (?:lost|overwritten)")
_NEAR = 200  # bytes either side of the word
_TRIES = 4  # a file that uses the word in passing does so often

_MINIFIABLE = (".js", ".mjs", ".cjs", ".css")
_MINIFIED_LINE = 110  # bytes in a mean line; people write 30


def is_vendored(path: str) -> bool:
    """Whether a file was copied in from elsewhere, by its path in the repository, e.g. "lib/vendor/jquery.js"."""
    *folders, name = path.lower().split("/")
    return not _VENDORED_FOLDERS.isdisjoint(folders) or _VENDORED_FILE.fullmatch(name) is not None


def is_generated(path: str, data: bytes) -> bool:
    """Whether a program made a file, by its path and its bytes (UTF-8)."""
    *folders, name = path.lower().split("/")
    if not _GENERATED_FOLDERS.isdisjoint(folders) or _GENERATED_FILE.fullmatch(name):
        return True
    if name.endswith(_MINIFIABLE) and len(data) > _MINIFIED_LINE * (data.count(b"\n") + 1):
        return True
    return _is_marked(data[:HEAD_BYTES].lower())


def _is_marked(head: bytes) -> bool:
    at = head.find(_WORD)
    for _ in range(_TRIES):
        if at < 0:
            break
        end = at + len(_WORD)
        before, after = head[max(0, at - _NEAR) : at], head[end : end + _NEAR]
        if _AFTER.match(after) or _BEFORE.search(before) or _HANDS_OFF.search(after) or _HANDS_OFF.search(before):
            return True
        at = head.find(_WORD, end)
    return _BISON in head
