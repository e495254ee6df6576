"""Configuration: the base of its classes, recipe files, and the settings that several classes share."""
