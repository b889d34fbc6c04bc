"""Measuring codecs: `evaluate` on one's own pictures, `published` curves to compare with."""
