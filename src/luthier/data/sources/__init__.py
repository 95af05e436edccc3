"""Where rows come from: local files, the hub, installed packages; and the fingerprint of what was read."""
