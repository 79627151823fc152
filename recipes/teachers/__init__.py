"""Adapters that make heavy models frozen teachers."""
