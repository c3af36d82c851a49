"""Zero-code observability for Linux and Kubernetes: eBPF in the kernel, Python above it.

``__version__`` is the only place that holds the version; the package metadata is read from it.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
"""Of the package and its metadata, which reads it from here."""
