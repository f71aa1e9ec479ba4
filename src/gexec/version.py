"""The version of this software; the wheel takes it from pyproject.toml, a test holds them equal."""

VERSION = "1.0.0.dev0"
