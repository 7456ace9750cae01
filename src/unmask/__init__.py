"""Unmask: one masked-diffusion model that reads pictures, points at things in them, draws and edits."""

__version__ = "0.1.0"
