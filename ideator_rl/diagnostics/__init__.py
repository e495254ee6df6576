"""What the records say.  Reads records only; runs nothing."""
