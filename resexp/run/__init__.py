"""Run folders: what is written while a net trains, and how it is read back. No torch."""
