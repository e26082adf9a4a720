"""Why it works: each argument of the literature as an experiment on trained nets. One file per analysis."""
