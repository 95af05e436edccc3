"""Annotation files of any supported format as documents, and documents as such files.

A format is a module with `read(source, options, findings) -> Read` and `write(path, documents, types, findings)`;
`files.py` knows them by name.
"""
