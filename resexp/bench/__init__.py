"""How fast a net trains here."""
