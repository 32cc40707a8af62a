"""What pyproject.toml cannot say: the recipes stand beside the package in a checkout, and inside it in a wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["cm3", "cm3.*"]), "cm3.recipes"],
    package_dir={"cm3.recipes": "recipes"},
)
