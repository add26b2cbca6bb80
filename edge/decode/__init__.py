"""Bytes of one file → pictures: the format's own end is checked, then the header's budget, then pixels.

What arrives here is untrusted: whatever is wrong with it comes out as an EdgeError, never as another
exception. It is meant to run in worker processes (see workers.py), which add limits of time and memory.
"""

from edge.decode.decoder import Decoder, Limits, decode, refuse_large
from edge.decode.reading import OpenFile, read_stable, refuse_holes

__all__ = ["Decoder", "Limits", "OpenFile", "decode", "read_stable", "refuse_holes", "refuse_large"]
