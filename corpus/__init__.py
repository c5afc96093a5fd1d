"""Public repositories and web crawls in, tokenized training shards out. See DESIGN in README.md.

What numba compiles is kept in corpus/__pycache__/kernels-HASH, HASH being of every file that holds a kernel. Left to itself,
numba notices a change of a kernel's own file only, and goes on running the old code of a kernel called from another one:
after an update, dedup_near would have signed with one rule for shingles and verified with another.
"""

import hashlib
import os
import sys
from pathlib import Path


def _name_cache() -> None:
    here = Path(__file__).resolve().parent
    files = [*here.glob("*.py"), *(here.parent / "stages").glob("*.py")]
    kernels = [source for path in sorted(files) if b"@njit" in (source := path.read_bytes())]
    name = "kernels-" + hashlib.blake2b(b"\0".join(kernels), digest_size=6).hexdigest()
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or here / "__pycache__")
    os.environ["NUMBA_CACHE_DIR"] = str(folder if folder.name == name else folder / name)
    if "numba" in sys.modules:  # it has read its environment already
        sys.modules["numba"].config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]


_name_cache()
