"""Judges of answers: safety and helpfulness of (prompt, answer) pairs, and what is known of a judge's own errors."""
