"""Environments of this library as environments of others: `verifiers` and `openenv` import those packages, `execution`
holds what both share."""
