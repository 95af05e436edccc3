"""Files of any supported format as tables of rows."""
