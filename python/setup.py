# SPDX-License-Identifier: Apache-2.0
"""The wheel. `make wheel` runs this in a copy of the folder, after it has added libzero.so and _zero.py."""

import glob
import os
import pathlib
import sys

from setuptools import Distribution, setup

try:
    from setuptools.command.bdist_wheel import bdist_wheel  # since setuptools 70.1
except ImportError:
    from wheel.bdist_wheel import bdist_wheel

VERSION = os.environ.get("LIBZERO_VERSION")
if not VERSION or not pathlib.Path("libzero/libzero.so").exists():
    sys.exit("setup.py: the package needs libzero.so, which the makefile builds: run make wheel")


class Wheel(bdist_wheel):
    def get_tag(self):
        # No module is compiled against Python: the wheel depends on the platform alone.
        return "py3", "none", super().get_tag()[2]


class Binary(Distribution):
    def has_ext_modules(self):
        return True


setup(
    name="libzero-torch",
    version=VERSION,
    description="ZeRO for PyTorch: shards a model's parameters, gradients and optimizer state over ranks",
    long_description=pathlib.Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE", *sorted(glob.glob("licenses/*"))],
    python_requires=">=3.10",
    install_requires=["cffi", "torch>=2.4"],
    packages=["libzero"],
    package_data={"libzero": ["libzero.so", "py.typed"]},
    cmdclass={"bdist_wheel": Wheel},
    distclass=Binary,
    zip_safe=False,
)
