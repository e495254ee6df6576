"""`ideator-rl env check`: the steps and proofs that an environment has to pass."""
