"""Files that are whole or not there: text, JSON lines, arrays, hashes and the digest of the code."""
