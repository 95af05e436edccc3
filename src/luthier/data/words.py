"""What a word is, in any script."""

from __future__ import annotations

import re
import unicodedata

MARKS = "".join(chr(c) for c in range(0x300, 0x10000) if unicodedata.category(chr(c)) in ("Mn", "Mc"))
# A letter, and the marks that belong to it: Python's \w leaves out the vowels of Indic scripts and decomposed accents.
LETTER = rf"[^\W\d_][{MARKS}]*"
WORD = re.compile(rf"(?:{LETTER})+")
