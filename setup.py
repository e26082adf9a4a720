"""The compiled kernels; all else is in pyproject.toml.

They are optional: without a C compiler the package installs all the same, and torch's operations do their work. A
compiler without OpenMP, as on macOS, makes kernels that run on one thread.
"""

import contextlib
import itertools
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math"]
OPENMP = ["-fopenmp"]
NO_AMX = ["-DNO_AMX"]


class BuildKernels(build_ext):
    """With OpenMP and AMX, or else without what the compiler or its assembler does not know."""

    def build_extension(self, ext: Any) -> None:
        *attempts, last = itertools.product((OPENMP, []), ([], NO_AMX))
        for openmp, no_amx in attempts:
            with contextlib.suppress(CompileError, LinkError):
                return self._build(ext, openmp, no_amx)
        return self._build(ext, *last)

    def _build(self, ext: Any, openmp: list[str], no_amx: list[str]) -> None:
        ext.extra_compile_args, ext.extra_link_args = FLAGS + openmp + no_amx, openmp
        super().build_extension(ext)


KERNELS = Extension(
    "resexp.models._kernels",
    sources=sorted(map(str, Path("resexp/models").glob("*.c"))),
    depends=sorted(map(str, Path("resexp/models").glob("*.h"))),
    optional=True,
)
setup(ext_modules=[KERNELS], cmdclass={"build_ext": BuildKernels})
