"""Copying files: the archive stream (docs/files.md), its sender and its receiver.

Pure: ``records``, ``digest``, ``encoder``, ``decoder``, ``compression``, ``report``. I/O: ``reading`` and
``sender`` on one side; ``directories``, ``owners``, ``partial``, ``installing``, ``comparing``, ``deletion``
and ``receiver``, which combines them, on the other; ``unpacker`` for many streams at once.

A receiver starts on every node for every copy, so these modules import little (no typing, dataclasses, re,
pathlib), and zstandard only for a compressed stream.
"""
