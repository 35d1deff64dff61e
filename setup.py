"""What pyproject.toml cannot say: how the folders beside the package get into an installed one.

In the repository configs/, converters/ and the three commands lie at the top, where people look for
them. A wheel has them inside the package, as dispose_jax.configs, dispose_jax.converters and
dispose_jax.sample, .train, .evaluate: nothing else of ours is at the top of site-packages.
"""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

FOLDERS = ("configs", "converters")
COMMANDS = ("sample", "train", "evaluate")
RENAMED = (
    (re.compile(rf"^from ({'|'.join(FOLDERS)})\b", re.M), r"from dispose_jax.\1"),
    (re.compile(r"python -m converters\."), "python -m dispose_jax.converters."),
    (re.compile(rf"\bpython ({'|'.join(COMMANDS)})\.py\b"), r"python -m dispose_jax.\1"),
)


class BuildPackage(build_py):
    """Puts the commands into the package, and calls everything by the name it has there."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib) / "dispose_jax"
        for command in COMMANDS:
            shutil.copyfile(f"{command}.py", package / f"{command}.py")
        for path in package.rglob("*.py"):
            text = before = path.read_text(encoding="utf-8")
            for pattern, name in RENAMED:
                text = pattern.sub(name, text)
            if text != before:
                path.write_text(text, encoding="utf-8")


setup(
    packages=[
        *find_packages(include=["dispose_jax*"]),
        *(f"dispose_jax.{folder}" for folder in FOLDERS),
    ],
    package_dir={f"dispose_jax.{folder}": folder for folder in FOLDERS},
    package_data={"dispose_jax": ["py.typed"], "dispose_jax.page": ["page.css"]},
    cmdclass={"build_py": BuildPackage},
)
