"""Files that are whole or not there: text, JSON lines, arrays, digests of files and code, and steps that are kept."""
