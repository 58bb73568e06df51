"""Every module in this folder is imported, so a new head is one new file."""

from space.discovery import import_all

import_all(__name__, __path__)
