"""How the artifact of an experiment becomes a metric, in processes that run no experiment code.

measurement   the worker's side: starts the evaluator, limits it     evaluate   the evaluator's process
scoring       what an evaluator gets, and starts scorers             scorer     runs in the sandbox, untrusted
remote_scorer a running scorer, seen from the evaluator              allowance  what scorers may use
result        reads what an evaluator returned         exposure    keeps words of hidden data out of records
"""
