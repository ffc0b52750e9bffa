"""The version, where the build reads it without importing the compiled part."""

__version__ = "0.1.0"
