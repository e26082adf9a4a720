"""The page of all that has been run."""
