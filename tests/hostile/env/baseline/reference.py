"""Hidden: what the authors' own model reached."""

LOSS = 1.9
