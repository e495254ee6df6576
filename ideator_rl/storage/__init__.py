"""Storage: buckets of records, the journal of a run, the ledger of its spending, and the folder of a run."""
