"""How untrusted code is run.

choose       which level of isolation works here   sealed_run     one run, from start to its last process
sandbox      the command line that seals           limits         clock, memory, disk, processes of a run
mounts       which files a process sees            process_tree   what processes use, and how they are killed
seccomp      which system calls it may make        launch, probe  run inside the sandbox
doors        which of them a scorer loses before it reads hidden data
tracer       counts children that a run ignores
"""
