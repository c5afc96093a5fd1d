"""Compilers that are older, other, or not up to it: what is built then, under which name, and what is said."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels import build
from kernels.build import SOURCES, BuildError

TRANSLATION = """
#include "semantics.h"
extern "C" void both(const uint16_t* halves, float* wide, const float* floats, uint16_t* narrow, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    wide[i] = moe::widen(moe::f16{halves[i]});
    narrow[i] = moe::narrow<moe::f16>(floats[i]).bits;
  }
}
"""


def cpu_compiler() -> str:
    compiler = build.compiler("cpu")
    if compiler is None:
        pytest.skip("no C++ compiler")
    return compiler


def script(path: Path, text: str) -> Path:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "flags", [[], ["-DMOE_NO_FLOAT16", "-D_Float16=not_a_type_of_this_compiler"]], ids=["its own", "by hand"]
)
def test_halves_are_converted_as_torch_does(flags: list[str], tmp_path: Path) -> None:
    """All halves, and floats of all exponents: random ones, those between two halves, and their neighbours."""
    source, library = tmp_path / "halves.cpp", tmp_path / "halves.so"
    source.write_text(TRANSLATION)
    command = [cpu_compiler(), *build.CPU_FLAGS, *flags, f"-I{SOURCES}", "-shared", "-o", str(library), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    halves = torch.arange(2**16, dtype=torch.int32).to(torch.uint16)
    exact = halves.view(torch.float16).float()
    midway = ((exact.double() + exact.roll(-1).double()) / 2).float()
    bits = torch.randint(-(2**31), 2**31, (2**18,), generator=torch.Generator().manual_seed(1), dtype=torch.int64).int()
    special = torch.tensor([65504.0, 65519.99, 65520.0, 1e38, 2.0**-25, 2.0**-25 * 1.0001, 2.0**-14, 6.1e-5, 1e-45, -0.0])
    near = [midway.view(torch.int32) + step for step in (-1, 0, 1)]
    floats = torch.cat([special, *(t.view(torch.float32) for t in (*near, bits)), exact])
    many = torch.zeros(len(floats), dtype=torch.uint16)
    many[: 2**16] = halves
    wide, narrow = torch.empty(len(floats)), torch.empty(len(floats), dtype=torch.uint16)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (many, wide, floats, narrow)]
    ctypes.CDLL(str(library)).both(*pointers, ctypes.c_int64(len(floats)))
    assert torch.equal(wide[: 2**16].nan_to_num(7.0), exact.nan_to_num(7.0))
    assert torch.equal(wide[: 2**16].signbit(), exact.signbit())
    expected = floats.half()
    assert torch.equal(narrow.view(torch.float16).isnan(), expected.isnan())
    numbers = ~expected.isnan()
    assert torch.equal(narrow.view(torch.int16)[numbers], expected.view(torch.int16)[numbers])


def test_the_twin_is_built_without_half_floats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """g++ 11, of Ubuntu 22.04, has neither the type nor the macro that tells of it."""
    older = script(tmp_path / "g++-11", f'exec {cpu_compiler()} -U__FLT16_MAX__ -D_Float16=not_a_type_of_this_compiler "$@"')
    monkeypatch.setenv("CXX", str(older))
    monkeypatch.setattr(build, "BUILT", tmp_path / "built")
    library = build.build("cpu")
    assert library is not None and library.exists()


def test_a_twin_that_does_not_build_is_said_and_is_no_error(tmp_path: Path) -> None:
    compiler = script(tmp_path / "bad-c++", 'echo "bad-c++: internal error" >&2; exit 4')
    code = "import sys; from kernels import build; build.BUILT = build.Path(sys.argv[1]); sys.exit(build.main(['cpu']))"
    command = [sys.executable, "-c", code, str(tmp_path / "built")]
    done = subprocess.run(command, env=os.environ | {"CXX": str(compiler)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "kernels: cpu not built; plain torch (kernels/reference.py) computes there" in done.stderr
    assert "ended with 4:\nbad-c++: internal error" in done.stderr
    assert not list((tmp_path / "built").iterdir())


def nvcc(folder: Path, architectures: str) -> str:
    """One that lists what it compiles for, fails if asked for more, and writes its arguments into what it makes."""
    known = " ".join(f"arch=compute_{a}" for a in architectures.split())
    return str(
        script(
            folder / "nvcc",
            f"""
case "$1" in
  --list-gpu-arch) for a in {architectures}; do echo compute_$a; done; exit 0;;
  --version) echo "release for {architectures}"; exit 0;;
esac
out=
for a in "$@"; do
  case "$a" in -gencode=*) arch=${{a#-gencode=}}; arch=${{arch%%,*}}; arch=${{arch%a}}
    case " {known} " in *" $arch "*) ;; *) echo "Unsupported gpu architecture" >&2; exit 1;; esac;;
  esac
  [ "$last" = -o ] && out=$a
  last=$a
done
echo "$@" >"$out"
""",
        )
    )


def test_an_older_nvcc_compiles_for_what_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "BUILT", tmp_path / "built")
    older = nvcc(tmp_path, "70 80 90")
    monkeypatch.setattr(build, "compiler", lambda kind: older)
    first = build.build("cuda")
    assert first is not None and first.exists() and [path.name for path in first.parent.iterdir()] == [first.name]
    said = capsys.readouterr().err
    assert "does not know sm_100" in said and "for sm_80, sm_90a only" in said
    newer = nvcc(tmp_path, "80 90 100")
    second = build.build("cuda")  # of another nvcc: built anew
    assert second != first and not first.exists() and newer == older
    assert capsys.readouterr().err == ""
    nvcc(tmp_path, "50")
    with pytest.raises(BuildError, match=r"lists \['compute_50'\]; one of sm_80, sm_90a, sm_100 expected"):
        build.build("cuda")


def test_two_builds_at_a_time_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "BUILT", tmp_path / "built")
    monkeypatch.setattr(build, "compiler", lambda kind: nvcc(tmp_path, "80 90 100"))
    compile_cuda, folders = build.compile_cuda, []

    def beside(command: str, architectures: list[str], folder: Path) -> list[tuple[Path, str]]:
        folders.append(folder)
        if len(folders) == 1:  # another process begins, and ends, before this one does
            monkeypatch.setattr(os, "getpid", lambda: 7)
            build.build("cuda")
        return compile_cuda(command, architectures, folder)

    monkeypatch.setattr(build, "compile_cuda", beside)
    library = build.build("cuda")
    assert library is not None and library.exists() and len(set(folders)) == 2


def test_a_twin_for_another_cpu_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders travel: a head node's AVX-512 ends a worker without it by an illegal instruction."""
    monkeypatch.setattr(build, "BUILT", tmp_path / "built")
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nmodel name : A\nflags : avx2 avx512f\ncpu MHz : 1\n")
    monkeypatch.setattr(build, "CPU", info)
    cpu_compiler()
    first = build.build("cpu")
    assert first is not None and build.built("cpu") == first
    info.write_text("processor : 0\nmodel name : A\nflags : avx2 avx512f\ncpu MHz : 2\n")
    assert build.built("cpu") == first
    info.write_text("processor : 0\nmodel name : A\nflags : avx2\ncpu MHz : 1\n")
    assert build.built("cpu") != first and not build.built("cpu").exists()
    second = build.build("cpu")
    assert second is not None and second.exists() and first.exists()  # on a shared disk each machine keeps its own
    # Where it runs there need be no compiler, nor the same one.
    monkeypatch.setattr(build, "compiler", lambda kind: None)
    assert build.built("cpu") == second == build.build("cpu")
