"""The compiled kernels; all else is in pyproject.toml.

They are optional: without a C compiler the package installs all the same, and torch's operations do their work. A
compiler without OpenMP, as on macOS, makes kernels that run on one thread.
"""

from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math"]
OPENMP = ["-fopenmp"]


class BuildKernels(build_ext):
    """With OpenMP, or else without."""

    def build_extension(self, ext: Any) -> None:
        ext.extra_compile_args, ext.extra_link_args = FLAGS + OPENMP, OPENMP
        try:
            super().build_extension(ext)
        except (CompileError, LinkError):
            ext.extra_compile_args, ext.extra_link_args = FLAGS, []
            super().build_extension(ext)


KERNELS = Extension(
    "resexp.models._kernels",
    sources=sorted(map(str, Path("resexp/models").glob("*.c"))),
    depends=sorted(map(str, Path("resexp/models").glob("*.h"))),
    optional=True,
)
setup(ext_modules=[KERNELS], cmdclass={"build_ext": BuildKernels})
