"""The compiled kernels; all else is in pyproject.toml.

They are optional: without a C compiler the package installs all the same, and torch's operations do their work. A
compiler without OpenMP, as on macOS, makes kernels that run on one thread.
"""

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
    sources=[
        f"resexp/models/{name}.c"
        for name in (
            *("norm_relu", "norm_relu_bf16", "conv3x3", "conv3x3_bf16"),
            *("winograd", "winograd_avx2", "winograd_avx512"),
        )
    ],
    depends=[f"resexp/models/{name}.h" for name in ("bf16", "conv3x3_image", "norm_relu", "winograd")],
    optional=True,
)
setup(ext_modules=[KERNELS], cmdclass={"build_ext": BuildKernels})
