"""Builds the compiled modules: hub, codec and shared buffers; everything else is in pyproject.toml.

`FASTCHAT_DEBUG=1 python setup.py build_ext --build-lib build/debug` makes the
debug build that the tests use: bounds checks on, assertions in. With
`FASTCHAT_SANITIZE=address,undefined` it is that, watched by these sanitizers;
fuzz/__main__.py says what such a build needs to run.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

#: Sanitizers, as an argument of `-fsanitize=`.
SANITIZE = os.environ.get("FASTCHAT_SANITIZE", "")
DEBUG = os.environ.get("FASTCHAT_DEBUG") == "1" or bool(SANITIZE)
SANITIZER = [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all"] if SANITIZE else []

extensions = [
    Extension(
        f"fastchat.{name}",
        [f"src/fastchat/{name}.pyx"],
        define_macros=[("FASTCHAT_DEBUG", "1")] if DEBUG else [("CYTHON_WITHOUT_ASSERTIONS", "1")],
        extra_compile_args=["-O1", "-g", "-UNDEBUG", *SANITIZER] if DEBUG else ["-O3"],
        extra_link_args=SANITIZER,
    )
    for name in ("_buffers", "_codec", "_fanout")
]

setup(
    ext_modules=cythonize(
        extensions,
        # The builds have separate folders, so that neither uses the generated C of the other.
        build_dir="build/cython-debug" if DEBUG else "build/cython",
        compiler_directives={
            "language_level": 3,
            # A release does no bounds checks. No directive checks the hub's C arrays; assertions of
            # the debug build do. The hub's indexes of lists are tested by Hub.verify(), and by the
            # tests that run on the debug build.
            "boundscheck": DEBUG,
            "wraparound": True,
            "initializedcheck": DEBUG,
            "cdivision": True,
        },
    ),
)
