"""clinloop: a Model Context Protocol server that lets coding agents develop clinical image models honestly."""

__version__ = "0.1.0"
