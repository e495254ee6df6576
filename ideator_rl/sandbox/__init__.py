"""The sandbox: how untrusted code is run, what it sees, which system calls it may make, and how its processes end."""
