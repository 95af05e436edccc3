"""Where sentences end, in any script, as parts of regular expressions."""

from __future__ import annotations

# In Latin, Arabic and Indic scripts, where a blank or the end of the text stands behind.
BEFORE_BLANK = r"[.!?\u061f\u0964]"
# In Chinese and Japanese, whatever stands behind.
ALONE = r"[\u3002\uff01\uff1f]"
