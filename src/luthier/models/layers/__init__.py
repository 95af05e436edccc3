"""Finds the layers of any architecture, and adds modules and key/value prefixes to them."""
