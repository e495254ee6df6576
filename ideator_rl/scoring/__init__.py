"""How the artifact of an experiment becomes a metric, in processes that run no experiment code.

measurement   the worker's side: starts the evaluator, limits it     evaluate   the evaluator's process
scoring       what an evaluator uses: scorers, requests, logits      scorer     runs in the sandbox, untrusted
"""
