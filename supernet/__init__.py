"""One set of weights for all networks of a space."""

from supernet.network import Supernet

__all__ = ["Supernet"]
