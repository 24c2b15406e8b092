"""The one error of this room."""

from __future__ import annotations


class ModelError(Exception):
    """A model bundle that cannot be used, or not with the images given; the message is one sentence for the user."""
