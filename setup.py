"""What pyproject.toml cannot say: packages that lie beside acmix_ms, and a build that leaves the source tree alone."""

import sys
import tempfile

from setuptools import find_packages, setup

# models/ and configs/ stay at the top of the checkout and are installed inside acmix_ms: the top-level name ``models``
# would be in the way of everybody else's.
models = [f"acmix_ms.{name}" for name in find_packages(include=["models", "models.*"])]

with tempfile.TemporaryDirectory(prefix="acmix-build-") as folder:
    options = {"build": {"build_base": folder}}  # what an earlier build left in build/ would be in the next wheel
    if "sdist" not in sys.argv:  # which packs its egg-info, with paths below the source tree
        options["egg_info"] = {"egg_base": folder}
    setup(
        packages=[*find_packages(include=["acmix_ms", "acmix_ms.*"]), *models, "acmix_ms.configs"],
        package_dir={"acmix_ms.models": "models", "acmix_ms.configs": "configs"},
        package_data={
            "acmix_ms": ["py.typed"],
            "acmix_ms.configs": ["**/*.yaml", "README.md"],
            "acmix_ms.deploy.ascend": ["standins/*"],
        },
        options=options,
    )
