"""Ideas in, experiments out.  One file for each step of an idea's way:

executor      the whole way, on one page           scheduler   starts attempts, waits for records
codebases     idea → patch → judged codebase       backends/   what starts a worker; a new backend goes here
record_store  specification, claims, record        worker      runs one attempt: sandbox, then scoring
retry         waits out outages of the bucket      workdirs    the worker's temporary folders
"""
