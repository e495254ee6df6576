"""Where supervisors are started: one class a backend."""
